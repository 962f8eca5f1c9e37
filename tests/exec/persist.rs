//! Persisted datasets: what is lost, let go or evicted is computed again, exactly that, and the
//! rows stay the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sawmill::{
    CancelToken, Dataset, ErrorKind, Executor, Lost, RunContext, StorageLevel, TaskKind,
};

const PARTITIONS: u32 = 64;
const ROWS: u64 = 6_400;

/// A persisted dataset, and how many rows its closure was called with.
fn squares() -> (Dataset<u64>, Arc<AtomicU64>) {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let squares = Dataset::from_vec((0..ROWS).collect(), PARTITIONS).map(move |n| {
        counted.fetch_add(1, Ordering::Relaxed);
        n * n
    });
    (squares.persist(StorageLevel::Memory), calls)
}

fn held(run: &RunContext, seen: usize) -> Vec<u32> {
    let tasks = run.tasks().into_iter().skip(seen);
    let tasks = tasks.filter(|task| task.kind == TaskKind::Hold);
    tasks.map(|task| task.partition).collect()
}

#[test]
fn k_of_64_lost_partitions_are_computed_again_and_no_other_row() {
    let executor = Executor::new(3, 4).unwrap();
    let (squares, calls) = squares();
    let run = executor.context();
    let all = executor.collect(&run, &squares).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), ROWS);
    for k in [1, 7, 32, 64] {
        let (seen, before) = (run.tasks().len(), calls.load(Ordering::Relaxed));
        let lost: Vec<u32> = (0..k).map(|number| number * PARTITIONS / k).collect();
        for partition in &lost {
            assert_eq!(run.drop_partition(squares.operator(), Lost::Partition(*partition)), 1);
        }
        let text = squares.explain(&run, lost[0]).unwrap();
        assert!(text.contains("of a vector"), "down to the rows of the source: {text}");
        assert_eq!(executor.collect(&run, &squares).unwrap(), all);
        assert_eq!(held(&run, seen), lost, "exactly the lost ones");
        let again = calls.load(Ordering::Relaxed) - before;
        assert_eq!(again, ROWS / u64::from(PARTITIONS) * u64::from(k));
    }
}

#[test]
fn what_is_let_go_is_computed_again() {
    let executor = Executor::new(2, 4).unwrap();
    let (squares, calls) = squares();
    let run = executor.context();
    let all = executor.collect(&run, &squares).unwrap();
    assert_eq!(squares.unpersist(&run), PARTITIONS as usize);
    assert_eq!(squares.unpersist(&run), 0);
    assert_eq!(executor.collect(&run, &squares).unwrap(), all);
    assert_eq!(calls.load(Ordering::Relaxed), 2 * ROWS);
}

#[test]
fn a_budget_is_kept_and_shows_in_no_result() {
    let (squares, calls) = squares();
    let counts = squares.map_to_pair(|n| (n % 10, n)).reduce_by_key(u64::wrapping_add);
    let expected = counts.collect(&Executor::new(1, 4).unwrap()).unwrap();
    for (threads, budget) in [(1, 0), (1, 4_000), (3, 4_000), (3, usize::MAX)] {
        let executor = Executor::new(threads, 4).unwrap();
        let run = executor.context().with_memory(budget);
        let before = calls.load(Ordering::Relaxed);
        for _ in 0..3 {
            let all = executor.collect(&run, &squares).unwrap();
            assert!(all.iter().copied().eq((0..ROWS).map(|n| n * n)));
            assert_eq!(executor.collect(&run, &counts).unwrap(), expected);
            assert!(run.persisted_bytes() <= budget);
            for partition in [3, 40] {
                run.drop_partition(squares.operator(), Lost::Partition(partition));
            }
        }
        let computed = calls.load(Ordering::Relaxed) - before;
        if budget == usize::MAX {
            // Three actions of their own, of which the second and third miss two partitions.
            assert_eq!((computed, run.evictions()), (ROWS + 2 * 2 * ROWS / 64, 0));
        } else {
            assert!(computed >= 3 * ROWS, "{computed} rows with {budget} bytes");
            assert_eq!(run.evictions() > 0, budget > 0);
        }
    }
}

/// With a budget nothing deep is kept by force unless it has to be.
#[test]
fn a_chain_that_only_persisting_makes_possible_is_held_whatever_the_budget() {
    let executor = Executor::new(1, 2).unwrap();
    let mut deep = Dataset::from_vec(vec![0u64, 1], 2);
    for step in 1..=5_000u32 {
        deep = deep.map(|n| n + 1);
        if step % 500 == 0 {
            deep = deep.persist(StorageLevel::Memory);
        }
    }
    let run = executor.context().with_memory(0);
    assert_eq!(executor.collect(&run, &deep).unwrap(), [5_000, 5_001]);
}

/// A union counted how deep it is by the shallower of its sides as soon as the other one had been
/// persisted: with little memory all of these operators ran in one pass, and the stack overflowed.
#[test]
fn a_union_is_as_deep_as_its_deeper_side() {
    let executor = Executor::new(1, 2).unwrap();
    let shallow = Dataset::from_vec(vec![1u64], 1).map(|n| n);
    let mut deep = Dataset::from_vec(vec![0u64], 1);
    for _ in 0..100 {
        for _ in 0..500 {
            deep = deep.map(|n| n + 1);
        }
        deep = deep.persist(StorageLevel::Memory).union(&shallow);
    }
    let run = executor.context().with_memory(0);
    let rows = executor.collect(&run, &deep).unwrap();
    assert!(rows.into_iter().eq((0..=100).rev().map(|round| round * 500 + u64::from(round < 100))));
    assert!(!held(&run, 0).is_empty(), "what is too deep is held whatever the budget");
}

#[test]
fn a_cancelled_run_ends_and_a_new_one_is_not_affected() {
    let executor = Executor::new(2, 4).unwrap();
    let token = CancelToken::default();
    let (cancel, calls) = (token.clone(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&calls);
    let numbers = Dataset::from_vec((0..ROWS).collect(), PARTITIONS).map(move |n| {
        if counted.fetch_add(1, Ordering::Relaxed) == ROWS / 4 {
            cancel.cancel();
        }
        n
    });
    let run = executor.context().with_cancel(&token);
    let error = executor.count(&run, &numbers).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(error.to_string().contains("cancelled"), "{error}");
    assert!(calls.load(Ordering::Relaxed) < ROWS, "the rest was not computed");
    assert!(token.is_cancelled());
    assert_eq!(executor.count(&executor.context(), &numbers).unwrap(), ROWS);
}
