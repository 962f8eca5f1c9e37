//! Whether a source partition is folded before the shuffle follows from its rows alone, and the
//! folds have the tree that `docs/execution.md` names: to the last bit of a float.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use sawmill::{Dataset, Executor, Kv, Lost, RunContext};

/// As documented: rows that are always folded, and looked at.
const SAMPLED: usize = 8_192;
const ROWS: usize = 30_000;
const REDUCES: u32 = 4;

type Pair = (u64, f64);

/// Few keys; keys of which none comes twice; few keys behind as many as the sample takes; many keys
/// behind a sample of which half has few.
fn partitions() -> Vec<Vec<Pair>> {
    let keys: [fn(usize) -> usize; 4] = [
        |row| row % 700,
        |row| row + 1_000,
        |row| if row < SAMPLED { row } else { row % 900 },
        |row| if row < SAMPLED / 2 { row % 60 } else { row },
    ];
    let rows = |key: fn(usize) -> usize| {
        (0..ROWS).map(|row| (key(row) as u64, 1.0 / (1.0 + (row * 7 % ROWS) as f64))).collect()
    };
    keys.map(rows).into()
}

fn sums() -> Dataset<Kv<u64, f64>> {
    let parts = partitions();
    let pairs = Dataset::from_fn(4, move |partition| parts[partition as usize].clone());
    pairs.map_to_pair(|pair| pair).reduce_by_key(|a, b| a + b)
}

/// The documented folds, one after the other: which partitions fold all of their rows is known.
fn expected() -> BTreeMap<u64, u64> {
    let mut all: BTreeMap<u64, f64> = BTreeMap::new();
    for (rows, folds_all) in partitions().into_iter().zip([true, false, false, true]) {
        let (first, rest) = rows.split_at(if folds_all { ROWS } else { SAMPLED });
        let (mut order, mut folded) = (Vec::new(), BTreeMap::new());
        for (key, value) in first {
            folded.entry(*key).and_modify(|sum| *sum += value).or_insert_with(|| {
                order.push(*key);
                *value
            });
        }
        let folded = order.iter().map(|key| (*key, folded[key]));
        for (key, value) in folded.chain(rest.iter().copied()) {
            all.entry(key).and_modify(|sum| *sum += value).or_insert(value);
        }
    }
    all.into_iter().map(|(key, sum)| (key, sum.to_bits())).collect()
}

fn bits(executor: &Executor, run: &RunContext, sums: &Dataset<Kv<u64, f64>>) -> Vec<(u64, u64)> {
    let rows = executor.collect(run, sums).unwrap();
    rows.into_iter().map(|(key, sum)| (key, sum.to_bits())).collect()
}

#[test]
fn folds_have_one_tree_whatever_is_lost_and_computed_again() {
    let (sums, expected) = (sums(), expected());
    let mut first = None;
    for threads in [1, 2, 3, 8] {
        let executor = Executor::new(threads, REDUCES).unwrap();
        let run = executor.context();
        // The same dataset each time: tables are sized from the run before.
        let seen = bits(&executor, &run, &sums);
        assert!(seen.iter().copied().collect::<BTreeMap<_, _>>() == expected, "{threads} threads");
        let first = first.get_or_insert_with(|| seen.clone());
        assert!(seen == *first, "another order with {threads} threads");
        let shuffle = sums.shuffle().unwrap();
        for reduce in 0..REDUCES {
            // One bucket is computed again, without the others of its source partition.
            assert_eq!(run.drop_partition(sums.operator(), Lost::Partition(reduce)), 1);
            assert_eq!(run.drop_partition(shuffle, Lost::Bucket { map: reduce, reduce }), 1);
            assert!(bits(&executor, &run, &sums) == *first, "bucket {reduce} of {reduce} was lost");
        }
    }
}

/// The test before this one fails if a bucket that is computed again looks at its own rows only.
#[cfg(feature = "planted")]
#[test]
fn a_sample_of_the_wanted_buckets_is_noticed() {
    let mut test = std::process::Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "combining::folds_have_one_tree_whatever_is_lost_and_computed_again"]);
    let output = test.env("SAWMILL_PLANTED", "sample-of-wanted").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && text.contains("was lost"), "{text}");
}

#[test]
fn explain_says_what_was_not_folded() {
    let (executor, sums) = (Executor::new(2, REDUCES).unwrap(), sums());
    let run = executor.context();
    executor.count(&run, &sums).unwrap();
    run.drop_partition(sums.operator(), Lost::Partition(1));
    let explained = sums.explain(&run, 1).unwrap();
    let said: Vec<_> = explained.lines().filter(|line| line.contains("not folded")).collect();
    let line = |partition| {
        format!("    {partition}: rows behind the first {SAMPLED} not folded: too many keys")
    };
    assert_eq!(said, [line(1), line(2)], "{explained}");
}

/// Counting and picking come to the same either way.
#[test]
fn counts_do_not_depend_on_folding() {
    let parts = partitions();
    let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
    parts.iter().flatten().for_each(|(key, _)| *expected.entry(*key).or_insert(0) += 1);
    let pairs = Dataset::from_fn(4, move |partition| parts[partition as usize].clone());
    let pairs = pairs.map_to_pair(|pair| pair);
    let executor = Executor::new(3, REDUCES).unwrap();
    let counts = pairs.count_by_key().collect(&executor).unwrap();
    assert!(counts.into_iter().collect::<BTreeMap<_, _>>() == expected);
    let lists =
        pairs.aggregate_by_key(Vec::new, |all, n| all.push(n), |all, more| all.extend(more));
    let lists = lists.map(|(key, all)| (key, all.len() as u64)).collect(&executor).unwrap();
    assert!(lists.into_iter().collect::<BTreeMap<_, _>>() == expected);
    let keys = pairs.keys().distinct().count(&executor).unwrap();
    assert_eq!(keys, expected.len() as u64);
}
