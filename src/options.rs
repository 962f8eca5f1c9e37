//! How an engine is opened.

use crate::error::{Error, ErrorKind, Result};
use crate::wal::WalOptions;

/// How [`Engine::open`](crate::Engine::open) opens a directory.
///
/// ```
/// use sawmill::EngineOptions;
/// assert_eq!(EngineOptions::default().checkpoints_kept, 2);
/// ```
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Options of the log in `DIR/log`. It keeps what the checkpoints need and no more; retention
    /// by size or age is refused, because it could take records that were never processed.
    pub log: WalOptions,
    /// Threads that compute batches. Results never depend on it. Default 0: one for each core;
    /// maximum 1024.
    pub threads: usize,
    /// Checkpoints that are kept, no two of which share a file (a delta needs those that it builds
    /// on); the log keeps what the oldest of them needs. Default 2, so that any one file may rot;
    /// minimum 1, maximum 100.
    pub checkpoints_kept: usize,
    /// How often a failed task is attempted before the job fails with
    /// [`ErrorKind::TaskFailed`]. Default 4, minimum 1, maximum 100.
    pub task_attempts: u32,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            log: WalOptions::default(),
            threads: 0,
            checkpoints_kept: 2,
            task_attempts: 4,
        }
    }
}

impl EngineOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        let invalid = |message| Err(Error::new(ErrorKind::Invalid, message));
        if self.threads > 1024 {
            return invalid("threads is at most 1024");
        }
        if !(1..=100).contains(&self.checkpoints_kept) {
            return invalid("checkpoints_kept is 1 to 100");
        }
        if !(1..=100).contains(&self.task_attempts) {
            return invalid("task_attempts is 1 to 100");
        }
        if self.log.retain_bytes.is_some() || self.log.retain_age.is_some() {
            return invalid(
                "the engine's log is truncated by its checkpoints: leave retain_bytes and \
                 retain_age at None",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The log of an engine holds records that no batch has processed yet: only checkpoints know
    /// what may go (ENGINE.md E3).
    #[test]
    fn an_engine_refuses_retention_by_size_or_age() {
        EngineOptions::default().validate().unwrap();
        let by_size = WalOptions { retain_bytes: Some(1 << 30), ..WalOptions::default() };
        let age = Some(Duration::from_secs(3600));
        let by_age = WalOptions { retain_age: age, ..WalOptions::default() };
        for log in [by_size, by_age] {
            let place = tempfile::tempdir().unwrap();
            let options = EngineOptions { log, ..EngineOptions::default() };
            let error = crate::Engine::open(place.path(), options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("retain_bytes"), "{error}");
        }
    }
}
