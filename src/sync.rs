//! Threads and their meeting points. Everything concurrent takes its types from here, so that a
//! model checker can stand in for the standard library.

pub(crate) use std::sync::atomic;
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, RwLock};
pub(crate) use std::thread::{JoinHandle, Thread, current, park};

/// Starts a named thread.
#[allow(clippy::disallowed_methods, reason = "this is the seam, and it names the thread")]
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// Locks, also after a panic of another holder: our own panics poison the log by other means.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
