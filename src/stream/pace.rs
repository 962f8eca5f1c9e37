//! When the next batch is due, and which time it has (ENGINE.md E9).
//!
//! PACE-1: the time of a batch is above that of the one before, whatever the wall clock does; under
//! an interval it is a tick of the grid.
//! PACE-2: ticks that pass while a batch is at work are covered by the next one: a stall is
//! followed by one batch, never by a burst.
//!
//! The wall clock says which tick it is, the monotonic one when the next tick comes: a wall clock
//! that is stepped back does not stop the job, and one that is stepped forward makes no burst.

/// The pace of one run of a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// 0: a batch is due whenever there is something.
    interval_ns: u64,
    /// Monotonic: the next tick.
    due_ns: u64,
}

impl Pace {
    /// The first batch is due at once.
    pub(crate) fn new(interval_ns: u64, now_ns: u64) -> Pace {
        Pace { interval_ns, due_ns: now_ns }
    }

    /// How long until a batch is due.
    pub(crate) fn wait_ns(&self, now_ns: u64) -> u64 {
        if self.interval_ns == 0 { 0 } else { self.due_ns.saturating_sub(now_ns) }
    }

    /// How late a batch is that is begun now.
    pub(crate) fn delay_ns(&self, now_ns: u64) -> u64 {
        if self.interval_ns == 0 { 0 } else { now_ns.saturating_sub(self.due_ns) }
    }

    /// PACE-2: the tick was used, or had no input; the next one that is still to come is due.
    pub(crate) fn pass(&mut self, now_ns: u64, wall_ns: u64) {
        if self.interval_ns == 0 {
            return;
        }
        let mut next = now_ns + (self.interval_ns - wall_ns % self.interval_ns);
        // The clocks differ a little: the tick that is just used is not due a second time.
        if next < self.due_ns + self.interval_ns / 2 {
            next += self.interval_ns;
        }
        self.due_ns = next;
    }

    /// PACE-1: the time of a batch, and how many ticks it covers.
    pub(crate) fn time(&self, wall_ns: u64, last_ns: u64) -> (u64, u64) {
        let grid = self.interval_ns.max(1);
        let tick = (wall_ns / grid).max(last_ns / grid + 1);
        let ticks = if self.interval_ns == 0 || last_ns == 0 { 1 } else { tick - last_ns / grid };
        (tick * grid, ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_used_once_and_those_missed_are_covered() {
        let mut pace = Pace::new(1000, 50);
        assert_eq!((pace.wait_ns(50), pace.delay_ns(70)), (0, 20));
        assert_eq!(pace.time(5_300, 0), (5000, 1));
        pace.pass(70, 5_320);
        assert_eq!(pace.wait_ns(70), 680);
        // The monotonic clock is there a moment before the wall clock is.
        assert_eq!(pace.time(5_999, 5000), (6000, 1));
        pace.pass(750, 5_999);
        assert_eq!(pace.wait_ns(750), 1001);
        // A stall.
        assert_eq!(pace.time(9_200, 6000), (9000, 3));
        pace.pass(3_951, 9_200);
        assert_eq!(pace.wait_ns(3_951), 800);
        // The wall clock is stepped back.
        assert_eq!(pace.time(2_100, 9000), (10_000, 1));
        pace.pass(4_751, 2_100);
        assert_eq!(pace.wait_ns(4_751), 900);
    }

    #[test]
    fn without_an_interval_everything_is_due_and_time_rises() {
        let mut pace = Pace::new(0, 50);
        pace.pass(60, 7);
        assert_eq!((pace.wait_ns(0), pace.delay_ns(99)), (0, 0));
        assert_eq!((pace.time(7, 3), pace.time(7, 7), pace.time(7, 70)), ((7, 1), (8, 1), (71, 1)));
    }
}
