//! What Weir measures and says about itself: statistics, metrics, access log.

pub mod access_log;
pub mod clock;
pub mod gauges;
pub mod log;
pub mod metrics;
pub mod process;
pub mod sink;
pub mod stats;
