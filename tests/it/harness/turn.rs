//! Who runs beside whom. Most tests run beside each other; a test that loads the machine runs alone.
//!
//! Every test takes its turn in its first line, once.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURN: RwLock<()> = RwLock::const_new(());

/// Beside the others.
pub async fn beside_others() -> RwLockReadGuard<'static, ()> {
    TURN.read().await
}

/// Alone: for load, and for everything that reads a clock or counts on the machine's cores.
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().await
}
