//! The negotiation of the NBD client against arbitrary bytes; what must hold is in `hotadd_blockio::nbd::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hotadd_blockio::nbd::fuzz::negotiation(data));
