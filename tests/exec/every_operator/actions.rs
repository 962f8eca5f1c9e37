//! Actions.

use std::collections::BTreeMap;
use std::sync::Mutex;

use sawmill::{Dataset, ErrorKind, Executor, PartitionSink, Result, Rows, RunContext};

use super::model::{Lists, Parts, join};
use super::narrow::check;
use super::{Case, Pair, What};

/// Keeps what it is given, in memory; empty unless all of it was.
#[derive(Default)]
struct Memory {
    parts: Mutex<BTreeMap<u32, Vec<String>>>,
    finished: Mutex<Option<u32>>,
}

impl PartitionSink<Pair> for Memory {
    fn write(&self, rows: Rows<'_, Pair>) -> Result<()> {
        let mut part = Vec::new();
        rows.for_each(|row| part.push(format!("{row:?}")))?;
        self.parts.lock().unwrap().insert(rows.partition(), part);
        Ok(())
    }

    fn finish(&self, partitions: u32) -> Result<()> {
        assert_eq!(self.finished.lock().unwrap().replace(partitions), None, "finished once");
        Ok(())
    }
}

type Act = fn(&Executor, &RunContext, &Dataset<Pair>) -> Result<Parts>;

fn action(name: &'static str, act: Act, model: fn(&Lists) -> Parts) -> Case {
    Case { name, what: What::Action(act), model, refuses: None }
}

fn one(value: impl std::fmt::Debug) -> Parts {
    vec![vec![format!("{value:?}")]]
}

fn list(rows: &[Pair]) -> Parts {
    vec![rows.iter().map(|row| format!("{row:?}")).collect()]
}

/// Shows the order and the shape of the fold, in the last bits too.
fn take_in(all: &mut f64, (word, n): Pair) {
    *all = *all / 3.0 + (n as f64) / 7.0 + word.len() as f64;
}

fn merge(a: f64, b: f64) -> f64 {
    a / 11.0 + b
}

fn both((word, n): Pair, (more, m): Pair) -> Pair {
    (word + &more, join(n, m))
}

fn folded(lists: &Lists) -> Parts {
    let fold = |part: &Vec<Pair>| {
        let mut all = 0.5;
        part.iter().cloned().for_each(|row| take_in(&mut all, row));
        all
    };
    one(lists.left.iter().map(fold).reduce(merge).unwrap())
}

fn reduced(lists: &Lists) -> Parts {
    let parts = lists.left.iter().filter_map(|part| part.iter().cloned().reduce(both));
    one(parts.reduce(both))
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        action(
            "collect",
            |executor, run, rows| Ok(list(&executor.collect(run, rows)?)),
            |lists| list(&lists.left.concat()),
        ),
        action(
            "count",
            |executor, run, rows| Ok(one(executor.count(run, rows)?)),
            |lists| one(lists.left.concat().len()),
        ),
        action(
            "take",
            |executor, run, rows| Ok(list(&executor.take(run, rows, 5)?)),
            |lists| list(&lists.left.concat().into_iter().take(5).collect::<Vec<_>>()),
        ),
        action(
            "fold",
            |executor, run, rows| Ok(one(executor.fold(run, rows, || 0.5, take_in, merge)?)),
            folded,
        ),
        action(
            "try_fold",
            |executor, run, rows| {
                let fold = |all: &mut f64, row| {
                    take_in(all, row);
                    Ok::<_, String>(())
                };
                Ok(one(executor.try_fold(run, rows, || 0.5, fold, merge)?))
            },
            folded,
        ),
        action("reduce", |executor, run, rows| Ok(one(executor.reduce(run, rows, both)?)), reduced),
        action(
            "try_reduce",
            |executor, run, rows| {
                Ok(one(executor.try_reduce(run, rows, |a, b| Ok::<_, String>(both(a, b)))?))
            },
            reduced,
        ),
        action(
            "for_each_partition",
            |executor, run, rows| {
                executor.for_each_partition(run, rows, |rows| {
                    let mut part = vec![rows.partition().to_string()];
                    rows.for_each(|row| part.push(format!("{row:?}")))?;
                    Ok(part)
                })
            },
            |lists| {
                let mut parts = lists.rows(|row| row);
                let numbers = parts.iter_mut().zip(0u32..);
                numbers.for_each(|(part, number)| part.insert(0, number.to_string()));
                parts
            },
        ),
        action(
            "save",
            |executor, run, rows| {
                let memory = Memory::default();
                executor.save(run, rows, &memory)?;
                let parts = memory.parts.into_inner().unwrap();
                let finished = memory.finished.into_inner().unwrap();
                assert_eq!(finished, u32::try_from(parts.len()).ok(), "all partitions");
                Ok(parts.into_values().collect())
            },
            |lists| lists.rows(|row| row),
        ),
    ]
}

/// What a `try_` action says of the word that it refuses.
pub(super) fn refused(name: &str, executor: &Executor, rows: &Dataset<Pair>) -> String {
    let run = executor.context();
    let failed = match name {
        "try_fold" => {
            let fold = |_: &mut u8, row: Pair| check(&row.0, ());
            executor.try_fold(&run, rows, || 0, fold, |a, _| a).map(|_| ())
        }
        "try_reduce" => executor.try_reduce(&run, rows, |a, b| check(&b.0, a)).map(|_| ()),
        _ => panic!("{name} has no refusal"),
    };
    let error = failed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TaskFailed);
    error.to_string()
}
