//! Threads that submit one record after the other take turns, for a few microseconds each.
//!
//! Every record takes its place by a step on one word. If four threads do so all the time, its
//! cache line goes from core to core for each record, and the lines at which their records meet
//! with it: together they are slower than one alone. So a thread that finds that others took
//! places since its last one stands back once, and whoever runs meanwhile has the lines for
//! itself. The order stays that of the steps; no place is taken ahead of its record.
//!
//! TURNS-1: nothing depends on it: a thread stands back for a bounded time, holds nothing then,
//! and never twice for one record. TURNS-2: where standing back lets few records pass, because the
//! threads submit now and then only, it is left alone for the next [`LEAVE`] occasions: on average
//! that costs a few nanoseconds.

use std::cell::Cell;

use crate::ids::Lsn;

/// For how many hints to the processor a thread stands back: 3 to 25 microseconds.
const PAUSES: u32 = 512;
/// How many records others have to place meanwhile for it to be worth while: with fewer, the line
/// is not what limits them.
const WORTH: u64 = 64;
/// How many occasions are passed by at most after one that was not.
const LEAVE: u32 = 1024;

/// What a thread has learnt: how many occasions are still to be passed by, and how many were the
/// last time.
#[derive(Clone, Copy)]
struct Learnt {
    leave: u32,
    vain: u32,
}

thread_local! {
    /// The LSN behind the place that this thread got last.
    static NEXT: Cell<u64> = const { Cell::new(0) };
    static LEARNT: Cell<Learnt> = const { Cell::new(Learnt { leave: 0, vain: 0 }) };
}

/// Stands back if others took places since this thread's last one. `next`: the LSN that is next,
/// as it looks at the moment.
#[inline]
pub(crate) fn stand_back(next: impl Fn() -> u64) {
    let now = next();
    if NEXT.get() != now {
        disturbed(now, next);
    }
}

#[inline(never)]
fn disturbed(now: u64, next: impl Fn() -> u64) {
    let Learnt { leave, vain } = LEARNT.get();
    if leave > 0 {
        LEARNT.set(Learnt { leave: leave - 1, vain });
        return;
    }
    // A model checker would only have more to go through.
    let pauses = if cfg!(shuttle) { 0 } else { PAUSES };
    for _ in 0..pauses {
        std::hint::spin_loop();
    }
    // Doubled each time: those who begin at once all stand back at once, and see nothing pass.
    let vain = match next().wrapping_sub(now) < WORTH {
        true => (vain * 2).clamp(1, LEAVE),
        false => 0,
    };
    LEARNT.set(Learnt { leave: vain, vain });
}

/// Takes note of the place this thread has got: `next` is the LSN behind it.
#[inline]
pub(crate) fn placed(next: Lsn) {
    NEXT.set(next.get());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::spawn;

    /// How often standing back looked at the LSN: once if the thread went on at once, or is left
    /// alone; twice if it stood back. `passed`: how many records others place meanwhile.
    fn looks(passed: u64) -> u32 {
        let looks = Cell::new(0);
        stand_back(|| {
            looks.set(looks.get() + 1);
            1000 + u64::from(looks.get() > 1) * passed
        });
        looks.get()
    }

    /// On a thread of its own: what a thread has learnt stays with it.
    fn on_a_thread(body: impl FnOnce() + Send + 'static) {
        spawn("turns", body).unwrap().join().unwrap();
    }

    #[test]
    fn who_is_alone_goes_on_at_once() {
        on_a_thread(|| {
            placed(Lsn::new(1000));
            assert_eq!(looks(WORTH), 1);
        });
    }

    #[test]
    fn who_is_disturbed_stands_back_as_long_as_others_get_on() {
        on_a_thread(|| {
            placed(Lsn::new(7));
            assert!((0..100).all(|_| looks(WORTH) == 2));
        });
    }

    #[test]
    fn who_stands_back_in_vain_is_left_alone_for_ever_longer() {
        on_a_thread(|| {
            placed(Lsn::new(7));
            let mut alone = Vec::new();
            for _ in 0..13 {
                assert_eq!(looks(WORTH - 1), 2);
                let occasions = (0..=2 * LEAVE).take_while(|_| LEARNT.get().leave > 0);
                alone.push(occasions.map(|_| assert_eq!(looks(WORTH), 1)).count());
            }
            assert_eq!(alone[..4], [1, 2, 4, 8]);
            assert_eq!(alone[12], LEAVE as usize);
            assert_eq!(looks(WORTH), 2);
            assert_eq!(looks(WORTH), 2, "worth while again");
        });
    }
}
