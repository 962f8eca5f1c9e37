//! Bytes decide the life of a log: what is called, what fails, when the power goes, what survives.
//! A model says what must be there, what may be, and what must not: that of `tests/wal_sim.rs`.
#![no_main]

#[allow(dead_code, reason = "seeds are for the test")]
#[path = "../../tests/wal_sim_common/mod.rs"]
mod wal_sim_common;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(violation) = wal_sim_common::run_bytes(bytes) {
        panic!("{violation}");
    }
});
