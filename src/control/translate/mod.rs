//! Pure: objects in, model and verdicts out. No clock, no network, no file.

pub mod objects;

pub use objects::{Change, Object, Objects};
