//! What a bench was asked for, the same in all of them.

use std::time::Duration;

use crate::bench::protocol::Protocol;

/// 15 rounds of a second with `SAWMILL_BENCH=full`, short ones with `cargo bench`, and hardly
/// anything when the bench is run as a test.
pub(crate) fn protocol() -> Protocol {
    if is_test() {
        let time = Duration::from_millis(5);
        return Protocol { rounds: 1, time, bulk_bytes: 1 << 20, warm: false };
    }
    let full = std::env::var_os("SAWMILL_BENCH").is_some_and(|value| value == "full");
    Protocol::within(if full { 15 } else { 3 })
}

/// `cargo bench` says `--bench`, `cargo test --benches` does not.
pub(crate) fn is_test() -> bool {
    let given = |name: &str| std::env::args().any(|word| word == name);
    !given("--bench") || given("--test")
}

/// What was asked for by name: the arguments that are no options.
pub(crate) fn names() -> Vec<String> {
    std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect()
}
