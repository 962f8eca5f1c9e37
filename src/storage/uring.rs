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
use crate::planted::{Bug, planted};

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
                let buffer = match planted(Bug::BufferFreedInFlight) {
                    true => ManuallyDrop::into_inner(slot.buffer),
                    false => None,
                };
                self.done.push_back(Completion { token: slot.token, buffer, result });
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
mod tests;
