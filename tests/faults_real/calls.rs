//! The system calls that a log makes on files, and how they fail.

use std::collections::{BTreeMap, BTreeSet};

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

/// From where a call is made: its name, and the innermost place in the library's code. What no
/// stack tells of (calls within the C library, mostly) is one place.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Site {
    pub(crate) call: String,
    pub(crate) place: String,
}

/// A call in a trace.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) site: Site,
    /// By whom, and which one of its name there.
    thread: u64,
    nth: u64,
    pub(crate) struck: bool,
}

/// The calls in what `strace -f -k` notes down, but for those that are spared.
pub(crate) fn made(trace: &str) -> Vec<Made> {
    let mut all: Vec<Made> = Vec::new();
    let mut counts: BTreeMap<(u64, &str), u64> = BTreeMap::new();
    // The last call of each thread, and the one whose stack follows.
    let mut last: BTreeMap<u64, usize> = BTreeMap::new();
    let mut ended = None;
    for line in trace.lines() {
        if let Some(frame) = line.strip_prefix(" > ") {
            let made = ended.and_then(|at: usize| all.get_mut(at));
            if let Some(site) = made.map(|made| &mut made.site).filter(|it| it.place.is_empty()) {
                site.place = place(frame).unwrap_or_default().to_owned();
            }
            continue;
        }
        ended = None;
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Ok(thread) = thread.parse() else { continue };
        let rest = rest.trim_start();
        if !rest.starts_with("<... ") {
            last.remove(&thread);
            let Some((call, _)) = rest.split_once('(') else { continue };
            let is_name = call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !is_name || SPARED.iter().any(|(name, _)| *name == call) {
                continue;
            }
            let nth = counts.entry((thread, call)).or_default();
            *nth += 1;
            let site = Site { call: call.to_owned(), place: String::new() };
            all.push(Made { site, thread, nth: *nth, struck: false });
            last.insert(thread, all.len() - 1);
        }
        ended = last.get(&thread).copied();
        if let Some(at) = ended {
            all[at].struck |= rest.contains("(INJECTED)");
        }
    }
    all
}

/// The function, the way into it, and the address, if it is the library's.
fn place(frame: &str) -> Option<&str> {
    frame.split_once('(').map(|(_, place)| place).filter(|place| place.contains("sawmill::"))
}

/// How often each site is passed by the thread that does so most, and which calls of their name
/// those are.
fn passed(made: &[Made]) -> BTreeMap<&Site, Vec<u64>> {
    let mut by_thread: BTreeMap<(&Site, u64), Vec<u64>> = BTreeMap::new();
    for one in made {
        by_thread.entry((&one.site, one.thread)).or_default().push(one.nth);
    }
    let mut most: BTreeMap<&Site, Vec<u64>> = BTreeMap::new();
    for ((site, _), numbers) in by_thread {
        let most = most.entry(site).or_default();
        if numbers.len() > most.len() {
            *most = numbers;
        }
    }
    most
}

/// At most `places` of these, the first and the last among them.
fn spread(numbers: &[u64], places: usize) -> Vec<u64> {
    let many = places.min(numbers.len());
    let at = |nth: usize| nth * (numbers.len() - 1) / (many.max(2) - 1);
    (0..many).map(|nth| numbers[at(nth)]).collect()
}

/// Every error of every call at so many of the times that a life passes each of these sites, once
/// and from there on.
pub(crate) fn errors(made: &[Made], sites: &BTreeSet<Site>, places: usize) -> Vec<Fault> {
    let mut chosen: BTreeSet<(&str, u64)> = BTreeSet::new();
    for (site, numbers) in passed(made).into_iter().filter(|(site, _)| sites.contains(site)) {
        chosen.extend(spread(&numbers, places).into_iter().map(|from| (site.call.as_str(), from)));
    }
    let mut faults = Vec::new();
    for (call, from) in chosen {
        let fault = |how: String, sticky| Fault::Call { call: call.to_owned(), how, from, sticky };
        for (errno, _) in ERRNOS {
            faults.extend([false, true].map(|sticky| fault(format!("error={errno}"), sticky)));
        }
        // What moves bytes moves fewer.
        if ["pwritev2", "preadv2"].contains(&call) {
            faults.push(fault("retval=512".to_owned(), false));
        }
    }
    faults
}
