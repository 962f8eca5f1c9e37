//! Opening, closing, dropping: a handle's life.

use std::path::Path;
use std::sync::Weak;

use super::attest::Attest;
use super::catalog::Catalog;
use super::core::{Core, Open, Panics, Phase};
use super::depth::Depth;
use super::flight::Flights;
use super::group::Resolved;
use super::index::SegmentIndex;
use super::marks::Marks;
use super::options::{Background, WalOptions};
use super::prepare::Preparer;
use super::progress::Progress;
use super::recovery::{Opened, RecoverOptions, recover};
use super::recycle::Recycler;
use super::retention::Retention;
use super::rows::Rows;
use super::share::{Share, Shares};
use super::slot::{Identity, Sealer, Slot};
use super::slots::Slots;
use super::stage::Stage;
use super::staging::{NoRoom, Staging};
use super::stats::Stats;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{SegmentNumber, to_usize};
use crate::storage::ForkWord;
use crate::storage::{Channel, Directory, Storage};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use crate::sync::{Arc, Condvar, JoinHandle, Mutex, current, lock, spawn};

/// What all clones of a [`Wal`](crate::Wal) share. The last one to go ends the threads.
#[derive(Debug)]
pub(crate) struct Handle {
    core: Arc<Core>,
    shares: Shares,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Opens the log in `path`.
pub(crate) fn open(
    storage: &Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    path: &Path,
    options: &WalOptions,
) -> Result<Handle> {
    options.check()?;
    let fork = ForkWord::new().map_err(|failure| {
        let message = "no memory for the word by which a forked child is told apart";
        Error::new(ErrorKind::Io, message).caused_by(failure)
    })?;
    let directory = storage.directory(path, true)?;
    let mut channel = directory.channel()?;
    let recover_options = RecoverOptions {
        segment_size: options.segment_size,
        lock_wait: options.lock_wait,
        holder: format!("process {}", std::process::id()),
    };
    let opened = recover(&**storage, &directory, &*clock, &recover_options, &mut *channel)?;
    let preparing = directory.channel()?;
    let catalog = opened.tail.catalog;
    let core = assemble(storage, directory, clock, fork, options, opened, [channel, preparing])?;
    core.read_catalog(catalog)?;
    core.ask_preparer(&mut lock(&core.open));
    let core = Arc::new(core);
    #[cfg(any(test, feature = "testing"))]
    super::watch::opened(&core);
    let handle = Handle { shares: Shares::new(&core), core, threads: Mutex::default() };
    match options.background {
        Background::Inline => handle.core.prepare_inline(),
        Background::Threads => handle.start_threads()?,
    }
    Ok(handle)
}

fn assemble(
    storage: &Arc<dyn Storage>,
    directory: Arc<dyn Directory>,
    clock: Arc<dyn Clock>,
    fork: ForkWord,
    options: &WalOptions,
    opened: Opened,
    [commits, prepares]: [Box<dyn Channel>; 2],
) -> Result<Core> {
    let identity = Identity { log: opened.log, epoch: opened.epoch, nonce: opened.nonce };
    let Some(active) = opened.segments.last().map(|entry| Arc::clone(&entry.segment)) else {
        unreachable!("a recovered log has an active segment: its barrier stands there");
    };
    // Spares that were prepared under other options may be smaller than the next ones.
    let smallest = opened.spares.iter().map(|spare| spare.size()).min();
    let segment_size = smallest.unwrap_or(u64::MAX).min(options.segment_size);
    let limits = WalOptions { segment_size, ..options.clone() }.limits();
    let stats = Arc::new(Stats::new(Arc::clone(&clock)));
    let slot = Slot::new(commits, Arc::clone(&stats));
    let slots =
        Slots::new(slot, Box::new(Sealer::new(identity, &opened.tail, options.compression)));
    let home = Arc::clone(active.home());
    let stage = Arc::new(Stage::new(&limits));
    let staging = Staging::new(limits, Arc::clone(&stage), &opened.tail, active, opened.spares);
    let durable = opened.tail.next_lsn.previous();
    let published = Marks::publish(&*directory, identity, durable);
    let progress = Progress::starting_at(durable).telling(published);
    let preparer = Preparer {
        channel: prepares,
        log_file: opened.log_file,
        segment_size: options.segment_size,
        recycler: Recycler::new(home, to_usize(options.recycled), options.segment_size),
        filling: None,
    };
    let durable = opened.tail.next_lsn.previous();
    let threads = options.background == Background::Threads;
    // Where time does not pass by itself, a frame would be held until somebody moves it.
    let fixed = options.write_depth.map(|depth| depth.max(usize::from(!threads)));
    let depth = Depth::new(fixed, threads && clock.passes());
    let attest = Attest::new(options, durable);
    Ok(Core {
        storage: Arc::clone(storage),
        directory,
        clock,
        log: opened.log,
        lineage: opened.lineage,
        limits,
        background: options.background,
        progress: Arc::new(progress),
        stage,
        stats,
        pins: Mutex::default(),
        retention: Retention::new(options),
        catalog: Catalog::new(options.max_producers),
        start: AtomicU64::new(opened.start.get()),
        index: Arc::new(SegmentIndex::new(opened.segments)),
        fork: Arc::new(fork),
        lock: Mutex::new(Some(opened.lock)),
        failing: AtomicBool::new(false),
        open: Mutex::new(Open::new(staging, slots, depth, attest)),
        room: Condvar::new(),
        committer: Condvar::new(),
        preparer_work: Condvar::new(),
        preparer: Mutex::new(Some(preparer)),
        preparer_awaited: AtomicUsize::new(0),
    })
}

impl Handle {
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// What a pending submission of this thread keeps.
    #[inline]
    pub(crate) fn share(&self) -> Arc<Share> {
        self.shares.take()
    }

    fn start_threads(&self) -> Result<()> {
        if lock(&self.core.open).attest.is_on() {
            let sleeper: Weak<Core> = Arc::downgrade(&self.core);
            self.core.clock.watch(sleeper);
        }
        let committer = Arc::clone(&self.core);
        let preparer = Arc::clone(&self.core);
        let refused = |failure: std::io::Error| {
            let message = "the system refused a thread for the log";
            Error::new(ErrorKind::Io, message).caused_by(failure)
        };
        let started = spawn("sawmill-commit", move || committer.run_committer());
        lock(&self.threads).push(started.map_err(refused)?);
        let started = spawn("sawmill-prepare", move || preparer.run_preparer());
        lock(&self.threads).push(started.map_err(refused)?);
        Ok(())
    }

    /// Closes cleanly: everything durable, the closing frame, `LOG`, and the directory free.
    pub(crate) fn close(&self) -> Result<()> {
        self.core.check_fork()?;
        if !self.core.begin_closing() {
            self.core.await_closed();
            return Ok(());
        }
        let written = self.core.write_closing();
        self.join_threads();
        let logged = written.and_then(|()| self.core.log_clean());
        self.core.let_go();
        logged
    }

    fn join_threads(&self) {
        self.core.stop();
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // A future's waker may drop the last handle on a thread of the log itself.
            if thread.thread().id() != current().id() {
                // A panic there has poisoned the log already.
                thread.join().ok();
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A forked child does no I/O for its parent (LOG.md L11). Nobody else can be closing: that
        // takes a clone.
        if self.core.fork.is_forked() {
            return;
        }
        if self.core.begin_closing() {
            // Nobody is left to be told of an error: what was acknowledged is safe all the same.
            self.core.wait_durable(self.core.appended()).ok();
            self.join_threads();
            self.core.let_go();
        }
        let failed = lock(&self.core.open).failed.clone();
        self.shares.let_go(failed.as_ref());
    }
}

impl Open {
    fn new(staging: Staging, slots: Slots, depth: Depth, attest: Attest) -> Open {
        Open {
            phase: Phase::Open,
            failed: None,
            staging,
            slots,
            flights: Flights::default(),
            rows: Rows::default(),
            receipts: super::receipt::Receipts::default(),
            depth,
            dirty: Vec::new(),
            syncing: None,
            attest,
            tails: super::group::Waiting::default(),
            preparation: super::prepare::Preparation::default(),
            committer_sleeps: false,
            stop: false,
            room_waiters: 0,
            spacious: super::ready::Room::default(),
        }
    }
}

impl Core {
    /// Refuses appends from now on. `false` if that was done before.
    fn begin_closing(&self) -> bool {
        let mut open = lock(&self.open);
        if open.phase != Phase::Open {
            return false;
        }
        open.phase = Phase::Closing;
        // From here on every append takes the mutex, and is refused.
        open.staging.seal();
        let resolved = self.room_came(&mut open);
        drop(open);
        Resolved::wake(resolved.into_iter().collect());
        true
    }

    /// Waits until another caller has closed the log, or has found it poisoned: one that panicked
    /// never closes it.
    fn await_closed(&self) {
        let mut open = lock(&self.open);
        while open.phase != Phase::Closed && open.failed.is_none() {
            open = self.await_room(open);
        }
    }

    /// Makes everything durable and writes the closing frame behind it.
    fn write_closing(&self) -> Result<()> {
        let _panics = Panics::poison(self);
        self.wait_durable(self.appended())?;
        let mut open = lock(&self.open);
        loop {
            if let Some(error) = &open.failed {
                return Err(error.clone());
            }
            match open.staging.place_closing(&self.stage) {
                Ok(()) => break,
                Err(NoRoom::Memory) => open = self.await_memory(open),
                Err(NoRoom::Segment(_)) => {
                    let message = "no prepared segment is left for the closing frame";
                    let error = Error::new(ErrorKind::DiskFull, message);
                    return Err(error.at_path(self.directory.path()));
                }
            }
        }
        let ticket = open.staging.waiting_for_open().join();
        self.await_outcome(open, ticket)
    }

    /// Says in `LOG` that the log was closed cleanly.
    fn log_clean(&self) -> Result<()> {
        // The preparer may have failed when the closing frame was durable already (LOG.md L12).
        if let Some(error) = &lock(&self.open).failed {
            return Err(error.clone());
        }
        match self.hold_preparer().as_mut() {
            Some(preparer) => {
                self.write_log(preparer, true)?;
                preparer.recycler.clear();
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Ends the threads after what they are doing.
    fn stop(&self) {
        lock(&self.open).stop = true;
        self.committer.notify_all();
        self.preparer_work.notify_all();
    }

    /// Gives every file, and then the directory's lock, away.
    fn let_go(&self) {
        let slots = {
            let mut open = lock(&self.open);
            open.staging.let_go();
            open.slots.go()
        };
        // Waits for what is in flight, of which there is nothing (SLOT-4). A leader that is still
        // reaping after poison holds its segment's lock until it has (LOG.md L11).
        drop(slots);
        let preparer = self.hold_preparer().take();
        // PREPARE-2: of a poisoned log the next opening removes it.
        if let Some(mut preparer) = preparer.filter(|_| lock(&self.open).failed.is_none()) {
            preparer.give_up_filling();
        }
        drop(self.index.remove_before(SegmentNumber::new(u64::MAX)));
        self.progress.fall_silent();
        lock(&self.lock).take();
        let tails = {
            let mut open = lock(&self.open);
            open.phase = Phase::Closed;
            open.tails_look()
        };
        self.room.notify_all();
        Resolved::wake(tails.into_iter().collect());
    }
}
