//! Operators that exchange rows.

use super::model::{Lists, folded, matched, without};
use super::narrow::{check, pairs};
use super::{Case, Pair, show};

/// Floats that are folded, so that the fold's tree shows in their last bits.
fn third(n: i64) -> f64 {
    n as f64 / 3.0
}

fn fold(a: f64, b: f64) -> f64 {
    a / 7.0 + b
}

fn take_in(all: &mut f64, n: i64) {
    *all = *all / 3.0 + third(n);
}

fn with(mut all: f64, n: i64) -> f64 {
    take_in(&mut all, n);
    all
}

fn push(mut all: Vec<i64>, n: i64) -> Vec<i64> {
    all.push(n);
    all
}

fn grouped(rows: &[Pair]) -> Vec<(String, Vec<i64>)> {
    folded(rows.iter().cloned(), |n| vec![n], push)
}

fn fold_cases() -> Vec<Case> {
    let reduced = |lists: &Lists| lists.folded_twice(third, |all, n| fold(all, third(n)), fold);
    let aggregated = |lists: &Lists| lists.folded_twice(|n| with(0.5, n), with, fold);
    vec![
        Case::new(
            "reduce_by_key",
            |sides| show(&pairs(&sides.left).map_values(third).reduce_by_key(fold)),
            reduced,
        ),
        Case::new(
            "try_reduce_by_key",
            |sides| {
                let thirds = pairs(&sides.left).map_values(third);
                show(&thirds.try_reduce_by_key(|a, b| Ok::<_, String>(fold(a, b))))
            },
            reduced,
        )
        .refusing(|rows| {
            let words = rows.map_to_pair(|(word, _)| (1u8, word));
            show(&words.try_reduce_by_key(|a, b| check(&b, a)))
        }),
        Case::new(
            "aggregate_by_key",
            |sides| {
                let merge = |all: &mut f64, more| *all = fold(*all, more);
                show(&pairs(&sides.left).aggregate_by_key(|| 0.5, take_in, merge))
            },
            aggregated,
        ),
        Case::new(
            "try_aggregate_by_key",
            |sides| {
                show(&pairs(&sides.left).try_aggregate_by_key(
                    || 0.5,
                    |all, n| {
                        take_in(all, n);
                        Ok::<_, String>(())
                    },
                    |all, more| {
                        *all = fold(*all, more);
                        Ok(())
                    },
                ))
            },
            aggregated,
        )
        .refusing(|rows| {
            let words = rows.map_to_pair(|(word, _)| (1u8, word));
            let fold = |_: &mut u8, word: String| check(&word, ());
            show(&words.try_aggregate_by_key(|| 0u8, fold, |_, _| Ok(())))
        }),
        Case::new(
            "count_by_key",
            |sides| show(&pairs(&sides.left).count_by_key()),
            |lists| lists.folded_twice(|_| 1u64, |n, _| n + 1, |a, b| a + b),
        ),
        Case::new(
            "count_by_value",
            |sides| show(&sides.left.count_by_value()),
            |lists| super::model::show(lists.counted()),
        ),
        Case::new(
            "distinct",
            |sides| show(&sides.left.distinct()),
            |lists| {
                let parts = lists.counted().into_iter();
                let rows = |part: Vec<(Pair, u64)>| part.into_iter().map(|(row, _)| row).collect();
                super::model::show(parts.map(rows).collect::<Vec<Vec<Pair>>>())
            },
        ),
    ]
}

fn exchange_cases() -> Vec<Case> {
    vec![
        Case::new(
            "repartition",
            |sides| show(&sides.left.repartition(3)),
            |lists| {
                let mut dealt = vec![Vec::new(); 3];
                for (source, part) in lists.left.iter().enumerate() {
                    for (at, row) in part.iter().enumerate() {
                        dealt[(source + at) % 3].push(row.clone());
                    }
                }
                super::model::show(dealt)
            },
        ),
        Case::new(
            "group_by_key",
            |sides| show(&pairs(&sides.left).group_by_key()),
            |lists| {
                let parts = lists.by_word(&lists.left);
                super::model::show(parts.iter().map(|part| grouped(part)).collect())
            },
        ),
        Case::new(
            "cogroup",
            |sides| show(&pairs(&sides.left).cogroup(&pairs(&sides.right))),
            |lists| {
                lists.both(|left, right| {
                    let left = left.iter().map(|(word, n)| (word.clone(), (true, *n)));
                    let right = right.iter().map(|(word, n)| (word.clone(), (false, *n)));
                    let put = |mut both: (Vec<i64>, Vec<i64>), (is_left, n)| {
                        if is_left {
                            both.0.push(n)
                        } else {
                            both.1.push(n)
                        }
                        both
                    };
                    folded(left.chain(right), |new| put((vec![], vec![]), new), put)
                })
            },
        ),
        // Where the ranges begin, the model does not know: in one partition they do not show.
        Case::new(
            "sort_by_key",
            |sides| show(&pairs(&sides.left).sort_by_key().map(|row| row).repartition(1)),
            |lists| {
                let mut rows = lists.left.concat();
                rows.sort_by(|a, b| a.0.cmp(&b.0));
                super::model::show(vec![rows])
            },
        ),
    ]
}

fn join_cases() -> Vec<Case> {
    vec![
        Case::new(
            "join",
            |sides| show(&pairs(&sides.left).join(&pairs(&sides.right))),
            |lists| {
                lists.both(|left, right| {
                    let rows = matched(left, right).into_iter();
                    rows.filter_map(|(word, (a, b))| Some((word, (a, b?)))).collect()
                })
            },
        ),
        Case::new(
            "left_outer_join",
            |sides| show(&pairs(&sides.left).left_outer_join(&pairs(&sides.right))),
            |lists| lists.both(matched),
        ),
        Case::new(
            "right_outer_join",
            |sides| show(&pairs(&sides.left).right_outer_join(&pairs(&sides.right))),
            |lists| {
                lists.both(|left, right| {
                    let rows = matched(right, left).into_iter();
                    rows.map(|(word, (b, a))| (word, (a, b))).collect()
                })
            },
        ),
        Case::new(
            "full_outer_join",
            |sides| show(&pairs(&sides.left).full_outer_join(&pairs(&sides.right))),
            |lists| {
                lists.both(|left, right| {
                    let rows = matched(left, right).into_iter();
                    let alone = without(right, left).into_iter();
                    let rows = rows.map(|(word, (a, b))| (word, (Some(a), b)));
                    rows.chain(alone.map(|(word, b)| (word, (None, Some(b))))).collect()
                })
            },
        ),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    [fold_cases(), exchange_cases(), join_cases()].into_iter().flatten().collect()
}
