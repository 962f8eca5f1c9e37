//! Reading records back.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StreamId};

/// A record as it was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place in the order.
    pub lsn: Lsn,
    /// Its stream.
    pub stream: StreamId,
    /// Whether the engine wrote it.
    pub internal: bool,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// Reads records in LSN order.
#[derive(Debug)]
pub struct Replay(());

impl Replay {
    /// The next record; `None` at the end.
    #[allow(clippy::should_implement_trait, reason = "it lends")]
    pub fn next(&mut self) -> Option<Result<Record<'_>>> {
        Some(Err(Error::new(ErrorKind::Unsupported, "replay is not built yet")))
    }
}
