//! What model checkers run: each has a build of its own, in which it stands in for threads and
//! locks, so this is a package of its own, which takes little to build. Elsewhere it is empty.
#![cfg(test)]

#[cfg(shuttle)]
mod committer;
#[cfg(loom)]
mod staging;

/// Where the product's file looks for it.
#[cfg(loom)]
use staging::sync;
