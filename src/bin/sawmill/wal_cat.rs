//! `sawmill wal cat`: the records of a log, without writing anything, also beside its writer.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use sawmill::{Error, ErrorKind, Lsn, Record, StreamId, Wal, WalReader, WriterState};
use serde_json::json;

use crate::Failure;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The log's directory.
    directory: PathBuf,
    /// The first LSN to print.
    #[arg(long, value_name = "LSN", default_value_t = 1)]
    from: u64,
    /// The last LSN to print; with --follow, waits for it, and ends then.
    #[arg(long, value_name = "LSN")]
    to: Option<u64>,
    /// Go on with each record as soon as it is durable.
    #[arg(long)]
    follow: bool,
    /// Print the engine's internal records too.
    #[arg(long)]
    all: bool,
    /// Print one JSON object for each record.
    #[arg(long)]
    json: bool,
    /// Print only the records of this stream, by its number.
    #[arg(long, value_name = "NUMBER")]
    stream: Option<u16>,
}

/// Prints records until there are no more, or for ever.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let reader = Wal::open_read_only(&arguments.directory)?;
    let mut output = Output {
        stdout: BufWriter::with_capacity(1 << 16, io::stdout().lock()),
        json: arguments.json,
        to: arguments.to.map_or(Lsn::new(u64::MAX), Lsn::new),
    };
    match print(arguments, &reader, &mut output) {
        // `| head` has seen enough.
        Err(Stop::Written(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(Stop::Written(error)) => Err(error.into()),
        Err(Stop::Log(error)) => {
            output.stdout.flush().ok();
            Err(error.into())
        }
        Ok(()) => Ok(()),
    }
}

/// Why printing ended early.
enum Stop {
    Written(io::Error),
    Log(Error),
}

struct Output<'a> {
    stdout: BufWriter<StdoutLock<'a>>,
    json: bool,
    to: Lsn,
}

fn print(arguments: &Arguments, reader: &WalReader, output: &mut Output<'_>) -> Result<(), Stop> {
    let mut tail = reader.tail(Lsn::new(arguments.from));
    if let Some(stream) = arguments.stream {
        tail = tail.stream(StreamId::new(stream));
    }
    if arguments.all {
        tail = tail.with_internal();
    }
    loop {
        while let Some(record) = tail.try_next() {
            match record {
                Ok(record) if record.lsn > output.to => return output.flush(),
                Ok(record) => output.record(&record).map_err(Stop::Written)?,
                Err(error) if error.kind() == ErrorKind::Lost => {
                    output.lost(&error).map_err(Stop::Written)?;
                }
                Err(error) => return Err(Stop::Log(error)),
            }
        }
        output.flush()?;
        if !arguments.follow || tail.next_lsn() > output.to {
            return Ok(());
        }
        thread::sleep(match reader.stats().writer {
            WriterState::Live => Duration::from_millis(5),
            WriterState::None => Duration::from_millis(50),
            // Each look reads some of the log.
            WriterState::Silent | _ => Duration::from_millis(500),
        });
    }
}

impl Output<'_> {
    fn flush(&mut self) -> Result<(), Stop> {
        self.stdout.flush().map_err(Stop::Written)
    }

    fn record(&mut self, record: &Record<'_>) -> io::Result<()> {
        if !self.json {
            write!(self.stdout, "{}\t", record.lsn)?;
            self.stdout.write_all(record.payload)?;
            return self.stdout.write_all(b"\n");
        }
        let mut object = json!({
            "lsn": record.lsn.get(),
            "stream": record.stream.get(),
            "internal": record.internal,
        });
        match str::from_utf8(record.payload) {
            Ok(text) => object["payload"] = json!(text),
            Err(_) => object["payload_hex"] = json!(hex(record.payload)),
        }
        writeln!(self.stdout, "{object}")
    }

    /// Says what a repair gave up, in its place.
    fn lost(&mut self, error: &Error) -> io::Result<()> {
        if !self.json {
            eprintln!("sawmill: {error}");
            return Ok(());
        }
        let range = error.lsns();
        let range = range.map(|(first, last)| json!({ "first": first.get(), "last": last.get() }));
        writeln!(self.stdout, "{}", json!({ "lost": range }))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
