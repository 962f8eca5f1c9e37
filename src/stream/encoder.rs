//! Encodes the state of a cut while batches go on, a few rows of a partition at a time: by threads
//! of the pool that have nothing else to do, and, where batches leave them no time, by the thread
//! that writes the checkpoint.
//!
//! ENCODER-1: a batch that changes a partition waits for [`ROWS`] rows of it at most, and its tasks
//! for [`STEPS`] times as many: nobody takes more at a time. ENCODER-2: a pool that gets to nothing
//! of it for 2 ms is not waited for: beside long batches the writing thread has the share of the
//! processors that any thread has. Beside short ones it leaves them alone. ENCODER-3: who encodes
//! which rows shows in no byte: each partition's rows come in their order, from one hand to the
//! next.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::exec::Executor;
use crate::state::{Encoding, OperatorState};
use crate::sync::{Arc, Condvar, Mutex, lock, nap, wait};

/// Rows that are encoded at a time: some 50 microseconds.
const ROWS: usize = 2048;
/// How often in a row a thread of the pool does so.
const STEPS: usize = 4;
/// How often, and how long apart, it is looked whether one did.
const LOOKS: u32 = 20;
const LOOK: Duration = Duration::from_micros(100);

/// A partition of an operator's state, and what is encoded of it.
struct Part {
    number: usize,
    state: OperatorState,
    partition: u32,
    encoding: Encoding,
}

/// Why encoding ends early.
enum Failure {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

/// Under the mutex.
#[derive(Default)]
struct Work {
    /// Nobody is at these.
    left: VecDeque<Part>,
    done: Vec<Part>,
    /// How many are in somebody's hands.
    taken: usize,
    /// Threads of the pool that will come, or are here.
    helpers: usize,
    /// How many have been here.
    helped: u64,
    failure: Option<Failure>,
}

/// What is to be encoded, shared by all who do.
#[derive(Default)]
struct Encoder {
    work: Mutex<Work>,
    came_back: Condvar,
}

impl Encoder {
    /// Encodes some rows of a partition; `false` if there is none that nobody is at.
    fn step(&self) -> bool {
        let part = {
            let mut work = lock(&self.work);
            let part = work.left.pop_front();
            work.taken += usize::from(part.is_some());
            part
        };
        let Some(mut part) = part else { return false };
        let encoded = catch_unwind(AssertUnwindSafe(|| {
            part.state.encode_some(part.partition, &mut part.encoding, ROWS)
        }));
        let mut work = lock(&self.work);
        work.taken -= 1;
        let failure = match encoded {
            Ok(Ok(true)) => {
                work.left.push_front(part);
                None
            }
            Ok(Ok(false)) => {
                work.done.push(part);
                None
            }
            Ok(Err(error)) => Some(Failure::Error(error)),
            Err(panic) => Some(Failure::Panic(panic)),
        };
        if failure.is_some() && work.failure.is_none() {
            work.failure = failure;
        }
        if work.failure.is_some() {
            work.left.clear();
        }
        drop(work);
        self.came_back.notify_all();
        true
    }

    /// Asks for as many threads of the pool as there is work for.
    fn call_helpers(self: &Arc<Encoder>, executor: &Executor) {
        let missing = {
            let mut work = lock(&self.work);
            let wanted = executor.threads().min(work.left.len());
            let missing = wanted.saturating_sub(work.helpers);
            work.helpers += missing;
            missing
        };
        for _ in 0..missing {
            let encoder = Arc::clone(self);
            executor.when_idle(move || {
                let helps = (0..STEPS).all(|_| encoder.step());
                let mut work = lock(&encoder.work);
                work.helpers -= 1;
                work.helped += u64::from(helps);
                drop(work);
                encoder.came_back.notify_all();
            });
        }
    }

    /// Whether a thread of the pool comes to do something soon: looked for so many times.
    fn is_helped(&self, looks: u32, seen: &mut u64) -> bool {
        let mut work = lock(&self.work);
        for _ in 0..looks {
            if work.helped != *seen || work.left.is_empty() {
                break;
            }
            work = nap(&self.work, &self.came_back, work, LOOK);
        }
        std::mem::replace(seen, work.helped) != work.helped
    }

    /// Works, or lets others work, until all is encoded.
    fn run(self: &Arc<Encoder>, executor: &Executor) -> Result<Vec<Part>> {
        let (mut looks, mut seen) = (LOOKS, 0);
        loop {
            self.call_helpers(executor);
            if self.is_helped(looks, &mut seen) {
                looks = LOOKS;
                continue;
            }
            // Who found nobody does not wait for somebody again, until there is one.
            looks = 0;
            if !self.step() && self.is_done() {
                break;
            }
        }
        let mut work = lock(&self.work);
        match work.failure.take() {
            None => Ok(std::mem::take(&mut work.done)),
            Some(Failure::Error(error)) => Err(error),
            Some(Failure::Panic(panic)) => {
                drop(work);
                resume_unwind(panic)
            }
        }
    }

    /// Waits until there is something to do that nobody is at; `true` if all is done.
    fn is_done(&self) -> bool {
        let mut work = lock(&self.work);
        while work.left.is_empty() && work.taken > 0 {
            work = wait(&self.came_back, work);
        }
        work.left.is_empty()
    }
}

/// The bytes of every partition of these operators, or of what has changed in it since the last
/// cut, in their order; nothing of partitions in which nothing has changed.
///
/// # Errors
/// What kept state from being encoded, which names it.
pub(super) fn encode(
    states: &[OperatorState],
    partitions: u32,
    changes: bool,
    executor: &Executor,
) -> Result<Vec<(OperatorState, u32, Vec<u8>)>> {
    let all = states.iter().flat_map(|state| (0..partitions).map(move |p| (state, p)));
    let part = |(number, (state, partition)): (usize, (&OperatorState, u32))| Part {
        number,
        state: state.clone(),
        partition,
        encoding: Encoding::new(changes),
    };
    let left = all.enumerate().map(part).collect();
    let encoder = Arc::new(Encoder {
        work: Mutex::new(Work { left, ..Work::default() }),
        ..Encoder::default()
    });
    let mut done = encoder.run(executor)?;
    done.sort_unstable_by_key(|part| part.number);
    let encoded = |part: Part| Some((part.state, part.partition, part.encoding.into_bytes()?));
    Ok(done.into_iter().filter_map(encoded).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use serde::{Deserialize, Serialize, Serializer};

    use super::*;
    use crate::ids::BatchId;
    use crate::state::{State, StateTable, Tracking, hash_key};

    /// State of three partitions with so many keys each, cut.
    fn cut<S: State>(keys: u64, value: impl Fn(u64) -> S) -> OperatorState {
        let state = OperatorState::new::<S>("op", 3);
        for partition in 0..3 {
            let mut table = StateTable::new();
            for key in (0..keys).map(|key| (key * 3 + u64::from(partition)).to_le_bytes()) {
                table.insert(hash_key(&key), &key, value(u64::from_le_bytes(key)));
            }
            let typed = state.typed::<S>().unwrap();
            typed.replace(partition, BatchId::new(1), table);
        }
        state.track(Tracking::Begin);
        state.track(Tracking::Cut);
        state
    }

    fn bytes(encoded: Vec<(OperatorState, u32, Vec<u8>)>) -> Vec<(u32, Vec<u8>)> {
        encoded.into_iter().map(|(_, partition, bytes)| (partition, bytes)).collect()
    }

    #[test]
    fn who_encodes_shows_in_no_byte() {
        let state = cut(5 * ROWS as u64 + 7, |key| key * key);
        let whole: Vec<(u32, Vec<u8>)> = (0..3)
            .map(|partition| (partition, state.encode_partition(partition).unwrap()))
            .collect();
        for threads in [1, 2, 5] {
            let executor = Executor::new(threads, 3).unwrap();
            let states = [state.clone()];
            assert_eq!(bytes(encode(&states, 3, false, &executor).unwrap()), whole);
            assert_eq!(bytes(encode(&states, 3, true, &executor).unwrap()), []);
        }
    }

    /// ENCODER-2.
    #[test]
    fn a_pool_that_is_busy_is_not_waited_for() {
        let executor = Executor::new(1, 3).unwrap();
        let (release, held) = channel::<()>();
        executor.when_idle(move || held.recv().unwrap_or_default());
        let state = cut(3 * ROWS as u64, |key| key);
        assert_eq!(encode(&[state], 3, false, &executor).unwrap().len(), 3);
        drop(release);
    }

    #[derive(Clone, Deserialize)]
    struct Odd(u64);

    impl State for Odd {}

    impl Serialize for Odd {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            assert!(self.0 != 5, "planted in a test");
            if self.0 == 4 {
                return Err(serde::ser::Error::custom("not today"));
            }
            serializer.serialize_u64(self.0)
        }
    }

    #[test]
    fn an_error_and_a_panic_reach_who_asked_whoever_met_them() {
        let executor = Executor::new(2, 3).unwrap();
        for _ in 0..50 {
            let refused = cut(5, Odd);
            let caught = catch_unwind(AssertUnwindSafe(|| encode(&[refused], 3, false, &executor)));
            match caught {
                Ok(Err(error)) => assert!(error.to_string().contains("operator op"), "{error}"),
                Ok(Ok(_)) => panic!("values 4 and 5 cannot be encoded"),
                Err(panic) => assert_eq!(panic.downcast_ref(), Some(&"planted in a test")),
            }
            assert_eq!(executor.for_each_number(2, |number| number), [0, 1], "the pool lives");
        }
    }
}
