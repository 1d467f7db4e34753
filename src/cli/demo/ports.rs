//! Ports for the demo: the usual ones, or the next that are free.

use std::io;
use std::net::{SocketAddr, TcpListener};

/// How many ports are tried after the one that was wanted.
const ATTEMPTS: u16 = 100;

/// A socket address to serve at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    /// What was wanted.
    pub wanted: SocketAddr,
    /// What is free.
    pub free: SocketAddr,
}

impl Choice {
    /// Whether the wanted port was taken.
    pub fn moved(&self) -> bool {
        self.wanted.port() != 0 && self.wanted != self.free
    }
}

/// The wanted address, or the same with the next port that nothing listens at and that is not in `taken`. Whether a
/// port is free is found out by binding it without `SO_REUSEPORT`, so a second Weir does not share the first one's.
///
/// # Errors
/// When the address is none of this machine, the port needs privileges, or no port after it is free.
pub(super) fn choose(wanted: SocketAddr, taken: &[SocketAddr]) -> io::Result<Choice> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for step in 0..=ATTEMPTS {
        let Some(port) = wanted.port().checked_add(step) else { break };
        let mut address = wanted;
        address.set_port(port);
        if port != 0 && taken.iter().any(|other| other.port() == port) {
            continue;
        }
        match TcpListener::bind(address) {
            Ok(socket) => return Ok(Choice { wanted, free: socket.local_addr()? }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_gives_way_to_the_next_free_one() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = taken.local_addr().unwrap();
        let choice = choose(wanted, &[]).unwrap();
        assert!(choice.moved());
        assert!(choice.free.port() > wanted.port());
    }

    #[test]
    fn a_port_promised_to_another_listener_is_not_given_twice() {
        let wanted = choose("127.0.0.1:0".parse().unwrap(), &[]).unwrap().free;
        assert!(wanted.port() != 0);
        let second = choose(wanted, &[wanted]).unwrap();
        assert_ne!(second.free.port(), wanted.port());
    }

    #[test]
    fn an_address_of_another_machine_is_an_error_at_once() {
        assert!(choose("192.0.2.1:8080".parse().unwrap(), &[]).is_err());
    }
}
