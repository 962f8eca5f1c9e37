//! `sawmill wal cat`: every record of a log, as raw bytes.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use clap::Args;
use sawmill::{ErrorKind as LogError, Wal, WalOptions};

use crate::Failure;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The log's directory.
    directory: PathBuf,
}

/// Prints `<lsn><TAB><payload>` for each of the user's records, in LSN order.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if !arguments.directory.is_dir() {
        return Err(format!("{}: there is no such log", arguments.directory.display()).into());
    }
    let wal = Wal::open(&arguments.directory, WalOptions::default())?;
    let mut replay = wal.replay()?;
    let mut stdout = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    while let Some(record) = replay.next() {
        let record = match record {
            Err(error) if error.kind() == LogError::Lost => {
                eprintln!("sawmill: {error}");
                continue;
            }
            record => record?,
        };
        let written = write!(stdout, "{}\t", record.lsn)
            .and_then(|()| stdout.write_all(record.payload))
            .and_then(|()| stdout.write_all(b"\n"));
        match written {
            // `| head` has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    match stdout.flush() {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        flushed => flushed?,
    }
    drop(replay);
    Ok(wal.close()?)
}
