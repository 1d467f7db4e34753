//! What is done to a request, one feature one file.
//!
//! Everything here is a plain function on heads and values: no clock, no socket, no randomness of its own. What can fail
//! says so with a [`crate::proxy::fault::Fault`]. The order in which they take effect is written in `proxy::request`.

pub mod cors;
pub mod forwarding;
pub mod headers;
pub mod hop;
pub mod mirror;
pub mod path;
pub mod redirect;
pub mod retry;
pub mod rewrite;
pub mod timeout;

pub mod preview;
