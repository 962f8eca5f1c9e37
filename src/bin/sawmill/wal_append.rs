//! `sawmill wal append`: lines of stdin become durable records.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use clap::Args;
use sawmill::{Entry, Lsn, StreamId, Wal, WalOptions};

use crate::Failure;

/// Lines read ahead of the threads that append them.
const AHEAD: usize = 1024;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The log's directory; made if there is none.
    directory: PathBuf,
    /// How many threads append. With more than one, records need not come in the order of lines.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Bytes in each segment file: 65536 or more, a multiple of 4096.
    #[arg(long, value_name = "BYTES")]
    segment_size: Option<u64>,
    /// Give each record this key.
    #[arg(long)]
    key: Option<String>,
    /// Append to the stream of this name instead of the default one.
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Print `<lsn><TAB><line>` for each record, at once, when it is durable and not before.
    #[arg(long)]
    print_acks: bool,
}

/// Appends until stdin ends, then closes the log.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut options = WalOptions::default();
    if let Some(segment_size) = arguments.segment_size {
        options.segment_size = segment_size;
    }
    let wal = Wal::open(&arguments.directory, options)?;
    let stream = arguments.stream.as_deref().map(|name| wal.stream(name)).transpose()?;
    let template = Template {
        key: arguments.key.as_deref().map(str::as_bytes),
        stream: stream.as_ref().map_or(StreamId::DEFAULT, StreamId::from),
    };
    drop(stream);
    let (lines, queue) = sync_channel::<Vec<u8>>(AHEAD);
    let queue = Mutex::new(queue);
    let mut outcome: Result<(), Failure> = Ok(());
    thread::scope(|scope| {
        let append = || append_lines(&wal, template, &queue, arguments.print_acks);
        let workers: Vec<_> = (0..arguments.threads).map(|_| scope.spawn(append)).collect();
        // In a thread of its own: when an append fails, nobody waits for a terminal's next line.
        let reader = thread::Builder::new().name("stdin".to_owned());
        let reader = reader.spawn(move || -> io::Result<()> {
            let mut stdin = io::stdin().lock();
            let mut line = Vec::new();
            while stdin.read_until(b'\n', &mut line)? > 0 {
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                if lines.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
            Ok(())
        });
        for worker in workers {
            let appended = worker.join().unwrap_or_else(|_| Err("a thread panicked".into()));
            if outcome.is_ok() {
                outcome = appended;
            }
        }
        if outcome.is_ok() {
            outcome = match reader.map(thread::JoinHandle::join) {
                Ok(Ok(Ok(()))) => Ok(()),
                Ok(Ok(Err(error))) | Err(error) => Err(error.into()),
                Ok(Err(_)) => Err("the thread that reads stdin panicked".into()),
            };
        }
    });
    let closed = wal.close();
    outcome?;
    Ok(closed?)
}

/// What all records have in common.
#[derive(Clone, Copy)]
struct Template<'a> {
    key: Option<&'a [u8]>,
    stream: StreamId,
}

fn append_lines(
    wal: &Wal,
    template: Template<'_>,
    queue: &Mutex<Receiver<Vec<u8>>>,
    print: bool,
) -> Result<(), Failure> {
    loop {
        let line = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return Ok(()),
        };
        // The other end is gone: no more lines.
        let Ok(line) = line else { return Ok(()) };
        let entry = Entry::new(&line).stream(template.stream);
        let lsn = wal.append_record(&template.key.map_or(entry, |key| entry.key(key)))?;
        if print {
            // An error, though it ends quietly elsewhere: lines are left that are not in the log.
            let told = acknowledge(lsn, &line);
            told.map_err(|error| format!("record {lsn} cannot be acknowledged: {error}"))?;
        }
    }
}

/// Prints an acknowledgement with one write, past the buffer of [`io::stdout`], under its lock: a
/// reader of the pipe sees whole lines, each as soon as its record is durable.
fn acknowledge(lsn: Lsn, line: &[u8]) -> io::Result<()> {
    let mut text = Vec::with_capacity(line.len() + 22);
    write!(text, "{lsn}\t")?;
    text.extend_from_slice(line);
    text.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&text)?;
    stdout.flush()
}
