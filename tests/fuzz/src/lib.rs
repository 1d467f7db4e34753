//! Fuzz targets for the HTTP/1.1 engine: heads, the chunked coding, trailers, and whole connections from both doors.
//!
//! The engine's own source files are compiled here, instrumented, without the rest of Weir and its two hundred
//! dependencies: it imports nothing but [`fault`]. What it needs of tokio and rustls (a stream that reads and writes) is
//! played by [`stand_in`], which also decides where reads and writes are cut.

// The engine names these crates; here they are this one.
extern crate self as rustls;
extern crate self as tokio;
extern crate self as tokio_rustls;

pub mod bodies;
pub mod check;
pub mod connections;
#[path = "../../../src/proxy/fault.rs"]
pub mod fault;
pub mod heads;
pub mod stand_in;
pub mod wire;

pub use stand_in::{client, io, net, server};

/// What certificates are made of, which no target looks into.
pub mod pki_types {
    /// A certificate.
    #[derive(Debug)]
    pub struct CertificateDer<'a>(pub &'a [u8]);
}

/// Where the engine looks for its neighbours.
pub mod proxy {
    pub use crate::{fault, wire};
}
