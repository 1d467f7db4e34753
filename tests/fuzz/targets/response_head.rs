//! See [`weir_fuzz::heads::response_head`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_fuzz::heads::response_head(data));
