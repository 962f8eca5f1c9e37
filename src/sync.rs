//! Threads and their meeting points. Everything concurrent takes its types from here, so that a
//! model checker can stand in for the standard library: with `--cfg shuttle` it does.
//!
//! Nothing here waits for a length of time: who waits until a moment waits for its
//! [`Clock`](crate::clock::Clock), whose time may be moved by hand ([`Gate::wait_until`],
//! [`wait_until`]). The one exception is [`nap`], on the length of which nothing depends.

mod gate;
#[cfg(not(shuttle))]
mod machine;
#[cfg(shuttle)]
mod model;

pub(crate) use gate::{Gate, ROW};
#[cfg(not(shuttle))]
pub(crate) use machine::*;
#[cfg(shuttle)]
pub(crate) use model::*;

/// Atomics for counters and for numbers by which nothing is decided: a checker that went through
/// their interleavings would find nothing.
pub(crate) use std::sync::atomic as counting;
pub(crate) use std::sync::{Arc, OnceLock};

/// Locks, also after a panic of another holder: our own panics poison the log by other means.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Locks if nobody holds it, this thread included.
pub(crate) fn try_lock<T: ?Sized>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

/// Waits on a condition variable, also after a panic of another holder.
pub(crate) fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
}
