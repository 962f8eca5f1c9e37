//! What the conformance kit says in the end.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::sink::Promise;

/// What [`certify`](super::certify) has found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Certificate {
    /// The strongest promise that was kept in every schedule; `None`: rows were both lost and
    /// doubled, or the sink did not get over a death.
    pub promise: Option<Promise>,
    /// What the sink says of itself.
    pub declared: Promise,
    /// How many lives and deaths were tried.
    pub schedules: u64,
    /// For each promise that was not kept: the first schedule that showed it, and how.
    pub broken: Vec<(Promise, String)>,
}

impl Certificate {
    /// Checks that this promise, or a stronger one, was kept.
    ///
    /// # Errors
    /// `SinkFailed`, with the first schedule that broke it.
    pub fn require(&self, promise: Promise) -> Result<()> {
        if self.promise.is_some_and(|kept| kept >= promise) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::SinkFailed, format!("the sink is not {promise:?}: {self}")))
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.promise {
            Some(promise) => write!(f, "{promise:?}")?,
            None => write!(f, "no promise kept")?,
        }
        write!(f, " in {} schedules", self.schedules)?;
        self.broken.iter().try_for_each(|(promise, why)| write!(f, "; not {promise:?}: {why}"))
    }
}

/// What was seen so far.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) schedules: u64,
    broken: Vec<(Promise, String)>,
}

impl Verdict {
    pub(super) fn breaks(&mut self, promise: Promise, story: &str, why: impl FnOnce() -> String) {
        if self.broken.iter().all(|(broken, _)| *broken != promise) {
            self.broken.push((promise, format!("{story}: {}", why())));
        }
    }

    pub(super) fn certificate(self, declared: Promise) -> Certificate {
        let kept = |promise: &Promise| self.broken.iter().all(|(broken, _)| broken != promise);
        // Each but the first implies that nothing is lost; the first is for who may lose.
        let exactly = kept(&Promise::AtMostOnce) && kept(&Promise::AtLeastOnce);
        let promise = match exactly && kept(&Promise::Idempotent) {
            true if kept(&Promise::Transactional) => Some(Promise::Transactional),
            true => Some(Promise::Idempotent),
            false if kept(&Promise::AtLeastOnce) => Some(Promise::AtLeastOnce),
            false => kept(&Promise::AtMostOnce).then_some(Promise::AtMostOnce),
        };
        Certificate { promise, declared, schedules: self.schedules, broken: self.broken }
    }
}
