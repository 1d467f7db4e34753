//! What is done to a request, one feature one file.

pub mod preview;
