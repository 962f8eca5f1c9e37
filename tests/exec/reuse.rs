//! Buffers that one run has had are the next one's: that shows in no result.

use std::sync::Arc;

use sawmill::{Dataset, Executor, PartitionSource, RunContext};

type Row = (String, u64);

/// The rows that a run has as its input, cut into four partitions.
struct Input;

impl PartitionSource<Row> for Input {
    fn name(&self) -> &str {
        "rows"
    }

    fn partitions(&self, _run: &RunContext) -> sawmill::Result<u32> {
        Ok(4)
    }

    fn read(
        &self,
        run: &RunContext,
        partition: u32,
        out: &mut dyn FnMut(Row),
    ) -> sawmill::Result<()> {
        let rows = run.input::<Vec<Row>>("rows").unwrap();
        let part = rows.len().div_ceil(4).max(1);
        rows.chunks(part).nth(partition as usize).into_iter().flatten().cloned().for_each(out);
        Ok(())
    }

    fn describe(&self, _run: &RunContext, partition: u32) -> String {
        format!("part {partition}")
    }
}

/// A text for each row of every operator that has buffers; folds show the order of their values.
fn everything() -> Dataset<String> {
    let rows = Dataset::from_source(Arc::new(Input));
    let pairs = rows.map_to_pair(|row| row);
    let some = pairs.filter(|(_, n)| n % 3 == 0);
    let sums = pairs.reduce_by_key(|a, b| a.wrapping_mul(31).wrapping_add(b));
    let lists = pairs.map_values(|n| n.to_string()).reduce_by_key(|a, b| a + "," + &b);
    let groups = some.group_by_key();
    let both = some.cogroup(&sums);
    let joined = sums.full_outer_join(&some).join(&rows.distinct().map_to_pair(|row| row));
    let text = joined.map(|row| format!("{row:?}"));
    let text = text.union(&both.map(|row| format!("{row:?}")));
    let text = text.union(&groups.map(|row| format!("{row:?}")));
    text.union(&lists.map(|row| format!("{row:?}")))
}

/// Many rows and few, of many keys and few, of one length and of many, and long ones.
fn inputs() -> Vec<Arc<Vec<Row>>> {
    let rows = |rows: u64, keys: u64, name: fn(u64) -> String| {
        let row = |n: u64| (name(n.wrapping_mul(0x9e37_79b9) % keys), n);
        Arc::new((0..rows).map(row).collect::<Vec<_>>())
    };
    vec![
        rows(2_000, 50, |key| format!("{key:08}")),
        rows(40_000, 40_000, |key| key.to_string()),
        rows(0, 1, |key| key.to_string()),
        rows(300, 200, |key| format!("a key that does not lie in its row, number {key}")),
        rows(3_000, 1, |_| String::new()),
        rows(2_500, 60, |key| format!("{key:08}")),
    ]
}

#[test]
fn buffers_used_again_show_in_no_result() {
    let inputs = inputs();
    let of = |executor: &Executor, dataset: &Dataset<String>, input: &Arc<Vec<Row>>| {
        let run = executor.context().with_input("rows", Arc::clone(input));
        executor.collect(&run, dataset).unwrap()
    };
    let one = Executor::new(1, 5).unwrap();
    let expected: Vec<_> = inputs.iter().map(|input| of(&one, &everything(), input)).collect();
    for threads in [1, 3] {
        let (executor, again) = (Executor::new(threads, 5).unwrap(), everything());
        for _ in 0..2 {
            for (input, expected) in inputs.iter().zip(&expected) {
                assert!(of(&executor, &again, input) == *expected, "{} rows", input.len());
            }
        }
    }
}
