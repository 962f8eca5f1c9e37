//! The channel of io_uring: a small ring of its own per channel.
//!
//! URING-1: a slot keeps the operation's buffer and file until its completion has arrived. If the
//! ring fails in between, the buffer is leaked: the kernel may still write to it.
//! URING-2: at most [`DEPTH`] operations are in the ring, so that neither queue can overflow.
//! URING-3: a forked child never touches the ring, whose memory it shares with its parent.
//! URING-4: only an operation that finds nothing in flight bypasses the ring, and it has completed
//! when `submit` returns.
#![allow(unsafe_code, reason = "the kernel is given addresses")]

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{self, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};

use super::failure::INTERRUPTIONS;
use super::lock::ForkWord;
use super::pace::{SLOW_NS, SharedPace, Way};
use super::posix::system_file;
use super::pwrite::execute;
use super::{AlignedBuf, Channel, Completion, File, IoFailure, Op};
use crate::clock::{Clock, SystemClock};

/// So many lone durable writes after a quick one take the ring without a look at clock and pace:
/// for each write both are 0.1 us.
const UNASKED: u8 = 7;

/// Operations in the ring at once; more wait in the channel.
const DEPTH: usize = 64;

/// Seconds without any completion after which a dropped channel no longer waits: a device that
/// answers nothing must not hang whoever closes a log (LOG.md L12).
const DROP_WAIT_SECONDS: u64 = 60;

/// How often `enter` begins again at once; from then on it rests before each time, so that
/// [`INTERRUPTIONS`] take seconds. A short wait of a kernel without memory passes; and who waits
/// for a slow device among a profiler's signals is not told that the ring has failed.
const AT_ONCE: u32 = 100;
const REST: Duration = Duration::from_millis(1);

/// The most bytes that Linux moves in one call.
const TRANSFER_MAX: usize = 0x7FFF_F000;

struct Slot {
    token: u64,
    operation: &'static str,
    file: Arc<dyn File>,
    offset: Option<u64>,
    /// Never read while the operation is in the ring; wrapped so that leaking is what happens
    /// unless a completion takes it out.
    buffer: ManuallyDrop<Option<AlignedBuf>>,
}

/// A ring, and what it has in flight.
pub(super) struct UringChannel {
    ring: IoUring,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    waiting: VecDeque<(u64, Op)>,
    done: VecDeque<Completion>,
    next_token: u64,
    /// The errno with which the ring stopped working.
    broken: Option<i32>,
    forked: ForkWord,
    /// Where lone durable writes may bypass the ring: which way is the quicker one.
    pace: Option<Arc<SharedPace>>,
    /// A durable write that has the ring for itself, and when it was submitted.
    lone: Option<(u64, u64)>,
    /// How many more of these take the ring without a look at the pace.
    unasked: u8,
    /// How long `enter` waits, where not for ever.
    patience: Option<Timespec>,
    rest: Duration,
    drop_wait: Timespec,
}

impl UringChannel {
    /// Sets a ring up, and sees one operation through it. With a pace, lone durable writes may
    /// bypass it.
    pub(super) fn new(pace: Option<Arc<SharedPace>>) -> io::Result<UringChannel> {
        let forked = ForkWord::new()?;
        // Channels change hands, so not SINGLE_ISSUER (LOG.md L7).
        let ring = IoUring::builder().build(64)?;
        let mut channel = UringChannel {
            ring,
            slots: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH).rev().collect(),
            waiting: VecDeque::new(),
            done: VecDeque::new(),
            next_token: 0,
            broken: None,
            forked,
            pace,
            lone: None,
            unasked: 0,
            patience: None,
            rest: REST,
            drop_wait: Timespec::new().sec(DROP_WAIT_SECONDS),
        };
        channel.push(&opcode::Nop::new().build().user_data(u64::MAX));
        channel.enter(1)?;
        let result = channel.ring.completion().next().map(|entry| entry.result());
        match result {
            Some(0) => Ok(channel),
            Some(errno) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn push(&mut self, entry: &Entry) {
        // SAFETY: the entry's buffer and descriptor are kept by its slot until its completion
        // (URING-1); the entry of `new` has neither.
        let pushed = unsafe { self.ring.submission().push(entry) };
        assert!(pushed.is_ok(), "URING-2: the queue has an entry for each slot");
    }

    /// Gives the kernel what was pushed, and waits for `wanted` completions to be there. Only the
    /// call itself is repeated, never an operation, and not for ever. Impatient, it fails with
    /// `ETIME`.
    fn enter(&mut self, wanted: usize) -> io::Result<()> {
        let mut refused = 0;
        loop {
            let entered = match &self.patience {
                None => self.ring.submit_and_wait(wanted),
                Some(patience) => {
                    let limit = SubmitArgs::new().timespec(patience);
                    self.ring.submitter().submit_with_args(wanted, &limit)
                }
            };
            match entered {
                Ok(_) => return Ok(()),
                Err(error) => {
                    let errno = error.raw_os_error();
                    let again = matches!(errno, Some(libc::EINTR | libc::EAGAIN | libc::EBUSY));
                    if !again || refused == INTERRUPTIONS {
                        return Err(error);
                    }
                    if !self.ring.completion().is_empty() {
                        return Ok(());
                    }
                    refused += 1;
                    match refused {
                        ..AT_ONCE => std::thread::yield_now(),
                        _ => SystemClock.sleep(self.rest),
                    }
                }
            }
        }
    }

    fn in_flight(&self) -> usize {
        DEPTH - self.free.len()
    }

    /// Moves one operation into a free slot and the queue.
    fn start(&mut self, token: u64, op: Op) {
        let (operation, file, offset, buffer, durable) = match op {
            Op::Write { file, offset, buffer, durable } => {
                ("write", file, Some(offset), Some(buffer), durable)
            }
            Op::Read { file, offset, buffer } => ("read", file, Some(offset), Some(buffer), false),
            Op::Sync { file } => ("sync", file, None, None, false),
        };
        let descriptor = match system_file(operation, &*file, offset) {
            Ok(system) => types::Fd(system.as_fd().as_raw_fd()),
            Err(failure) => {
                self.done.push_back(Completion { token, buffer, result: Err(failure) });
                return;
            }
        };
        #[allow(clippy::expect_used, reason = "both callers have seen a free slot")]
        let index = self.free.pop().expect("URING-2: a free slot");
        let slot = self.slots[index].insert(Slot {
            token,
            operation,
            file,
            offset,
            buffer: ManuallyDrop::new(buffer),
        });
        let entry = match (&*slot.buffer, offset) {
            (Some(buffer), Some(offset)) => {
                #[allow(clippy::cast_possible_truncation, reason = "TRANSFER_MAX fits 32 bits")]
                let length = buffer.len().min(TRANSFER_MAX) as u32;
                let start = buffer.as_ptr();
                if operation == "read" {
                    opcode::Read::new(descriptor, start, length).offset(offset).build()
                } else {
                    let flags = if durable { libc::RWF_DSYNC } else { 0 };
                    let write = opcode::Write::new(descriptor, start, length).offset(offset);
                    write.rw_flags(flags).build()
                }
            }
            _ => opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build(),
        };
        self.push(&entry.user_data(index as u64));
    }

    /// Takes one arrived completion.
    fn reap(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        let index = usize::try_from(entry.user_data()).ok();
        let slot = index.and_then(|index| self.slots.get_mut(index)?.take());
        let (Some(index), Some(slot)) = (index, slot) else {
            panic!("URING-1: a completion has a slot");
        };
        self.free.push(index);
        let result = usize::try_from(entry.result())
            .map_err(|_| slot.failure(entry.result().saturating_neg()));
        let buffer = ManuallyDrop::into_inner(slot.buffer);
        if let Some((token, begun)) = self.lone.take()
            && let Some(pace) = &self.pace
        {
            let says = token == slot.token && result.is_ok();
            let took = says.then(|| SystemClock.monotonic_ns() - begun);
            self.unasked = took.filter(|took| *took <= SLOW_NS).map_or(0, |_| UNASKED);
            pace.done(Way::Ring, took);
        }
        Some(Completion { token: slot.token, buffer, result })
    }

    /// Carries a durable write that has the channel for itself, the quicker way: by a system call
    /// (URING-4), or, by returning it, through the ring.
    fn bypass(&mut self, token: u64, op: Op) -> Option<Op> {
        let alone = self.in_flight() == 0 && self.done.is_empty();
        let Some(pace) = &self.pace else { return Some(op) };
        if self.lone.take().is_some() {
            pace.done(Way::Ring, None);
        }
        if !alone || !matches!(op, Op::Write { durable: true, .. }) {
            return Some(op);
        }
        if self.unasked > 0 {
            self.unasked -= 1;
            return Some(op);
        }
        let (way, begun) = (pace.next(), SystemClock.monotonic_ns());
        if way == Way::Ring {
            self.lone = Some((token, begun));
            return Some(op);
        }
        let completion = execute(token, op);
        let took = SystemClock.monotonic_ns() - begun;
        pace.done(way, completion.result.is_ok().then_some(took));
        self.done.push_back(completion);
        None
    }

    /// The ring will tell nothing more: fails everything, and leaks what the kernel may still use.
    fn break_down(&mut self, errno: i32) {
        self.broken = Some(errno);
        if let (Some(_), Some(pace)) = (self.lone.take(), &self.pace) {
            pace.done(Way::Ring, None);
        }
        for slot in &mut self.slots {
            if let Some(slot) = slot.take() {
                let result = Err(slot.failure(errno));
                self.done.push_back(Completion { token: slot.token, buffer: None, result });
            }
        }
        self.free = (0..DEPTH).collect();
        for (token, op) in std::mem::take(&mut self.waiting) {
            self.done.push_back(refuse(token, op, errno));
        }
    }
}

impl Slot {
    fn failure(&self, errno: i32) -> IoFailure {
        let failure = IoFailure::from_errno(self.operation, self.file.path(), errno);
        match self.offset {
            Some(offset) => failure.at(offset),
            None => failure,
        }
    }
}

/// The completion of an operation that was never given to the kernel.
fn refuse(token: u64, op: Op, errno: i32) -> Completion {
    let (operation, file, buffer) = match op {
        Op::Write { file, buffer, .. } => ("write", file, Some(buffer)),
        Op::Read { file, buffer, .. } => ("read", file, Some(buffer)),
        Op::Sync { file } => ("sync", file, None),
    };
    let result = Err(IoFailure::from_errno(operation, file.path(), errno));
    Completion { token, buffer, result }
}

impl Channel for UringChannel {
    fn submit(&mut self, op: Op) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        if self.broken.is_none() && self.forked.is_forked() {
            self.break_down(libc::EOWNERDEAD);
        }
        if let Some(errno) = self.broken {
            self.done.push_back(refuse(token, op, errno));
        } else if self.free.is_empty() {
            self.waiting.push_back((token, op));
        } else if let Some(op) = self.bypass(token, op) {
            self.start(token, op);
        }
        token
    }

    fn complete(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.done.pop_front() {
                return Some(completion);
            }
            if self.in_flight() == 0 {
                assert!(self.waiting.is_empty(), "URING-2: only a full ring makes anyone wait");
                return None;
            }
            if self.forked.is_forked() {
                self.break_down(libc::EOWNERDEAD);
                continue;
            }
            let arrived = !self.ring.completion().is_empty();
            let pushed = !self.ring.submission().is_empty();
            if pushed || !arrived {
                let entered = self.enter(usize::from(!arrived));
                if let Err(error) = entered {
                    self.break_down(error.raw_os_error().unwrap_or(libc::EIO));
                    continue;
                }
            }
            if let Some(completion) = self.reap() {
                while !self.free.is_empty() {
                    let Some((token, op)) = self.waiting.pop_front() else { break };
                    self.start(token, op);
                }
                return Some(completion);
            }
        }
    }

    fn start(&mut self) {
        if self.broken.is_some() || self.forked.is_forked() || self.ring.submission().is_empty() {
            return;
        }
        if let Err(error) = self.enter(0) {
            self.break_down(error.raw_os_error().unwrap_or(libc::EIO));
        }
    }

    fn depth(&self) -> usize {
        DEPTH
    }
}

impl Drop for UringChannel {
    /// STORAGE-2, unless the device is silent for [`DROP_WAIT_SECONDS`]: then the ring counts as
    /// failed, and what is in flight keeps its buffers and, in the kernel, its description with
    /// the locks. In a forked child nothing is waited for: the parent's operations are the
    /// parent's.
    fn drop(&mut self) {
        // Since Linux 5.11; before, it waits for ever.
        if self.ring.params().is_feature_ext_arg() {
            self.patience = Some(self.drop_wait);
        }
        while self.complete().is_some() {}
    }
}

impl fmt::Debug for UringChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringChannel")
            .field("in_flight", &self.in_flight())
            .field("waiting", &self.waiting.len())
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::posix::SystemFile;
    use super::super::{BLOCK, Backend, BackendKind, OpenMode, Storage, SystemStorage};
    use super::*;

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

    #[test]
    fn a_lone_durable_write_bypasses_a_slow_ring_and_only_that() {
        let place = tempfile::tempdir().unwrap();
        let Some((_, file)) = channel_and_file(&place) else { return };
        let pace = Arc::new(SharedPace::new());
        let mut channel = UringChannel::new(Some(Arc::clone(&pace))).unwrap();
        // As if the ring had needed 4 ms three times, and the call next to nothing.
        for (way, ns) in [(Way::Ring, 4_000_000), (Way::Call, 1)] {
            for _ in 0..3 {
                assert_eq!(pace.next(), way);
                pace.done(way, Some(ns));
            }
        }
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
}
