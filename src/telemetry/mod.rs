//! What Weir measures and says about itself: statistics, metrics, access log.

pub mod clock;
pub mod stats;
