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
        match told.get_mut(worker) {
            Some(before) if *before != own => *before = own,
            Some(_) | None => return,
        }
        let generation = told.iter().map(|news| news.generation).min().unwrap_or_default();
        let lacking = told.iter().rev().flat_map(|news| news.unopened.iter());
        let unopened: BTreeMap<Bind, Obstacle> = lacking.map(|(bind, why)| (*bind, why.clone())).collect();
        let all = SocketNews { generation, unopened: Arc::new(unopened) };
        // Under the lock, so that an older state never comes last.
        self.all.send_if_modified(|before| std::mem::replace(before, all.clone()) != all);
    }
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
        board.tell(2, news(3, &[82]));
        assert!(!read.has_changed().unwrap(), "what is said twice, or by nobody, is no news");
    }
}
