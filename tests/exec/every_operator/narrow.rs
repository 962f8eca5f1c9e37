//! Sources, narrow operators, `persist`.

use std::sync::Arc;

use sawmill::{Dataset, Emit, PartitionSource, Result, RunContext, StorageLevel, Str};

use super::model::Lists;
use super::{Case, Pair, Sides, What, parts_of, show};

/// Partitions as they are given.
struct Given(Vec<Vec<Pair>>);

impl PartitionSource<Pair> for Given {
    fn name(&self) -> &str {
        "given"
    }

    fn partitions(&self, _run: &RunContext) -> Result<u32> {
        Ok(u32::try_from(self.0.len()).unwrap())
    }

    fn read(&self, _run: &RunContext, partition: u32, out: &mut dyn FnMut(Pair)) -> Result<()> {
        self.0[partition as usize].iter().cloned().for_each(out);
        Ok(())
    }

    fn describe(&self, _run: &RunContext, partition: u32) -> String {
        format!("partition {partition} as it was given")
    }
}

fn copies((word, n): Pair) -> Vec<Pair> {
    (0..n.rem_euclid(3)).map(|i| (word.clone(), n.wrapping_add(i))).collect()
}

fn pieces(word: &str) -> impl Iterator<Item = &str> {
    word.split('b')
}

fn push_pieces(row: &Pair, out: &mut Emit<'_, Str>) {
    pieces(&row.0).for_each(|piece| out.push(piece));
}

/// Refuses one word.
pub(super) fn check<T>(word: &str, value: T) -> std::result::Result<T, String> {
    if word == "no" { Err(format!("{word} is refused")) } else { Ok(value) }
}

fn grown((word, n): Pair) -> Pair {
    (word + "x", n.wrapping_mul(3))
}

fn is_even(row: &Pair) -> bool {
    row.1 % 2 == 0
}

fn cut_of(sides: &Sides, partition: u32) -> Vec<Pair> {
    super::partition_of(&sides.rows, sides.partitions, partition)
}

/// With something that can be lost.
fn kept(rows: &Dataset<Pair>) -> Dataset<String> {
    show(&rows.persist(StorageLevel::Memory))
}

fn source_cases() -> Vec<Case> {
    let unchanged = |lists: &Lists| lists.rows(|row| row);
    vec![
        Case::new(
            "from_vec",
            |sides| kept(&Dataset::from_vec(sides.rows.clone(), sides.partitions)),
            unchanged,
        ),
        Case::new(
            "from_fn",
            |sides| {
                let parts: Vec<_> = (0..sides.partitions).map(|p| cut_of(sides, p)).collect();
                kept(&Dataset::from_fn(sides.partitions, move |p| parts[p as usize].clone()))
            },
            unchanged,
        ),
        Case::new(
            "from_source",
            |sides| {
                let parts = (0..sides.partitions).map(|p| cut_of(sides, p)).collect();
                kept(&Dataset::from_source(Arc::new(Given(parts))))
            },
            unchanged,
        ),
        Case::new("persist", |sides| kept(&sides.left), unchanged),
        Case {
            name: "unpersist",
            what: What::Action(|executor, run, rows| {
                // The rows that actions work on are persisted.
                let before = parts_of(executor, run, &show(rows))?;
                rows.unpersist(run);
                let after = parts_of(executor, run, &show(rows))?;
                Ok([before, after].concat())
            }),
            model: |lists| [lists.rows(|row| row), lists.rows(|row| row)].concat(),
            refuses: None,
        },
    ]
}

fn row_cases() -> Vec<Case> {
    let map = |lists: &Lists| lists.rows(grown);
    let filter = |lists: &Lists| lists.each(|part| part.into_iter().filter(is_even).collect());
    let flat_map = |lists: &Lists| lists.each(|part| part.into_iter().flat_map(copies).collect());
    let flat_map_rows = |lists: &Lists| {
        let words = |row: Pair| pieces(&row.0).map(str::to_owned).collect::<Vec<_>>();
        lists.each(|part| part.into_iter().flat_map(words).collect())
    };
    vec![
        Case::new("map", |sides| show(&sides.left.map(grown)), map),
        Case::new(
            "try_map",
            |sides| show(&sides.left.try_map(|row| Ok::<_, String>(grown(row)))),
            map,
        )
        .refusing(|rows| show(&rows.try_map(|row| check(&row.0, row.1)))),
        Case::new("filter", |sides| show(&sides.left.filter(is_even)), filter),
        Case::new(
            "try_filter",
            |sides| show(&sides.left.try_filter(|row| Ok::<_, String>(is_even(row)))),
            filter,
        )
        .refusing(|rows| show(&rows.try_filter(|row| check(&row.0, true)))),
        Case::new("flat_map", |sides| show(&sides.left.flat_map(copies)), flat_map),
        Case::new(
            "try_flat_map",
            |sides| show(&sides.left.try_flat_map(|row| Ok::<_, String>(copies(row)))),
            flat_map,
        )
        .refusing(|rows| show(&rows.try_flat_map(|row| check(&row.0, [row.1])))),
        Case::new(
            "flat_map_rows",
            |sides| show(&sides.left.flat_map_rows::<Str>(|row, out| push_pieces(&row, out))),
            flat_map_rows,
        ),
        Case::new(
            "try_flat_map_rows",
            |sides| {
                show(&sides.left.try_flat_map_rows::<Str, String>(|row, out| {
                    push_pieces(&row, out);
                    Ok(())
                }))
            },
            flat_map_rows,
        )
        .refusing(|rows| {
            show(&rows.try_flat_map_rows::<Str, String>(|row, out| {
                push_pieces(&row, out);
                check(&row.0, ())
            }))
        }),
        Case::new(
            "map_partitions",
            |sides| show(&numbered(&sides.left)),
            |lists| {
                let parts = lists.left.iter().zip(0u32..);
                let number = |(part, partition): (&Vec<Pair>, u32)| {
                    part.iter().zip(0u64..).map(|(row, at)| (partition, at, row.clone())).collect()
                };
                super::model::show(parts.map(number).collect::<Vec<Vec<_>>>())
            },
        ),
    ]
}

/// Rows with their places.
fn numbered(rows: &Dataset<Pair>) -> Dataset<(u32, u64, Pair)> {
    rows.map_partitions(|rows, out| {
        let mut at = 0;
        rows.for_each(|row| {
            out.push((rows.partition(), at, row));
            at += 1;
        })
    })
}

fn length(row: &Pair) -> usize {
    row.0.len()
}

fn pair_cases() -> Vec<Case> {
    let key_by = |lists: &Lists| lists.rows(|row| (length(&row), row));
    let pair_with = |lists: &Lists| lists.rows(|row| (row.clone(), length(&row)));
    let map_to_pair = |lists: &Lists| lists.rows(|(word, n)| (n, word));
    let map_values = |lists: &Lists| lists.rows(|(word, n)| (word, n ^ 5));
    vec![
        Case::new("key_by", |sides| show(&sides.left.key_by(length)), key_by),
        Case::new(
            "try_key_by",
            |sides| show(&sides.left.try_key_by(|row| Ok::<_, String>(length(row)))),
            key_by,
        )
        .refusing(|rows| show(&rows.try_key_by(|row| check(&row.0, 1)))),
        Case::new("pair_with", |sides| show(&sides.left.pair_with(length)), pair_with),
        Case::new(
            "try_pair_with",
            |sides| show(&sides.left.try_pair_with(|row| Ok::<_, String>(length(row)))),
            pair_with,
        )
        .refusing(|rows| show(&rows.try_pair_with(|row| check(&row.0, 1)))),
        Case::new(
            "map_to_pair",
            |sides| show(&sides.left.map_to_pair(|(word, n)| (n, word))),
            map_to_pair,
        ),
        Case::new(
            "try_map_to_pair",
            |sides| show(&sides.left.try_map_to_pair(|(word, n)| Ok::<_, String>((n, word)))),
            map_to_pair,
        )
        .refusing(|rows| show(&rows.try_map_to_pair(|(word, n)| check(&word, (n, 1))))),
        Case::new(
            "map_values",
            |sides| show(&pairs(&sides.left).map_values(|n| n ^ 5)),
            map_values,
        ),
        Case::new(
            "try_map_values",
            |sides| show(&pairs(&sides.left).try_map_values(|n| Ok::<_, String>(n ^ 5))),
            map_values,
        )
        .refusing(|rows| {
            let words = rows.map_to_pair(|(word, n)| (n, word));
            show(&words.try_map_values(|word| check(&word, ())))
        }),
        Case::new(
            "keys",
            |sides| show(&pairs(&sides.left).keys()),
            |lists| lists.rows(|(word, _)| word),
        ),
        Case::new(
            "values",
            |sides| show(&pairs(&sides.left).values()),
            |lists| lists.rows(|(_, n)| n),
        ),
        Case::new(
            "union",
            |sides| show(&sides.left.union(&sides.right)),
            |lists| super::model::show([lists.left.clone(), lists.right.clone()].concat()),
        ),
    ]
}

pub(super) fn pairs(rows: &Dataset<Pair>) -> Dataset<sawmill::Kv<String, i64>> {
    rows.map_to_pair(|row| row)
}

pub(super) fn cases() -> Vec<Case> {
    [source_cases(), row_cases(), pair_cases()].into_iter().flatten().collect()
}
