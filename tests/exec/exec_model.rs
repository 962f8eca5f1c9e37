//! Random pipelines against a sequential model: the same rows, in the same partitions, in the same
//! order, for any number of threads and whatever is lost in between.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sawmill::{Dataset, Executor, Lost, OperatorId};
use xxhash_rust::xxh3::xxh3_64;

type Row = (String, i64);
/// A key, and what both sides have of it.
type Group = (String, Vec<i64>, Vec<i64>);

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
    AggregateByKey,
    GroupByKey,
    CountByKey,
    CountByValue,
    Distinct,
    Repartition(u32),
    SortByKey,
    Cogroup(Side),
    Join(Kind, Side),
}

/// What a pipeline is joined with: some of its own rows, ...
#[derive(Clone, Copy, Debug)]
enum Side {
    /// ... which go through a shuffle.
    Wide,
    /// ... folded by key, so that they are read in place.
    Narrow,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Inner,
    Left,
    Right,
    Full,
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Wide), Just(Side::Narrow)]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Inner), Just(Kind::Left), Just(Kind::Right), Just(Kind::Full)]
}

impl Step {
    /// Whether rows may become many more.
    fn multiplies(&self) -> bool {
        matches!(self, Step::UnionWithItself | Step::Join(..))
    }
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
        Just(Step::AggregateByKey),
        Just(Step::GroupByKey),
        Just(Step::CountByKey),
        Just(Step::CountByValue),
        Just(Step::Distinct),
        (1..7u32).prop_map(Step::Repartition),
        Just(Step::SortByKey),
        side().prop_map(Step::Cogroup),
        (kind(), side()).prop_map(|(kind, side)| Step::Join(kind, side)),
    ]
}

/// Neither commutative nor associative: it shows the order and the shape of the fold.
fn join(a: i64, b: i64) -> i64 {
    a.wrapping_mul(31).wrapping_sub(b ^ 5)
}

fn copies((word, n): Row, k: i64) -> Vec<Row> {
    (0..n.rem_euclid(k)).map(|i| (word.clone(), n.wrapping_add(i))).collect()
}

/// Shows which values there are, and in which order.
fn trace(values: &[i64]) -> i64 {
    values.iter().fold(7, |all, value| join(all, *value))
}

fn mix(a: Option<i64>, b: Option<i64>) -> i64 {
    join(a.map_or(1, |a| a ^ 2), b.map_or(3, |b| b ^ 4))
}

fn is_on_the_other_side(n: i64) -> bool {
    n.rem_euclid(3) != 1
}

fn apply(rows: &Dataset<Row>, step: &Step) -> Dataset<Row> {
    let pairs = rows.map_to_pair(|row| row);
    let other = |side| {
        let some = pairs.filter(|(_, n)| is_on_the_other_side(*n));
        match side {
            Side::Wide => some,
            Side::Narrow => some.reduce_by_key(join).map_values(|n| n ^ 1),
        }
    };
    match *step {
        Step::AggregateByKey => {
            let fold = |all: &mut i64, n| *all = join(*all, n);
            pairs.aggregate_by_key(|| 7, fold, |all, n| *all = join(*all, n ^ 9)).map(|row| row)
        }
        Step::GroupByKey => pairs.group_by_key().map(|(word, all)| (word, trace(&all))),
        Step::CountByKey => pairs.count_by_key().map(|(word, n)| (word, n.cast_signed())),
        Step::CountByValue => {
            rows.count_by_value().map(|((word, n), count)| (word, join(n, count.cast_signed())))
        }
        Step::Distinct => rows.distinct(),
        Step::Repartition(partitions) => rows.repartition(partitions),
        // The model does not know the ranges: in one partition they do not show.
        Step::SortByKey => pairs.sort_by_key().map(|row| row).repartition(1),
        Step::Cogroup(side) => {
            let both = pairs.cogroup(&other(side));
            both.map(|(word, (left, right))| (word, join(trace(&left), trace(&right))))
        }
        Step::Join(kind, side) => {
            let other = other(side);
            match kind {
                Kind::Inner => {
                    pairs.join(&other).map(|(word, (a, b))| (word, mix(Some(a), Some(b))))
                }
                Kind::Left => {
                    pairs.left_outer_join(&other).map(|(word, (a, b))| (word, mix(Some(a), b)))
                }
                Kind::Right => {
                    pairs.right_outer_join(&other).map(|(word, (a, b))| (word, mix(a, Some(b))))
                }
                Kind::Full => pairs.full_outer_join(&other).map(|(word, (a, b))| (word, mix(a, b))),
            }
        }
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
        Step::Persist => rows.persist(sawmill::StorageLevel::Memory),
    }
}

/// Folds rows by key, first-seen order: `first` makes what a key begins with.
fn fold_with(
    rows: impl IntoIterator<Item = Row>,
    first: impl Fn(i64) -> i64,
    next: impl Fn(i64, i64) -> i64,
) -> Vec<Row> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut folded: Vec<Row> = Vec::new();
    for (word, n) in rows {
        if let Some(&place) = places.get(&word) {
            folded[place].1 = next(folded[place].1, n);
        } else {
            places.insert(word.clone(), folded.len());
            folded.push((word, first(n)));
        }
    }
    folded
}

fn fold(rows: impl IntoIterator<Item = Row>) -> Vec<Row> {
    fold_with(rows, |n| n, join)
}

/// The rows by the hash of their key, in source order.
fn shuffle<T: Clone>(
    parts: &[Vec<T>],
    parallelism: u32,
    key: impl Fn(&T) -> Vec<u8>,
) -> Vec<Vec<T>> {
    let place = |row: &T| {
        let high = u128::from(xxh3_64(&key(row)) >> 32);
        (high * u128::from(parallelism)) >> 32
    };
    let mine = |reduce| parts.iter().flatten().filter(move |row| place(row) == u128::from(reduce));
    (0..parallelism).map(|reduce| mine(reduce).cloned().collect()).collect()
}

fn by_word(parts: &[Vec<Row>], parallelism: u32) -> Vec<Vec<Row>> {
    shuffle(parts, parallelism, |(word, _)| word.clone().into_bytes())
}

/// The canonical bytes of a whole row as a key.
fn by_row(parts: &[Vec<Row>], parallelism: u32) -> Vec<Vec<Row>> {
    shuffle(parts, parallelism, |(word, n)| {
        let len = (word.len() as u64).to_le_bytes();
        [&len[..], word.as_bytes(), &n.to_le_bytes()].concat()
    })
}

/// What both sides have of each key, first-seen order.
fn groups(left: &[Row], right: &[Row]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (rows, is_left) in [(left, true), (right, false)] {
        for (word, n) in rows {
            let at = groups.iter().position(|group| group.0 == *word).unwrap_or_else(|| {
                groups.push((word.clone(), Vec::new(), Vec::new()));
                groups.len() - 1
            });
            if is_left { groups[at].1.push(*n) } else { groups[at].2.push(*n) }
        }
    }
    groups
}

/// Nested loops: the slow and obvious join.
fn joined(left: &[Row], right: &[Row], kind: Kind) -> Vec<Row> {
    if matches!(kind, Kind::Right) {
        return joined_from(right, left, true, |b, a| mix(a, Some(b)));
    }
    let mut rows = joined_from(left, right, !matches!(kind, Kind::Inner), |a, b| mix(Some(a), b));
    if matches!(kind, Kind::Full) {
        let alone = groups(right, &[]).into_iter();
        let alone = alone.filter(|(word, ..)| left.iter().all(|row| row.0 != *word));
        for (word, values, _) in alone {
            rows.extend(values.iter().map(|b| (word.clone(), mix(None, Some(*b)))));
        }
    }
    rows
}

fn joined_from(
    from: &[Row],
    with: &[Row],
    keeps: bool,
    mix: impl Fn(i64, Option<i64>) -> i64,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for (word, a) in from {
        let before = rows.len();
        let matches = with.iter().filter(|row| row.0 == *word);
        rows.extend(matches.map(|(_, b)| (word.clone(), mix(*a, Some(*b)))));
        if keeps && rows.len() == before {
            rows.push((word.clone(), mix(*a, None)));
        }
    }
    rows
}

/// What [`apply`] calls the other side, by the hash of its keys.
fn other_side(parts: &[Vec<Row>], side: Side, parallelism: u32) -> Vec<Vec<Row>> {
    let some = |part: &Vec<Row>| {
        part.iter().filter(|row| is_on_the_other_side(row.1)).cloned().collect::<Vec<_>>()
    };
    let some: Vec<Vec<Row>> = parts.iter().map(some).collect();
    match side {
        Side::Wide => by_word(&some, parallelism),
        Side::Narrow => {
            let mut folded = model(some, &Step::ReduceByKey, parallelism);
            folded.iter_mut().flatten().for_each(|row| row.1 ^= 1);
            folded
        }
    }
}

fn model(parts: Vec<Vec<Row>>, step: &Step, parallelism: u32) -> Vec<Vec<Row>> {
    let each = |f: &dyn Fn(Vec<Row>) -> Vec<Row>| parts.iter().cloned().map(f).collect();
    // Folds within source partitions, then over them.
    let twice = |first: &dyn Fn(&Vec<Row>) -> Vec<Row>, then: &dyn Fn(Vec<Row>) -> Vec<Row>| {
        let combined: Vec<Vec<Row>> = parts.iter().map(first).collect();
        by_word(&combined, parallelism).into_iter().map(then).collect()
    };
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
        Step::ReduceByKey => twice(&|part| fold(part.clone()), &fold),
        Step::AggregateByKey => {
            twice(&|part| fold_with(part.clone(), |n| join(7, n), join), &|part| {
                fold_with(part, |n| n, |all, n| join(all, n ^ 9))
            })
        }
        Step::CountByKey => twice(&|part| fold_with(part.clone(), |_| 1, |n, _| n + 1), &|part| {
            fold_with(part, |n| n, |a, b| a + b)
        }),
        Step::UnionWithItself => [parts.clone(), parts].concat(),
        Step::Persist => parts,
        Step::GroupByKey
        | Step::CountByValue
        | Step::Distinct
        | Step::Repartition(_)
        | Step::SortByKey
        | Step::Cogroup(_)
        | Step::Join(..) => model_of_wide(&parts, step, parallelism),
    }
}

fn model_of_wide(parts: &[Vec<Row>], step: &Step, parallelism: u32) -> Vec<Vec<Row>> {
    type Sides<'f> = &'f dyn Fn(&[Row], &[Row]) -> Vec<Row>;
    let both = |side, f: Sides<'_>| {
        let (left, right) = (by_word(parts, parallelism), other_side(parts, side, parallelism));
        left.iter().zip(&right).map(|(left, right)| f(left, right)).collect()
    };
    match *step {
        Step::GroupByKey => {
            let trace = |part: Vec<Row>| {
                groups(&part, &[]).into_iter().map(|(word, all, _)| (word, trace(&all))).collect()
            };
            by_word(parts, parallelism).into_iter().map(trace).collect()
        }
        Step::CountByValue | Step::Distinct => {
            let count = |part: Vec<Row>| {
                let mut counts: Vec<(Row, i64)> = Vec::new();
                for row in part {
                    match counts.iter_mut().find(|count| count.0 == row) {
                        Some(count) => count.1 += 1,
                        None => counts.push((row, 1)),
                    }
                }
                let counts = counts.into_iter();
                if matches!(step, Step::Distinct) {
                    counts.map(|(row, _)| row).collect()
                } else {
                    counts.map(|((word, n), count)| (word, join(n, count))).collect()
                }
            };
            by_row(parts, parallelism).into_iter().map(count).collect()
        }
        Step::Repartition(partitions) => {
            let mut dealt = vec![Vec::new(); partitions as usize];
            for (source, part) in parts.iter().enumerate() {
                for (at, row) in part.iter().enumerate() {
                    dealt[(source + at) % partitions as usize].push(row.clone());
                }
            }
            dealt
        }
        Step::SortByKey => {
            let mut rows = parts.concat();
            rows.sort_by(|a, b| a.0.cmp(&b.0));
            vec![rows]
        }
        Step::Cogroup(side) => both(side, &|left, right| {
            let groups = groups(left, right).into_iter();
            groups.map(|(word, a, b)| (word, join(trace(&a), trace(&b)))).collect()
        }),
        Step::Join(kind, side) => both(side, &|left, right| joined(left, right, kind)),
        Step::Map(_)
        | Step::Filter(_)
        | Step::FlatMap(_)
        | Step::Ordinals
        | Step::MapValues(_)
        | Step::ReduceByKey
        | Step::AggregateByKey
        | Step::CountByKey
        | Step::UnionWithItself
        | Step::Persist => unreachable!("in `model`"),
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
    let steps = prop::collection::vec(step(), 0..8);
    let losses = prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    proptest!(ProptestConfig::with_cases(160), |(
        rows in rows, partitions in 1usize..7, steps in steps, losses in losses,
        memory in prop::option::of(0usize..4000),
    )| {
        let mut expected = cut(&rows, partitions);
        let mut dataset = Dataset::from_vec(rows, u32::try_from(partitions).unwrap());
        for step in &steps {
            if step.multiplies() && expected.iter().map(Vec::len).sum::<usize>() > 300 {
                continue;
            }
            expected = model(expected, step, PARALLELISM);
            dataset = apply(&dataset, step);
        }
        for executor in &executors {
            let run = executor.context();
            let run = match memory {
                Some(bytes) => run.with_memory(bytes),
                None => run,
            };
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
