#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sawmill::fuzzing::decode_log_slots(bytes));
