//! The storage beside other processes: forked children, and the environment.
//!
//! Apart from the tests of locks: a child shares every description of its parent until it goes or
//! calls `exec`, and with it every lock.
#![allow(clippy::unwrap_used, reason = "tests say what they expect")]
#![allow(unsafe_code, reason = "fork has no safe form")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sawmill::storage::{
    AlignedBuf, BLOCK, BackendChoice, BackendKind, Channel, ForkWord, Op, OpenMode, Storage,
    SystemStorage,
};
use sawmill::{AppendOptions, ErrorKind, Wal, WalOptions};

/// Seconds after which a child counts as hung.
const CHILD_SECONDS: u32 = 5;

/// Runs `body` in a forked child, which exits with what it returns.
fn in_child(body: impl FnOnce() -> i32) -> i32 {
    let exit = exit_of_child(body);
    assert!(exit >= 0, "the child was killed by signal {}", -exit);
    exit
}

/// What `body` returns in a forked child, or minus the signal that killed it.
fn exit_of_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs `body`, which takes no lock but the allocator's, and leaves by
    // `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // SAFETY: sets a timer of this process, which kills it if it hangs.
        unsafe { libc::alarm(CHILD_SECONDS) };
        let code = body();
        // SAFETY: ends this process without running anybody's destructors.
        unsafe { libc::_exit(code) }
    }
    let mut status = 0;
    // SAFETY: waits for the child made above; `status` lives through the call.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) }
}

#[test]
fn a_forked_child_knows_that_it_is_one() {
    let word = ForkWord::new().unwrap();
    assert!(!word.is_forked());
    assert_eq!(in_child(|| i32::from(word.is_forked())), 1);
    assert!(!word.is_forked());
    // What the child makes for itself is its own.
    assert_eq!(in_child(|| i32::from(ForkWord::new().unwrap().is_forked())), 0);
}

#[test]
fn a_forked_child_leaves_the_ring_to_its_parent() {
    let place = tempfile::tempdir().unwrap();
    let storage = SystemStorage::from_name("auto").unwrap();
    let directory = storage.directory(place.path(), true).unwrap();
    if directory.backend().kind != BackendKind::Uring {
        return;
    }
    let file = directory.open("f", OpenMode::CreateDirect).unwrap();
    let mut channel = Some(directory.channel().unwrap());
    let submit = |channel: &mut Option<Box<dyn Channel>>| {
        let (file, buffer) = (Arc::clone(&file), AlignedBuf::zeroed(BLOCK));
        channel.as_mut().unwrap().submit(Op::Write { file, offset: 0, buffer, durable: true })
    };
    assert_eq!([submit(&mut channel), submit(&mut channel)], [0, 1]);
    let in_child = in_child(|| {
        submit(&mut channel);
        let Some(mut channel) = channel.take() else { return 1 };
        let mut refused = 0;
        while let Some(completion) = channel.complete() {
            let errno = completion.result.err().and_then(|failure| failure.errno());
            refused += i32::from(errno == Some(libc::EOWNERDEAD));
        }
        drop(channel);
        10 + refused
    });
    assert_eq!(in_child, 13);
    let mut channel = channel.unwrap();
    for _ in 0..2 {
        assert_eq!(channel.complete().unwrap().result.unwrap(), BLOCK);
    }
    assert!(channel.complete().is_none());
}

/// Not a test by itself: the child of the next one.
#[test]
fn child_that_reads_the_variable() {
    let Ok(place) = std::env::var("STORAGE_TEST_PLACE") else { return };
    let open = |choice: BackendChoice| {
        let storage = SystemStorage::new(choice).map_err(|error| error.kind());
        storage.map(|storage| storage.directory(Path::new(&place), true).unwrap().backend())
    };
    println!("auto {:?}", open(BackendChoice::Auto));
    println!("pwrite {:?}", open(BackendChoice::Pwrite).map(|backend| backend.kind));
}

#[test]
fn the_variable_decides_where_the_option_is_auto_and_nowhere_else() {
    let place = tempfile::tempdir().unwrap();
    let child = |value: &str| -> String {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_reads_the_variable", "--nocapture"])
            .env("SAWMILL_BACKEND", value)
            .env("STORAGE_TEST_PLACE", place.path())
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let buffered = child("pwrite-buffered");
    assert!(buffered.contains("auto Ok(Backend { kind: Pwrite, direct: false })"), "{buffered}");
    let wrong = child("nonsense");
    assert!(wrong.contains("auto Err(Invalid)"), "{wrong}");
    assert!(wrong.contains("pwrite Ok(Pwrite)"), "{wrong}");
}

#[test]
fn a_forked_child_is_refused_by_the_log_and_writes_nothing_for_its_parent() {
    let place = tempfile::tempdir().unwrap();
    let lock_wait = std::time::Duration::ZERO;
    let options = WalOptions { segment_size: 64 << 10, lock_wait, ..WalOptions::default() };
    let wal = Wal::open(place.path(), options.clone()).unwrap();
    wal.append(b"parent").unwrap();
    let pin = wal.pin("reader", wal.first_lsn()).unwrap();
    let mut handle = Some((wal.clone(), pin));
    let refused = in_child(|| {
        let (log, pin) = handle.take().unwrap();
        let (later, none) = (log.first_lsn().next(), std::time::Duration::ZERO);
        let kinds = [
            log.append(b"child").unwrap_err().kind(),
            log.submit(b"child").unwrap_err().kind(),
            log.append_batch(&["child"]).unwrap_err().kind(),
            log.append_with(b"child", AppendOptions::default()).unwrap_err().kind(),
            log.append_timeout(b"child", none).unwrap_err().kind(),
            log.try_submit(b"child").unwrap_err().kind(),
            log.get(log.first_lsn()).unwrap_err().kind(),
            log.pin("child", later).unwrap_err().kind(),
            pin.advance(later).unwrap_err().kind(),
            log.truncation_plan(later).unwrap_err().kind(),
            log.apply_retention().unwrap_err().kind(),
            log.backup(log.path().with_extension("copy")).unwrap_err().kind(),
            log.sync().unwrap_err().kind(),
            log.replay().unwrap_err().kind(),
            log.truncate_before(log.first_lsn()).unwrap_err().kind(),
            log.clone().close().unwrap_err().kind(),
        ];
        // These say what they can and take no lock.
        let seen = (log.stats().frames, log.marks().durable, pin.lsn());
        let told = seen == (1, log.first_lsn(), log.first_lsn()) && log.pins().is_empty();
        drop((log, pin));
        i32::from(told && kinds.iter().all(|kind| *kind == ErrorKind::Forked))
    });
    assert_eq!(refused, 1);
    wal.append(b"parent again").unwrap();
    drop(handle);
    wal.close().unwrap();
    // A child that another test forks meanwhile keeps this log's lock for as long as it lives.
    let lock_wait = WalOptions::default().lock_wait;
    let wal = Wal::open(place.path(), WalOptions { lock_wait, ..options }).unwrap();
    let mut replay = wal.replay().unwrap();
    let mut payloads = Vec::new();
    while let Some(record) = replay.next() {
        payloads.push(record.unwrap().payload.to_vec());
    }
    assert_eq!(payloads, [b"parent".to_vec(), b"parent again".to_vec()]);
}

/// Forks while threads append. Each child appends too; what it exits with: 0 if it is refused, 1
/// if not, and it is killed if it hangs.
fn fork_in_mid_append(place: &Path, forks: usize) -> Vec<i32> {
    let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
    let wal = Wal::open(place, options.clone()).unwrap();
    let stop = AtomicBool::new(false);
    let (exits, appended) = std::thread::scope(|scope| {
        let append = |thread: u64| {
            let mut mine = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let number = thread << 32 | mine.len() as u64;
                mine.push((wal.append(&number.to_le_bytes()).unwrap(), number));
            }
            mine
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || append(thread))).collect();
        let before = wal.durable_lsn();
        let exits: Vec<_> = (0..forks)
            .map(|_| {
                exit_of_child(|| {
                    let refused = wal.append(b"child").map_err(|error| error.kind());
                    i32::from(refused != Err(ErrorKind::Forked))
                })
            })
            .collect();
        while wal.durable_lsn() < before.advance(100) {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        let appended: Vec<_> = threads.into_iter().flat_map(|one| one.join().unwrap()).collect();
        (exits, appended)
    });
    wal.close().unwrap();
    let wal = Wal::open(place, options).unwrap();
    assert_eq!(wal.durable_lsn().get(), appended.len() as u64, "nobody else appended anything");
    for (lsn, number) in appended {
        assert_eq!(wal.get(lsn).unwrap().unwrap().payload, number.to_le_bytes());
    }
    exits
}

#[test]
fn forks_in_mid_append_hurt_nobody() {
    let place = tempfile::tempdir().unwrap();
    assert_eq!(fork_in_mid_append(place.path(), 50), vec![0; 50]);
}

/// A child that does not notice waits for threads that are not there, or writes for its parent.
#[test]
#[cfg(feature = "planted")]
fn planted_fork_unnoticed_is_seen() {
    let place = tempfile::tempdir().unwrap();
    let exits = std::panic::catch_unwind(|| {
        sawmill::planted::with_planted(sawmill::planted::Bug::ForkUnnoticed, || {
            fork_in_mid_append(place.path(), 1)
        })
    });
    assert!(!exits.is_ok_and(|exits| exits == [0]), "the bug is not seen");
}
