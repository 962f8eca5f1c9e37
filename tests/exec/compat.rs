//! Executes every row of `docs/compat.md`: operator, input and output stand there, what the
//! operators' closures do stands here and in the text above each table.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use sawmill::{
    Dataset, Executor, Kv, PartitionSink, Result, Row, Rows, RunContext, StorageLevel, Str,
};

type Parts = Vec<Vec<String>>;
type Words = Dataset<String>;
type Pairs = Dataset<Kv<String, String>>;

/// A row of a table.
#[derive(Debug)]
struct Scenario {
    operator: String,
    name: String,
    input: Parts,
    argument: String,
    output: String,
}

fn document() -> String {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compat.md");
    std::fs::read_to_string(place).unwrap()
}

fn parse(parts: &str) -> Parts {
    let rows = |part: &str| part.split(' ').filter(|row| *row != "-").map(str::to_owned).collect();
    parts.split(" / ").map(rows).collect()
}

/// The text of a cell that is code.
fn code(cell: &str) -> Option<&str> {
    cell.trim().strip_prefix('`')?.strip_suffix('`')
}

fn scenarios() -> Vec<Scenario> {
    let (mut scenarios, mut operator) = (Vec::new(), String::new());
    // A bar within a cell is written as `\|`.
    for line in document().replace("\\|", "\u{1}").lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut operator);
        }
        if !line.starts_with('|') || line.starts_with("|---") || line.starts_with("| Scenario") {
            continue;
        }
        let cells: Vec<&str> = line.split('|').collect();
        let [_, name, input, argument, output, beside, _] = cells[..] else {
            panic!("five cells: {line}");
        };
        assert!(!beside.trim().is_empty(), "what Spark does: {line}");
        let bars = |text: &str| text.replace('\u{1}', "|");
        scenarios.push(Scenario {
            operator: operator.clone(),
            name: name.trim().to_owned(),
            input: parse(code(input).unwrap()),
            argument: bars(code(argument).unwrap_or_default()),
            output: bars(code(output).unwrap()),
        });
    }
    scenarios
}

fn words(parts: &Parts) -> Words {
    let parts = parts.clone();
    let count = u32::try_from(parts.len()).unwrap();
    Dataset::from_fn(count, move |partition| parts[partition as usize].clone())
}

fn numbers(parts: &Parts) -> Dataset<i64> {
    words(parts).map(|word| word.parse().unwrap())
}

fn pairs(parts: &Parts) -> Pairs {
    words(parts).map_to_pair(|row| {
        let (key, value) = row.split_once(':').unwrap();
        (key.to_owned(), value.to_owned())
    })
}

/// One run: how it is run, and on what.
struct Case<'s> {
    executor: &'s Executor,
    run: RunContext,
    scenario: &'s Scenario,
}

fn plus(a: &str, b: &str) -> String {
    format!("({a}+{b})")
}

fn bar(a: &str, b: &str) -> String {
    format!("({a}|{b})")
}

fn list(values: &[String]) -> String {
    format!("[{}]", values.join(","))
}

fn or_none(value: Option<String>) -> String {
    value.unwrap_or_else(|| "none".to_owned())
}

fn text((key, value): (String, impl std::fmt::Display)) -> String {
    format!("{key}:{value}")
}

/// Keeps partitions as they are given.
#[derive(Default)]
struct Kept(Mutex<BTreeMap<u32, Vec<String>>>, Mutex<u32>);

impl PartitionSink<String> for Kept {
    fn write(&self, rows: Rows<'_, String>) -> Result<()> {
        let mut part = Vec::new();
        rows.for_each(|row| part.push(row))?;
        self.0.lock().unwrap().insert(rows.partition(), part);
        Ok(())
    }

    fn finish(&self, partitions: u32) -> Result<()> {
        *self.1.lock().unwrap() = partitions;
        Ok(())
    }
}

impl Case<'_> {
    fn words(&self) -> Words {
        words(&self.scenario.input)
    }

    fn numbers(&self) -> Dataset<i64> {
        numbers(&self.scenario.input)
    }

    fn pairs(&self) -> Pairs {
        pairs(&self.scenario.input)
    }

    fn other(&self) -> Pairs {
        pairs(&parse(&self.scenario.argument))
    }

    fn number(&self) -> u32 {
        self.scenario.argument.parse().unwrap()
    }

    fn parts<R: Row>(&self, rows: &Dataset<R>, text: impl Fn(R::Owned) -> String + Sync) -> Parts {
        let part = |rows: Rows<'_, R>| {
            let mut part = Vec::new();
            rows.for_each(|view| part.push(text(R::own(view))))?;
            Ok(part)
        };
        self.executor.for_each_partition(&self.run, rows, part).unwrap()
    }

    fn result(&self) -> Parts {
        self.narrow().or_else(|| self.keyed()).or_else(|| self.joined()).unwrap_or_else(|| {
            self.action().unwrap_or_else(|| panic!("nobody knows `{}`", self.scenario.operator))
        })
    }

    fn narrow(&self) -> Option<Parts> {
        let number = |n: i64| n.to_string();
        let word = |word: String| word;
        Some(match self.scenario.operator.as_str() {
            "map" => self.parts(&self.numbers().map(|n| n * 10), number),
            "filter" => self.parts(&self.numbers().filter(|n| n % 2 == 0), number),
            "flat_map" => {
                let copies = |n: i64| vec![n; usize::try_from(n).unwrap()];
                self.parts(&self.numbers().flat_map(copies), number)
            }
            "flat_map_rows" => {
                let pieces = self.words().flat_map_rows::<Str>(|word, out| {
                    word.split('.').for_each(|piece| out.push(piece));
                });
                self.parts(&pieces, word)
            }
            "map_partitions" => {
                let sums = self.numbers().map_partitions::<i64>(|rows, out| {
                    let mut sum = 0;
                    rows.for_each(|n| sum += n)?;
                    out.push(sum);
                    Ok(())
                });
                self.parts(&sums, number)
            }
            "key_by" => {
                self.parts(&self.numbers().key_by(|n| n % 2), |(odd, n)| format!("{odd}:{n}"))
            }
            "pair_with" => self.parts(&self.words().pair_with(|word| word.len()), text),
            "map_to_pair" => {
                let first = |word: String| (word[..1].to_owned(), word);
                self.parts(&self.words().map_to_pair(first), text)
            }
            "map_values" => self.parts(&self.pairs().map_values(|value| value + "!"), text),
            "keys" => self.parts(&self.pairs().keys(), word),
            "values" => self.parts(&self.pairs().values(), word),
            "union" => {
                let other = words(&parse(&self.scenario.argument));
                self.parts(&self.words().union(&other), word)
            }
            "persist" => self.parts(&self.words().persist(StorageLevel::Memory), word),
            "repartition" => self.parts(&self.words().repartition(self.number()), word),
            _ => return None,
        })
    }

    fn keyed(&self) -> Option<Parts> {
        Some(match self.scenario.operator.as_str() {
            "distinct" => self.parts(&self.words().distinct(), |word| word),
            "reduce_by_key" => self.parts(&self.pairs().reduce_by_key(|a, b| plus(&a, &b)), text),
            "aggregate_by_key" => {
                let sums = self.pairs().aggregate_by_key(
                    || "0".to_owned(),
                    |all, value| *all = plus(all, &value),
                    |all, more| *all = bar(all, &more),
                );
                self.parts(&sums, text)
            }
            "group_by_key" => {
                let groups = self.pairs().group_by_key();
                self.parts(&groups, |(key, all)| text((key, list(&all))))
            }
            "count_by_key" => self.parts(&self.pairs().count_by_key(), text),
            "count_by_value" => self.parts(&self.words().count_by_value(), text),
            "sort_by_key" => self.parts(&self.pairs().sort_by_key(), text),
            _ => return None,
        })
    }

    fn joined(&self) -> Option<Parts> {
        let both = |key: String, a: String, b: String| format!("{key}:{a}&{b}");
        Some(match self.scenario.operator.as_str() {
            "cogroup" => {
                let groups = self.pairs().cogroup(&self.other());
                self.parts(&groups, |(key, (a, b))| both(key, list(&a), list(&b)))
            }
            "join" => {
                let rows = self.pairs().join(&self.other());
                self.parts(&rows, |(key, (a, b))| both(key, a, b))
            }
            "left_outer_join" => {
                let rows = self.pairs().left_outer_join(&self.other());
                self.parts(&rows, |(key, (a, b))| both(key, a, or_none(b)))
            }
            "right_outer_join" => {
                let rows = self.pairs().right_outer_join(&self.other());
                self.parts(&rows, |(key, (a, b))| both(key, or_none(a), b))
            }
            "full_outer_join" => {
                let rows = self.pairs().full_outer_join(&self.other());
                self.parts(&rows, |(key, (a, b))| both(key, or_none(a), or_none(b)))
            }
            _ => return None,
        })
    }

    fn action(&self) -> Option<Parts> {
        let Case { executor, run, .. } = self;
        let words = self.words();
        let one = |text: String| vec![vec![text]];
        Some(match self.scenario.operator.as_str() {
            "collect" => vec![executor.collect(run, &words).unwrap()],
            "count" => one(executor.count(run, &words).unwrap().to_string()),
            "reduce" => one(or_none(executor.reduce(run, &words, |a, b| plus(&a, &b)).unwrap())),
            "fold" => {
                let init = || "0".to_owned();
                let fold = |all: &mut String, word: String| *all = plus(all, &word);
                one(executor.fold(run, &words, init, fold, |a, b| bar(&a, &b)).unwrap())
            }
            "take" => vec![executor.take(run, &words, self.number() as usize).unwrap()],
            "for_each_partition" => {
                let count = |rows: Rows<'_, String>| {
                    let mut count = 0;
                    rows.for_each(|_| count += 1)?;
                    Ok(format!("{}:{count}", rows.partition()))
                };
                vec![executor.for_each_partition(run, &words, count).unwrap()]
            }
            "save" => {
                let kept = Kept::default();
                executor.save(run, &words, &kept).unwrap();
                let parts: Parts = kept.0.into_inner().unwrap().into_values().collect();
                assert_eq!(kept.1.into_inner().unwrap() as usize, parts.len());
                parts
            }
            _ => return None,
        })
    }
}

/// As the document writes it.
fn shown(parts: &Parts) -> String {
    let part = |part: &Vec<String>| match part.is_empty() {
        true => "-".to_owned(),
        false => part.join(" "),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(" / ")
}

#[test]
fn every_row_is_what_happens() {
    let executors = [1, 3].map(|threads| Executor::new(threads, 1).unwrap());
    let mut rows = 0;
    for scenario in &scenarios() {
        for executor in &executors {
            let result = |parallelism| {
                let run = RunContext::new(parallelism);
                Case { executor, run, scenario }.result()
            };
            assert_eq!(shown(&result(1)), scenario.output, "{scenario:?}");
            let (mut spread, mut expected) = (result(3).concat(), parse(&scenario.output).concat());
            if scenario.operator != "sort_by_key" {
                spread.sort();
                expected.sort();
            }
            assert_eq!(spread, expected, "with three partitions: {scenario:?}");
        }
        rows += 1;
    }
    assert!(rows >= 150, "{rows} rows");
}

/// The public methods in a folder of `src/exec`; a `try_` twin means what its twin means.
fn methods(folder: &str) -> BTreeSet<String> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/exec").join(folder);
    let files = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    let texts = files.map(|file| std::fs::read_to_string(file).unwrap());
    let names = texts.flat_map(|text| {
        let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("pub fn "));
        lines.map(|line| line.split(['<', '(']).next().unwrap().to_owned()).collect::<Vec<_>>()
    });
    names.filter(|name| !name.starts_with("try_") && name != "unpersist").collect()
}

#[test]
fn no_operator_and_no_scenario_is_missing() {
    let scenarios = scenarios();
    let documented: BTreeSet<_> = scenarios.iter().map(|row| row.operator.clone()).collect();
    let public = &methods("operators") | &methods("actions");
    assert_eq!(documented, public, "left: docs/compat.md, right: public methods");
    let always = ["no rows", "one partition", "more partitions than rows"];
    for operator in &documented {
        let has =
            |name: &str| scenarios.iter().any(|row| row.operator == *operator && row.name == name);
        let missing: Vec<_> = always.into_iter().filter(|name| !has(name)).collect();
        assert!(missing.is_empty(), "{operator}: {missing:?}");
        let by_key = operator.contains("by_") && operator != "key_by";
        let joins = operator.contains("join") || operator == "cogroup";
        assert!(!(by_key || joins) || has("one key has most rows"), "{operator}: skewed keys");
        assert!(!joins || has("duplicates on both sides"), "{operator}: duplicates");
    }
}
