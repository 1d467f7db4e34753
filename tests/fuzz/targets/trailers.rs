//! See [`weir_fuzz::bodies::trailers`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_fuzz::bodies::trailers(data));
