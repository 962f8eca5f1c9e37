//! What the random pipelines of `exec_model` do not show: which tasks a loss costs, input that is
//! missing or skewed, closures that refuse, and how even the ranges of a sort are.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sawmill::{
    Dataset, Error, ErrorKind, Executor, Key, Kv, Lost, Malformed, OperatorId, RunContext,
    TaskKind, TaskOutcome,
};

const MAPS: u32 = 5;
const REDUCES: u32 = 4;

type Pairs = Dataset<Kv<u64, u64>>;

fn executor() -> Executor {
    Executor::new(3, REDUCES).unwrap()
}

/// `rows` rows with `keys` keys, in 5 partitions.
fn pairs(rows: u64, keys: u64) -> Pairs {
    Dataset::from_vec((0..rows).collect(), MAPS).map_to_pair(move |n| (n % keys, n))
}

/// The tasks that succeeded since the log had `seen` records, without those of actions.
fn computed(run: &RunContext, seen: usize) -> Vec<(String, TaskKind, u32)> {
    let records = run.tasks().into_iter().skip(seen);
    let records = records.filter(|record| record.outcome == TaskOutcome::Done);
    let records = records.filter(|record| record.kind != TaskKind::Action);
    records.map(|record| (record.name, record.kind, record.partition)).collect()
}

/// The operators that computed something, by name, each once.
fn operators(run: &RunContext, name: &str) -> Vec<OperatorId> {
    let records = run.tasks().into_iter().filter(|record| record.name == name);
    let mut found: Vec<OperatorId> = records.map(|record| record.operator).collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn a_lost_cogroup_partition_takes_what_is_held() {
    let (executor, left) = (executor(), pairs(100, 7));
    let both = left.cogroup(&pairs(60, 9));
    let run = executor.context();
    let first = executor.collect(&run, &both).unwrap();
    assert_eq!(computed(&run, 0).len(), (2 * MAPS + REDUCES) as usize);

    // The partition alone: one task.
    let seen = run.tasks().len();
    assert_eq!(run.drop_partition(both.operator(), Lost::Partition(2)), 1);
    assert_eq!(executor.collect(&run, &both).unwrap(), first);
    assert_eq!(computed(&run, seen), [("cogroup".to_owned(), TaskKind::Hold, 2)]);

    // With one bucket of the left side, and one of the right that nobody asks for.
    let seen = run.tasks().len();
    let [left, right] = operators(&run, "key_shuffle")[..] else { panic!("two shuffles") };
    run.drop_partition(both.operator(), Lost::Partition(2));
    assert_eq!(run.drop_partition(left, Lost::Bucket { map: 4, reduce: 2 }), 1);
    assert_eq!(run.drop_partition(right, Lost::Bucket { map: 1, reduce: 3 }), 1);
    assert_eq!(executor.collect(&run, &both).unwrap(), first);
    let expected =
        [("key_shuffle".to_owned(), TaskKind::Map, 4), ("cogroup".to_owned(), TaskKind::Hold, 2)];
    assert_eq!(computed(&run, seen), expected);
}

#[test]
fn a_join_reads_in_place_what_is_distributed_by_key() {
    let executor = executor();
    let sums = pairs(100, 7).reduce_by_key(|a, b| a + b);
    let joined = sums.join(&pairs(60, 9).group_by_key()).map_values(|(sum, all)| (sum, all.len()));
    let again = joined.left_outer_join(&sums);
    let run = executor.context();
    let rows = executor.collect(&run, &again).unwrap();
    assert_eq!(rows.len(), 7);
    // Two shuffles, two tables: neither join adds a task.
    assert_eq!(computed(&run, 0).len(), 2 * (MAPS + REDUCES) as usize);

    let seen = run.tasks().len();
    assert_eq!(run.drop_partition(sums.operator(), Lost::Partition(1)), 1);
    assert_eq!(executor.collect(&run, &again).unwrap(), rows);
    assert_eq!(computed(&run, seen), [("reduce_by_key".to_owned(), TaskKind::Hold, 1)]);
}

#[test]
fn a_lost_bucket_of_a_join_costs_one_map_task() {
    let executor = executor();
    let joined = pairs(100, 7).join(&pairs(60, 9));
    let run = executor.context();
    let first = executor.collect(&run, &joined).unwrap();
    let [_, right] = operators(&run, "key_shuffle")[..] else { panic!("two shuffles") };
    for (lost, gone) in [(Lost::Bucket { map: 2, reduce: 0 }, 1), (Lost::Partition(2), REDUCES)] {
        let seen = run.tasks().len();
        assert_eq!(run.drop_partition(right, lost), gone as usize);
        assert_eq!(executor.collect(&run, &joined).unwrap(), first);
        assert_eq!(computed(&run, seen), [("key_shuffle".to_owned(), TaskKind::Map, 2)]);
    }
}

#[test]
fn a_lost_run_of_a_sort_is_sorted_again_and_the_ranges_stay() {
    let executor = executor();
    let sorted = pairs(1000, 37).sort_by_key();
    let run = executor.context();
    let first = executor.collect(&run, &sorted).unwrap();
    let mut expected: Vec<(u64, u64)> = (0..1000).map(|n| (n % 37, n)).collect();
    expected.sort_by_key(|row| row.0);
    assert_eq!(first, expected);
    let [runs] = operators(&run, "sort_by_key.runs")[..] else { panic!("one operator") };
    let [ranges] = operators(&run, "sort_by_key.ranges")[..] else { panic!("one operator") };
    assert_eq!(computed(&run, 0).len(), MAPS as usize + 1);

    for (operator, name, partition) in
        [(runs, "sort_by_key.runs", 3), (ranges, "sort_by_key.ranges", 0)]
    {
        let seen = run.tasks().len();
        assert_eq!(run.drop_partition(operator, Lost::Partition(partition)), 1);
        assert_eq!(executor.collect(&run, &sorted).unwrap(), first);
        assert_eq!(computed(&run, seen), [(name.to_owned(), TaskKind::Hold, partition)]);
    }
}

#[test]
fn ranges_of_a_sort_are_even_and_keep_a_key_together() {
    let executor = executor();
    let sizes = |pairs: &Pairs| {
        let sorted = pairs.sort_by_key();
        executor
            .for_each_partition(&executor.context(), &sorted, |rows| {
                let mut keys = Vec::new();
                rows.for_each(|(key, _)| keys.push(key))?;
                Ok(keys)
            })
            .unwrap()
    };
    // Sources that are themselves sorted, and of which each has keys of its own.
    let parts = sizes(&pairs(100_000, u64::MAX));
    for part in &parts {
        assert!((23_000..27_000).contains(&part.len()), "{} of 100,000 rows", part.len());
    }
    assert!(parts.concat().is_sorted());

    // One key has nearly all rows: it stays in one partition.
    let skewed = pairs(10_000, u64::MAX).map_to_pair(|(key, n)| (key.min(5), n));
    let parts = sizes(&skewed);
    assert_eq!(parts.iter().filter(|part| part.contains(&5)).count(), 1);
    assert!(parts.concat().is_sorted());
}

#[test]
fn nothing_in_gives_nothing_out() {
    let executor = executor();
    let (none, some) = (pairs(0, 1), pairs(10, 3));
    assert_eq!(none.group_by_key().count(&executor).unwrap(), 0);
    assert_eq!(none.count_by_key().count(&executor).unwrap(), 0);
    assert_eq!(none.keys().distinct().count(&executor).unwrap(), 0);
    assert_eq!(none.values().count_by_value().count(&executor).unwrap(), 0);
    assert_eq!(none.sort_by_key().count(&executor).unwrap(), 0);
    assert_eq!(none.values().repartition(7).count(&executor).unwrap(), 0);
    assert_eq!(none.cogroup(&none).count(&executor).unwrap(), 0);
    assert_eq!(none.take(&executor, 3).unwrap(), []);
    assert_eq!(some.take(&executor, 0).unwrap(), []);
    assert_eq!(some.take(&executor, 99).unwrap(), some.collect(&executor).unwrap());
    for (rows, left, right) in [(0, &none, &some), (10, &some, &none)] {
        assert_eq!(left.join(right).count(&executor).unwrap(), 0);
        assert_eq!(left.left_outer_join(right).count(&executor).unwrap(), rows);
        assert_eq!(left.right_outer_join(right).count(&executor).unwrap(), 10 - rows);
        assert_eq!(left.full_outer_join(right).count(&executor).unwrap(), 10);
    }
}

#[test]
fn one_key_with_all_rows_is_no_special_case() {
    let executor = executor();
    let skewed = pairs(1000, 1);
    let few = pairs(3, 1);
    assert_eq!(skewed.group_by_key().collect(&executor).unwrap(), [(0, (0..1000).collect())]);
    assert_eq!(skewed.count_by_key().collect(&executor).unwrap(), [(0, 1000)]);
    let expected: Vec<_> = (0..1000).flat_map(|a| (0..3).map(move |b| (0, (a, b)))).collect();
    assert_eq!(skewed.join(&few).collect(&executor).unwrap(), expected);
    let sorted = skewed.sort_by_key().collect(&executor).unwrap();
    assert_eq!(sorted, skewed.collect(&executor).unwrap());
}

#[test]
fn an_error_names_the_operator_and_keeps_nothing() {
    let executor = executor().with_max_attempts(2);
    let refuse = |n: u64| if n == 17 { Err("17 is refused") } else { Ok(()) };
    let rows = pairs(30, 2);
    let folded = rows.try_aggregate_by_key(
        || 0,
        move |sum, n| refuse(n).map(|()| *sum += n),
        |sum: &mut u64, more| {
            *sum += more;
            Ok::<(), &str>(())
        },
    );
    let merged = rows.try_aggregate_by_key(
        || 0,
        |sum, n| {
            *sum += n;
            Ok::<(), &str>(())
        },
        |_: &mut u64, _| Err("17 is refused"),
    );
    let reduced = rows.try_reduce_by_key(move |a, b| refuse(b).map(|()| a + b));
    for (name, dataset) in [
        ("`try_aggregate_by_key.combine`", folded),
        ("`try_aggregate_by_key`", merged),
        ("`try_reduce_by_key.combine`", reduced),
    ] {
        let run = executor.context();
        let error = executor.collect(&run, &dataset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TaskFailed);
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("17 is refused"), "{name}: {text}");
        assert!(text.contains("attempt 2"), "{text}");
    }

    let same = rows.try_reduce_by_key(|a, b| Ok::<_, String>(a + b)).collect(&executor).unwrap();
    assert_eq!(same, rows.reduce_by_key(|a, b| a + b).collect(&executor).unwrap());
    let init = |all: &mut Vec<u64>, n| all.push(n);
    let lists = rows.aggregate_by_key(Vec::new, init, |all, more: Vec<u64>| all.extend(more));
    assert_eq!(lists.collect(&executor).unwrap(), rows.group_by_key().collect(&executor).unwrap());
}

#[test]
fn a_panic_in_a_comparison_is_laid_to_the_sort() {
    use serde::{Deserialize, Serialize};

    #[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Touchy(u64);

    impl PartialOrd for Touchy {
        fn partial_cmp(&self, other: &Touchy) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Touchy {
        fn cmp(&self, other: &Touchy) -> std::cmp::Ordering {
            assert!(self.0 != 3 && other.0 != 3, "three is not compared");
            self.0.cmp(&other.0)
        }
    }

    let touchy = Dataset::from_fn(1, |_| (0..5).map(Touchy)).key_by(Clone::clone).map_values(|_| 0);
    let error = touchy.sort_by_key().count(&executor().with_max_attempts(1)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("`sort_by_key.runs`") && text.contains("three is not compared"),
        "{text}"
    );
}

#[test]
fn what_explain_says_of_a_sort_and_a_repartition() {
    let run = RunContext::new(REDUCES);
    let rows = pairs(10, 3).sort_by_key().values().repartition(2);
    assert_eq!(
        rows.to_debug_string(&run).unwrap(),
        "1 from_vec: 5 partitions\n\
         2 map_to_pair <- 1: 5 partitions\n\
         3 sort_by_key.runs <- 2: 5 partitions, held\n\
         4 sort_by_key.ranges <= 3: 1 partitions, held\n\
         5 sort_by_key <= 3 <= 4: 4 partitions\n\
         6 values <- 5: 4 partitions\n\
         7 repartition.deal <- 6: 4 partitions, cut into 2 buckets each\n\
         8 repartition <= 7: 2 partitions\n"
    );
}

/// Neither `Serialize` nor `Deserialize`: what can be done with it needs no codec.
#[derive(Clone, Debug, PartialEq)]
struct Bare(u64);

/// Codecs are asked for where rows may leave memory, and nowhere else: this compiles.
#[test]
fn rows_that_stay_in_memory_need_no_codec() {
    let executor = executor();
    let rows = Dataset::from_vec(vec![1u64, 2, 3, 4], 2).map(Bare);
    let more = rows.filter(|row| row.0 != 2).flat_map(|row| [row.clone(), row]);
    let both = more.union(&rows).map_partitions::<Bare>(|rows, out| rows.for_each(|r| out.push(r)));
    let pairs = both.key_by(|row| row.0 % 2).map_values(|row| Bare(row.0 * 10));
    assert_eq!(pairs.values().count(&executor).unwrap(), 10);
    assert_eq!(pairs.keys().take(&executor, 2).unwrap(), [1, 1]);
    assert_eq!(both.reduce(&executor, |a, b| Bare(a.0 + b.0)).unwrap(), Some(Bare(26)));
    // Values that are folded or counted need none either; what they are folded into does.
    let mut counts = pairs.count_by_key().collect(&executor).unwrap();
    counts.sort_unstable();
    assert_eq!(counts, [(0, 4), (1, 6)]);
    let sums = pairs.aggregate_by_key(|| 0u64, |sum, row| *sum += row.0, |sum, more| *sum += more);
    let mut sums = sums.collect(&executor).unwrap();
    sums.sort_unstable();
    assert_eq!(sums, [(0, 140), (1, 120)]);
}

/// A union used to overflow its counter, `explain` to index beyond the end, and `repartition` to
/// ask for all memory: now there is an error that says what is wrong.
#[test]
fn partitions_that_cannot_be_are_refused() {
    let executor = executor();
    let many = Dataset::from_fn(u32::MAX, |_| [1u64]);
    let few = Dataset::from_vec(vec![1u64], 2);
    for rows in [many.clone(), many.union(&many), few.repartition(u32::MAX)] {
        let error = rows.count(&executor).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("4294967295 partitions"), "{error}");
    }
    let wide = few.key_by(|n| *n).count_by_key();
    let error = executor.count(&RunContext::new(u32::MAX), &wide).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = few.explain(&executor.context(), 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("no partition 2 of 2"), "{error}");
}

/// An error of the closure's own names the operator, as a `try_` twin does.
#[test]
fn map_partitions_is_its_own_try_twin() {
    let rows = Dataset::from_vec(vec![1u64, 2, 3], 3).map_partitions::<u64>(|rows, _| {
        let refused = format!("partition {} has no header", rows.partition());
        if rows.partition() == 1 { Err(Error::new(ErrorKind::TaskFailed, refused)) } else { Ok(()) }
    });
    let error = rows.map(|n| n).collect(&executor()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TaskFailed);
    let text = error.to_string();
    assert!(
        text.contains("`map_partitions`") && text.contains("partition 1 has no header"),
        "{text}"
    );
}

/// A key of one's own: whatever says what its canonical bytes are.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Place {
    country: u16,
    town: String,
}

impl Key for Place {
    fn bytes<'s>(view: &'s Place, scratch: &'s mut Vec<u8>) -> &'s [u8] {
        scratch.clear();
        scratch.extend_from_slice(&view.country.to_le_bytes());
        scratch.extend_from_slice(view.town.as_bytes());
        scratch
    }

    fn view(bytes: &[u8]) -> Result<Place, Malformed> {
        let (country, town) = bytes.split_first_chunk().ok_or(Malformed)?;
        let town = String::from_utf8(town.to_vec()).map_err(|_| Malformed)?;
        Ok(Place { country: u16::from_le_bytes(*country), town })
    }
}

#[test]
fn a_key_of_ones_own_is_its_canonical_bytes() {
    let place = |country, town: &str| Place { country, town: town.to_owned() };
    let rows = vec![place(1, "elm"), place(2, "elm"), place(1, "oak"), place(1, "elm")];
    let counts = Dataset::from_vec(rows, 2).count_by_value();
    let counts = executor().collect(&RunContext::new(1), &counts).unwrap();
    assert_eq!(counts, [(place(1, "elm"), 2), (place(2, "elm"), 1), (place(1, "oak"), 1)]);
}
