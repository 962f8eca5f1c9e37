//! `sawmill wal cat`: every record of a log, as raw bytes.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use clap::Args;
use sawmill::{ErrorKind as LogError, Record, Wal, WalOptions};

use crate::Failure;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The log's directory.
    directory: PathBuf,
    /// Print the stream and what a record carries besides: `<lsn><TAB><fields><TAB><payload>`.
    #[arg(long)]
    fields: bool,
    /// Only the records of the stream of this name.
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
}

/// Prints `<lsn><TAB><payload>` for each of the user's records, in LSN order.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if !arguments.directory.is_dir() {
        return Err(format!("{}: there is no such log", arguments.directory.display()).into());
    }
    let wal = Wal::open(&arguments.directory, WalOptions::default())?;
    let mut replay = match &arguments.stream {
        Some(name) => match wal.find_stream(name) {
            Some(stream) => stream.replay()?,
            None => return Err(format!("the log has no stream named {name}").into()),
        },
        None => wal.replay()?,
    };
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
            .and_then(|()| if arguments.fields { fields(&mut stdout, &record) } else { Ok(()) })
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

/// Prints `stream=<number> key=<escaped> timestamp=<ns> producer=<id>/<epoch>/<sequence><TAB>`,
/// leaving out what the record does not carry.
fn fields(out: &mut impl Write, record: &Record<'_>) -> io::Result<()> {
    write!(out, "stream={}", record.stream.get())?;
    if let Some(key) = record.key() {
        write!(out, " key={}", key.escape_ascii())?;
    }
    if let Some(timestamp) = record.timestamp() {
        write!(out, " timestamp={timestamp}")?;
    }
    if let Some(stamp) = record.producer() {
        write!(out, " producer={}/{}/{}", stamp.id, stamp.epoch, stamp.sequence)?;
    }
    out.write_all(b"\t")
}
