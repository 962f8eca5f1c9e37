//! Where the program was when an operation was ordered to fail: its call sites, by the stack.

use std::backtrace::Backtrace;
use std::collections::BTreeSet;

/// Places of a source tree that stand between a call and the disk.
const SEAM: [&str; 3] = ["src/sim/", "src/storage/mod.rs:", "src/storage/files.rs:"];

/// The call sites of the operations that failed.
#[derive(Debug, Default)]
pub(super) struct Struck(BTreeSet<String>);

impl Struck {
    /// Notes who called: the innermost place in this crate's sources that is not the seam's own.
    pub(super) fn note(&mut self) {
        let stack = Backtrace::force_capture().to_string();
        let places = stack.lines().filter_map(|line| line.trim_start().strip_prefix("at "));
        let ours = places.filter_map(|place| {
            let home = concat!(env!("CARGO_MANIFEST_DIR"), "/");
            place.strip_prefix("./").or(place.strip_prefix(home))
        });
        let site = ours.into_iter().find(|place| !SEAM.iter().any(|seam| place.starts_with(seam)));
        // The column says nothing more.
        let site = site.and_then(|site| Some(site.rsplit_once(':')?.0));
        self.0.insert(site.unwrap_or("unknown").to_owned());
    }

    pub(super) fn sites(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }
}
