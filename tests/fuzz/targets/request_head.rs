//! See [`weir_fuzz::heads::request_head`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_fuzz::heads::request_head(data));
