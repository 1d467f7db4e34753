//! Whose a client of datagrams is: the worker that serves its session, whichever worker's socket its datagrams come in at.
//!
//! The system spreads clients over the sockets of one address by a number that changes whenever one of them is opened or
//! closed. A client that is known to no one becomes the worker's that hears of it first; what another one gets of it from
//! then on is handed over. Written when a session begins or ends, read when a datagram is of no session here: never on the
//! way of a datagram that came in at the right socket.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use tokio::sync::mpsc;

/// Workers that begin sessions at once seldom meet in one of so many parts.
const PARTS: usize = 64;

/// Datagrams that wait for one worker; more are lost, as at a socket whose buffer is full.
const WAITING: usize = 256;

/// A datagram that came in at another worker's socket.
#[derive(Debug)]
pub(super) struct Handed {
    pub client: SocketAddr,
    pub datagram: Box<[u8]>,
}

/// Where a worker is told of its clients' datagrams.
pub(super) type Mailbox = mpsc::Sender<Handed>;

/// For a worker's end of a listener.
pub(super) fn mailbox() -> (Mailbox, mpsc::Receiver<Handed>) {
    mpsc::channel(WAITING)
}

/// The clients of one listener that have a session.
#[derive(Debug)]
pub(super) struct Owners {
    hasher: RandomState,
    parts: [Mutex<HashMap<SocketAddr, Mailbox, RandomState>>; PARTS],
}

/// Whose a client is.
#[derive(Debug)]
pub(super) enum Whose {
    /// The asker's, maybe from now on.
    Ours,
    /// Another worker's.
    Theirs(Mailbox),
    /// No one's, and the asker did not want it.
    Nobodys,
}

impl Default for Owners {
    fn default() -> Self {
        Self { hasher: RandomState::default(), parts: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Owners {
    /// Whose this client is. One that is nobody's becomes the asker's, if it wants that.
    pub fn ask(&self, client: SocketAddr, asker: &Mailbox, wants: bool) -> Whose {
        let mut part = self.part(client);
        match part.get(&client) {
            Some(owner) if owner.same_channel(asker) => Whose::Ours,
            Some(owner) => Whose::Theirs(owner.clone()),
            None if wants => {
                part.insert(client, asker.clone());
                Whose::Ours
            }
            None => Whose::Nobodys,
        }
    }

    /// The client has no session any more, if it was this worker's.
    pub fn release(&self, client: SocketAddr, owner: &Mailbox) {
        let mut part = self.part(client);
        if part.get(&client).is_some_and(|known| known.same_channel(owner)) {
            part.remove(&client);
        }
    }

    fn part(&self, client: SocketAddr) -> MutexGuard<'_, HashMap<SocketAddr, Mailbox, RandomState>> {
        let part = self.hasher.hash_one(client) as usize % PARTS;
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_is_the_first_askers_until_it_lets_go() {
        let owners = Owners::default();
        let ((one, _keep_one), (two, _keep_two)) = (mailbox(), mailbox());
        let client = ([127, 0, 0, 1], 9).into();
        assert!(matches!(owners.ask(client, &one, false), Whose::Nobodys));
        assert!(matches!(owners.ask(client, &one, true), Whose::Ours));
        assert!(matches!(owners.ask(client, &two, true), Whose::Theirs(owner) if owner.same_channel(&one)));
        owners.release(client, &two);
        assert!(matches!(owners.ask(client, &two, true), Whose::Theirs(_)), "it is not the second's to give");
        owners.release(client, &one);
        assert!(matches!(owners.ask(client, &two, true), Whose::Ours));
    }
}
