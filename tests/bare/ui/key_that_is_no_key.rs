//! A float has several values that print alike and one that is not equal to itself: no key.

use sawmill::Dataset;

fn by_float(numbers: &Dataset<f64>) {
    numbers.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
}

fn main() {}
