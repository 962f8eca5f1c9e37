//! The system calls that a log makes on files, and how they fail.

use std::collections::BTreeMap;

use super::run::Fault;

/// EIO and so on, by the name that `strace` knows and by number.
pub(crate) const ERRNOS: [(&str, i64); 12] = [
    ("EIO", 5),
    ("ENOSPC", 28),
    ("EDQUOT", 122),
    ("EINTR", 4),
    ("EAGAIN", 11),
    ("EBUSY", 16),
    ("ENOMEM", 12),
    ("EFBIG", 27),
    ("EROFS", 30),
    ("ENODEV", 19),
    ("EINVAL", 22),
    ("ECANCELED", 125),
];

/// Everything that names a file or a descriptor of one, or maps it.
pub(crate) const ALL: &str = "%file,%desc,memfd_create,io_uring_setup,io_uring_enter";

/// Calls on files that are not struck, and why: they end the harness, or nobody asks how they
/// went.
const SPARED: [(&str, &str); 8] = [
    ("write", "what the life says"),
    ("read", "pseudo files of the harness and the standard library"),
    ("close", "Linux frees the descriptor whatever it returns, and nobody asks"),
    ("poll", "of the standard library"),
    ("mmap", "of the allocator and of stacks, which end the process where they fail"),
    ("execve", "of the harness"),
    ("epoll_wait", "of the harness"),
    ("readlink", "of the standard library"),
];

/// How often each call is made by the thread that makes it most, in a life without faults.
pub(crate) fn counted(trace: &str) -> BTreeMap<String, u64> {
    let mut by_thread: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        let is_name = call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_name && !SPARED.iter().any(|(name, _)| *name == call) {
            *by_thread.entry((call, thread)).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((call, _), count) in by_thread {
        let most: &mut u64 = most.entry(call.to_owned()).or_default();
        *most = (*most).max(count);
    }
    most
}

/// At most `places` numbers from 1 to `count`, the first and the last among them.
pub(crate) fn spread(count: u64, places: u64) -> Vec<u64> {
    let mut all: Vec<u64> =
        (0..places.min(count))
            .map(|nth| {
                if places == 1 { 1 } else { 1 + nth * (count - 1) / (places.min(count).max(2) - 1) }
            })
            .collect();
    all.dedup();
    all
}

/// Every error of every call, at so many places, once and from there on.
pub(crate) fn errors(counted: &BTreeMap<String, u64>, places: u64) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (call, count) in counted {
        for from in spread(*count, places) {
            for (errno, _) in ERRNOS {
                for sticky in [false, true] {
                    let how = format!("error={errno}");
                    faults.push(Fault::Call { call: call.clone(), how, from, sticky });
                }
            }
        }
        // What moves bytes moves fewer.
        if ["pwritev2", "preadv2"].contains(&call.as_str()) {
            for from in spread(*count, places) {
                let how = "retval=512".to_owned();
                faults.push(Fault::Call { call: call.clone(), how, from, sticky: false });
            }
        }
    }
    faults
}
