//! Promises to the operator, each shown with the real binary, real clients and real backends on loopback.
//!
//! A module is a promise; a test's name is the sentence. `harness` holds what they stand on. Tests that load the machine
//! or look at a clock run alone ([`harness::turn`]); all others run beside each other.
//!
//! `WEIR_BIN` names another binary to test than the one built with this package.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test fails by panicking, and is its own documentation"
)]

mod harness;

mod backend_tls;
mod badinput;
mod cors;
mod cutover;
mod draining;
mod exhaustion;
mod grpc;
mod harness_selfcheck;
mod headers;
mod http2;
mod http2_floods;
mod limits;
mod nginx;
mod outliers;
mod proxyprotocol;
mod reload;
mod retries;
mod routing;
mod scale;
mod smuggling;
mod statistics;
mod streaming;
mod streams;
mod tls;
mod upgrades;
mod websockets;
