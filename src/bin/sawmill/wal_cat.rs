//! `sawmill wal cat`: the records of a log, without writing anything, also beside its writer.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use sawmill::{Error, ErrorKind, Lsn, Record, StreamId, Wal, WalReader, WriterState};
use serde_json::json;

use crate::{Failure, out};

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
    /// Print the stream and what a record carries besides: `<lsn><TAB><fields><TAB><payload>`.
    #[arg(long)]
    fields: bool,
    /// Print only the records of this stream.
    #[arg(long, value_name = "NAME or NUMBER")]
    stream: Option<String>,
}

/// Prints records until there are no more, or for ever.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let reader = Wal::open_read_only(&arguments.directory)?;
    let stream = match &arguments.stream {
        Some(name) => Some(stream_of(&reader, name)?),
        None => None,
    };
    let mut output = Output {
        stdout: BufWriter::with_capacity(1 << 16, io::stdout().lock()),
        json: arguments.json,
        fields: arguments.fields,
        to: arguments.to.map_or(Lsn::new(u64::MAX), Lsn::new),
    };
    match print(arguments, &reader, stream, &mut output) {
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
    fields: bool,
    to: Lsn,
}

/// The stream of a name, or, if there is none, of a number.
fn stream_of(reader: &WalReader, name: &str) -> Result<StreamId, Failure> {
    if let Some(stream) = reader.find_stream(name)? {
        return Ok(stream);
    }
    let number = name.parse().map_err(|_| format!("the log has no stream named {name}"))?;
    Ok(StreamId::new(number))
}

fn print(
    arguments: &Arguments,
    reader: &WalReader,
    stream: Option<StreamId>,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    // What a busy writer adds meanwhile would have no end.
    let end = if arguments.follow { output.to } else { output.to.min(reader.last_lsn()) };
    let mut tail = reader.tail(Lsn::new(arguments.from)).through(end);
    if let Some(stream) = stream {
        tail = tail.stream(stream);
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
            if self.fields {
                fields(&mut self.stdout, record)?;
            }
            self.stdout.write_all(record.payload)?;
            return self.stdout.write_all(b"\n");
        }
        let mut object = json!({
            "lsn": record.lsn.get(),
            "stream": record.stream.get(),
            "internal": record.internal,
        });
        if let Some(key) = record.key() {
            match str::from_utf8(key) {
                Ok(text) => object["key"] = json!(text),
                Err(_) => object["key_hex"] = json!(hex(key)),
            }
        }
        if let Some(timestamp) = record.timestamp() {
            object["timestamp"] = json!(timestamp);
        }
        if let Some(stamp) = record.producer() {
            let (id, epoch, sequence) = (stamp.id.get(), stamp.epoch, stamp.sequence);
            object["producer"] = json!({ "id": id, "epoch": epoch, "sequence": sequence });
        }
        match str::from_utf8(record.payload) {
            Ok(text) => object["payload"] = json!(text),
            Err(_) => object["payload_hex"] = json!(hex(record.payload)),
        }
        writeln!(self.stdout, "{object}")
    }

    /// Says what a repair gave up, in its place.
    fn lost(&mut self, error: &Error) -> io::Result<()> {
        if !self.json {
            out::complain(error);
            return Ok(());
        }
        let range = error.lsns();
        let range = range.map(|(first, last)| json!({ "first": first.get(), "last": last.get() }));
        writeln!(self.stdout, "{}", json!({ "lost": range }))
    }
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
