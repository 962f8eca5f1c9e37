//! The ring, with what goes wrong in it.

use std::io::Write;
use std::path::Path;

use super::super::posix::SystemFile;
use super::super::{BLOCK, Backend, BackendKind, OpenMode, Storage, SystemStorage};
use super::*;
use crate::error::{Error, ErrorKind};
use crate::planted::with_planted;
use crate::wal::{Background, Wal, WalOptions};

/// A system call to refuse in this thread, if its argument has one of the bits.
struct Refusal {
    call: libc::c_long,
    argument_and_bits: Option<(u32, u32)>,
    errno: i32,
}

const NO_SETUP: Refusal =
    Refusal { call: libc::SYS_io_uring_setup, argument_and_bits: None, errno: libc::EPERM };
const NO_ENTER: Refusal =
    Refusal { call: libc::SYS_io_uring_enter, argument_and_bits: None, errno: libc::EACCES };
const NO_DIRECT: Refusal = Refusal {
    call: libc::SYS_openat,
    argument_and_bits: Some((2, libc::O_DIRECT.cast_unsigned())),
    errno: libc::EINVAL,
};
const NO_DURABLE_WRITE: Refusal = Refusal {
    call: libc::SYS_pwritev2,
    argument_and_bits: Some((5, libc::RWF_DSYNC.cast_unsigned())),
    errno: libc::EOPNOTSUPP,
};

fn refuse_in_this_thread(refusal: &Refusal) -> bool {
    let step = |code: u32, yes: u8, no: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: yes,
        jf: no,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let (jump, answer) = (libc::BPF_JMP | libc::BPF_K, libc::BPF_RET | libc::BPF_K);
    let (argument, bits) = refusal.argument_and_bits.unwrap_or_default();
    let unseen = if refusal.argument_and_bits.is_some() { 0 } else { 2 };
    let errno = refusal.errno.cast_unsigned();
    // In `seccomp_data` the call's number comes first, its arguments from byte 16 on.
    let mut steps = [
        step(load, 0, 0, 0),
        step(jump | libc::BPF_JEQ, unseen, 3, u32::try_from(refusal.call).unwrap()),
        step(load, 0, 0, 16 + 8 * argument),
        step(jump | libc::BPF_JSET, 0, 1, bits),
        step(answer, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 6, filter: steps.as_mut_ptr() };
    // SAFETY: takes no address; this thread gives up gaining privileges.
    let tamed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the program and its steps live through the call, which copies them.
    let filtered = unsafe { libc::prctl(libc::PR_SET_SECCOMP, 2, &raw const program) };
    tamed == 0 && filtered == 0
}

/// What is found, by name of the choice, in a thread that is refused these calls. `None`
/// where the machine has no such filters.
fn found_without(
    refusals: &'static [Refusal],
    choice: &'static str,
) -> Option<Result<Backend, IoFailure>> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().to_owned();
    let body = move || {
        if !refusals.iter().all(refuse_in_this_thread) {
            return None;
        }
        let storage = SystemStorage::from_name(choice).unwrap();
        let found = storage.directory(&path, true).map(|directory| {
            let file = directory.open("f", OpenMode::CreateDirect).unwrap();
            let mut channel = directory.channel().unwrap();
            assert_eq!(channel.run(write(&file, 0)).result.unwrap(), BLOCK);
            assert_eq!(directory.list().unwrap(), ["f"]);
            directory.backend()
        });
        Some(found)
    };
    crate::sync::spawn("refused", body).unwrap().join().unwrap()
}

fn write(file: &Arc<dyn File>, block: u64) -> Op {
    let mut buffer = AlignedBuf::zeroed(BLOCK);
    buffer.fill(7);
    let offset = block * BLOCK as u64;
    Op::Write { file: Arc::clone(file), offset, buffer, durable: true }
}

#[test]
fn what_is_refused_is_replaced_by_the_next_best() {
    // What the machine itself refuses stays refused: then the filter changes nothing.
    let Some(Ok(best)) = found_without(&[], "auto") else { panic!("some backend works") };
    let pwrite = |direct| Backend { kind: BackendKind::Pwrite, direct };
    let buffered = Backend { kind: best.kind, direct: false };
    let cases: [(&'static [Refusal], Backend); 5] = [
        (&[NO_SETUP], pwrite(best.direct)),
        (&[NO_ENTER], pwrite(best.direct)),
        (&[NO_DIRECT], buffered),
        (&[NO_SETUP, NO_DIRECT], pwrite(false)),
        (&[NO_ENTER, NO_DIRECT], pwrite(false)),
    ];
    for (refusals, wanted) in cases {
        let Some(found) = found_without(refusals, "auto") else { return };
        assert_eq!(found.unwrap(), wanted);
    }
}

#[test]
fn a_forced_backend_that_is_refused_is_an_error() {
    let cases: [(&'static [Refusal], &str, i32); 3] = [
        (&[NO_SETUP], "uring", libc::EPERM),
        (&[NO_ENTER], "uring-buffered", libc::EACCES),
        (&[NO_DURABLE_WRITE], "pwrite", libc::EOPNOTSUPP),
    ];
    for (refusals, choice, errno) in cases {
        let Some(found) = found_without(refusals, choice) else { return };
        let failure = found.unwrap_err();
        // A machine without io_uring refuses with an errno of its own.
        let own = matches!(found_without(&[], choice), Some(Err(_)));
        assert!(own || failure.errno() == Some(errno), "{choice}: {failure}");
    }
}

/// A ring with a file to write to, if this machine has rings.
fn channel_and_file(place: &tempfile::TempDir) -> Option<(UringChannel, Arc<dyn File>)> {
    let storage = SystemStorage::from_name("auto").unwrap();
    let directory = storage.directory(place.path(), true).unwrap();
    let file = directory.open("f", OpenMode::CreateDirect).unwrap();
    UringChannel::new(None).ok().map(|channel| (channel, file))
}

/// As if the ring had needed 4 ms three times, and the call next to nothing.
fn pace_of_a_slow_ring() -> Arc<SharedPace> {
    let pace = Arc::new(SharedPace::new());
    for (way, ns) in [(Way::Ring, 4_000_000), (Way::Call, 1)] {
        for _ in 0..3 {
            assert_eq!(pace.next(), way);
            pace.done(way, Some(ns));
        }
    }
    pace
}

#[test]
fn after_a_quick_write_some_take_the_ring_unasked_and_then_the_pace_decides() {
    let place = tempfile::tempdir().unwrap();
    let Some((_, file)) = channel_and_file(&place) else { return };
    let pace = pace_of_a_slow_ring();
    let mut channel = UringChannel::new(Some(Arc::clone(&pace))).unwrap();
    channel.unasked = 2;
    let mut bypassed = Vec::new();
    for block in 0..3 {
        assert_eq!(channel.run(write(&file, block)).result.unwrap(), BLOCK);
        bypassed.push(pace.bypassed() - 3);
    }
    assert_eq!(bypassed, [0, 0, 1]);
}

#[test]
fn a_lone_durable_write_bypasses_a_slow_ring_and_only_that() {
    let place = tempfile::tempdir().unwrap();
    let Some((_, file)) = channel_and_file(&place) else { return };
    let pace = pace_of_a_slow_ring();
    let mut channel = UringChannel::new(Some(Arc::clone(&pace))).unwrap();
    let count = || pace.bypassed() - 3;
    for block in 0..10 {
        assert_eq!(channel.run(write(&file, block)).result.unwrap(), BLOCK);
    }
    assert_eq!(count(), 10);
    // The second one of two is not alone; nor is a plain one worth it.
    let tokens = [channel.submit(write(&file, 10)), channel.submit(write(&file, 11))];
    let done = std::iter::from_fn(|| channel.complete()).map(|done| done.token);
    assert_eq!((done.collect::<Vec<_>>(), count()), (tokens.to_vec(), 11));
    let Op::Write { file, offset, buffer, .. } = write(&file, 12) else { unreachable!() };
    let plain = Op::Write { file: Arc::clone(&file), offset, buffer, durable: false };
    assert_eq!(channel.run(plain).result.unwrap(), BLOCK);
    assert_eq!(count(), 11);
    let buffer = AlignedBuf::zeroed(13 * BLOCK);
    let read = channel.run(Op::Read { file, offset: 0, buffer });
    assert_eq!(read.result.unwrap(), 13 * BLOCK);
    assert!(read.buffer.unwrap().iter().all(|byte| *byte == 7));
}

#[test]
fn a_ring_that_fails_fails_what_is_in_flight_and_keeps_its_buffers() {
    let place = tempfile::tempdir().unwrap();
    let Some((mut channel, file)) = channel_and_file(&place) else { return };
    let tokens: Vec<u64> = (0..70).map(|block| channel.submit(write(&file, block))).collect();
    let null = std::fs::File::open("/dev/null").unwrap();
    // SAFETY: both are open; the ring's number now means /dev/null, which ends the ring.
    let replaced = unsafe { libc::dup2(null.as_raw_fd(), channel.ring.as_raw_fd()) };
    assert!(replaced >= 0);
    let mut kept = 0;
    let mut failed = Vec::new();
    while let Some(completion) = channel.complete() {
        assert!(completion.result.is_err());
        kept += usize::from(completion.buffer.is_none());
        failed.push(completion.token);
    }
    failed.sort_unstable();
    // Those that were still waiting for a place were never the kernel's.
    assert_eq!((failed, kept), (tokens, DEPTH));
    let completion = channel.run(write(&file, 0));
    assert!(completion.result.is_err() && completion.buffer.is_some());
    drop(channel);
    assert_eq!(Arc::strong_count(&file), 1);
}

/// A ring whose call is always interrupted was entered again for ever: whoever appended hung.
#[test]
fn a_ring_that_is_never_entered_fails_and_nobody_waits_for_ever() {
    for errno in [libc::EINTR, libc::EAGAIN, libc::EBUSY] {
        let place = tempfile::tempdir().unwrap();
        let body = move || {
            let Some((mut channel, file)) = channel_and_file(&place) else { return };
            channel.rest = Duration::ZERO;
            if !refuse_in_this_thread(&Refusal { errno, ..NO_ENTER }) {
                return;
            }
            let tokens = [0, 1].map(|block| channel.submit(write(&file, block)));
            for token in tokens {
                let completion = channel.complete().unwrap();
                let told = completion.result.unwrap_err().errno();
                assert_eq!((completion.token, told), (token, Some(errno)));
            }
            assert!(channel.complete().is_none());
            assert!(channel.run(write(&file, 2)).result.is_err());
        };
        crate::sync::spawn("refused", body).unwrap().join().unwrap();
    }
}

#[test]
fn a_dropped_channel_does_not_wait_for_ever() {
    let Ok(mut channel) = UringChannel::new(None) else { return };
    if !channel.ring.params().is_feature_ext_arg() {
        return;
    }
    // Nobody ever writes into this pipe: a device that does not answer.
    let (reader, writer) = std::io::pipe().unwrap();
    let path = std::path::PathBuf::from("pipe");
    let file: Arc<dyn File> = Arc::new(SystemFile::new(path, reader.into()));
    let buffer = AlignedBuf::zeroed(BLOCK);
    channel.submit(Op::Read { file: Arc::clone(&file), offset: 0, buffer });
    channel.drop_wait = Timespec::new().nsec(20_000_000);
    drop(channel);
    assert_eq!(Arc::strong_count(&file), 1);
    drop(writer);
}

/// A ring gives up while a read is on its way into a buffer. Afterwards the kernel writes there,
/// which this waits for. Whether that changes memory that the channel gave back, or that is taken
/// from then on; `None` where the machine has no such ring or filter.
fn harms_somebody() -> Option<bool> {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let file: Arc<dyn File> = Arc::new(SystemFile::new("pipe".into(), reader.into()));
    let mut channel = UringChannel::new(None).ok()?;
    channel.rest = Duration::ZERO;
    let buffer = AlignedBuf::zeroed(BLOCK);
    let address = buffer.as_ptr();
    channel.submit(Op::Read { file, offset: 0, buffer });
    Channel::start(&mut channel);
    if !refuse_in_this_thread(&Refusal { errno: libc::EINTR, ..NO_ENTER }) {
        return None;
    }
    let given_up = channel.complete().unwrap();
    assert_eq!(given_up.result.unwrap_err().errno(), Some(libc::EINTR));
    assert!(channel.complete().is_none());
    let owned: Vec<_> = (0..64).map(|_| AlignedBuf::zeroed(BLOCK)).chain(given_up.buffer).collect();
    writer.write_all(&[9; BLOCK]).unwrap();
    // SAFETY: leaked, or owned by `owned`: not freed. No other thread writes there.
    let arrived = || unsafe { address.read_volatile() } == 9;
    for _ in 0..10_000 {
        if arrived() {
            return Some(owned.iter().any(|buffer| buffer.iter().any(|byte| *byte != 0)));
        }
        std::thread::yield_now();
    }
    panic!("the kernel did not go on with what the ring had on its way");
}

#[test]
fn what_a_ring_that_gave_up_had_on_its_way_stays_the_kernels() {
    let harm = crate::sync::spawn("refused", harms_somebody).unwrap().join().unwrap();
    assert_ne!(harm, Some(true), "URING-1");
}

#[test]
fn planted_buffer_freed_in_flight_is_seen_when_a_ring_gives_up() {
    let body = || with_planted(Bug::BufferFreedInFlight, harms_somebody);
    let harm = crate::sync::spawn("refused", body).unwrap().join().unwrap();
    assert_ne!(harm, Some(false));
}

/// The log above a ring that gives up acknowledges nothing more, ever; what it had acknowledged is
/// there when it is opened again.
#[test]
fn a_log_whose_ring_gives_up_is_poisoned() {
    fn open(place: &Path, backend: &str) -> Result<Wal, Error> {
        let storage = SystemStorage::from_name(backend).unwrap();
        let options = WalOptions {
            segment_size: 64 << 10,
            background: Background::Inline,
            ..WalOptions::default()
        };
        Wal::open_with(Arc::new(storage), Arc::new(SystemClock), place, options)
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().to_owned();
    let body = move || {
        let Ok(wal) = open(&path, "uring") else { return false };
        wal.append(b"acknowledged").unwrap();
        if !refuse_in_this_thread(&NO_ENTER) {
            return false;
        }
        for payload in ["on its way", "later", "last"] {
            let error = wal.append(payload.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Poisoned, "{payload}: {error}");
        }
        assert_eq!((wal.durable_lsn().get(), wal.close().is_err()), (1, true));
        true
    };
    if !crate::sync::spawn("refused", body).unwrap().join().unwrap() {
        return;
    }
    let wal = open(place.path(), "pwrite").unwrap();
    let mut replay = wal.replay().unwrap();
    let mut found = Vec::new();
    while let Some(record) = replay.next() {
        found.push(record.unwrap().payload.to_vec());
    }
    // The one that was on its way may be there.
    assert!(found[0] == b"acknowledged" && found.len() <= 2, "{found:?}");
    drop(replay);
    wal.append(b"goes on").unwrap();
}
