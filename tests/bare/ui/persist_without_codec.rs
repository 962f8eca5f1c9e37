//! Persisted rows are held encoded: their type needs a codec.

use sawmill::Dataset;

#[derive(Clone)]
struct Reading(f64);

fn kept(numbers: &Dataset<f64>) {
    numbers.map(Reading).persist(sawmill::StorageLevel::Memory);
}

fn main() {}
