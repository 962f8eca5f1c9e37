//! The engine: a directory with a log and checkpoints, in which jobs run.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::checkpoint::CheckpointStore;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Executor, Name, Value};
use crate::options::EngineOptions;
use crate::recovery::{Ground, recover};
use crate::source::Ingest;
use crate::storage::{Storage, SystemStorage};
use crate::stream::{
    Env, Hooks, Job, JobDriver, NoHooks, RunOptions, SideInput, SideTable, StreamRun, StreamTable,
    Writing,
};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, lock};
use crate::wal::Wal;

/// A directory with a log (`DIR/log`) and checkpoints (`DIR/checkpoints`), in which one job runs.
///
/// Nothing that was acknowledged, published or completed is lost when the process is killed or the
/// power goes: the next start goes on behind the last completed batch, with the same results.
///
/// ```
/// use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, Trigger, name};
/// # let place = tempfile::tempdir()?;
/// let engine = Engine::open(place.path(), EngineOptions::default())?;
/// let events = engine.ingest(name!("events"))?;
/// let (job, counts) = Job::build(name!("count"), |job| {
///     let words = job.source(name!("in"), Received::from(&events));
///     let counted = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
///     let counts = counted.map_with_state::<u64, ()>(name!("counts"), |_word, values, state| {
///         *state = Some(state.unwrap_or(0) + values.sum::<u64>());
///         None
///     });
///     counts.state
/// })?;
/// events.append(b"oak")?; // durable when it returns
/// events.append(b"oak")?;
/// let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
/// let run = engine.start(job, RunOptions { trigger, ..RunOptions::default() })?;
/// run.await_termination()?;
/// assert_eq!(counts.get(b"oak"), Some(2));
/// engine.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Engine {
    wal: Wal,
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    path: PathBuf,
    options: EngineOptions,
    streams: Arc<StreamTable>,
    sides: Arc<SideTable>,
    running: Arc<AtomicBool>,
    /// What opening read, for the first start.
    ground: Mutex<Option<Ground>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", self.path.display())
    }
}

/// Says that a job runs, until dropped.
#[derive(Debug)]
pub(crate) struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Engine {
    /// Opens a directory, which is made if it is missing. One engine at a time: the log's lock
    /// covers all of it.
    ///
    /// # Errors
    /// As [`Wal::open`]; `Corrupt` if log and checkpoints contradict each other; `Invalid`
    /// options.
    pub fn open(path: impl AsRef<Path>, options: EngineOptions) -> Result<Engine> {
        let storage = Arc::new(SystemStorage::new(options.log.backend)?);
        Engine::open_with(storage, Arc::new(SystemClock), path, options)
    }

    /// As [`open`](Engine::open), on another storage and clock.
    ///
    /// # Errors
    /// As [`open`](Engine::open).
    #[doc(hidden)]
    pub fn open_with(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        path: impl AsRef<Path>,
        options: EngineOptions,
    ) -> Result<Engine> {
        options.validate()?;
        let path = path.as_ref().to_owned();
        let log = options.log.clone();
        let wal = Wal::open_with(Arc::clone(&storage), Arc::clone(&clock), path.join("log"), log)?;
        let checkpoints = open_checkpoints(&*storage, &path, &options)?;
        let ground = Ground::read(&wal, checkpoints)?;
        let streams = Arc::new(StreamTable::restored(ground.scan.streams.clone()));
        let (running, ground) = (Arc::new(AtomicBool::new(false)), Mutex::new(Some(ground)));
        let sides = Arc::default();
        Ok(Engine { wal, storage, clock, path, options, streams, sides, running, ground })
    }

    /// The handle that appends to the ingest stream of this name; a new name becomes a new stream,
    /// durable on return.
    ///
    /// Records are kept until a completed batch and a checkpoint cover them. Those of a stream that
    /// no source of the running job reads are kept, and everything behind them.
    ///
    /// # Errors
    /// The log's; `TooLarge` for the 32,768th stream.
    pub fn ingest(&self, name: Name) -> Result<Ingest> {
        let stream = self.streams.open(&self.wal, name.get())?;
        Ok(Ingest::new(name, &self.wal, stream))
    }

    /// The side input of this name: a small value that batches read in the version that their plan
    /// names, however often they are executed.
    #[must_use]
    pub fn side_input<T: Value>(&self, name: Name) -> SideInput<T> {
        SideInput::new(name, &self.wal, &self.sides)
    }

    /// Recovers the job, then runs it on a thread of its own. When this returns, the state is that
    /// of the last completed batch.
    ///
    /// # Errors
    /// `JobMismatch` if the directory holds another job: its name, stateful operators (with the
    /// types of their state), sources, sinks or side inputs differ; nothing was touched then. A
    /// directory holds a job from its first planned batch on.
    /// `SourceChanged` if files that were read are not what they were. `Invalid` if a job runs
    /// already. `Corrupt`, the log's, and what user code makes of batches that are executed again.
    pub fn start(&self, job: Job, options: RunOptions) -> Result<StreamRun> {
        let (driver, running) =
            self.driver(job, options, Box::new(NoHooks), Writing::Beside, None)?;
        StreamRun::spawn(driver, running, self.path.clone())
    }

    /// As [`start`](Engine::start), in a directory that holds no job yet: on the state of a
    /// [savepoint](Engine::savepoint), the file at `savepoint`, which may be a copy. That state is
    /// in a checkpoint of this directory when this returns.
    ///
    /// State, totals, batch numbers and the positions of files go on where the savepoint has them.
    /// Received records are those of this engine's own streams, from their beginning: what the
    /// first engine received behind the savepoint is in its log alone. Sinks begin anew: to them
    /// this is another job, because the log is another one.
    ///
    /// In a directory that holds a job already, this is `start`, and the savepoint is not looked
    /// at: a program may say it each time that it is run.
    ///
    /// # Errors
    /// As [`start`](Engine::start); `Corrupt`, `Unreadable`, `Unsupported` for what is no whole
    /// savepoint; whatever keeps the first checkpoint from being written. Nothing was begun then.
    pub fn start_from(
        &self,
        job: Job,
        options: RunOptions,
        savepoint: impl AsRef<Path>,
    ) -> Result<StreamRun> {
        let (hooks, writing) = (Box::new(NoHooks), Writing::Beside);
        let savepoint = Some(savepoint.as_ref());
        let (driver, running) = self.driver(job, options, hooks, writing, savepoint)?;
        StreamRun::spawn(driver, running, self.path.clone())
    }

    /// A recovered job, not running yet; on a savepoint if the directory holds no job.
    pub(crate) fn driver(
        &self,
        job: Job,
        options: RunOptions,
        hooks: Box<dyn Hooks>,
        writing: Writing,
        savepoint: Option<&Path>,
    ) -> Result<(JobDriver, Running)> {
        let running = self.claim()?;
        let opened = lock(&self.ground).take();
        let mut ground = match opened {
            Some(ground) => ground,
            None => {
                let store = open_checkpoints(&*self.storage, &self.path, &self.options)?;
                Ground::read(&self.wal, store)?
            }
        };
        if let (Some(file), false) = (savepoint, ground.holds_job()) {
            ground.savepoint = Some(crate::savepoint::open_file(&*self.storage, file)?);
        }
        let env = self.env(self.options.threads, options.parallelism, writing)?;
        Ok((recover(env, job, options, hooks, ground)?, running))
    }

    /// Executes the log's batches again, into empty sinks.
    #[cfg(feature = "testing")]
    pub(crate) fn reexecute(&self, job: Job, threads: usize) -> Result<u64> {
        let _running = self.claim()?;
        // The plans have the parallelism; the executor's own is not used.
        crate::recovery::reexecute(self.env(threads, 1, Writing::Inline)?, job)
    }

    /// Takes the one place that a job can have.
    fn claim(&self) -> Result<Running> {
        if self.running.swap(true, Ordering::AcqRel) {
            let message = "a job runs in this directory already; stop it first";
            return Err(Error::new(ErrorKind::Invalid, message).at_path(&self.path));
        }
        Ok(Running(Arc::clone(&self.running)))
    }

    fn env(&self, threads: usize, parallelism: u32, writing: Writing) -> Result<Env> {
        let executor = Executor::new(threads, parallelism)?;
        Ok(Env {
            wal: self.wal.clone(),
            storage: Arc::clone(&self.storage),
            clock: Arc::clone(&self.clock),
            executor: Arc::new(executor.with_max_attempts(self.options.task_attempts)),
            streams: Arc::clone(&self.streams),
            sides: Arc::clone(&self.sides),
            writing,
        })
    }

    /// The log, to be read or measured.
    #[must_use]
    pub fn log(&self) -> &Wal {
        &self.wal
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the log cleanly. Stop the job first: a running one fails with
    /// [`Closed`](ErrorKind::Closed). Dropping the engine instead is safe, too.
    ///
    /// # Errors
    /// As [`Wal::close`].
    pub fn close(self) -> Result<()> {
        self.wal.close()
    }
}

/// The directory of the checkpoints, in an engine's.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// That of the savepoints.
pub(crate) const SAVEPOINTS: &str = "savepoints";

fn open_checkpoints(
    storage: &dyn Storage,
    path: &Path,
    options: &EngineOptions,
) -> Result<CheckpointStore> {
    let directory = storage.directory(&path.join(CHECKPOINTS), true)?;
    CheckpointStore::open(directory, options.checkpoints_kept)
}
