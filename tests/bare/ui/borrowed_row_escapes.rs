//! A view of a row lives for one call: it cannot be returned from `map`.

use sawmill::{Dataset, Str};

fn first_words(lines: &Dataset<Str>) {
    lines.map(|line| line.split(' ').next());
}

fn main() {}
