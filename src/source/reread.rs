//! Planned inputs read from the log again, one behind the other.
//!
//! REREAD-1: what comes is what a replay of the input's own range would give: damage between two
//! inputs is none of theirs, and segments between them are not looked at.
//! REREAD-2: the replay is kept from one input to the next: to begin one takes several
//! milliseconds where the page cache does not hold the log. It holds segments, so it goes when
//! recovery is over, and behind the batch that recovery left to be finished.

use super::received_plan::PlannedRecords;
use super::records::Records;
use crate::error::Result;
use crate::exec::{Lent, Spares};
use crate::ids::{Lsn, StreamId};
use crate::wal::{Replay, Wal};

/// A replay, and which inputs it can still give.
struct Open {
    replay: Replay,
    /// Everything before this was passed.
    next: Lsn,
    /// It shows nothing above this.
    through: Lsn,
}

/// Reads the inputs of one stream.
pub(super) struct Reread {
    wal: Wal,
    stream: StreamId,
    open: Option<Open>,
    /// What earlier inputs were in.
    spares: Spares<Records>,
}

impl Reread {
    pub(super) fn new(wal: &Wal, stream: StreamId, spares: &Spares<Records>) -> Reread {
        Reread { wal: wal.clone(), stream, open: None, spares: spares.clone() }
    }

    /// The records of a planned input, as far as the log has them.
    ///
    /// # Errors
    /// The log's.
    pub(super) fn read(&mut self, planned: &PlannedRecords) -> Result<Lent<Records>> {
        let kept = self.open.take().filter(|on| {
            let shows = on.next <= planned.first && planned.last <= on.through;
            shows && on.replay.comes_to(planned.first)
        });
        if let Some(on) = kept {
            let on = Open { replay: on.replay.from(planned.first), ..on };
            if let Ok(records) = self.go_on(on, planned) {
                return Ok(records);
            }
        }
        let on = self.begin(planned.first)?;
        self.go_on(on, planned)
    }

    fn go_on(&mut self, mut on: Open, planned: &PlannedRecords) -> Result<Lent<Records>> {
        let mut records = self.spares.take().unwrap_or_default();
        // Its last record is of the stream: nothing behind it is looked at.
        while on.next <= planned.last {
            let Some(record) = on.replay.next().transpose()? else {
                return Ok(self.spares.give(records));
            };
            on.next = record.lsn.next();
            if record.lsn <= planned.last {
                records.push(record.lsn, record.payload);
            }
        }
        self.open = Some(on);
        Ok(self.spares.give(records))
    }

    fn begin(&self, from: Lsn) -> Result<Open> {
        let through = self.wal.durable_lsn();
        let replay = self.wal.replay_from(from)?.stream(self.stream);
        Ok(Open { replay, next: from, through })
    }

    /// Gives the segments back.
    pub(super) fn end(&mut self) {
        self.open = None;
    }
}
