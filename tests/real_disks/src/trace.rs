//! One ordered log of what a device was asked, what it answered, and what the workload was told.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Something that happened, in the order in which the device saw it.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Bytes arrived. Until they are flushed, a power cut may keep, lose or tear them.
    Write { id: u32, offset: usize, bytes: Box<[u8]> },
    /// A range was given up: it reads as zeros, or as before if a power cut loses this.
    Discard { id: u32, offset: usize, length: usize },
    /// The kernel is told that a write or discard is complete, next.
    Complete { id: u32 },
    /// A flush arrived: it covers what was complete by now, and nothing else.
    FlushBegun { id: u32 },
    /// The kernel is told that the flush is complete, next.
    FlushComplete { id: u32 },
    /// The workload says something, and goes on only when it stands here.
    Mark(String),
}

impl Event {
    /// Whether a power cut before it and one after it may leave different media behind.
    pub(crate) fn changes_medium(&self) -> bool {
        match self {
            Event::Write { .. } | Event::Discard { .. } | Event::FlushComplete { .. } => true,
            Event::Complete { .. } | Event::FlushBegun { .. } | Event::Mark(_) => false,
        }
    }
}

/// The log, shared by the threads of a device.
#[derive(Debug, Default)]
pub(crate) struct Trace(Mutex<Vec<Event>>);

impl Trace {
    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: Event) {
        self.events().push(event);
    }

    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events())
    }
}

/// What a recording holds, so that nobody takes an empty one for a proof.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kinds {
    pub(crate) writes: usize,
    pub(crate) discards: usize,
    pub(crate) flushes: usize,
    pub(crate) marks: usize,
    /// The most writes that were on their way at once.
    pub(crate) in_flight_max: usize,
    /// Flushes that came while a write was on its way, which they do not cover.
    pub(crate) flushes_beside_writes: usize,
}

impl Kinds {
    pub(crate) fn of(events: &[Event]) -> Kinds {
        let mut kinds = Kinds::default();
        let mut in_flight = 0usize;
        for event in events {
            match event {
                Event::Write { .. } | Event::Discard { .. } => {
                    let discard = matches!(event, Event::Discard { .. });
                    *(if discard { &mut kinds.discards } else { &mut kinds.writes }) += 1;
                    in_flight += 1;
                    kinds.in_flight_max = kinds.in_flight_max.max(in_flight);
                }
                Event::Complete { .. } => in_flight -= 1,
                Event::FlushBegun { .. } => {
                    kinds.flushes_beside_writes += usize::from(in_flight > 0)
                }
                Event::FlushComplete { .. } => kinds.flushes += 1,
                Event::Mark(_) => kinds.marks += 1,
            }
        }
        kinds
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kinds { writes, discards, flushes, marks, in_flight_max, flushes_beside_writes } = self;
        write!(
            formatter,
            "{writes} writes (up to {in_flight_max} at once), {discards} discards, {flushes} \
             flushes ({flushes_beside_writes} beside a write), {marks} marks"
        )
    }
}
