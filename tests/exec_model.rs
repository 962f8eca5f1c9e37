//! Random pipelines against a sequential model: the same rows, in the same partitions, in the same
//! order, for any number of threads and whatever is lost in between.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sawmill::{Dataset, Executor, Lost, OperatorId};
use xxhash_rust::xxh3::xxh3_64;

type Row = (String, i64);

#[derive(Clone, Debug)]
enum Step {
    Map(i64),
    Filter(i64),
    FlatMap(i64),
    Ordinals,
    MapValues(i64),
    ReduceByKey,
    UnionWithItself,
    Persist,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (-3..4i64).prop_map(Step::Map),
        (2..5i64).prop_map(Step::Filter),
        (1..4i64).prop_map(Step::FlatMap),
        Just(Step::Ordinals),
        (-3..4i64).prop_map(Step::MapValues),
        Just(Step::ReduceByKey),
        Just(Step::UnionWithItself),
        Just(Step::Persist),
    ]
}

/// Neither commutative nor associative: it shows the order and the shape of the fold.
fn join(a: i64, b: i64) -> i64 {
    a.wrapping_mul(31).wrapping_sub(b ^ 5)
}

fn copies((word, n): Row, k: i64) -> Vec<Row> {
    (0..n.rem_euclid(k)).map(|i| (word.clone(), n.wrapping_add(i))).collect()
}

fn apply(rows: &Dataset<Row>, step: &Step) -> Dataset<Row> {
    match *step {
        Step::Map(k) => rows.map(move |(word, n)| (word, n.wrapping_mul(k) ^ 1)),
        Step::Filter(k) => rows.filter(move |(_, n)| n % k != 0),
        Step::FlatMap(k) => rows.flat_map(move |row| copies(row, k)),
        Step::Ordinals => rows.map_partitions(|rows, out| {
            let mut ordinal = i64::from(rows.partition());
            rows.for_each(|(word, n)| {
                ordinal += 1;
                out.push((word, n ^ ordinal));
            })
        }),
        Step::MapValues(k) => {
            rows.map_to_pair(|row| row).map_values(move |n| n.wrapping_add(k)).map(|row| row)
        }
        Step::ReduceByKey => rows.map_to_pair(|row| row).reduce_by_key(join).map(|row| row),
        Step::UnionWithItself => rows.union(rows),
        Step::Persist => rows.persist(),
    }
}

/// Folds rows by key, first-seen order.
fn fold(rows: impl IntoIterator<Item = Row>) -> Vec<Row> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut folded: Vec<Row> = Vec::new();
    for (word, n) in rows {
        if let Some(&place) = places.get(&word) {
            folded[place].1 = join(folded[place].1, n);
        } else {
            places.insert(word.clone(), folded.len());
            folded.push((word, n));
        }
    }
    folded
}

fn model(parts: Vec<Vec<Row>>, step: &Step, parallelism: u32) -> Vec<Vec<Row>> {
    let each = |f: &dyn Fn(Vec<Row>) -> Vec<Row>| parts.iter().cloned().map(f).collect();
    match *step {
        Step::Map(k) => {
            each(&|part| part.into_iter().map(|(word, n)| (word, n.wrapping_mul(k) ^ 1)).collect())
        }
        Step::Filter(k) => each(&|part| part.into_iter().filter(|row| row.1 % k != 0).collect()),
        Step::FlatMap(k) => each(&|part| part.into_iter().flat_map(|row| copies(row, k)).collect()),
        Step::Ordinals => parts
            .iter()
            .zip(1i64..)
            .map(|(part, first)| {
                part.iter().zip(first..).map(|((word, n), o)| (word.clone(), n ^ o)).collect()
            })
            .collect(),
        Step::MapValues(k) => {
            each(&|part| part.into_iter().map(|(word, n)| (word, n.wrapping_add(k))).collect())
        }
        Step::ReduceByKey => {
            let combined: Vec<Vec<Row>> = parts.into_iter().map(fold).collect();
            let place = |word: &str| {
                let high = u128::from(xxh3_64(word.as_bytes()) >> 32);
                (high * u128::from(parallelism)) >> 32
            };
            (0..parallelism)
                .map(|reduce| {
                    let mine =
                        combined.iter().flatten().filter(|row| place(&row.0) == u128::from(reduce));
                    fold(mine.cloned())
                })
                .collect()
        }
        Step::UnionWithItself => [parts.clone(), parts].concat(),
        Step::Persist => parts,
    }
}

fn cut(rows: &[Row], partitions: usize) -> Vec<Vec<Row>> {
    let at = |partition: usize| partition * rows.len() / partitions;
    (0..partitions).map(|p| rows[at(p)..at(p + 1)].to_vec()).collect()
}

/// Every operator that holds something: found by what the log of the run says was computed.
fn holders(run: &sawmill::RunContext) -> Vec<(OperatorId, u32)> {
    run.tasks().iter().map(|task| (task.operator, task.partition)).collect()
}

#[test]
fn random_pipelines_equal_the_model_for_any_threads_and_losses() {
    const PARALLELISM: u32 = 5;
    let executors: Vec<Executor> =
        [1, 2, 3, 8].map(|threads| Executor::new(threads, PARALLELISM).unwrap()).into();
    let rows = prop::collection::vec(("[a-c]{0,3}|[a-b]{9}", any::<i64>()), 0..120);
    let steps = prop::collection::vec(step(), 0..7);
    let losses = prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    proptest!(ProptestConfig::with_cases(96), |(
        rows in rows, partitions in 1usize..7, steps in steps, losses in losses,
    )| {
        let unions = steps.iter().filter(|step| matches!(step, Step::UnionWithItself)).count();
        prop_assume!(unions <= 3);
        let mut expected = cut(&rows, partitions);
        let mut dataset = Dataset::from_vec(rows, u32::try_from(partitions).unwrap());
        for step in &steps {
            expected = model(expected, step, PARALLELISM);
            dataset = apply(&dataset, step);
        }
        for executor in &executors {
            let run = executor.context();
            let all = || executor.for_each_partition(&run, &dataset, |rows| {
                let mut part = Vec::new();
                rows.for_each(|row| part.push(row))?;
                Ok(part)
            }).unwrap();
            prop_assert_eq!(&all(), &expected);
            let holders = holders(&run);
            for loss in &losses {
                let (operator, partition) = *loss.get(&holders);
                run.drop_partition(operator, Lost::Partition(partition));
                run.drop_partition(operator, Lost::Bucket { map: partition, reduce: 3 });
                prop_assert_eq!(&all(), &expected);
            }
            let count: usize = expected.iter().map(Vec::len).sum();
            prop_assert_eq!(executor.count(&run, &dataset).unwrap(), count as u64);
        }
    });
}

#[test]
fn floats_fold_to_the_same_bits_for_any_threads() {
    let numbers: Vec<(u64, f64)> =
        (1..5_000u32).map(|n| (u64::from(n % 7), 1.0 / f64::from(n))).collect();
    let pairs = Dataset::from_vec(numbers, 13);
    let numbers = pairs.map(|(_, n)| n);
    let by_key = pairs.map_to_pair(|pair| pair).reduce_by_key(|a, b| a + b);
    let mut seen = Vec::new();
    for threads in [1, 2, 3, 8] {
        let executor = Executor::new(threads, 4).unwrap();
        let run = executor.context();
        let sum = executor.reduce(&run, &numbers, |a, b| a + b).unwrap().unwrap();
        let folded =
            executor.fold(&run, &numbers, || 0.0, |sum, n| *sum += n, |a, b| a + b).unwrap();
        let sums = executor.collect(&run, &by_key).unwrap();
        let bits: Vec<_> = sums.into_iter().map(|(key, sum)| (key, sum.to_bits())).collect();
        seen.push((sum.to_bits(), folded.to_bits(), bits));
    }
    assert!(seen.iter().all(|result| *result == seen[0]), "{seen:?}");
}

#[test]
fn nothing_in_gives_nothing_out() {
    let executor = Executor::new(2, 3).unwrap();
    let none = Dataset::from_vec(Vec::<String>::new(), 4);
    let counts = none.map_to_pair(|word| (word, 1u64)).reduce_by_key(|a, b| a + b);
    assert_eq!(counts.collect(&executor).unwrap(), []);
    assert_eq!(executor.reduce(&executor.context(), &none, |a, _| a).unwrap(), None);
}
