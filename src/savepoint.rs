//! Savepoints of an engine: made, found, removed, and what a directory that begins on one takes
//! over.

use std::path::{Path, PathBuf};

use crate::checkpoint::{Loaded, Look, Pace, Report, Savepoints, Status};
use crate::engine::{CHECKPOINTS, Engine, SAVEPOINTS};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Lsn;
use crate::inspect::{CheckpointReport, describe};
use crate::storage::{BackendChoice, Storage, SystemStorage};
use crate::stream::{Boundary, EngineState, JobShape, StreamRun};

/// A savepoint: a job's state under a name.
#[derive(Debug)]
#[non_exhaustive]
pub struct SavepointReport {
    /// Its name.
    pub name: String,
    /// Its file, which needs no other and may be copied.
    pub path: PathBuf,
    /// What it holds. It pins nothing: [`CheckpointReport::kept`] is `false`, and no record of
    /// the log is kept for it. `None` if not even its index can be read.
    pub content: Option<CheckpointReport>,
    /// Why nothing can be started from it; `None`: nothing wrong was found.
    pub damage: Option<Error>,
}

impl Engine {
    /// Puts the newest checkpoint of an engine's directory under a name: a *savepoint*, one file
    /// with all of its state. It stays until [`remove_savepoint`](Engine::remove_savepoint), and
    /// pins nothing but that file. A job may run there meanwhile, in any process; what it has
    /// completed behind the checkpoint is not in there. Of a job in this process
    /// [`StreamRun::savepoint`](crate::StreamRun::savepoint) takes the last completed batch.
    ///
    /// ```
    /// # use sawmill::{Engine, EngineOptions, ErrorKind};
    /// # let place = tempfile::tempdir()?;
    /// Engine::open(place.path(), EngineOptions::default())?.close()?;
    /// let none = Engine::savepoint(place.path(), "before-upgrade").unwrap_err();
    /// assert_eq!(none.kind(), ErrorKind::Invalid, "no job ran yet");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` if there is no checkpoint yet, or for a name that is taken or is none; as
    /// [`Engine::inspect`], and if the newest checkpoint is not whole; `Locked` if another one is
    /// just made or removed; `DiskFull`, `Io`.
    pub fn savepoint(path: impl AsRef<Path>, name: &str) -> Result<SavepointReport> {
        let storage = SystemStorage::new(BackendChoice::default())?;
        save(&storage, path.as_ref(), name, Pace::default())
    }

    /// The savepoints in an engine's directory, by name. With `whole` every byte is read from the
    /// device and checked, otherwise only indexes are.
    ///
    /// # Errors
    /// `Io` if there is no such engine. What is wrong with a single savepoint is in its report.
    pub fn savepoints(path: impl AsRef<Path>, whole: bool) -> Result<Vec<SavepointReport>> {
        let storage = SystemStorage::new(BackendChoice::default())?;
        // A directory without any may lack the place for them.
        storage.directory(&path.as_ref().join(CHECKPOINTS), false)?;
        let place = path.as_ref().join(SAVEPOINTS);
        if !place.is_dir() {
            return Ok(Vec::new());
        }
        let savepoints = Savepoints::new(storage.directory(&place, false)?);
        let names = savepoints.list()?;
        Ok(names.into_iter().map(|name| report(&savepoints, &place, name, whole)).collect())
    }

    /// Removes a savepoint, durably.
    ///
    /// # Errors
    /// `Invalid` if there is none of this name; `Locked`; `Io`.
    pub fn remove_savepoint(path: impl AsRef<Path>, name: &str) -> Result<()> {
        let storage = SystemStorage::new(BackendChoice::default())?;
        storage.directory(&path.as_ref().join(CHECKPOINTS), false)?;
        let directory = storage.directory(&path.as_ref().join(SAVEPOINTS), true)?;
        Savepoints::new(directory).remove(name)
    }
}

impl StreamRun {
    /// Has a checkpoint taken of the last completed batch, or of a later one, and puts it under a
    /// name, as [`Engine::savepoint`](crate::Engine::savepoint) does. Batches go on meanwhile:
    /// the savepoint is written by this thread, from the checkpoint's files.
    ///
    /// # Errors
    /// As there; why the checkpoint failed; `Closed` if the job ends before it stands.
    pub fn savepoint(&self, name: &str) -> Result<SavepointReport> {
        self.await_checkpoint()?;
        let (storage, path, pace) = self.place();
        save(storage, path, name, pace)
    }
}

/// Makes a savepoint of the newest checkpoint of an engine's directory.
fn save(storage: &dyn Storage, path: &Path, name: &str, pace: Pace) -> Result<SavepointReport> {
    let checkpoints = storage.directory(&path.join(CHECKPOINTS), false)?;
    // Its files stay open, so that the job may remove them; every block that is read is checked.
    let loaded = Report::read(&checkpoints, Look::Index)?.into_last()?.ok_or_else(|| {
        let message = "there is no checkpoint yet";
        Error::new(ErrorKind::Invalid, message).at_path(checkpoints.path())
    })?;
    let place = path.join(SAVEPOINTS);
    let savepoints = Savepoints::new(storage.directory(&place, true)?);
    savepoints.clone().paced(pace).write(name, loaded)?;
    Ok(report(&savepoints, &place, name.to_owned(), false))
}

fn report(savepoints: &Savepoints, place: &Path, name: String, whole: bool) -> SavepointReport {
    let path = place.join(format!("{name}.savepoint"));
    let read = || -> Result<CheckpointReport> {
        let (found, bytes) = (savepoints.open(&name, whole)?, savepoints.bytes(&name)?);
        let (meta, kept) = (found.meta.clone(), false);
        Ok(describe(Status { meta, bytes, kept, found: Ok(found) }, whole))
    };
    match read() {
        Ok(mut content) => {
            let damage = content.damage.take();
            SavepointReport { name, path, content: Some(content), damage }
        }
        Err(error) => SavepointReport { name, path, content: None, damage: Some(error) },
    }
}

/// The savepoint in a file, wherever it is.
pub(crate) fn open_file(storage: &dyn Storage, path: &Path) -> Result<Loaded> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "this is no savepoint's file").at_path(path)
    })?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = storage.directory(parent.unwrap_or(Path::new(".")), false)?;
    Savepoints::new(directory).open_file(name, Look::Index)
}

/// What a job in a new directory begins with.
pub(crate) struct Origin {
    pub(crate) loaded: Loaded,
    /// Partitions of its state.
    pub(crate) parallelism: u32,
    boundary: Boundary,
}

impl Origin {
    /// Compares the savepoint with the job.
    ///
    /// # Errors
    /// `JobMismatch`, naming what differs; `Unsupported`, `Corrupt`.
    pub(crate) fn of(loaded: Loaded, shape: &JobShape) -> Result<Origin> {
        let EngineState { shape: mut recorded, mut boundary, .. } =
            EngineState::decode(&loaded.meta.engine)?;
        // Its streams had numbers of their own in another log.
        for source in &mut recorded.sources {
            let same = shape.sources.iter().find(|known| known.name == source.name);
            if let (Some(_), Some(same)) = (source.stream, same.filter(|s| s.stream.is_some())) {
                boundary.positions.retain(|position| position.name != source.name);
                boundary.reads.retain(|read| read.source != source.name);
                source.stream = same.stream;
            }
        }
        shape.check_against(&recorded)?;
        boundary.sinks.clear();
        Ok(Origin { loaded, parallelism: recorded.parallelism, boundary })
    }

    /// Where the job stands behind the record that says that it was started.
    pub(crate) fn boundary(&self, started: Lsn) -> Boundary {
        Boundary { completion: started, ..self.boundary.clone() }
    }
}
