//! An operator's state as the newest whole checkpoint has it, for tools: bytes, without the types.

use std::path::Path;

use crate::checkpoint::{Loaded, Look, Part, Report};
use crate::engine::{CHECKPOINTS, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::partition_of;
use crate::ids::BatchId;
use crate::state::{entries, hash_key};
use crate::storage::{BackendChoice, Storage, SystemStorage};

/// The state of one operator in the newest whole checkpoint of an engine's directory. Its files
/// stay open, so that a job may go on and remove them.
#[derive(Debug)]
pub struct StoredState {
    /// The checkpoint's number.
    pub checkpoint: u64,
    /// The last batch that is in it.
    pub batch: BatchId,
    /// The schema id of the operator's values.
    pub schema: u64,
    loaded: Loaded,
    /// The operator's, by partition.
    parts: Vec<Part>,
}

impl Engine {
    /// Opens the state of an operator as the newest whole checkpoint has it, changing nothing; a
    /// job may run there meanwhile, in any process.
    ///
    /// ```
    /// use sawmill::{Engine, EngineOptions, ErrorKind};
    /// let place = tempfile::tempdir()?;
    /// Engine::open(place.path(), EngineOptions::default())?.close()?;
    /// let none = Engine::stored_state(place.path(), "counts").unwrap_err();
    /// assert_eq!(none.kind(), ErrorKind::Invalid, "no job ran yet");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` if there is no checkpoint yet, or no such operator in it, naming those that there
    /// are; as [`Engine::inspect`]; `Corrupt` or `Unreadable` if no checkpoint is whole.
    pub fn stored_state(path: impl AsRef<Path>, operator: &str) -> Result<StoredState> {
        let storage = SystemStorage::new(BackendChoice::default())?;
        let directory = storage.directory(&path.as_ref().join(CHECKPOINTS), false)?;
        // Every block that is read is checked for itself.
        let report = Report::read(&directory, Look::Index)?;
        let refuse = |text: String| Error::new(ErrorKind::Invalid, text).at_path(directory.path());
        let newest = report.into_newest()?;
        let loaded = newest.ok_or_else(|| refuse("there is no checkpoint yet".to_owned()))?;
        let own = |part: &&Part| part.operator == operator;
        let mut parts: Vec<Part> = loaded.parts.iter().filter(own).cloned().collect();
        parts.sort_by_key(|part| part.partition);
        let Some(first) = parts.first() else {
            let mut names: Vec<&str> =
                loaded.parts.iter().map(|part| part.operator.as_str()).collect();
            names.dedup();
            let text = format!("there is no state of `{operator}`; there is of: {names:?}");
            return Err(refuse(text));
        };
        let (checkpoint, batch) = (loaded.meta.checkpoint, loaded.meta.batch);
        Ok(StoredState { checkpoint, batch, schema: first.schema, parts, loaded })
    }
}

impl StoredState {
    /// Number of partitions.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.parts.len()
    }

    /// The bytes of a key's value; `None` if there is no such key. One partition is read.
    ///
    /// # Errors
    /// `Corrupt` or `Unreadable` if its bytes are not what was written.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        #[allow(clippy::cast_possible_truncation, reason = "a job has at most 1024")]
        let partitions = self.parts.len() as u32;
        let place = partition_of(hash_key(key), partitions);
        let Some(part) = self.parts.iter().find(|part| part.partition == place) else {
            return Ok(None);
        };
        let mut found = None;
        entries(&self.loaded.read(part)?, |other, value| {
            if other == key {
                found = Some(value.to_vec());
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Calls `each` with every partition, key and value, in the order of partitions and, in each,
    /// in first-seen order. One partition is in memory at a time.
    ///
    /// # Errors
    /// What `each` returns; `Corrupt` or `Unreadable` as [`StoredState::get`].
    pub fn for_each<E: From<Error>>(
        &self,
        mut each: impl FnMut(u32, &[u8], &[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        for part in &self.parts {
            let bytes = self.loaded.read(part)?;
            let mut outcome = Ok(());
            entries(&bytes, |key, value| {
                if outcome.is_ok() {
                    outcome = each(part.partition, key, value);
                }
                Ok(())
            })?;
            outcome?;
        }
        Ok(())
    }

    /// Bytes of the operator's extents, in all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.length).sum()
    }
}
