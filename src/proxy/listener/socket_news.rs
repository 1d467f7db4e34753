//! How far all workers have followed what was published: which sockets could not be opened. Written by each worker when it
//! has opened and closed what it had to, read by who says in statuses what is served. No request comes by here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::model::{Bind, Obstacle, SocketNews};

/// What all workers tell, as one.
#[derive(Debug)]
pub struct SocketBoard {
    /// What each worker has told last.
    told: Mutex<Vec<SocketNews>>,
    all: watch::Sender<SocketNews>,
}

impl SocketBoard {
    /// None of these workers has opened anything yet.
    pub fn new(workers: usize) -> Self {
        Self { told: Mutex::new(vec![SocketNews::default(); workers]), all: watch::Sender::default() }
    }

    /// What holds of all workers: the generation that all have followed, and the sockets that any of them lacks.
    pub fn read(&self) -> watch::Receiver<SocketNews> {
        self.all.subscribe()
    }

    /// Takes how far one worker has followed, which numbers from 0.
    pub fn tell(&self, worker: usize, own: SocketNews) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = told.get_mut(worker).filter(|before| **before != own) else { return };
        let same_sockets = std::mem::replace(before, own.clone()).unopened == own.unopened;
        let generation = told.iter().map(|news| news.generation).min().unwrap_or_default();
        let unopened = (!same_sockets).then(|| union(&told));
        // Under the lock, so that an older state never comes last.
        self.all.send_if_modified(|all| {
            let unopened = unopened.unwrap_or_else(|| all.unopened.clone());
            let now = SocketNews { generation, unopened };
            let is_new = *all != now;
            *all = now;
            is_new
        });
    }
}

/// What any worker lacks; why, as the first of them says.
fn union(told: &[SocketNews]) -> Arc<BTreeMap<Bind, Obstacle>> {
    let lacking = told.iter().rev().flat_map(|news| news.unopened.iter());
    Arc::new(lacking.map(|(bind, why)| (*bind, why.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(generation: u64, ports: &[u16]) -> SocketNews {
        let obstacle =
            |port: &u16| (Bind::Port(*port), Obstacle { problem: format!("{port} is in use"), no_address: false });
        SocketNews { generation, unopened: Arc::new(ports.iter().map(obstacle).collect()) }
    }

    #[test]
    fn slowest_worker_counts_and_a_socket_that_one_lacks_is_not_open() {
        let board = SocketBoard::new(2);
        let mut read = board.read();
        board.tell(0, news(1, &[80]));
        assert_eq!(*read.borrow_and_update(), news(0, &[80]), "the other worker has opened nothing yet");
        board.tell(1, news(1, &[81]));
        assert_eq!(*read.borrow_and_update(), news(1, &[80, 81]));
        board.tell(0, news(2, &[]));
        board.tell(0, news(2, &[]));
        assert_eq!(*read.borrow_and_update(), news(1, &[81]));
        board.tell(1, news(2, &[]));
        assert_eq!(*read.borrow_and_update(), news(2, &[]));
        board.tell(1, news(2, &[]));
        board.tell(0, news(3, &[80]));
        board.tell(0, news(4, &[80]));
        assert_eq!(*read.borrow_and_update(), news(2, &[80]));
        board.tell(1, news(4, &[]));
        assert_eq!(*read.borrow_and_update(), news(4, &[80]), "what the other lacks is still lacking");
        board.tell(1, news(4, &[]));
        board.tell(2, news(3, &[82]));
        assert!(!read.has_changed().unwrap(), "what is said twice, or by nobody, is no news");
    }
}
