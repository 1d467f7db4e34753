//! STATIC settings: what the process is told once, at its start. Everything about traffic is an object instead.
//!
//! Invariant: after [`load()`] every value is within its range, and no other code looks at the environment or at `weir.yaml`.
//! Precedence: flag > environment > file > default. One table ([`table`]) holds key, syntax, range and meaning of every
//! setting; the file, the environment, the flags, `weir check --origin` and the reference all read it.

mod document;
mod error;
mod load;
mod settings;
mod table;
mod value;

pub use error::{Place, SettingError};
pub use load::{Flags, Origins, load};
pub use settings::{
    AccessLog, AccessLogMode, Admin, Headers, Limits, Listener, ListenerProtocol, Log, LogFormat, LogLevel, Metrics,
    Provider, Retries, Settings, Shutdown, Timeouts, Underscores,
};
pub use table::reference;

#[cfg(test)]
mod tests;
