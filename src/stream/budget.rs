//! How long recovery would take now, and whether a checkpoint is due for it (ENGINE.md E16).
//!
//! BUDGET-1: what is predicted is the time to load the newest checkpoint, and to compute again what
//! was completed behind its batch: what computing took the first time, or what it took this
//! process to do it again for as many bytes, if that was more.

use std::time::Duration;

/// Nanoseconds to load a byte of a checkpoint, until this process has loaded one.
const ASSUMED_LOAD_NS: f64 = 5.0;
/// A cut is taken at most after so many times what the last one kept batches waiting: so it takes
/// less than a seventh of their time, however short the budget.
const PAUSES: u64 = 6;
/// The shortest time between two cuts that only the budget asks for.
const SHORTEST_NS: u64 = 50_000_000;

/// What it takes to recover, as measured.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    budget_ns: u64,
    /// Nanoseconds for each byte.
    load: f64,
    /// Nanoseconds for each input byte, of batches that recovery computed again.
    replay: f64,
    /// Bytes of the newest checkpoint, all of its files.
    checkpoint_bytes: u64,
    /// What it takes to compute again what was completed since the newest checkpoint's cut.
    behind_ns: u64,
    /// The same since the last cut, which may be on its way.
    since_cut_ns: u64,
    /// The last batch's.
    last_ns: u64,
    /// From the last cut to its checkpoint.
    writing_ns: u64,
    /// How long the last cut kept batches waiting.
    pause_ns: u64,
    cut_at_ns: u64,
}

fn scaled(amount: u64, factor: f64) -> u64 {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    let scaled = (amount as f64 * factor) as u64;
    scaled
}

fn rate(ns: u64, bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    let rate = ns as f64 / bytes.max(1) as f64;
    rate
}

impl Budget {
    pub(crate) fn new(budget: Duration) -> Budget {
        Budget {
            budget_ns: u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX),
            load: ASSUMED_LOAD_NS,
            replay: 0.0,
            checkpoint_bytes: 0,
            behind_ns: 0,
            since_cut_ns: 0,
            last_ns: 0,
            writing_ns: 0,
            pause_ns: 0,
            cut_at_ns: 0,
        }
    }

    /// Recovery has loaded a checkpoint.
    pub(crate) fn loaded(&mut self, bytes: u64, ns: u64) {
        self.checkpoint_bytes = bytes;
        // What is small says nothing about what is large.
        if bytes >= 1 << 20 {
            self.load = rate(ns, bytes);
        }
    }

    /// Recovery has computed batches again.
    pub(crate) fn replayed(&mut self, bytes: u64, ns: u64) {
        if bytes >= 1 << 20 {
            self.replay = rate(ns, bytes);
        }
        self.behind_ns += ns;
        self.since_cut_ns += ns;
    }

    /// A batch is completed, of so many input bytes, whose computing took so long.
    pub(crate) fn completed(&mut self, bytes: u64, computing: Duration) {
        let live = u64::try_from(computing.as_nanos()).unwrap_or(u64::MAX);
        self.last_ns = live.max(scaled(bytes, self.replay));
        self.behind_ns = self.behind_ns.saturating_add(self.last_ns);
        self.since_cut_ns = self.since_cut_ns.saturating_add(self.last_ns);
    }

    /// A cut was taken between these two moments, or has failed.
    pub(crate) fn cut(&mut self, from_ns: u64, to_ns: u64) {
        self.cut_at_ns = to_ns;
        self.pause_ns = to_ns.saturating_sub(from_ns);
        self.since_cut_ns = 0;
    }

    /// The checkpoint of the last cut stands.
    pub(crate) fn stands(&mut self, bytes: u64, now_ns: u64) {
        self.checkpoint_bytes = bytes;
        self.behind_ns = self.since_cut_ns;
        self.writing_ns = now_ns.saturating_sub(self.cut_at_ns);
    }

    /// How long recovery would take now.
    pub(crate) fn predicted(&self) -> Duration {
        Duration::from_nanos(self.behind_ns.saturating_add(self.loading_ns()))
    }

    fn loading_ns(&self) -> u64 {
        scaled(self.checkpoint_bytes, self.load)
    }

    /// Whether a checkpoint has to be begun now, or recovery would outgrow its budget before one
    /// stands. What loading alone takes no cadence changes: a quarter of the budget is always left
    /// for batches.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        let since = now_ns.saturating_sub(self.cut_at_ns);
        let gap = SHORTEST_NS.max(self.pause_ns.saturating_mul(PAUSES)).max(self.writing_ns);
        let coming = self.writing_ns.saturating_add(self.last_ns);
        self.last_ns > 0 && since >= gap && self.behind_ns.saturating_add(coming) >= self.left_ns()
    }

    /// Whether the batches behind the newest checkpoint take all that the budget has for them.
    pub(crate) fn is_used_up(&self) -> bool {
        self.behind_ns >= self.left_ns()
    }

    /// What the budget has for batches.
    fn left_ns(&self) -> u64 {
        self.budget_ns.saturating_sub(self.loading_ns()).max(self.budget_ns / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_was_completed_since_the_cut_is_what_is_predicted() {
        let mut budget = Budget::new(ms(2000));
        budget.loaded(100 << 20, 500 * MS);
        assert_eq!(budget.predicted().as_millis(), 500);
        for _ in 0..10 {
            budget.completed(4 << 20, ms(20));
        }
        assert_eq!(budget.predicted().as_millis(), 700);
        budget.cut(1000 * MS, 1005 * MS);
        budget.completed(4 << 20, ms(30));
        assert_eq!(budget.predicted().as_millis(), 730, "the checkpoint does not stand yet");
        budget.stands(10 << 20, 1105 * MS);
        assert_eq!(budget.predicted().as_millis(), 80);
        // One that fails changes nothing.
        budget.cut(2000 * MS, 2005 * MS);
        assert_eq!(budget.predicted().as_millis(), 80);
    }

    #[test]
    fn what_recovery_needed_for_a_byte_counts_if_it_is_more() {
        let mut budget = Budget::new(ms(2000));
        budget.replayed(10 << 20, 100 * MS);
        assert_eq!(budget.predicted().as_millis(), 100);
        budget.completed(10 << 20, ms(60));
        assert_eq!(budget.predicted().as_millis(), 200);
        budget.completed(10 << 20, ms(160));
        assert_eq!(budget.predicted().as_millis(), 360);
    }

    #[test]
    fn a_checkpoint_is_due_before_the_budget_is_used_up_and_never_all_the_time() {
        let mut budget = Budget::new(ms(1000));
        let mut now = 0;
        let mut cuts = 0;
        for _ in 0..1000 {
            now += 10 * MS;
            budget.completed(1 << 20, ms(10));
            assert!(budget.predicted() <= ms(1000), "{budget:?}");
            if budget.is_due(now) {
                cuts += 1;
                budget.cut(now, now + MS);
                // Written while ten more batches are completed.
                for _ in 0..10 {
                    now += 10 * MS;
                    budget.completed(1 << 20, ms(10));
                }
                budget.stands(1 << 20, now);
            }
        }
        assert!((5..=20).contains(&cuts), "{cuts} in 10 s of computing");
        // Loading takes all of the budget: still a quarter of it is left for batches.
        budget.loaded(1 << 30, 10_000 * MS);
        budget.cut(now, now + 100 * MS);
        budget.stands(1 << 30, now + 200 * MS);
        budget.completed(1 << 20, ms(10));
        assert!(!budget.is_due(now + 250 * MS));
        budget.completed(1 << 20, ms(300));
        assert!(!budget.is_due(now + 500 * MS), "six pauses have not passed");
        assert!(budget.is_due(now + 750 * MS));
    }

    #[test]
    fn loading_alone_uses_no_budget_up() {
        let mut budget = Budget::new(ms(1000));
        budget.loaded(1 << 30, 5_000 * MS);
        budget.replayed(1 << 20, 249 * MS);
        assert!(budget.predicted() > ms(1000) && !budget.is_used_up(), "{budget:?}");
        budget.replayed(1 << 20, MS);
        assert!(budget.is_used_up(), "{budget:?}");
    }
}
