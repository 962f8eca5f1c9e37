//! What rounds say together.

use super::histogram::Histogram;
use super::protocol::{Comparison, Series};

/// A value in the middle of the rounds', and those at a quarter and three quarters of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values.get((values.len() - 1) * quarter / 4).copied();
        if values.is_empty() {
            return None;
        }
        Some(Spread { low: at(1)?, median: at(2)?, high: at(3)? })
    }
}

/// One contender in one workload.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) per_second: Option<Spread>,
    pub(crate) mib_per_second: f64,
    /// Median, 99 % and 99.9 % of all rounds' latencies together, in microseconds.
    pub(crate) latency_us: Option<[f64; 3]>,
    pub(crate) switches_per_record: f64,
    pub(crate) cpu_us_per_record: f64,
    pub(crate) records_per_flush: Option<f64>,
    /// Bytes on the disk for each byte of payload.
    pub(crate) disk_per_payload: Option<f64>,
    /// Bytes of preparation for each byte of payload, not in the former.
    pub(crate) prepared_per_payload: Option<f64>,
    /// 99.9 % of a round's latencies over that of the first contender, by rounds.
    pub(crate) p999_over_first: Option<Spread>,
    /// Rate over that of the first contender (the raw limit), by rounds.
    pub(crate) over_first: Option<Spread>,
    /// Rate over that of the best other one in the same round.
    pub(crate) over_best: Option<Spread>,
    /// Median latency over that of the first contender.
    pub(crate) latency_over_first: Option<f64>,
}

impl Comparison {
    pub(crate) fn figures(&self, of: usize) -> Option<Figures> {
        let series = self.series.get(of)?;
        let records = series.rounds.iter().map(|round| round.records).sum::<u64>().max(1) as f64;
        let rates: Vec<f64> = series.rounds.iter().map(|round| round.per_second()).collect();
        let per_second = Spread::of(rates);
        let sum = |value: &dyn Fn(&super::protocol::Round) -> u64| {
            series.rounds.iter().map(value).sum::<u64>() as f64
        };
        let flushes = sum(&|round| round.written.map_or(0, |written| written.flushes));
        let prepared = sum(&|round| round.written.map_or(0, |written| written.prepared));
        let bytes = sum(&|round| round.written.map_or(0, |written| written.bytes));
        let payload = records * self.workload.size as f64;
        let latency = latency_us(series);
        let first = self.series.first().filter(|_| of > 0).and_then(latency_us);
        Some(Figures {
            per_second,
            mib_per_second: per_second.map_or(0.0, |rate| rate.median) * self.workload.size as f64
                / f64::from(1 << 20),
            latency_us: latency,
            switches_per_record: sum(&|round| round.usage.switches) / records,
            cpu_us_per_record: sum(&|round| round.usage.cpu_ns) / 1e3 / records,
            records_per_flush: (flushes > 0.0).then_some(records / flushes),
            disk_per_payload: (bytes > 0.0).then_some(bytes / payload),
            prepared_per_payload: (bytes > 0.0).then_some(prepared / payload),
            p999_over_first: self.p999_over_first(of),
            over_first: self.over(of, |other| other == 0 && of > 0),
            over_best: self.over(of, |other| other != self.base(of) && !self.series[other].variant),
            latency_over_first: latency.zip(first).map(|(mine, first)| mine[0] / first[0]),
        })
    }

    /// The contender that this one is, or is a variant of.
    fn base(&self, of: usize) -> usize {
        (0..=of).rev().find(|at| !self.series[*at].variant).unwrap_or(of)
    }

    fn p999_over_first(&self, of: usize) -> Option<Spread> {
        let (first, mine) = (self.series.first().filter(|_| of > 0)?, self.series.get(of)?);
        let pairs = first.rounds.iter().zip(&mine.rounds);
        let ratios = pairs.filter_map(|(first, mine)| {
            let [first, mine] = [first, mine].map(|round| round.latency.quantile(0.999));
            Some(mine? as f64 / first?.max(1) as f64)
        });
        Spread::of(ratios.collect())
    }

    /// The rate of one contender over that of the best among the `others`, round by round.
    fn over(&self, of: usize, others: impl Fn(usize) -> bool) -> Option<Spread> {
        let mine = self.series.get(of)?;
        let mut ratios = Vec::new();
        for (round, own) in mine.rounds.iter().enumerate() {
            let best = self.series.iter().enumerate().filter(|(number, _)| others(*number));
            let best = best
                .filter_map(|(_, series)| Some(series.rounds.get(round)?.per_second()))
                .fold(0.0, f64::max);
            if best > 0.0 {
                ratios.push(own.per_second() / best);
            }
        }
        Spread::of(ratios)
    }
}

fn latency_us(series: &Series) -> Option<[f64; 3]> {
    let mut all = Histogram::default();
    series.rounds.iter().for_each(|round| all.merge(&round.latency));
    let at = |share| all.quantile(share).map(|ns| ns as f64 / 1e3);
    Some([at(0.5)?, at(0.99)?, at(0.999)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_stand_in_the_values() {
        assert_eq!(Spread::of(Vec::new()), None);
        let spread = Spread::of((1..=13).rev().map(f64::from).collect());
        assert_eq!(spread, Some(Spread { low: 4.0, median: 7.0, high: 10.0 }));
        let one = Spread::of(vec![3.0]).unwrap();
        assert_eq!((one.low, one.median, one.high), (3.0, 3.0, 3.0));
    }
}
