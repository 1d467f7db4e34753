//! The control plane: the world's objects become a model, the model becomes the snapshot that requests read.

pub mod cutover;
pub mod provider;
pub mod translate;
