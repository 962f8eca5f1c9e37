//! Everything that the command line prints on stdout, but for the subcommands that stream
//! records and keep a buffer of their own.
//!
//! The other end of a pipe may go away at any moment (`sawmill doctor . | head -1`). `println!`
//! panics then. What is printed here instead is dropped from the first error on, so that a
//! subcommand ends as it would have, its files removed and its exit code right; [`check`] lets one
//! that goes on for minutes end early, and [`main`](crate::main) says what the error was, unless
//! nobody is there to read on.

use std::fmt;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};

/// Why nothing more can be printed.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints a line on stdout, as `println!`.
macro_rules! say {
    ($($text:tt)*) => { $crate::out::print(format_args!("{}\n", format_args!($($text)*))) };
}
pub(crate) use say;

/// Prints text at once.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if failed.is_none() {
        let mut stdout = io::stdout().lock();
        *failed = stdout.write_fmt(text).and_then(|()| stdout.flush()).err();
    }
}

/// Says what is wrong, on stderr.
pub(crate) fn complain(what: impl fmt::Display) {
    // There is nowhere else to say so.
    writeln!(io::stderr(), "sawmill: {what}").ok();
}

/// Whether somebody still reads what is printed.
///
/// # Errors
/// Why not: once.
pub(crate) fn check() -> io::Result<()> {
    let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner).take();
    failed.map_or(Ok(()), Err)
}

/// Whether an error says that the reader of a pipe has seen enough.
pub(crate) fn is_gone(error: &(dyn std::error::Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
