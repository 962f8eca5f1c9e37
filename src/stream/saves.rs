//! Who waits for a checkpoint of what is completed: a savepoint is made of its files.
//!
//! SAVES-1: who asks is answered when a checkpoint stands that was cut after the question.

use std::sync::mpsc::Sender;

use crate::checkpoint::Pace;
use crate::error::Result;
use crate::sync::{Arc, Mutex, lock};

type Reply = Sender<Result<()>>;

/// The questions, shared by the job's handle and its driver. One that the driver drops is answered
/// by that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Saves(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// The next cut is theirs.
    asked: Vec<Reply>,
    /// Theirs is on its way.
    cut: Vec<Reply>,
    /// Nobody answers any more.
    closed: bool,
    /// How a savepoint gives way to the log.
    pace: Pace,
}

impl Saves {
    /// Asks; nobody hears it if the driver has gone.
    pub(crate) fn ask(&self, reply: Reply) {
        let mut waiting = lock(&self.0);
        if !waiting.closed {
            waiting.asked.push(reply);
        }
    }

    pub(crate) fn pace_by(&self, pace: Pace) {
        lock(&self.0).pace = pace;
    }

    pub(crate) fn pace(&self) -> Pace {
        lock(&self.0).pace.clone()
    }

    pub(crate) fn wants_one(&self) -> bool {
        !lock(&self.0).asked.is_empty()
    }

    /// A cut was taken.
    pub(crate) fn cut(&self) {
        let waiting = &mut *lock(&self.0);
        waiting.cut.append(&mut waiting.asked);
    }

    /// The checkpoint of the last cut stands, or has failed; `all`: there is nothing to be cut.
    pub(crate) fn answer(&self, outcome: &Result<()>, all: bool) {
        let waiting = &mut *lock(&self.0);
        if all {
            waiting.cut.append(&mut waiting.asked);
        }
        for reply in waiting.cut.drain(..) {
            // Who has gone meanwhile does not want to know.
            drop(reply.send(outcome.clone()));
        }
    }

    /// The driver has gone.
    pub(crate) fn close(&self) {
        *lock(&self.0) = Waiting { closed: true, ..Waiting::default() };
    }
}
