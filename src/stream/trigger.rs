//! When and how large a batch is cut. The answer is written in the plan, and only the plan counts.

use crate::error::{Error, ErrorKind, Result};

/// How the input is cut into batches.
///
/// ```
/// use sawmill::Trigger;
/// assert_eq!(Trigger::default(), Trigger::Bytes(4 << 20));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trigger {
    /// Batches of about this many input bytes over all sources, as fast as they come, until the
    /// job is stopped or every source is at its declared end. A batch with less is cut when
    /// nothing more is there. 1 byte to 1 GiB.
    Bytes(u64),
    /// Everything that is there when the job is started, in batches of about `bytes` input bytes;
    /// then the job ends. Of what is received meanwhile, the last batch may take some.
    AvailableNow {
        /// About how many input bytes a batch has. 1 byte to 1 GiB.
        bytes: u64,
    },
}

/// A plan is bounded by memory (ENGINE.md E4).
const BYTES_MAX: u64 = 1 << 30;

impl Default for Trigger {
    /// Batches of about 4 MiB.
    fn default() -> Trigger {
        Trigger::Bytes(4 << 20)
    }
}

impl Trigger {
    /// About how many input bytes one batch has.
    pub(crate) fn limit_bytes(self) -> u64 {
        match self {
            Trigger::Bytes(bytes) | Trigger::AvailableNow { bytes } => bytes,
        }
    }

    /// Whether the job ends when nothing new is there.
    pub(crate) fn ends_when_idle(self) -> bool {
        match self {
            Trigger::Bytes(_) => false,
            Trigger::AvailableNow { .. } => true,
        }
    }

    pub(crate) fn validate(self) -> Result<()> {
        let bytes = self.limit_bytes();
        if (1..=BYTES_MAX).contains(&bytes) {
            return Ok(());
        }
        let message = format!("a trigger's bytes are 1 to {BYTES_MAX}, not {bytes}");
        Err(Error::new(ErrorKind::Invalid, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked() {
        assert!(Trigger::Bytes(1).validate().is_ok());
        assert!(Trigger::AvailableNow { bytes: BYTES_MAX }.validate().is_ok());
        for bytes in [0, BYTES_MAX + 1] {
            assert_eq!(Trigger::Bytes(bytes).validate().unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}
