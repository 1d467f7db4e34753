//! See [`weir_fuzz::connections::requests`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_fuzz::connections::requests(data));
