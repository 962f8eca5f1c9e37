//! Must fail: shows that a finding is noticed.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assert!(bytes.first() != Some(&b'!'), "the canary sings");
});
