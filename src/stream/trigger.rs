//! When and how large a batch is cut. The answer is written in the plan, and only the plan counts.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::source::Limit;

/// How the input is cut into batches. Whichever it is, no batch has more than about
/// [`RunOptions::batch_bytes`](crate::RunOptions::batch_bytes).
///
/// ```
/// use sawmill::Trigger;
/// assert_eq!(Trigger::default(), Trigger::Bytes(4 << 20));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trigger {
    /// As fast as possible: batches of about this many input bytes over all sources, until the job
    /// is stopped or every source is at its declared end. A batch with less is cut when nothing
    /// more is there. 1 byte to 1 GiB.
    Bytes(u64),
    /// As fast as possible: batches of this many records over all sources (each source has its
    /// share), or of less when nothing more is there. 1 to 2^32.
    Records(u64),
    /// A batch at each tick of a grid of time that has anything new. Its time is the tick. After a
    /// stall one batch, of all that came, covers the ticks that have passed; what does not fit
    /// into one waits for the next tick. 100 us to 1 day.
    Interval(Duration),
    /// One batch of what is there when the job is started; then the job ends.
    Once,
    /// Everything that is there when the job is started, in batches of about `bytes` input bytes;
    /// then the job ends. Of what is received meanwhile, the last batch may take some.
    AvailableNow {
        /// About how many input bytes a batch has. 1 byte to 1 GiB.
        bytes: u64,
    },
}

/// A plan is bounded by memory (ENGINE.md E4).
const BYTES_MAX: u64 = 1 << 30;
const INTERVALS: (Duration, Duration) =
    (Duration::from_micros(100), Duration::from_secs(24 * 60 * 60));

impl Default for Trigger {
    /// Batches of about 4 MiB.
    fn default() -> Trigger {
        Trigger::Bytes(4 << 20)
    }
}

/// Checks a number of bytes that a batch may have.
///
/// # Errors
/// `Invalid`, naming `what`.
pub(crate) fn check_bytes(what: &str, bytes: u64) -> Result<()> {
    if (1..=BYTES_MAX).contains(&bytes) {
        return Ok(());
    }
    let message = format!("{what} is 1 to {BYTES_MAX} bytes, not {bytes}");
    Err(Error::new(ErrorKind::Invalid, message))
}

impl Trigger {
    /// About how much one batch has at most.
    pub(crate) fn limit(self) -> Limit {
        match self {
            Trigger::Bytes(bytes) | Trigger::AvailableNow { bytes } => Limit::bytes(bytes),
            Trigger::Records(records) => Limit { bytes: BYTES_MAX, records },
            Trigger::Interval(_) | Trigger::Once => Limit::bytes(BYTES_MAX),
        }
    }

    /// Whether the job ends with what was there when it was started.
    pub(crate) fn is_bounded(self) -> bool {
        match self {
            Trigger::Bytes(_) | Trigger::Records(_) | Trigger::Interval(_) => false,
            Trigger::Once | Trigger::AvailableNow { .. } => true,
        }
    }

    /// The grid of time, nanoseconds; 0: there is none.
    pub(crate) fn interval_ns(self) -> u64 {
        match self {
            Trigger::Interval(interval) => u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX),
            Trigger::Bytes(_)
            | Trigger::Records(_)
            | Trigger::Once
            | Trigger::AvailableNow { .. } => 0,
        }
    }

    pub(crate) fn validate(self) -> Result<()> {
        let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, message));
        match self {
            Trigger::Bytes(bytes) | Trigger::AvailableNow { bytes } => {
                check_bytes("a trigger's batch", bytes)
            }
            Trigger::Records(records) if !(1..=1 << 32).contains(&records) => {
                invalid(format!("a trigger's records are 1 to 2^32, not {records}"))
            }
            Trigger::Interval(interval) if interval < INTERVALS.0 || interval > INTERVALS.1 => {
                invalid(format!("a trigger's interval is 100 us to 1 day, not {interval:?}"))
            }
            Trigger::Records(_) | Trigger::Interval(_) | Trigger::Once => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked() {
        let (shortest, longest) = INTERVALS;
        for good in [
            Trigger::Bytes(1),
            Trigger::AvailableNow { bytes: BYTES_MAX },
            Trigger::Records(1),
            Trigger::Interval(shortest),
            Trigger::Interval(longest),
            Trigger::Once,
        ] {
            good.validate().unwrap();
        }
        for bad in [
            Trigger::Bytes(0),
            Trigger::AvailableNow { bytes: BYTES_MAX + 1 },
            Trigger::Records(0),
            Trigger::Interval(shortest - Duration::from_nanos(1)),
            Trigger::Interval(longest + Duration::from_nanos(1)),
        ] {
            assert_eq!(bad.validate().unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
    }
}
