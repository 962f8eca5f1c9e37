//! What is lost is computed again: exactly that, and the ancestors it needs. The expected numbers
//! of tasks stand here.

use sawmill::{
    Bytes, Dataset, ErrorKind, Executor, Kv, Lost, OperatorId, RunContext, StorageLevel, TaskKind,
    TaskOutcome,
};

const MAPS: u32 = 5;
const REDUCES: u32 = 4;
/// Tasks of one run in which nothing fails: map, reduce, action.
const ALL: usize = 5 + 4 + 4;
/// Those whose result is held.
const HELD: usize = 5 + 4;

fn lines() -> Vec<String> {
    (0..200).map(|line| format!("w{} w{} w{}", line % 7, line % 31, line % 97)).collect()
}

fn counts() -> Dataset<Kv<Bytes, u64>> {
    Dataset::from_vec(lines(), MAPS)
        .flat_map_rows::<Bytes>(|line, out| {
            line.split(' ').for_each(|word| out.push(word.as_bytes()));
        })
        .pair_with(|_| 1u64)
        .reduce_by_key(|a, b| a + b)
}

/// The tasks that succeeded since the log had `seen` records: (operator, kind, partition).
fn done(run: &RunContext, seen: usize) -> Vec<(OperatorId, TaskKind, u32)> {
    let records = run.tasks().into_iter().skip(seen);
    let records = records.filter(|record| record.outcome == TaskOutcome::Done);
    records.map(|record| (record.operator, record.kind, record.partition)).collect()
}

fn actions(operator: OperatorId) -> Vec<(OperatorId, TaskKind, u32)> {
    (0..REDUCES).map(|partition| (operator, TaskKind::Action, partition)).collect()
}

#[test]
fn a_second_action_computes_nothing_that_is_held() {
    let (executor, counts) = (Executor::new(2, REDUCES).unwrap(), counts());
    let run = executor.context();
    let first = executor.collect(&run, &counts).unwrap();
    let map = counts.shuffle().unwrap();
    let mut expected: Vec<_> = (0..MAPS).map(|map_task| (map, TaskKind::Map, map_task)).collect();
    expected.extend((0..REDUCES).map(|part| (counts.operator(), TaskKind::Hold, part)));
    expected.extend(actions(counts.operator()));
    assert_eq!(done(&run, 0), expected);

    let seen = run.tasks().len();
    assert_eq!(executor.collect(&run, &counts).unwrap(), first);
    assert_eq!(done(&run, seen), actions(counts.operator()));
}

#[test]
fn a_lost_reduce_partition_reuses_the_buckets_that_are_held() {
    let (executor, counts) = (Executor::new(3, REDUCES).unwrap(), counts());
    let run = executor.context();
    let first = executor.collect(&run, &counts).unwrap();

    // The reduce partition alone: one task, from held buckets.
    let seen = run.tasks().len();
    assert_eq!(run.drop_partition(counts.operator(), Lost::Partition(2)), 1);
    assert_eq!(executor.collect(&run, &counts).unwrap(), first);
    let mut expected = vec![(counts.operator(), TaskKind::Hold, 2)];
    expected.extend(actions(counts.operator()));
    assert_eq!(done(&run, seen), expected);

    // With one of its buckets: that map task too. The bucket of another reduce partition that was
    // lost at the same time is not needed, and not computed.
    let (seen, map) = (run.tasks().len(), counts.shuffle().unwrap());
    assert_eq!(run.drop_partition(counts.operator(), Lost::Partition(2)), 1);
    assert_eq!(run.drop_partition(map, Lost::Bucket { map: 3, reduce: 2 }), 1);
    assert_eq!(run.drop_partition(map, Lost::Bucket { map: 1, reduce: 0 }), 1);
    assert_eq!(executor.collect(&run, &counts).unwrap(), first);
    let mut expected = vec![(map, TaskKind::Map, 3), (counts.operator(), TaskKind::Hold, 2)];
    expected.extend(actions(counts.operator()));
    assert_eq!(done(&run, seen), expected);
    assert_eq!(run.drop_partition(map, Lost::Bucket { map: 1, reduce: 0 }), 0, "still lost");
    assert_eq!(run.drop_partition(map, Lost::Partition(3)), REDUCES as usize, "held again");
}

#[test]
fn a_loss_in_the_middle_of_a_run_is_made_good() {
    let (executor, counts) = (Executor::new(2, REDUCES).unwrap(), counts());
    let expected = counts.collect(&executor).unwrap();
    let map = counts.shuffle().unwrap();

    // All buckets of map task 1 are lost between the stages: one map task more.
    let run = executor.context();
    run.drills().lose_after(map, map, Lost::Partition(1));
    assert_eq!(executor.collect(&run, &counts).unwrap(), expected);
    let maps = done(&run, 0).into_iter().filter(|(_, kind, _)| *kind == TaskKind::Map);
    assert_eq!(maps.map(|(_, _, part)| part).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 1]);

    // Everything is lost when the reduce side is done: everything is computed once more.
    let run = executor.context();
    run.drills().lose_after(counts.operator(), counts.operator(), Lost::All);
    run.drills().lose_after(counts.operator(), map, Lost::All);
    assert_eq!(executor.collect(&run, &counts).unwrap(), expected);
    assert_eq!(done(&run, 0).len(), HELD + ALL);
}

#[test]
fn a_loss_while_a_task_runs_is_made_good() {
    let executor = Executor::new(2, REDUCES).unwrap();
    let counts = counts();
    let expected = counts.collect(&executor).unwrap();
    let run = executor.context();
    let lost = std::sync::atomic::AtomicBool::new(false);
    let parts = executor.for_each_partition(&run, &counts, |rows| {
        if rows.partition() == 0 && !lost.swap(true, std::sync::atomic::Ordering::SeqCst) {
            run.drop_partition(counts.operator(), Lost::Partition(0));
        }
        let mut part = Vec::new();
        rows.for_each(|(word, count)| part.push((word.to_vec(), count)))?;
        Ok(part)
    });
    assert_eq!(parts.unwrap().concat(), expected);
    let lost = run.tasks().into_iter().filter(|task| task.outcome == TaskOutcome::InputLost);
    assert_eq!(lost.count(), 1);
    let held = done(&run, 0).into_iter().filter(|(_, kind, _)| *kind == TaskKind::Hold);
    assert_eq!(held.count(), 4 + 1);
}

#[test]
fn a_panic_at_the_first_attempt_changes_nothing_but_the_log() {
    let (executor, counts) = (Executor::new(2, REDUCES).unwrap(), counts());
    let expected = counts.collect(&executor).unwrap();
    let run = executor.context();
    run.drills().panic_at(counts.shuffle().unwrap(), TaskKind::Map, 4, 1);
    run.drills().panic_at(counts.operator(), TaskKind::Hold, 0, 2);
    run.drills().panic_at(counts.operator(), TaskKind::Action, 1, 1);
    assert_eq!(executor.collect(&run, &counts).unwrap(), expected);
    assert_eq!(done(&run, 0).len(), ALL);
    let failed = run.tasks().into_iter().filter(|task| task.outcome == TaskOutcome::Failed);
    let failed: Vec<_> = failed.map(|task| (task.kind, task.partition, task.attempt)).collect();
    assert_eq!(
        failed,
        [
            (TaskKind::Map, 4, 1),
            (TaskKind::Hold, 0, 1),
            (TaskKind::Hold, 0, 2),
            (TaskKind::Action, 1, 1),
        ]
    );
}

#[test]
fn a_task_that_always_fails_fails_the_run_and_leaves_nothing() {
    let (executor, counts) = (Executor::new(2, REDUCES).unwrap().with_max_attempts(3), counts());
    let run = executor.context();
    run.drills().panic_at(counts.operator(), TaskKind::Hold, 1, u32::MAX);
    let error = executor.collect(&run, &counts).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TaskFailed);
    let text = error.to_string();
    assert!(text.contains("`reduce_by_key`") && text.contains("partition 1"), "{text}");
    assert!(text.contains("attempt 3") && text.contains("a panic on purpose"), "{text}");
    let attempts = run.tasks().into_iter().filter(|task| task.outcome == TaskOutcome::Failed);
    assert_eq!(attempts.count(), 3);
    assert_eq!(run.drop_partition(counts.operator(), Lost::All), 0, "nothing of the stage is held");
}

#[test]
fn user_code_that_fails_is_named() {
    let executor = Executor::new(2, REDUCES).unwrap().with_max_attempts(2);
    let numbers = Dataset::from_vec((0..40).collect::<Vec<i64>>(), 4);
    let refuse = |n: i64| if n == 17 { Err(format!("{n} is refused")) } else { Ok(n) };

    for (name, dataset) in [
        ("`try_map`", numbers.map(|n| n).try_map(refuse).map(|n| n)),
        ("`try_filter`", numbers.try_filter(move |n| refuse(*n).map(|_| true)).map(|n| n)),
        ("`try_flat_map`", numbers.try_flat_map(move |n| refuse(n).map(|n| [n])).map(|n| n)),
        ("`map`", numbers.filter(|_| true).map(move |n| refuse(n).unwrap()).filter(|_| true)),
        (
            "`filter`",
            numbers.map(|n| n).filter(move |n| refuse(*n).is_ok() || panic!("17 is refused")),
        ),
    ] {
        let run = executor.context();
        let error = executor.collect(&run, &dataset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TaskFailed);
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("17 is refused"), "{name}: {text}");
        assert!(text.contains("partition 1, attempt 2"), "{name}: {text}");
    }

    let twice = numbers.map_to_pair(|n| (n % 3, n)).reduce_by_key(|a, b| match (a, b) {
        (0, 3) => panic!("no three"),
        _ => a + b,
    });
    let text = twice.collect(&executor).unwrap_err().to_string();
    assert!(text.contains("reduce_by_key") && text.contains("no three"), "{text}");
}

#[test]
fn try_operators_pass_on_what_is_good() {
    let executor = Executor::new(2, REDUCES).unwrap();
    let numbers = Dataset::from_vec((0..10).collect::<Vec<u32>>(), 3);
    let good = numbers
        .try_map(u8::try_from)
        .try_filter(|n| Ok::<_, String>(*n != 4))
        .try_flat_map(|n| Ok::<_, String>(vec![n; usize::from(n % 3)]));
    assert_eq!(good.collect(&executor).unwrap(), [1, 2, 2, 5, 5, 7, 8, 8]);
    let pairs = numbers
        .try_key_by(|n| Ok::<_, String>(n % 2))
        .try_map_values(|n| n.checked_mul(10).ok_or("too large"))
        .try_flat_map_rows::<(u32, u32), String>(|row, out| {
            out.push(row);
            Ok(())
        })
        .try_map_to_pair(|(odd, n)| Ok::<_, String>((odd, n)));
    let expected: Vec<_> = (0..10).map(|n| (n % 2, n * 10)).collect();
    assert_eq!(pairs.collect(&executor).unwrap(), expected);
    let bad = pairs.try_pair_with(|(_, n)| if *n == 50 { Err("fifty") } else { Ok(()) });
    let error = bad.collect(&executor).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TaskFailed);
    assert!(error.to_string().contains("`try_pair_with`"), "{error}");
    assert!(error.to_string().contains("fifty"), "{error}");
}

#[test]
fn a_lineage_of_100_000_operators_is_planned_run_and_dropped() {
    let executor = Executor::new(2, REDUCES).unwrap();
    let mut deep = Dataset::from_vec(vec![0u64, 1], 2);
    for step in 1..=100_000u32 {
        deep = deep.map(|n| n + 1);
        if step % 1_000 == 0 {
            deep = deep.persist(StorageLevel::Memory);
        }
    }
    assert_eq!(deep.collect(&executor).unwrap(), [100_000, 100_001]);
    drop(deep);

    // Without `persist` the chain would need a pass of 100,000 nested calls: a typed error. The
    // walk over the lineage, and its drop, need no stack all the same.
    let mut deep = Dataset::from_vec(vec![0u64], 1);
    for _ in 0..100_000 {
        deep = deep.map(|n| n + 1);
    }
    let error = deep.collect(&executor).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("persist"), "{error}");
}

#[test]
fn the_longest_chain_that_may_be_fused_runs() {
    let mut longest = Dataset::from_vec(vec![0u64], 1);
    for _ in 0..1023 {
        longest = longest.map(|n| n + 1);
    }
    let executor = Executor::new(1, REDUCES).unwrap();
    assert_eq!(longest.collect(&executor).unwrap(), [1023]);
    let error = longest.map(|n| n).collect(&executor).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn shared_ancestors_are_held_once_for_all_consumers() {
    let executor = Executor::new(2, REDUCES).unwrap();
    let counts = counts();
    let both = counts.map_values(|n| n * 10).union(&counts.filter(|(_, n)| *n > 5));
    let run = executor.context();
    let rows = executor.collect(&run, &both).unwrap();
    let once = executor.collect(&run, &counts).unwrap();
    let expected: Vec<_> = once
        .iter()
        .map(|(word, n)| (word.clone(), n * 10))
        .chain(once.iter().filter(|(_, n)| *n > 5).cloned())
        .collect();
    assert_eq!(rows, expected);
    let held = done(&run, 0).into_iter().filter(|(_, kind, _)| *kind != TaskKind::Action);
    assert_eq!(held.count(), HELD);
}
