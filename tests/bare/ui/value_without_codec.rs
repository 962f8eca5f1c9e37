//! Rows of a wide operator may leave memory: their type needs a codec.

use sawmill::{Dataset, Str};

#[derive(Clone)]
struct Tally(u64);

fn tallies(words: &Dataset<Str>) {
    words.pair_with(|_| Tally(1)).reduce_by_key(|a, b| Tally(a.0 + b.0));
}

fn main() {}
