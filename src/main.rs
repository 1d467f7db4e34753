//! Arguments, app, exit code.

use std::process::ExitCode;

/// Many small, short-lived allocations on every core: mimalloc's per-thread heaps serve them without a shared lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    weir::cli::main()
}
