//! Tables and JSON of what was measured.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::figures::{Figures, Spread};
use super::protocol::Comparison;

/// The head of the table.
pub(crate) fn head() -> String {
    "workload         contender     records/s    MiB/s   p50 us   p99 us p99.9 us  switch/rec  \
     us/rec  rec/flush  disk/payload  prep/payload  \
     x raw (quartiles)    x best"
        .to_owned()
}

/// A whole number with its thousands apart, or three digits of a smaller one.
fn number(value: f64) -> String {
    match value {
        large if large >= 1e6 => format!("{:.2} M", large / 1e6),
        large if large >= 1e4 => format!("{:.1} k", large / 1e3),
        large if large >= 100.0 => format!("{large:.0}"),
        small => format!("{small:.2}"),
    }
}

fn optional(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), number)
}

fn ratio(spread: Option<Spread>) -> String {
    spread.map_or("-".to_owned(), |spread| {
        format!("{:.2} ({:.2}..{:.2})", spread.median, spread.low, spread.high)
    })
}

/// The lines of one workload.
pub(crate) fn lines(comparison: &Comparison) -> String {
    let mut text = String::new();
    for (at, series) in comparison.series.iter().enumerate() {
        let Some(figures) = comparison.figures(at) else { continue };
        let name = if at == 0 { comparison.workload.to_string() } else { String::new() };
        let latency = |which: usize| optional(figures.latency_us.map(|all| all[which]));
        let best = figures.over_best.filter(|_| comparison.series.len() > 2);
        // Writing to a string cannot fail.
        writeln!(
            text,
            "{name:<16} {:<11} {:>11} {:>8} {:>8} {:>8} {:>8} {:>11.3} {:>7.2} {:>10} {:>13} \
             {:>13}  \
             {:<20} {}",
            series.name,
            optional(figures.per_second.map(|rate| rate.median)),
            number(figures.mib_per_second),
            latency(0),
            latency(1),
            latency(2),
            figures.switches_per_record,
            figures.cpu_us_per_record,
            optional(figures.records_per_flush),
            optional(figures.disk_per_payload),
            optional(figures.prepared_per_payload),
            ratio(figures.over_first),
            ratio(best),
        )
        .ok();
    }
    text
}

fn spread_json(spread: Option<Spread>) -> Value {
    spread.map_or(Value::Null, |spread| {
        json!({ "quartile_1": spread.low, "median": spread.median, "quartile_3": spread.high })
    })
}

fn figures_json(name: &str, figures: &Figures) -> Value {
    json!({
        "contender": name,
        "records_per_second": spread_json(figures.per_second),
        "mib_per_second": figures.mib_per_second,
        "latency_us": figures.latency_us.map(|[p50, p99, p999]| {
            json!({ "p50": p50, "p99": p99, "p99.9": p999 })
        }),
        "context_switches_per_record": figures.switches_per_record,
        "cpu_us_per_record": figures.cpu_us_per_record,
        "records_per_flush": figures.records_per_flush,
        "disk_bytes_per_payload_byte": figures.disk_per_payload,
        "prepared_bytes_per_payload_byte": figures.prepared_per_payload,
        "p99.9_over_raw": spread_json(figures.p999_over_first),
        "ratio_to_raw": spread_json(figures.over_first),
        "ratio_to_best_other": spread_json(figures.over_best),
        "p50_over_raw": figures.latency_over_first,
    })
}

/// One workload as an object.
pub(crate) fn to_json(comparison: &Comparison) -> Value {
    let all: Vec<Value> = comparison
        .series
        .iter()
        .enumerate()
        .filter_map(|(at, series)| Some(figures_json(series.name, &comparison.figures(at)?)))
        .collect();
    json!({
        "workload": comparison.workload.to_string(),
        "threads": comparison.workload.threads,
        "payload_bytes": comparison.workload.size,
        "contenders": all,
    })
}
