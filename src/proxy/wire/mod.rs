//! Messages as bytes: heads, framing, and the HTTP/1.1 engine for both doors.

pub mod head;

pub use head::{HeaderField, Headers, Name, RequestHead, ResponseHead, Version};
