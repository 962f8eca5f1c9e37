//! Which way a lone durable write takes: through the ring, or by a system call of its own.
//!
//! Both are the same write. On a device without FUA Linux ends a durable direct write of a ring
//! in two steps, and leaves the second one, the flush, to a kernel thread that is bound to the
//! processor which took the interrupt. While a program computes on that processor, the thread
//! gets its turn at a tick: the write takes 4 ms instead of 0.04. A system call does both steps
//! itself. On a quiet machine the ring costs one context switch less.
//!
//! So the ring it is, until it is slow and the call is not; and back, when the ring is quick
//! again. Only what was measured decides; nothing depends on it but time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A way for a durable write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Ring,
    Call,
}

/// A ring that needs longer than this is worth a comparison.
pub(super) const SLOW_NS: u64 = 1_000_000;
/// Writes between two looks at the ring, at first and after many that changed nothing.
const PATIENCE_MIN: u32 = 256;
const PATIENCE_MAX: u32 = 16_384;
/// So many quick writes in a row, and the ring is quick again: while it is slow, it is so by
/// chance, and each of these chances may cost a tick.
const CONVINCED: usize = 16;

/// The last three times of one way: one that is late changes nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    times: [u64; 3],
    count: usize,
}

impl Recent {
    fn add(&mut self, ns: u64) {
        self.times[self.count % 3] = ns;
        self.count += 1;
    }

    /// The middle one, once there are three.
    fn median(&self) -> Option<u64> {
        let [a, b, c] = self.times;
        (self.count >= 3).then(|| a.max(b).min(a.min(b).max(c)))
    }
}

/// What the channels of a directory have seen together, and what came of it.
#[derive(Debug)]
pub(super) struct SharedPace {
    pace: Mutex<Pace>,
    bypassed: AtomicU64,
}

impl SharedPace {
    /// Begins with the ring.
    pub(super) fn new() -> SharedPace {
        SharedPace { pace: Mutex::new(Pace::new()), bypassed: AtomicU64::new(0) }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        // Plain numbers: whole after any panic.
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Pace::next`].
    pub(super) fn next(&self) -> Way {
        self.pace().next()
    }

    /// A write that `next` sent this way is done: how long it took, if that says something.
    pub(super) fn done(&self, way: Way, ns: Option<u64>) {
        if way == Way::Call {
            self.bypassed.fetch_add(1, Ordering::Relaxed);
        }
        match ns {
            Some(ns) => self.pace().took(way, ns),
            None => self.pace().lost(way),
        }
    }

    /// How many writes went by call.
    pub(super) fn bypassed(&self) -> u64 {
        self.bypassed.load(Ordering::Relaxed)
    }
}

/// What was seen of both ways.
#[derive(Clone, Copy, Debug)]
struct Pace {
    usual: Way,
    ring: Recent,
    call: Recent,
    /// The other way is being tried.
    trying: bool,
    /// A write is out that tries it: one at a time, for it may be slow.
    out: bool,
    /// Writes until it may be tried again.
    rest: u32,
    patience: u32,
    /// Writes since the usual way changed.
    stayed: u32,
}

impl Pace {
    fn new() -> Pace {
        let (ring, call) = (Recent::default(), Recent::default());
        let patience = PATIENCE_MIN;
        let (trying, out) = (false, false);
        Pace { usual: Way::Ring, ring, call, trying, out, rest: 0, patience, stayed: 0 }
    }

    /// The way of the next lone durable write.
    fn next(&mut self) -> Way {
        if !self.trying {
            self.rest = self.rest.saturating_sub(1);
            let worth_it = match self.usual {
                Way::Ring => self.ring.median().is_some_and(|ns| ns > SLOW_NS),
                Way::Call => true,
            };
            if worth_it && self.rest == 0 {
                self.trying = true;
                *self.seen(self.other()) = Recent::default();
            }
        }
        if !self.trying || self.out {
            return self.usual;
        }
        self.out = true;
        self.other()
    }

    /// A write that went this way says nothing.
    fn lost(&mut self, way: Way) {
        self.out &= way == self.usual;
    }

    /// A lone durable write has taken so long.
    fn took(&mut self, way: Way, ns: u64) {
        self.seen(way).add(ns);
        self.lost(way);
        if way == self.usual || !self.trying {
            self.stayed = self.stayed.saturating_add(1);
            return;
        }
        let usual = self.seen(self.usual).median().unwrap_or(u64::MAX);
        let tried = *self.seen(way);
        let better = match self.usual {
            Way::Ring => match tried.median() {
                Some(call) => call.saturating_mul(2) < usual,
                None => return,
            },
            Way::Call if ns > usual.saturating_mul(2) => false,
            Way::Call if tried.count < CONVINCED => return,
            Way::Call => true,
        };
        self.trying = false;
        let settled = better && self.stayed > PATIENCE_MAX;
        if better {
            (self.usual, self.stayed) = (way, 0);
        }
        self.rest = match self.usual {
            // A call that is no quicker costs nothing, and a slow ring each time.
            Way::Ring => {
                if better {
                    0
                } else {
                    PATIENCE_MIN
                }
            }
            Way::Call => self.patience,
        };
        // A ring that is quick only by chance is looked at less and less.
        let next = self.patience.saturating_mul(2).min(PATIENCE_MAX);
        self.patience = if settled { PATIENCE_MIN } else { next };
    }

    fn other(&self) -> Way {
        match self.usual {
            Way::Ring => Way::Call,
            Way::Call => Way::Ring,
        }
    }

    fn seen(&mut self, way: Way) -> &mut Recent {
        match way {
            Way::Ring => &mut self.ring,
            Way::Call => &mut self.call,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1000;

    /// How many of `writes` went by call where the ways take so long.
    fn run(pace: &mut Pace, writes: u32, ring: u64, call: u64) -> u32 {
        let mut calls = 0;
        for _ in 0..writes {
            let way = pace.next();
            calls += u32::from(way == Way::Call);
            pace.took(way, if way == Way::Call { call } else { ring });
        }
        calls
    }

    #[test]
    fn a_quick_ring_is_never_left_and_one_late_write_changes_nothing() {
        let mut pace = Pace::new();
        assert_eq!(run(&mut pace, 1000, 40 * US, 30 * US), 0);
        assert_eq!(run(&mut pace, 1, 8000 * US, 30 * US), 0);
        assert_eq!(run(&mut pace, 1000, 40 * US, 30 * US), 0);
    }

    #[test]
    fn a_slow_ring_is_left_at_once_and_taken_again_when_it_is_quick() {
        let mut pace = Pace::new();
        // Three to see it, then only now and then one more.
        let calls = run(&mut pace, 10_000, 4000 * US, 100 * US);
        assert!((9_980..=9_997).contains(&calls), "{calls}");
        let calls = run(&mut pace, 40_000, 40 * US, 40 * US);
        assert!(calls <= PATIENCE_MAX, "{calls}");
        assert_eq!(run(&mut pace, 1000, 40 * US, 40 * US), 0);
    }

    #[test]
    fn a_ring_that_is_slow_now_and_then_costs_little() {
        let mut pace = Pace::new();
        let (mut ns, mut slow) = (0, 0_u64);
        for number in 0..100_000_u64 {
            // Two of three writes of the ring meet a busy processor.
            let ring = if number % 3 == 0 { 30 * US } else { 4000 * US };
            let way = pace.next();
            let took = if way == Way::Call { 30 * US } else { ring };
            pace.took(way, took);
            ns += took;
            slow += u64::from(took > SLOW_NS);
        }
        assert!(slow < 60 && ns < 4_000_000 * US, "{slow} slow ones, {ns} ns");
        // Nor is it a trap that it was quick for a while.
        run(&mut pace, 40_000, 30 * US, 30 * US);
        assert_eq!(pace.usual, Way::Ring);
        let calls = run(&mut pace, 100, 4000 * US, 30 * US);
        assert!(calls >= 95, "{calls}");
    }

    #[test]
    fn one_write_at_a_time_tries_the_other_way() {
        let mut pace = Pace::new();
        for _ in 0..3 {
            assert_eq!(pace.next(), Way::Ring);
            pace.took(Way::Ring, 4000 * US);
        }
        assert_eq!((pace.next(), pace.next()), (Way::Call, Way::Ring));
        pace.lost(Way::Call);
        assert_eq!((pace.next(), pace.next()), (Way::Call, Way::Ring));
        pace.took(Way::Ring, 4000 * US);
        assert_eq!(pace.next(), Way::Ring, "one is out still");
        for _ in 0..3 {
            pace.took(Way::Call, 30 * US);
        }
        assert_eq!(pace.next(), Way::Call);
    }

    #[test]
    fn where_both_are_slow_the_ring_stays() {
        let mut pace = Pace::new();
        let calls = run(&mut pace, 10_000, 5000 * US, 4000 * US);
        assert!((3..=200).contains(&calls), "{calls}");
        assert_eq!(pace.usual, Way::Ring);
    }
}
