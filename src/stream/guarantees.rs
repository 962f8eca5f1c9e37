//! What a job promises about each record, from its parts.

use std::fmt;

use super::job::Job;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::Promise;
use crate::sync::Arc;

/// How often a record counts, in a part of a job or in all of it; from the weakest to the
/// strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Delivery {
    /// Once or never.
    AtMostOnce,
    /// Once, or several times.
    AtLeastOnce,
    /// Once.
    ExactlyOnce,
}

impl From<Promise> for Delivery {
    fn from(promise: Promise) -> Delivery {
        match promise {
            Promise::AtMostOnce => Delivery::AtMostOnce,
            Promise::AtLeastOnce => Delivery::AtLeastOnce,
            Promise::Idempotent | Promise::Transactional => Delivery::ExactlyOnce,
        }
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Delivery::AtMostOnce => "at most once",
            Delivery::AtLeastOnce => "at least once",
            Delivery::ExactlyOnce => "exactly once",
        })
    }
}

/// One part of a job, and what it promises.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// What it is, with its name.
    pub part: String,
    /// How often a record counts there.
    pub delivery: Delivery,
    /// On what that rests.
    pub because: &'static str,
}

/// The chain of a job: what it receives, what it makes of it, what it gives out. It is worth what
/// its weakest link is worth.
///
/// ```
/// use sawmill::{Delivery, Engine, EngineOptions, Job, Received, RunOptions, name};
/// # let place = tempfile::tempdir()?;
/// let engine = Engine::open(place.path().join("data"), EngineOptions::default())?;
/// let events = engine.ingest(name!("events"))?;
/// let build = || Job::build(name!("words"), |job| {
///     let words = job.source(name!("in"), Received::from(&events));
///     words.write_text(name!("files"), place.path().join("out"));
///     words.for_each_batch(name!("mail"), |_| Ok(()));
/// });
/// let guarantees = build()?.0.guarantees();
/// assert_eq!(guarantees.delivery(), Delivery::AtLeastOnce);
/// assert_eq!(guarantees.weakest().part, "sink `mail`");
/// println!("{guarantees}");
/// let job = build()?.0.require(Delivery::ExactlyOnce);
/// let refused = engine.start(job, RunOptions::default()).unwrap_err();
/// assert!(refused.to_string().contains("sink `mail`"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Guarantees {
    /// Each source.
    pub receive: Vec<Link>,
    /// The operators, with their state.
    pub transform: Link,
    /// Each sink.
    pub output: Vec<Link>,
}

impl Guarantees {
    /// All links, in the order in which a record passes them.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.receive.iter().chain([&self.transform]).chain(&self.output)
    }

    /// The first of the weakest links.
    #[must_use]
    pub fn weakest(&self) -> &Link {
        self.links().min_by_key(|link| link.delivery).unwrap_or(&self.transform)
    }

    /// What the whole chain promises.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        self.weakest().delivery
    }
}

impl fmt::Display for Guarantees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for link in self.links() {
            writeln!(f, "{}: {} ({})", link.part, link.delivery, link.because)?;
        }
        write!(f, "all together: {}, because of {}", self.delivery(), self.weakest().part)
    }
}

impl Job {
    /// What the job promises about each record, from its actual parts.
    #[must_use]
    pub fn guarantees(&self) -> Guarantees {
        let source = |source: &Arc<dyn crate::source::Source>| Link {
            part: format!("source `{}`", source.name()),
            delivery: Delivery::ExactlyOnce,
            because: source.rests_on(),
        };
        let sink = |sink: &Arc<dyn crate::sink::Sink>| {
            let (promise, because) = sink.promise();
            Link { part: format!("sink `{}`", sink.name()), delivery: promise.into(), because }
        };
        let because = "batches are planned in the log and completed once; functions are pure";
        let part = "operators and state".to_owned();
        let transform = Link { part, delivery: Delivery::ExactlyOnce, because };
        let mut output: Vec<Link> = self.sinks.iter().map(sink).collect();
        if self.at_most_once {
            for link in &mut output {
                link.delivery = Delivery::AtMostOnce;
                link.because = "called once, when the batch counts as completed already";
            }
        }
        Guarantees { receive: self.sources.iter().map(source).collect(), transform, output }
    }

    /// Gives every batch to the sinks once at most: it counts as completed, durably, before they
    /// are called, and what a sink refuses, or the process does not live to give out, is lost.
    /// State and positions count once all the same. For outputs where a repetition is worse than a
    /// loss.
    ///
    /// ```
    /// use sawmill::{Delivery, Job, TextFiles, name};
    /// let (job, ()) = Job::build(name!("alerts"), |job| {
    ///     let lines = job.source(name!("in"), TextFiles::new(["README.md"]));
    ///     lines.for_each_batch(name!("page"), |_| Ok(()));
    /// })?;
    /// assert_eq!(job.at_most_once().guarantees().delivery(), Delivery::AtMostOnce);
    /// # Ok::<(), sawmill::Error>(())
    /// ```
    #[must_use]
    pub fn at_most_once(mut self) -> Job {
        self.at_most_once = true;
        self
    }

    /// Has [`Engine::start`](crate::Engine::start) refuse the job if its parts promise less.
    #[must_use]
    pub fn require(mut self, delivery: Delivery) -> Job {
        self.required = Some(delivery);
        self
    }

    /// # Errors
    /// `Invalid`, naming the weakest link.
    pub(crate) fn check_required(&self) -> Result<()> {
        let two_phase = self.sinks.iter().find(|sink| sink.two_phase().is_some());
        if let Some(sink) = two_phase.filter(|_| self.at_most_once) {
            let message = format!(
                "job `{}` gives its batches out once at most, and its sink `{}` has two phases",
                self.name,
                sink.name()
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let (guarantees, required) = (self.guarantees(), self.required);
        if required.is_none_or(|required| guarantees.delivery() >= required) {
            return Ok(());
        }
        let message =
            format!("job `{}` is required to be more than it can be:\n{guarantees}", self.name);
        Err(Error::new(ErrorKind::Invalid, message))
    }
}
