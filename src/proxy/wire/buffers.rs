//! Scratch memory of one worker. A buffer is borrowed for the length of one poll and given back, so a connection that
//! waits owns none; two or three of them serve any number of connections.

use std::cell::RefCell;

/// Bytes of one buffer. Large bodies move in pieces of this size: fewer system calls per byte.
pub const SCRATCH: usize = 192 * 1024;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Lends a buffer of [`SCRATCH`] bytes, with whatever was in it before.
pub fn with_scratch<R>(use_it: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SCRATCH].into_boxed_slice());
    let result = use_it(&mut buffer);
    FREE.with_borrow_mut(|free| {
        if free.len() < 8 {
            free.push(buffer);
        }
    });
    result
}
