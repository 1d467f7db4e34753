//! The engine, file by file as it is; `stream` (hyper's side) and `timers` (no foreign bytes) are left out.

#[path = "../../../src/proxy/wire/buffers.rs"]
pub mod buffers;
#[path = "../../../src/proxy/wire/chunked.rs"]
pub mod chunked;
#[path = "../../../src/proxy/wire/client.rs"]
pub mod client;
#[path = "../../../src/proxy/wire/head.rs"]
pub mod head;
#[path = "../../../src/proxy/wire/io.rs"]
pub mod io;
#[path = "../../../src/proxy/wire/parse.rs"]
pub mod parse;
#[path = "../../../src/proxy/wire/pump.rs"]
pub mod pump;
#[path = "../../../src/proxy/wire/server.rs"]
pub mod server;
