//! Messages as bytes: heads, framing, and the HTTP/1.1 engine for both doors.
//!
//! `parse`, `chunked` and `head` are pure; `server` and `client` put them on a connection; `pump` moves a body from one to
//! the other. Nothing here knows routes or backends.

pub mod buffers;
pub mod chunked;
pub mod client;
pub mod frames;
pub mod head;
pub mod io;
pub mod parse;
pub mod pump;
pub mod relay;
pub mod server;
pub mod stream;
pub mod timers;

pub use head::{HeaderField, Headers, Name, RequestHead, ResponseHead, Version};
