//! State outlives the process under a name: without one there is no stateful operator.

use sawmill::{Kv, Stream};

fn totals(counts: &Stream<Kv<String, u64>>) {
    counts.map_with_state::<u64, ()>(|_, _, _| None);
}

fn main() {}
