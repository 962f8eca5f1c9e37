//! A disk that is a file of a FUSE file system: it keeps its bytes in memory, and writes everything
//! it is asked into a [`Trace`]. A second file, `mark`, takes what the workload has to say into the
//! same order.
//!
//! A share of the writes is answered late, as a device with a queue does: so that flushes meet
//! writes which are not complete, and do not cover them. Requests come one by one, in the order in
//! which the kernel submitted them, and an answer is in the trace before the kernel has it. Hence a
//! flush may count a write as complete of which the kernel had not heard when it submitted the
//! flush, by the microseconds that either takes to arrive; never the other way round.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session,
    TimeOrNow, WriteFlags,
};

use crate::random::Random;
use crate::trace::{Event, Trace};

const DISK: INodeNo = INodeNo(2);
const MARK: INodeNo = INodeNo(3);
/// The kernel asks again each time.
const NEVER: Duration = Duration::ZERO;
/// One write in so many is answered late,
const LATE: usize = 3;
/// by up to so many microseconds.
const LATEST: usize = 800;

/// A device, for as long as it is mounted.
#[derive(Debug)]
pub(crate) struct Device {
    trace: Arc<Trace>,
    late: Arc<AtomicBool>,
    session: BackgroundSession,
}

impl Device {
    /// Mounts a device of `bytes` at `place`, with the files `disk` and `mark`.
    pub(crate) fn mount(place: &Path, bytes: Vec<u8>, seed: u64) -> io::Result<Device> {
        let (trace, late) = (Arc::new(Trace::default()), Arc::new(AtomicBool::new(false)));
        let (answers, queue) = channel();
        let files = Files {
            bytes: Mutex::new(bytes),
            trace: Arc::clone(&trace),
            late: Arc::clone(&late),
            next: AtomicU32::new(0),
            random: Mutex::new(Random::new(&[seed, 1])),
            answers,
        };
        let queued = Arc::clone(&trace);
        thread::Builder::new().name("answers".into()).spawn(move || answer(&queue, &queued))?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("sawmill-disk".into())];
        let session = Session::new(files, place, &config)?.spawn()?;
        Ok(Device { trace, late, session })
    }

    /// From now on, some writes are answered late.
    pub(crate) fn answer_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    /// Takes the device away. Nobody may have it open any more.
    pub(crate) fn unmount(self) -> io::Result<Vec<Event>> {
        self.session.umount_and_join()?;
        Ok(self.trace.take())
    }
}

/// What is answered later.
struct Late {
    due: Instant,
    id: u32,
    length: u32,
    reply: ReplyWrite,
}

/// Gives late answers when they are due, until the device is gone.
fn answer(queue: &Receiver<Late>, trace: &Trace) {
    let mut waiting: Vec<Late> = Vec::new();
    loop {
        let now = Instant::now();
        while let Some(at) = waiting.iter().position(|late| late.due <= now) {
            let late = waiting.swap_remove(at);
            trace.push(Event::Complete { id: late.id });
            late.reply.written(late.length);
        }
        let next = waiting.iter().map(|late| late.due - now).min();
        match queue.recv_timeout(next.unwrap_or(Duration::from_secs(1))) {
            Ok(late) => waiting.push(late),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if waiting.is_empty() => return,
            Err(RecvTimeoutError::Disconnected) => thread::sleep(next.unwrap_or_default()),
        }
    }
}

/// The file system: what one session serves.
struct Files {
    bytes: Mutex<Vec<u8>>,
    trace: Arc<Trace>,
    late: Arc<AtomicBool>,
    next: AtomicU32,
    random: Mutex<Random>,
    answers: Sender<Late>,
}

impl Files {
    fn attributes(&self, file: INodeNo) -> FileAttr {
        let length = |bytes: &Mutex<Vec<u8>>| self.lock(bytes).len() as u64;
        let size = if file == DISK { length(&self.bytes) } else { 0 };
        let directory = file == INodeNo::ROOT;
        let time = UNIX_EPOCH;
        FileAttr {
            ino: file,
            size,
            blocks: size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: if directory { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    #[allow(clippy::unused_self, reason = "reads as what it locks")]
    fn lock<'a, T>(&self, shared: &'a Mutex<T>) -> std::sync::MutexGuard<'a, T> {
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Until when a write is held back, if it is.
    fn delay(&self) -> Option<Instant> {
        let mut random = self.lock(&self.random);
        let late = self.late.load(Ordering::Relaxed) && random.one_in(LATE);
        late.then(|| Instant::now() + Duration::from_micros(random.below(LATEST) as u64))
    }

    fn write_disk(&self, offset: u64, data: &[u8], reply: ReplyWrite) {
        let mut bytes = self.lock(&self.bytes);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = offset.checked_add(data.len()).and_then(|end| bytes.get_mut(offset..end));
        let Some(range) = range else { return reply.error(Errno::ENOSPC) };
        range.copy_from_slice(data);
        drop(bytes);
        let (id, length) = (self.id(), u32::try_from(data.len()).unwrap_or(0));
        self.trace.push(Event::Write { id, offset, bytes: data.into() });
        let reply = match self.delay() {
            None => reply,
            Some(due) => match self.answers.send(Late { due, id, length, reply }) {
                Ok(()) => return,
                Err(refused) => refused.0.reply,
            },
        };
        self.trace.push(Event::Complete { id });
        reply.written(length);
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it the kernel waits for each write before it sends the next one.
        let refused = |_| io::Error::other("this FUSE has no asynchronous direct writes");
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(refused)
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let file = match name.to_str() {
            Some("disk") => DISK,
            Some("mark") => MARK,
            _ => return reply.error(Errno::ENOENT),
        };
        reply.entry(&NEVER, &self.attributes(file), Generation(0));
    }

    fn getattr(&self, _: &Request, file: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NEVER, &self.attributes(file));
    }

    fn setattr(
        &self,
        _: &Request,
        file: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&NEVER, &self.attributes(file));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing is cached above the trace. The flag makes FUSE forget durable flags of writes,
        // which does not matter here: a loop device above asks for flushes of its own.
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = self.lock(&self.bytes);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let to = from.saturating_add(size as usize).min(bytes.len());
        reply.data(if file == DISK { &bytes[from..to] } else { &[] });
    }

    fn write(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if file == DISK {
            return self.write_disk(offset, data, reply);
        }
        self.trace.push(Event::Mark(String::from_utf8_lossy(data).into_owned()));
        reply.written(u32::try_from(data.len()).unwrap_or(0));
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        let (Ok(offset), Ok(length)) = (usize::try_from(offset), usize::try_from(length)) else {
            return reply.error(Errno::EINVAL);
        };
        let mut bytes = self.lock(&self.bytes);
        let range = offset.checked_add(length).and_then(|end| bytes.get_mut(offset..end));
        let Some(range) = range else { return reply.error(Errno::ENOSPC) };
        range.fill(0);
        let id = self.id();
        self.trace.push(Event::Discard { id, offset, length });
        self.trace.push(Event::Complete { id });
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Somebody closed a descriptor: not a flush of the device.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let id = self.id();
        self.trace.push(Event::FlushBegun { id });
        self.trace.push(Event::FlushComplete { id });
        reply.ok();
    }
}
