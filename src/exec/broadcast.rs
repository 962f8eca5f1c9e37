//! Values that all closures read: a broadcast, and a sign that a run is to end.

use std::ops::Deref;

use super::row::Data;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};

/// A value that the closures of any operator read: a small table to look up in, a set of rules.
/// One copy for all threads, however many closures hold it; it cannot be changed.
///
/// In a job its content is part of the code: a job that is started again must be built with the
/// same one, or what is executed again comes out differently.
///
/// ```
/// use std::collections::BTreeMap;
/// use sawmill::{Broadcast, Dataset, Executor};
/// let names = Broadcast::new(BTreeMap::from([(1u32, "oak"), (2, "ash")]));
/// let rows = Dataset::from_vec(vec![2u32, 1, 3], 2);
/// let named = rows.map(move |id| names.get(&id).copied().unwrap_or("unknown"));
/// assert_eq!(named.collect(&Executor::new(2, 1)?)?, ["ash", "oak", "unknown"]);
/// # Ok::<(), sawmill::Error>(())
/// ```
#[derive(Debug)]
pub struct Broadcast<T>(Arc<T>);

impl<T: Send + Sync + 'static> Broadcast<T> {
    /// The value, to be shared from now on.
    #[must_use]
    pub fn new(value: T) -> Broadcast<T> {
        Broadcast(Arc::new(value))
    }
}

impl<T: Data> Broadcast<T> {
    /// The value, if nobody else holds it any more; else a copy.
    #[must_use]
    pub fn into_inner(self) -> T {
        Arc::unwrap_or_clone(self.0)
    }
}

impl<T> Clone for Broadcast<T> {
    fn clone(&self) -> Self {
        Broadcast(Arc::clone(&self.0))
    }
}

impl<T> Deref for Broadcast<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Ends runs from outside: tasks that have not begun then do not begin, and the action returns an
/// error of kind [`Closed`](crate::ErrorKind::Closed). A task that is running comes to its end
/// first. Clones are one token; a token may be given to any number of runs, and cancels all of
/// them, for good.
///
/// ```
/// use sawmill::{CancelToken, Dataset, ErrorKind, Executor};
/// let (executor, token) = (Executor::new(2, 4)?, CancelToken::default());
/// let run = executor.context().with_cancel(&token);
/// token.cancel();
/// let numbers = Dataset::from_vec(vec![1, 2, 3], 2);
/// assert_eq!(executor.count(&run, &numbers).unwrap_err().kind(), ErrorKind::Closed);
/// # Ok::<(), sawmill::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    own: Arc<AtomicBool>,
    outer: Option<Arc<AtomicBool>>,
}

impl CancelToken {
    /// A token for a part of what this one cancels.
    pub(crate) fn part(&self) -> CancelToken {
        CancelToken { own: Arc::default(), outer: Some(Arc::clone(&self.own)) }
    }

    /// Cancels every run that has this token.
    pub fn cancel(&self) {
        self.own.store(true, Ordering::Release);
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let is_set = |token: &Arc<AtomicBool>| token.load(Ordering::Acquire);
        is_set(&self.own) || self.outer.as_ref().is_some_and(is_set)
    }
}
