//! What the tests stand on: the product as a process, backends in process, clients, load, and waiting for a fact.
//!
//! Nothing here sleeps in the hope that something has happened: [`eventually`] asks until it is so, or fails.

pub mod backend;
pub mod certificates;
pub mod client;
pub mod frames;
pub mod grpc;
pub mod load;
pub mod manifests;
pub mod metrics;
pub mod nginx;
pub mod raw;
pub mod scene;
pub mod tools;
pub mod turn;
pub mod websocket;
pub mod weir;

use std::time::{Duration, Instant};

/// How long a test waits for something that should take milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Asks every 5 ms until the answer is `Ok`; fails with the last answer after `patience`.
pub async fn within<T, E: std::fmt::Display>(
    patience: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if start.elapsed() > patience => panic!("{what}: not within {patience:?}; last: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// [`within`] the usual [`PATIENCE`].
pub async fn eventually<T, E: std::fmt::Display>(what: &str, ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    within(PATIENCE, what, ask).await
}

/// Asks until the condition holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    eventually(what, async || if condition().await { Ok(()) } else { Err("it is not so") }).await;
}

/// Median and worst of some durations, for the eyes of whoever reads the output.
pub fn median_and_worst(samples: &mut [Duration]) -> (Duration, Duration) {
    samples.sort_unstable();
    (samples[samples.len() / 2], samples[samples.len() - 1])
}
