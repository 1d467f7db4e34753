//! Blue-green cutovers by annotation: which color of a Service is effective, and how it changes.
//!
//! The machine decides (pure: what is desired and what is observed in, actions out), the driver observes the live
//! backends, carries the actions out and publishes what `/api/v1/services/{ns}/{name}/cutover` shows. Invariants: a color
//! without usable endpoints is never made effective, nor stays so, while another has some; only the flip of one pointer
//! moves traffic; Weir never rewrites `weir.dev/active` by itself.

mod attempt;
pub mod driver;
pub mod edit;
pub mod gate;
pub mod machine;
pub mod phase;
mod probe;
pub mod receipt;
pub mod state;
pub mod tally;

pub use driver::{Desired, Driver, Handle};
pub use machine::Moment;
pub use receipt::Timestamp;
pub use state::{Board, CutoverState, Totals};
pub use tally::{RegistryTally, Tally};
