//! The handle: what a test orders and asks.

use std::fmt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::crash::CrashManner;
use super::directory::SimDirectory;
use super::fault::{ENOENT, Fault, FaultKind, Faults};
use super::inode::{Change, Inode};
use super::latency::{Latency, Timing};
use super::pages::{Pages, SECTOR};
use super::state::State;
use super::struck::Struck;
use crate::clock::Clock;
use crate::storage::{Directory, IoFailure, Storage};
use crate::sync::{Arc, Mutex, MutexGuard, lock};

/// What a durable write reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The device has a volatile cache and no FUA: a durable write is a write and a flush of the
    /// device, which also makes durable every direct write that completed before it was submitted.
    /// It reaches no page cache and no length of another file.
    Flush,
    /// The device has FUA: a durable write makes its own bytes durable and nothing else.
    Fua,
}

/// How the simulated disk behaves.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// What a durable write reaches. Default: [`Device::Flush`].
    pub device: Device,
    /// Bytes that a crash keeps or loses together: 512 or 4096. Default 512. With 4096 a
    /// [`CrashOutcome::Subset`](super::CrashOutcome) covers eight times as many bytes.
    pub sector: usize,
    /// Whether reads, lists and stamps count as operations. Default `false`.
    pub count_reads: bool,
    /// Whether a seeded crash may fill lost space of a file that grew with stale bytes. Default
    /// `true`.
    pub stale: bool,
    /// Bytes that files can occupy. Default `None`: all they want.
    pub capacity: Option<u64>,
    /// Whether it is a quota that is used up then (`EDQUOT`), not the disk (`ENOSPC`). Default
    /// `false`.
    pub quota: bool,
    /// Whether the device lies: durable writes and syncs, of directories too, succeed and make
    /// nothing durable. Default `false`.
    pub lies: bool,
    /// Whether a failed sync of a directory forgets the names that it should have made durable, so
    /// that a later one succeeds without them. Default `true`; journaling file systems stop
    /// instead.
    pub names_forget: bool,
    /// How long operations take on [`SimDisk::clock`]. Default `None`: no time at all, and they
    /// complete in an order that the seed decides.
    pub latency: Option<Latency>,
    /// Whether writes over written bytes go to new places of the medium, so that nobody has to
    /// write a file before it is used. Default `false`.
    pub copy_on_write: bool,
    /// Whether the page cache holds what is mapped, so that readers of sealed segments map them
    /// instead of reading them from the device. Default `true`.
    pub cached: bool,
    /// Whether a writer has a page of memory by which it tells readers how far it has come. Its
    /// address is written into a file and differs from run to run. Default `false`.
    pub pages: bool,
    /// Operations that the trace keeps. Default 256; 0 keeps none and costs nothing.
    pub trace_lines: usize,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions {
            device: Device::Flush,
            sector: SECTOR,
            count_reads: false,
            stale: true,
            capacity: None,
            quota: false,
            lies: false,
            names_forget: true,
            latency: None,
            copy_on_write: false,
            cached: true,
            pages: false,
            trace_lines: 256,
        }
    }
}

/// A simulated disk. Clones are handles of the same disk.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Mutex<State>>,
    seed: u64,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk(seed {})", self.seed)
    }
}

impl SimDisk {
    /// An empty disk with default options. One seed and one sequence of operations give one trace,
    /// one digest, and one image after any crash.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::with_options(seed, SimOptions::default())
    }

    /// An empty disk.
    ///
    /// # Panics
    /// If `options.sector` is neither 512 nor 4096.
    #[must_use]
    pub fn with_options(seed: u64, options: SimOptions) -> SimDisk {
        assert!(matches!(options.sector, 512 | 4096), "SIM: a sector has 512 or 4096 bytes");
        SimDisk::from_state(State::new(seed, options))
    }

    /// An empty disk whose operations take their [`SimOptions::latency`] on this clock.
    ///
    /// # Panics
    /// If `options.sector` is neither 512 nor 4096.
    #[must_use]
    pub fn with_clock(seed: u64, options: SimOptions, clock: Arc<dyn Clock>) -> SimDisk {
        let disk = SimDisk::with_options(seed, options);
        disk.state().timing = Timing::new(seed, clock);
        disk
    }

    /// The clock on which operations take their time: unless the disk was made with another one, a
    /// [`ManualClock`](crate::clock::ManualClock) that starts at 0 and that disks found after a
    /// crash keep. Give it to the log as well.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.state().timing.clock)
    }

    pub(super) fn from_state(state: State) -> SimDisk {
        let seed = state.seed;
        SimDisk { shared: Arc::new(Mutex::new(state)), seed }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared)
    }

    /// Lets the clock get to `until_ns`. Nobody holds the disk meanwhile.
    pub(super) fn wait_until<'a>(
        &'a self,
        until_ns: u64,
        state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        if until_ns == 0 {
            return state;
        }
        let clock = Arc::clone(&state.timing.clock);
        drop(state);
        clock.sleep_until(until_ns);
        self.state()
    }

    pub(super) fn is_same(&self, other: &SimDisk) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Operations so far: each call that changes or syncs something, each submit and each
    /// completion. The first has number 1; a disk after a crash counts anew.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.state().ops
    }

    /// How many durable writes and syncs of a file found direct writes pending elsewhere that had
    /// completed before: operations after which a [`Device::Flush`] and a [`Device::Fua`] hold
    /// different things. 0 for who syncs what was written plain before anything else.
    #[must_use]
    pub fn flush_matters(&self) -> u64 {
        self.state().flush_matters
    }

    /// Cuts the power at operation `number`: it and all later ones fail with `EIO`.
    ///
    /// Every crash of a job, one by one:
    ///
    /// ```
    /// # use std::path::Path;
    /// # use sawmill::sim::{CrashManner, CrashOutcome, SimDisk};
    /// # use sawmill::storage::{IoFailure, OpenMode, Storage};
    /// fn job(disk: &SimDisk) -> Result<(), IoFailure> {
    ///     let directory = disk.directory(Path::new("/d"), true)?;
    ///     directory.open("f", OpenMode::Create)?;
    ///     directory.sync()
    /// }
    ///
    /// let whole = SimDisk::new(1);
    /// job(&whole)?;
    /// for number in 1..=whole.ops() {
    ///     let disk = SimDisk::new(1);
    ///     disk.crash_at(number, CrashManner::Torn);
    ///     assert!(job(&disk).is_err() && disk.is_off());
    ///     let found = disk.power_cycle(CrashOutcome::Seeded(number));
    ///     job(&found).or_else(|failure| match failure.errno() {
    ///         Some(17) => Ok(()), // The name survived.
    ///         _ => Err(failure),
    ///     })?;
    /// }
    /// # Ok::<(), IoFailure>(())
    /// ```
    pub fn crash_at(&self, number: u64, manner: CrashManner) {
        self.state().crash = Some((number, manner));
    }

    /// Cuts the power now.
    pub fn power_off(&self) {
        self.state().turn_off();
    }

    /// Whether the power is off: the `EIO` that a caller saw is not a fault, but the end.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Lets operation `number` fail, as [`SimDisk::ops`] counts them: reads only if
    /// [`SimOptions::count_reads`] is set. A submit that is to fail reports it at its completion.
    pub fn fail_op(&self, number: u64, errno: i32, kind: FaultKind) {
        self.state().faults.order(number, false, Fault { errno, kind });
    }

    /// Lets operation `number` and all later ones fail.
    pub fn fail_from(&self, number: u64, errno: i32, kind: FaultKind) {
        self.state().faults.order(number, true, Fault { errno, kind });
    }

    /// Forgets every failure that was ordered and has not struck; sticky ones stop.
    pub fn fail_no_more(&self) {
        self.state().faults = Faults::default();
    }

    /// From now on notes from where operations were called that are ordered to fail. That takes a
    /// millisecond each.
    pub fn note_struck(&self) {
        self.state().struck.get_or_insert_default();
    }

    /// The call sites of operations that failed since [`SimDisk::note_struck`], sorted: `FILE:LINE`
    /// below the crate's root, as far as the build has line tables.
    #[must_use]
    pub fn struck(&self) -> Vec<String> {
        self.state().struck.as_ref().map_or_else(Vec::new, Struck::sites)
    }

    /// How many writes survived in part, of the power cut before this disk was found.
    #[must_use]
    pub fn torn(&self) -> u64 {
        self.state().torn
    }

    /// How many writes were in flight when the power went.
    #[must_use]
    pub fn cut_in_flight(&self) -> usize {
        self.state().cut_in_flight
    }

    /// The operation at which the power went, as the trace names it; empty if it has not gone at an
    /// operation.
    #[must_use]
    pub fn cut_at(&self) -> String {
        self.state().cut.clone()
    }

    /// Whether a failed sync has forgotten names that a directory shows: they are there until the
    /// power goes, and cannot be made durable any more.
    #[must_use]
    pub fn forgot_names(&self) -> bool {
        let state = self.state();
        let mut pending = state.directories.values().flat_map(|names| &names.pending);
        pending.any(|item| item.clean)
    }

    pub(super) fn on_file(
        &self,
        path: &Path,
        effect: impl FnOnce(&mut Inode),
    ) -> Result<(), IoFailure> {
        let mut state = self.state();
        let found = state.lookup(path).and_then(|number| state.inodes.get_mut(&number));
        found.map(effect).ok_or_else(|| IoFailure::from_errno("fault", path, ENOENT))
    }

    /// Limits the bytes that files can occupy: `ENOSPC` from allocating and from growing writes, a
    /// short write where a part still fits. `None`: no limit.
    pub fn capacity(&self, bytes: Option<u64>) {
        self.state().options.capacity = bytes;
    }

    /// The last operations, one line each, for failure messages.
    #[must_use]
    pub fn trace(&self) -> String {
        self.state().trace.text()
    }

    /// A digest of everything that is visible, durable or between: equal disks, equal digests.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let state = self.state();
        let mut hash = Xxh3::new();
        for (path, names) in &state.directories {
            hash.update(format!("{path:?}{names:?}").as_bytes());
        }
        for (number, inode) in &state.inodes {
            let lengths = (number, inode.length, inode.durable_length, inode.modified_ns);
            hash.update(format!("{lengths:?}").as_bytes());
            digest_pages(&mut hash, &inode.visible);
            digest_pages(&mut hash, &inode.durable);
            if !inode.defects.is_empty() {
                hash.update(format!("{:?}{}", inode.defects, inode.cold).as_bytes());
            }
            for item in &inode.pending {
                hash.update(format!("{},{},{}", item.stamp, item.clean, item.cached).as_bytes());
                match &item.change {
                    Change::Length(length) => hash.update(&length.to_le_bytes()),
                    Change::Sectors { block, mask, page } => {
                        hash.update(format!("{block},{mask}").as_bytes());
                        hash.update(page.as_ref().map_or(&[], |page| page.as_slice()));
                    }
                }
            }
        }
        hash.digest()
    }

    /// A file's visible bytes, by its path; `None` if there is no such file. Counts as no operation
    /// and works when the power is off.
    #[must_use]
    pub fn read_file(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.state();
        let inode = state.inodes.get(&state.lookup(path.as_ref())?)?;
        let mut bytes = vec![0; usize::try_from(inode.length).ok()?];
        inode.view(false).read(0, &mut bytes);
        Some(bytes)
    }

    /// Puts a file there, durably, with its directory. Counts as no operation. A file of that name
    /// is replaced.
    ///
    /// # Panics
    /// If the path has no directory or no name in UTF-8.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let path = path.as_ref();
        let (home, name) = (path.parent(), path.file_name().and_then(|name| name.to_str()));
        let (Some(home), Some(name)) = (home, name) else {
            panic!("SIM: {} names no file", path.display())
        };
        let mut state = self.state();
        state.make_directory(home);
        let number = state.fresh();
        let mut pages = Pages::default();
        pages.write(0, bytes, |_, _, _| {});
        let now = state.now_ns();
        let inode = Inode::settled(home.to_owned(), pages, bytes.len() as u64, now);
        state.inodes.insert(number, inode);
        if let Some(names) = state.directories.get_mut(home) {
            names.visible.insert(name.to_owned(), number);
            names.durable.insert(name.to_owned(), number);
        }
        state.collect(home);
    }

    /// Gives a file a second name in its directory, durably. Counts as no operation.
    ///
    /// # Errors
    /// `ENOENT` if there is no such file.
    pub fn hard_link(&self, path: impl AsRef<Path>, name: &str) -> Result<(), IoFailure> {
        let path = path.as_ref();
        let missing = || IoFailure::from_errno("link", path, ENOENT);
        let mut state = self.state();
        let number = state.lookup(path).ok_or_else(missing)?;
        let home = path.parent().ok_or_else(missing)?;
        let names = state.directories.get_mut(home).ok_or_else(missing)?;
        names.visible.insert(name.to_owned(), number);
        names.durable.insert(name.to_owned(), number);
        Ok(())
    }

    /// How many descriptions of files are open.
    #[must_use]
    pub fn open_descriptions(&self) -> u64 {
        self.state().inodes.values().map(|inode| u64::from(inode.handles)).sum()
    }

    /// The paths of all visible files, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.state();
        let mut files = Vec::new();
        for (path, names) in &state.directories {
            files.extend(names.visible.keys().map(|name| path.join(name)));
        }
        files.sort();
        files
    }
}

fn digest_pages(hash: &mut Xxh3, pages: &Pages) {
    for (block, page) in pages.blocks().filter(|(_, page)| page.iter().any(|byte| *byte != 0)) {
        hash.update(&(block as u64).to_le_bytes());
        hash.update(page.as_slice());
    }
    hash.update(b"end");
}

impl Storage for SimDisk {
    fn directory(&self, path: &Path, create: bool) -> Result<Arc<dyn Directory>, IoFailure> {
        SimDirectory::open(self, path, create)
    }

    fn random(&self) -> [u8; 16] {
        let mut state = self.state();
        let (low, high) = (state.rng.next(), state.rng.next());
        (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
    }
}
