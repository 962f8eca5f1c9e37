//! A view of a row lives for one call: it cannot be kept for later.

use sawmill::{Dataset, Executor, Str};

fn all_lines(lines: &Dataset<Str>, executor: &Executor) {
    let run = executor.context();
    let _ = executor.for_each_partition(&run, lines, |rows| {
        let mut kept: Vec<&str> = Vec::new();
        rows.for_each(|line| kept.push(line))?;
        Ok(kept.len())
    });
}

fn main() {}
