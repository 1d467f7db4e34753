//! See [`weir_fuzz::connections::responses`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_fuzz::connections::responses(data));
