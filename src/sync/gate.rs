//! A small word that threads sleep on until it changes.
//!
//! GATE-1: while anybody sleeps on a gate that was opened in rows, its word says so (`MORE`), and
//! somebody was woken who has not looked at the word since. Whoever looks and finds `MORE` wakes
//! another row before it returns; only a row that found fewer than it might have woken takes `MORE`
//! away, and nobody falls asleep on a gate that is open. So all are woken if of each row one runs.

use std::time::Duration;

use super::Futex;
use super::atomic::Ordering;
use crate::clock::Clock;
use crate::planted::{Bug, planted};

/// In a gate's word: what it says.
const SAYS: u32 = 0x7f;
/// In a gate's word: it was opened in rows, and somebody may sleep still.
const MORE: u32 = SAYS + 1;
/// In a gate's word: one nudge. Above it, how often it was nudged.
const NUDGE: u32 = 2 * MORE;

/// How many are woken at once of a gate that is opened in rows.
pub(crate) const ROW: u32 = if cfg!(shuttle) { 1 } else { 4 };

/// A word of 7 bits that threads sleep on until it changes. Nobody has to take a lock again
/// afterwards: what a group of many waiters needs.
#[derive(Debug, Default)]
pub(crate) struct Gate(Futex);

impl Gate {
    /// Changes the word, waking nobody, and returns what it was: in one step, so that what came
    /// before the change to that is visible.
    pub(crate) fn swap(&self, value: u32) -> u32 {
        self.0.word().swap(value, Ordering::AcqRel) & SAYS
    }

    /// Changes the word and wakes everybody. A read-modify-write: if several threads open it, who
    /// reads the word sees what each of them did before, not only the last one.
    pub(crate) fn open(&self, value: u32) {
        self.swap(value);
        self.0.wake(u32::MAX);
    }

    /// As [`Gate::open`], but wakes a row only, and that row the next (GATE-1): waking many takes
    /// longer than what most callers have to do besides. Called again it wakes one row more, if
    /// anybody may sleep still. A gate that was opened so is never closed again.
    pub(crate) fn open_in_rows(&self, value: u32) {
        if !self.is_through(value) {
            self.swap(value | MORE);
            self.wake_row();
        }
    }

    /// Whether it says `value`, and nobody sleeps.
    pub(crate) fn is_through(&self, value: u32) -> bool {
        self.0.word().load(Ordering::Acquire) & (SAYS | MORE) == value
    }

    fn wake_row(&self) {
        if self.0.wake(ROW) < ROW {
            self.0.word().fetch_and(!MORE, Ordering::AcqRel);
        }
    }

    /// Has everybody who sleeps until a moment look at the clock again: time was moved. It stays
    /// noticed by who has looked and does not sleep yet, until the word is changed.
    pub(crate) fn nudge(&self) {
        self.0.word().fetch_add(NUDGE, Ordering::AcqRel);
        self.0.wake(u32::MAX);
    }

    /// Sleeps while the word is `value`, until `deadline_ns` of a clock at most; returns what it is
    /// then.
    pub(crate) fn wait_until(&self, value: u32, clock: &dyn Clock, deadline_ns: u64) -> u32 {
        self.sleep_while(value, || {
            // After the word: who moves time nudges afterwards, so that the word has changed.
            match deadline_ns.saturating_sub(clock.monotonic_ns()) {
                0 => Sleep::Over,
                left if clock.passes() => Sleep::For(Duration::from_nanos(left)),
                _ => Sleep::On,
            }
        })
    }

    /// Sleeps until the word is not `value`; returns what it is.
    pub(crate) fn wait_while(&self, value: u32) -> u32 {
        self.sleep_while(value, || Sleep::On)
    }

    fn sleep_while(&self, value: u32, how: impl Fn() -> Sleep) -> u32 {
        let mut woken = false;
        loop {
            let word = self.0.word().load(Ordering::Acquire);
            if woken && word & MORE != 0 && !planted(Bug::RowForgets) {
                self.wake_row();
            }
            if word & SAYS != value {
                return word & SAYS;
            }
            let limit = match how() {
                Sleep::Over => return value,
                Sleep::For(left) => Some(left),
                Sleep::On => None,
            };
            woken = self.0.wait(word, limit);
        }
    }
}

/// For how long to sleep, if the word is still the same.
enum Sleep {
    Over,
    For(Duration),
    On,
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::clock::{ManualClock, Sleeper, SystemClock};
    use crate::sync::{Arc, spawn};

    impl Sleeper for Gate {
        fn time_moved(&self) {
            self.nudge();
        }
    }

    /// Without a look at the clock in between: moving it is the event.
    #[test]
    fn time_that_is_moved_by_hand_ends_a_wait() {
        for _ in 0..100 {
            let (gate, clock) = (Arc::new(Gate::default()), Arc::new(ManualClock::default()));
            let (done, watch) = mpsc::channel();
            let sleeper = (Arc::clone(&gate), Arc::clone(&clock));
            let body = move || {
                let (gate, clock) = sleeper;
                let weak = Arc::downgrade(&gate);
                clock.watch(weak);
                done.send(gate.wait_until(0, &*clock, 3_600_000_000_000)).unwrap();
            };
            let thread = spawn("sleeper", body).unwrap();
            clock.advance(Duration::from_secs(1800));
            clock.advance(Duration::from_secs(1800));
            assert_eq!(watch.recv_timeout(Duration::from_secs(10)), Ok(0));
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_gate_that_is_opened_ends_a_wait_whatever_was_nudged() {
        let gate = Arc::new(Gate::default());
        let other = Arc::clone(&gate);
        let body = move || other.wait_until(0, &ManualClock::default(), u64::MAX);
        let thread = spawn("sleeper", body).unwrap();
        (0..300).for_each(|_| gate.nudge());
        gate.open(2);
        gate.nudge();
        assert_eq!((thread.join().unwrap(), gate.wait_while(0), gate.swap(0)), (2, 2, 2));
    }

    /// Sleepers, half of them until a moment that is far away; opens it and waits for them. Returns
    /// whether more than a row of them was asleep, as far as the opener could see.
    fn rows_of_sleepers() -> bool {
        let gate = Arc::new(Gate::default());
        let sleeper = |number: u32| {
            let gate = Arc::clone(&gate);
            let body = move || match number % 2 {
                0 => gate.wait_while(0),
                _ => gate.wait_until(0, &SystemClock, u64::MAX),
            };
            spawn("sleeper", body).unwrap()
        };
        let threads: Vec<_> = (0..5 * ROW + 3).map(sleeper).collect();
        gate.open_in_rows(2);
        let full = !gate.is_through(2);
        threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), 2));
        // Whoever woke others did so before it returned, and the last row was not full.
        assert!(gate.is_through(2) && gate.wait_while(0) == 2);
        full
    }

    #[test]
    fn each_row_wakes_the_next() {
        // The sleepers are not asleep yet, now and then.
        while !rows_of_sleepers() {}
    }
}
