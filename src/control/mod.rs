//! The control plane: the world's objects become a model, the model becomes the snapshot that requests read.

pub mod provider;
pub mod cutover;
pub mod translate;
