//! The data plane: bytes in, bytes out. It reads the snapshot and never sees the control plane.

pub mod backend;
pub mod fault;
pub mod listener;
pub mod options;
pub mod policy;
pub mod request;
pub mod snapshot;
pub mod wire;
pub mod worker;
