//! What threads cost: time on a CPU and context switches, as Linux counts them for each thread.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What some threads used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu_ns: u64,
    /// Voluntary and other ones.
    pub(crate) switches: u64,
}

impl Usage {
    pub(crate) fn add(&mut self, other: Usage) {
        self.cpu_ns += other.cpu_ns;
        self.switches += other.switches;
    }
}

/// The number of the calling thread and what it used since it began. `None` where the kernel does
/// not say.
pub(crate) fn of_this_thread() -> Option<(u64, Usage)> {
    let link = fs::read_link("/proc/thread-self").ok()?;
    let number = link.file_name()?.to_str()?.parse().ok()?;
    Some((number, read(Path::new("/proc/thread-self"))?))
}

/// What each thread of this process used since it began, by its number.
pub(crate) fn of_all_threads() -> BTreeMap<u64, Usage> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // One that has just ended is not there any more.
        if let (Some(number), Some(usage)) = (number, read(&entry.path())) {
            found.insert(number, usage);
        }
    }
    found
}

/// What the threads that are there now have used since `before`.
pub(crate) fn since(before: &BTreeMap<u64, Usage>) -> Usage {
    let mut sum = Usage::default();
    for (number, now) in of_all_threads() {
        let then = before.get(&number).copied().unwrap_or_default();
        sum.add(Usage {
            cpu_ns: now.cpu_ns.saturating_sub(then.cpu_ns),
            switches: now.switches.saturating_sub(then.switches),
        });
    }
    sum
}

fn read(task: &Path) -> Option<Usage> {
    let times = fs::read_to_string(task.join("schedstat")).ok()?;
    let cpu_ns = times.split_whitespace().next()?.parse().ok()?;
    let status = fs::read_to_string(task.join("status")).ok()?;
    let switches = status
        .lines()
        .filter(|line| line.contains("ctxt_switches"))
        .filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok())
        .sum();
    Some(Usage { cpu_ns, switches })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_switches() {
        let Some((number, before)) = of_this_thread() else { return };
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let after = of_all_threads().get(&number).copied();
        assert!(after.is_some_and(|after| after.switches >= before.switches + 5));
    }
}
