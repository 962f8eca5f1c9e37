//! A job: a graph of operators between named sources and named sinks.

use std::fmt;

use super::faults::FaultPolicy;
use super::guarantees::Delivery;
use super::journal::{JobShape, OperatorShape, SourceShape};
use super::side::{Side, SideInput};
use super::stateful::StatefulOperator;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Data, Dataset, Emit, Kv, Name, Node, OperatorId, Row, Rows, Value};
use crate::ids::Generation;
use crate::sink::Sink;
use crate::source::{Source, StreamSource};
use crate::sync::{Arc, Mutex, MutexGuard, lock};

/// What a job consists of while it is built.
#[derive(Debug, Default)]
struct Parts {
    sources: Vec<Arc<dyn Source>>,
    sinks: Vec<Arc<dyn Sink>>,
    outputs: Vec<Arc<dyn Node>>,
    operators: Vec<Arc<dyn StatefulOperator>>,
    sides: Vec<Arc<dyn Side>>,
    /// What of the definition is wrong, found where no error could be returned.
    wrong: Option<String>,
    /// Whether the job was built: what is added then would never run.
    built: bool,
}

/// Where streams register what they add to the job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry(Arc<Mutex<Parts>>);

impl Registry {
    pub(crate) fn add_operator(&self, operator: Arc<dyn StatefulOperator>) {
        self.open(operator.name().get()).operators.push(operator);
    }

    /// Adds an output of these rows.
    fn add_sink(&self, sink: Arc<dyn Sink>, rows: Arc<dyn Node>) {
        let mut parts = self.open(sink.name());
        parts.sinks.push(sink);
        parts.outputs.push(rows);
    }

    /// The parts, for one more of them.
    fn open(&self, name: &str) -> MutexGuard<'_, Parts> {
        let parts = lock(&self.0);
        assert!(!parts.built, "`{name}` is added to a job that was built: it would never run");
        parts
    }
}

/// Builds a job: gives out streams. See [`Job::build`].
#[derive(Debug)]
pub struct JobBuilder {
    registry: Registry,
    pub(super) faults: FaultPolicy,
}

impl JobBuilder {
    /// Reads a source. Its position is kept under `name`.
    pub fn source<S: StreamSource>(&mut self, name: Name, source: S) -> Stream<S::Row> {
        let attached = source.attach(name);
        lock(&self.registry.0).sources.push(attached.source);
        self.stream(attached.rows)
    }

    /// A stream of this job.
    pub(super) fn stream<R: Row>(&self, dataset: Dataset<R>) -> Stream<R> {
        Stream { dataset, registry: self.registry.clone() }
    }

    /// Reads a side input: every plan names its version, and [`SideInput::of`] gives it to the
    /// job's closures. Returned to be moved into one of them.
    #[must_use]
    pub fn side_input<T: Value>(&mut self, side: &SideInput<T>) -> SideInput<T> {
        lock(&self.registry.0).sides.push(Arc::new(side.clone()));
        side.clone()
    }
}

/// A job, ready to be started once with [`Engine::start`](crate::Engine::start).
#[derive(Debug)]
pub struct Job {
    pub(crate) name: Name,
    pub(crate) sources: Vec<Arc<dyn Source>>,
    pub(crate) sinks: Vec<Arc<dyn Sink>>,
    /// What each sink gets.
    pub(crate) outputs: Vec<Arc<dyn Node>>,
    pub(crate) operators: Vec<Arc<dyn StatefulOperator>>,
    pub(crate) sides: Vec<Arc<dyn Side>>,
    /// What becomes of records at which user code fails.
    pub(crate) faults: FaultPolicy,
    /// Whether a batch counts as completed before its sinks are called.
    pub(crate) at_most_once: bool,
    /// What the job must at least promise.
    pub(crate) required: Option<Delivery>,
}

impl Job {
    /// Builds a job by calling `body`, which takes streams from the builder, transforms them, and
    /// gives them to sinks; what it returns (state handles, mostly) is handed on.
    ///
    /// A job is found again by its name, and its sources, stateful operators and sinks by theirs:
    /// each of them is a promise about what is on disk.
    ///
    /// # Errors
    /// `Invalid` if two sources (or side inputs), two stateful operators or two sinks have the same
    /// name, if there is no source, if nothing comes of it, or if a stream of another job is united
    /// with one of this job.
    ///
    /// # Panics
    /// If `body` gives a stream of another job, which was built before, to a sink or to
    /// [`map_with_state`](Stream::map_with_state): it would never run.
    pub fn build<T>(name: Name, body: impl FnOnce(&mut JobBuilder) -> T) -> Result<(Job, T)> {
        let mut builder =
            JobBuilder { registry: Registry::default(), faults: FaultPolicy::default() };
        let made = body(&mut builder);
        let closed = Parts { built: true, ..Parts::default() };
        let parts = std::mem::replace(&mut *lock(&builder.registry.0), closed);
        let Parts { sources, sinks, outputs, operators, sides, wrong, .. } = parts;
        let faults = builder.faults;
        if let Some(wrong) = wrong.or(faults.check().err()) {
            return Err(Error::new(ErrorKind::Invalid, format!("job `{name}` {wrong}")));
        }
        unique(name, "sources", sources.iter().map(|source| source.name()))?;
        let read = sources.iter().map(|source| source.name());
        let read = read.chain(sides.iter().map(|side| side.name()));
        unique(name, "sources or side inputs", read)?;
        unique(name, "sinks", sinks.iter().map(|sink| sink.name()))?;
        let names = operators.iter().map(|operator| operator.name().get());
        unique(name, "stateful operators", names)?;
        if sources.is_empty() {
            let message = format!("job `{name}` has no source");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if sinks.is_empty() && operators.is_empty() {
            let message = format!("job `{name}` has neither a sink nor state: nothing comes of it");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let (at_most_once, required) = (false, None);
        let job =
            Job { name, sources, sinks, outputs, operators, sides, faults, at_most_once, required };
        Ok((job, made))
    }

    /// What must not change under the job's state.
    pub(crate) fn shape(&self, generation: Generation, parallelism: u32) -> JobShape {
        let operator = |operator: &Arc<dyn StatefulOperator>| OperatorShape {
            name: operator.name().get().to_owned(),
            schema: operator.schema(),
        };
        let source = |source: &Arc<dyn Source>| SourceShape {
            name: source.name().to_owned(),
            stream: source.stream(),
        };
        JobShape {
            job: self.name.get().to_owned(),
            generation,
            parallelism,
            operators: self.operators.iter().map(operator).collect(),
            sources: self.sources.iter().map(source).collect(),
            sinks: self.sinks.iter().map(|sink| sink.name().to_owned()).collect(),
            sides: self.sides.iter().map(|side| side.name().to_owned()).collect(),
        }
    }

    /// The identities of the stateful operators in this process, by name: for tests and drills.
    #[doc(hidden)]
    pub fn operators(&self) -> Vec<(Name, OperatorId)> {
        self.operators.iter().map(|operator| (operator.name(), operator.id())).collect()
    }
}

fn unique<'a>(job: Name, what: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            let message = format!("job `{job}` has two {what} named `{}`", pair[0]);
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}

impl JobShape {
    /// Compares this, the job to be started, with the one whose state is on disk. Its parallelism
    /// may be another one.
    ///
    /// # Errors
    /// `JobMismatch`, naming the first thing that differs.
    pub(crate) fn check_against(&self, recorded: &JobShape) -> Result<()> {
        let mismatch = |message: String| Err(Error::new(ErrorKind::JobMismatch, message));
        if self.job != recorded.job {
            let text = format!("this directory holds job `{}`, not `{}`", recorded.job, self.job);
            return mismatch(text);
        }
        for operator in &self.operators {
            match recorded.operators.iter().find(|known| known.name == operator.name) {
                Some(known) if known.schema == operator.schema => {}
                Some(_) => {
                    return mismatch(format!(
                        "the state of operator `{}` has another type or version than recorded",
                        operator.name
                    ));
                }
                None => return mismatch(format!("operator `{}` is new", operator.name)),
            }
        }
        for source in &self.sources {
            match recorded.sources.iter().find(|known| known.name == source.name) {
                Some(known) if known.stream == source.stream => {}
                Some(_) => {
                    return mismatch(format!("source `{}` reads another input now", source.name));
                }
                None => return mismatch(format!("source `{}` is new", source.name)),
            }
        }
        if let Some(sink) = self.sinks.iter().find(|sink| !recorded.sinks.contains(sink)) {
            return mismatch(format!("sink `{sink}` is new"));
        }
        if let Some(side) = self.sides.iter().find(|side| !recorded.sides.contains(side)) {
            return mismatch(format!("side input `{side}` is new"));
        }
        self.missing_from(recorded).map_or(Ok(()), mismatch)
    }

    /// What the recorded job has and this one has not.
    fn missing_from(&self, recorded: &JobShape) -> Option<String> {
        let operator = |known: &&OperatorShape| self.operators.iter().all(|o| o.name != known.name);
        if let Some(gone) = recorded.operators.iter().find(operator) {
            return Some(format!("operator `{}` is gone, and its state with it", gone.name));
        }
        let source = |known: &&SourceShape| self.sources.iter().all(|s| s.name != known.name);
        if let Some(gone) = recorded.sources.iter().find(source) {
            return Some(format!("source `{}` is gone", gone.name));
        }
        if let Some(gone) = recorded.sinks.iter().find(|known| !self.sinks.contains(known)) {
            return Some(format!("sink `{gone}` is gone"));
        }
        let gone = recorded.sides.iter().find(|known| !self.sides.contains(known))?;
        Some(format!("side input `{gone}` is gone"))
    }
}

/// A sequence of datasets, one for each batch. The operators are those of
/// [`Dataset`], and mean the same within a batch.
pub struct Stream<R: Row> {
    dataset: Dataset<R>,
    registry: Registry,
}

impl<R: Row> Clone for Stream<R> {
    fn clone(&self) -> Stream<R> {
        Stream { dataset: self.dataset.clone(), registry: self.registry.clone() }
    }
}

impl<R: Row> fmt::Debug for Stream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream(operator {})", self.dataset.operator())
    }
}

impl<R: Row> Stream<R> {
    /// The batch's dataset.
    pub(crate) fn dataset(&self) -> &Dataset<R> {
        &self.dataset
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Gives the stream to a sink.
    pub(crate) fn add_sink(&self, sink: Arc<dyn Sink>) {
        self.registry.add_sink(sink, self.dataset.node());
    }

    /// A stream of the same job.
    pub(crate) fn derive<U: Row>(&self, dataset: Dataset<U>) -> Stream<U> {
        Stream { dataset, registry: self.registry.clone() }
    }

    /// The operator's identity in this process: for tests and drills.
    #[doc(hidden)]
    #[must_use]
    pub fn operator(&self) -> OperatorId {
        self.dataset.operator()
    }

    /// What [`Dataset::shuffle`] says of the operator.
    #[doc(hidden)]
    #[must_use]
    pub fn shuffle(&self) -> Option<OperatorId> {
        self.dataset.shuffle()
    }

    /// One row for each row. See [`Dataset::map`].
    #[must_use]
    pub fn map<U: Data>(
        &self,
        f: impl for<'a> Fn(R::View<'a>) -> U + Send + Sync + 'static,
    ) -> Stream<U> {
        self.derive(self.dataset.map(f))
    }

    /// The rows for which `f` is true. See [`Dataset::filter`].
    #[must_use]
    pub fn filter(
        &self,
        f: impl for<'a> Fn(&R::View<'a>) -> bool + Send + Sync + 'static,
    ) -> Stream<R> {
        self.derive(self.dataset.filter(f))
    }

    /// Any number of owned rows for each row. See [`Dataset::flat_map`].
    #[must_use]
    pub fn flat_map<I: IntoIterator + 'static>(
        &self,
        f: impl for<'a> Fn(R::View<'a>) -> I + Send + Sync + 'static,
    ) -> Stream<I::Item>
    where
        I::Item: Data,
    {
        self.derive(self.dataset.flat_map(f))
    }

    /// Any number of rows for each row, pushed, so that they may borrow from it. See
    /// [`Dataset::flat_map_rows`].
    #[must_use]
    pub fn flat_map_rows<U: Row>(
        &self,
        f: impl for<'a> Fn(R::View<'a>, &mut Emit<'_, U>) + Send + Sync + 'static,
    ) -> Stream<U> {
        self.derive(self.dataset.flat_map_rows(f))
    }

    /// A whole partition at a time. See [`Dataset::map_partitions`].
    #[must_use]
    pub fn map_partitions<U: Row>(
        &self,
        f: impl Fn(Rows<'_, R>, &mut Emit<'_, U>) -> Result<()> + Send + Sync + 'static,
    ) -> Stream<U> {
        self.derive(self.dataset.map_partitions(f))
    }

    /// Each row as a key, with a value. See [`Dataset::pair_with`].
    #[must_use]
    pub fn pair_with<V: Data>(
        &self,
        f: impl for<'a> Fn(&R::View<'a>) -> V + Send + Sync + 'static,
    ) -> Stream<Kv<R, V>> {
        self.derive(self.dataset.pair_with(f))
    }

    /// An owned key and value for each row. See [`Dataset::map_to_pair`].
    #[must_use]
    pub fn map_to_pair<K: Data, V: Data>(
        &self,
        f: impl for<'a> Fn(R::View<'a>) -> (K, V) + Send + Sync + 'static,
    ) -> Stream<Kv<K, V>> {
        self.derive(self.dataset.map_to_pair(f))
    }

    /// The rows of both streams of one job. See [`Dataset::union`].
    #[must_use]
    pub fn union(&self, other: &Stream<R>) -> Stream<R> {
        if !Arc::ptr_eq(&self.registry.0, &other.registry.0) {
            let wrong = "unites one of its streams with a stream of another job".to_owned();
            for registry in [&self.registry, &other.registry] {
                lock(&registry.0).wrong = Some(wrong.clone());
            }
        }
        self.derive(self.dataset.union(&other.dataset))
    }
}
