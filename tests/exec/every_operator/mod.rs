//! Every operator and every action beside a sequential model: random rows (none, few, skewed),
//! partitions, parallelism and budgets; threads 1, 2, 3 and 8; blocks that are lost and tasks that
//! panic at any time. The same bytes. What the table of cases leaves out fails the test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::cast_precision_loss, reason = "any float will do")]

mod actions;
mod faults;
mod model;
mod narrow;
mod wide;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use faults::{Chaos, Faults, Struck};
use model::{Lists, Parts};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sawmill::{Dataset, ErrorKind, Executor, Result, Row, RunContext, StorageLevel};

/// A row of the input.
type Pair = (String, i64);

/// What the cases work on.
struct Sides {
    /// The rows of `left` as they were given, and in how many partitions.
    rows: Vec<Pair>,
    partitions: u32,
    left: Dataset<Pair>,
    right: Dataset<Pair>,
}

enum What {
    /// Of each partition its rows, as text.
    Operator(fn(&Sides) -> Dataset<String>),
    /// Whatever the action gives, as text; on `left`.
    Action(fn(&Executor, &RunContext, &Dataset<Pair>) -> Result<Parts>),
}

type Refuses = fn(&Dataset<Pair>) -> Dataset<String>;

struct Case {
    /// Of the method.
    name: &'static str,
    what: What,
    model: fn(&Lists) -> Parts,
    /// Of a `try_` twin: it with a closure that refuses the word `no`.
    refuses: Option<Refuses>,
}

impl Case {
    fn new(
        name: &'static str,
        operator: fn(&Sides) -> Dataset<String>,
        model: fn(&Lists) -> Parts,
    ) -> Case {
        Case { name, what: What::Operator(operator), model, refuses: None }
    }

    fn refusing(self, refuses: Refuses) -> Case {
        Case { refuses: Some(refuses), ..self }
    }
}

fn cases() -> Vec<Case> {
    narrow::cases().into_iter().chain(wide::cases()).chain(actions::cases()).collect()
}

/// Rows as text: floats show all of their bits.
fn show<R: Row>(rows: &Dataset<R>) -> Dataset<String>
where
    R::Owned: Debug,
{
    rows.map(|view| format!("{:?}", R::own(view)))
}

/// One random configuration.
#[derive(Clone, Debug)]
struct Configuration {
    left: Vec<Pair>,
    right: Vec<Pair>,
    partitions: (u32, u32),
    parallelism: u32,
    /// Whether the sides are persisted, and how much of that may stay.
    persisted: bool,
    memory: Option<usize>,
    faults: Faults,
}

fn configuration() -> impl Strategy<Value = Configuration> {
    // Few keys, one of which has most rows in some of the inputs; often more partitions than rows.
    let row = prop_oneof![
        3 => ("[a-c]{0,3}", -9i64..9),
        1 => ("[a-z]{9}", any::<i64>()),
        3 => ("aa", -99i64..99),
    ];
    let some = prop_oneof![Just(0usize..1), Just(1..9), Just(9..60)];
    let rows = || {
        let row = row.clone();
        some.clone().prop_flat_map(move |some| prop::collection::vec(row.clone(), some))
    };
    (
        rows(),
        rows(),
        (1u32..8, 1u32..4),
        1u32..6,
        any::<bool>(),
        prop::option::of(0usize..1500),
        faults::faults(),
    )
        .prop_map(|(left, right, partitions, parallelism, persisted, memory, faults)| {
            Configuration { left, right, partitions, parallelism, persisted, memory, faults }
        })
}

/// The rows of a side, shaken on the way, and then maybe persisted.
fn side(rows: Dataset<Pair>, chaos: &Arc<Chaos>, persisted: bool) -> Dataset<Pair> {
    let rows = chaos.shake(&rows);
    if persisted { rows.persist(StorageLevel::Memory) } else { rows }
}

fn partition_of(rows: &[Pair], partitions: u32, partition: u32) -> Vec<Pair> {
    let at = |partition: u32| partition as usize * rows.len() / partitions as usize;
    rows[at(partition)..at(partition + 1)].to_vec()
}

fn sides(configuration: &Configuration, is_action: bool, chaos: &Arc<Chaos>) -> Sides {
    let Configuration { left, right, partitions, persisted, .. } = configuration.clone();
    // What actions work on has something to lose.
    let persisted = persisted || is_action;
    let (rows, count) = (left.clone(), partitions.1);
    let made = Dataset::from_fn(count, move |partition| partition_of(&right, count, partition));
    Sides {
        left: side(Dataset::from_vec(left, partitions.0), chaos, persisted),
        right: side(made, chaos, persisted),
        rows,
        partitions: partitions.0,
    }
}

fn lists(configuration: &Configuration) -> Lists {
    let cut = |rows: &[Pair], partitions: u32| {
        (0..partitions).map(|partition| partition_of(rows, partitions, partition)).collect()
    };
    Lists {
        left: cut(&configuration.left, configuration.partitions.0),
        right: cut(&configuration.right, configuration.partitions.1),
        parallelism: configuration.parallelism,
    }
}

/// Of each partition its rows.
fn parts_of(executor: &Executor, run: &RunContext, rows: &Dataset<String>) -> Result<Parts> {
    executor.for_each_partition(run, rows, |rows| {
        let mut part = Vec::new();
        rows.for_each(|row| part.push(row))?;
        Ok(part)
    })
}

/// Undisturbed first, to see what there is to strike; then struck, with each number of threads.
fn check(
    executors: &[Executor],
    case: &Case,
    configuration: &Configuration,
) -> std::result::Result<Struck, TestCaseError> {
    let chaos = Arc::new(Chaos::default());
    let sides = sides(configuration, matches!(case.what, What::Action(_)), &chaos);
    let operator = match case.what {
        What::Operator(build) => Some(chaos.shake(&build(&sides))),
        What::Action(_) => None,
    };
    let act = |executor: &Executor, run: &RunContext| match (&case.what, &operator) {
        (What::Action(act), _) => act(executor, run, &sides.left),
        (What::Operator(_), rows) => parts_of(executor, run, rows.as_ref().unwrap()),
    };
    let expected = (case.model)(&lists(configuration));
    let new_run = || {
        let run = RunContext::new(configuration.parallelism);
        match configuration.memory {
            Some(bytes) => run.with_memory(bytes),
            None => run,
        }
    };
    let run = new_run();
    prop_assert_eq!(&act(&executors[1], &run).unwrap(), &expected, "{}, undisturbed", case.name);
    let targets = faults::targets(&run);
    let mut struck = Struck::default();
    for executor in executors {
        let (run, threads) = (new_run(), executor.threads());
        configuration.faults.order(&run, &targets);
        chaos.arm(&configuration.faults, &targets);
        for round in ["", ", again"] {
            let found = act(executor, &run);
            prop_assert!(found.is_ok(), "{}, {threads} threads{round}: {found:?}", case.name);
            prop_assert_eq!(&found.unwrap(), &expected, "{}, {}{}", case.name, threads, round);
            struck.lost += configuration.faults.lose(&run, &targets);
        }
        chaos.disarm(&mut struck);
        struck.count(&run);
    }
    Ok(struck)
}

#[test]
fn every_operator_equals_its_model_whatever_is_struck() {
    let executors = [1, 2, 3, 8].map(|threads| {
        // Where keys go is the runs' own choice.
        Executor::new(threads, 1).unwrap().with_max_attempts(faults::ATTEMPTS)
    });
    let strategy = configuration();
    for case in cases() {
        let mut struck = Struck::default();
        // The same configurations in every run: `PROPTEST_CASES` asks for more.
        let mut runner = TestRunner::deterministic();
        for _ in 0..ProptestConfig::default().cases.div_ceil(8) {
            let tree = strategy.new_tree(&mut runner).unwrap();
            let configuration = tree.current();
            let found = check(&executors, &case, &configuration);
            struck += found.unwrap_or_else(|error| panic!("{error}\n{configuration:#?}"));
        }
        // Nothing was struck by accident only.
        assert!(struck.lost > 0 && struck.panics > 0, "{}: {struck:?}", case.name);
    }
}

/// With a rule switched off, in a process of its own: the threads of its pools are in it, too.
#[cfg(feature = "planted")]
#[test]
fn lost_bucket_is_empty_is_caught() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "every_operator::every_operator_equals_its_model_whatever_is_struck"])
        .env("SAWMILL_PLANTED", sawmill::planted::Bug::LostBucketIsEmpty.name())
        .output()
        .unwrap();
    let story = [output.stdout, output.stderr].concat();
    let story = String::from_utf8_lossy(&story);
    assert!(!output.status.success(), "{story}");
    assert!(story.contains("repartition, "), "{story}");
}

/// A closure's `Err` fails the run, and says which operator and why.
#[test]
fn every_try_twin_names_what_it_refuses() {
    let rows = vec![("yes".to_owned(), 1), ("no".to_owned(), 2), ("no".to_owned(), 3)];
    let rows = Dataset::from_vec(rows, 2);
    let executor = Executor::new(2, 3).unwrap().with_max_attempts(2);
    for case in cases().iter().filter(|case| case.name.starts_with("try_")) {
        let text = match (case.refuses, &case.what) {
            (Some(refuses), _) => {
                let error = refuses(&rows).collect(&executor).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::TaskFailed);
                let text = error.to_string();
                assert!(text.contains(&format!("`{}", case.name)), "{}: {text}", case.name);
                text
            }
            (None, What::Action(_)) => actions::refused(case.name, &executor, &rows),
            (None, What::Operator(_)) => panic!("{} has no refusal", case.name),
        };
        assert!(text.contains("no is refused"), "{}: {text}", case.name);
    }
}

/// The public methods in a folder, or a file, of `src/exec`.
fn methods(place: &str, text_is: fn(&str) -> bool) -> BTreeSet<String> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/exec").join(place);
    let files = match std::fs::read_dir(&place) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => vec![place],
    };
    let texts = files.iter().map(|file| std::fs::read_to_string(file).unwrap());
    let names = texts.flat_map(|text| {
        let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("pub fn "));
        let name = |line: &str| line.split(['<', '(']).next().unwrap().to_owned();
        lines.map(name).collect::<Vec<_>>()
    });
    names.filter(|name| text_is(name)).collect()
}

#[test]
fn no_operator_is_left_out() {
    let mut public = methods("operators", |_| true);
    public.extend(methods("actions", |_| true));
    public.extend(methods("dataset.rs", |name| name.starts_with("from_")));
    let tested: BTreeSet<String> = cases().iter().map(|case| case.name.to_owned()).collect();
    assert_eq!(public, tested, "left: public methods; right: those in the table of cases");
    assert!(tested.len() >= 45, "{tested:?}");
}
