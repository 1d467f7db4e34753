//! The path of a request: admit, match, guard, shape, attempt, answer, settle.
//!
//! `handle` is the path itself, top to bottom; `attempt` is one try at one endpoint; `body` and `reply` are what goes to
//! and comes from either side; `upgrade` takes over when a connection stops being HTTP. Everything here runs on one
//! worker's thread with that worker's [`Context`].

mod attempt;
mod body;
mod context;
mod exchange;
mod handle;
mod mirror;
mod prewarm;
mod reply;
#[cfg(test)]
mod tests;
mod upgrade;
mod upstream_h2;
mod watch;

pub use attempt::HALF_CLOSED;
pub use body::{RequestBody, ResponseBody};
pub use context::Context;
pub use exchange::{Exchange, Origin, Running};
pub use handle::handle;
pub use prewarm::Warmed;
pub use reply::refuse;
pub use reply::{After, write_head, write_request};
pub use upgrade::{Upgraded, tunnel};
pub use upstream_h2::{FaultError, map_of};
pub use watch::{Ending, Watch};

/// Runs hyper's tasks on this worker.
#[derive(Clone)]
pub struct LocalExecutor(pub std::rc::Rc<Context>);

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
