//! The raw limit of bulk appends. One thread: the bare loop, that is a length and a copy for each
//! record, one checksum for each MiB, plain writes at depth 4, one flush. Several threads: the
//! device's sequential bandwidth, that is writes of the same bytes and nothing else, and one
//! flush.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use sawmill::storage::{AlignedBuf, Channel, File, Op};

use super::Outcome;
use super::contender::{Contender, Written};
use super::raw::{FILE, locked, prepare};
use super::workload::Kind;
use super::writer::{Tally, Writer};

/// Bytes of one write.
const PIECE: usize = 1 << 20;
const DEPTH: usize = 4;
const HEADER: usize = 8;

pub(crate) struct RawBulk {
    state: Mutex<State>,
    threads: usize,
}

struct State {
    file: Arc<dyn File>,
    channel: Box<dyn Channel>,
    offset: u64,
    in_flight: usize,
    free: Vec<AlignedBuf>,
    written: Written,
}

impl RawBulk {
    /// The limit of so many threads.
    pub(crate) fn open(path: &Path, threads: usize) -> Outcome<RawBulk> {
        let (file, channel) = prepare(path, &format!("bulk{threads}"), FILE)?;
        let (free, written) = (Vec::new(), Written::default());
        let state = State { file, channel, offset: 0, in_flight: 0, free, written };
        Ok(RawBulk { state: Mutex::new(state), threads })
    }
}

impl State {
    /// A buffer that is not in flight.
    fn buffer(&mut self) -> Outcome<AlignedBuf> {
        if self.in_flight == DEPTH {
            self.complete()?;
        }
        if self.free.is_empty() && self.in_flight == 0 {
            self.free = AlignedBuf::several(PIECE, DEPTH + 1);
            // Their pages are there before they are used.
            self.free.iter_mut().for_each(|fresh| fresh.fill(b'x'));
        }
        self.free.pop().ok_or_else(|| "a buffer is missing".into())
    }

    fn write(&mut self, buffer: AlignedBuf) {
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        self.channel.submit(Op::Write { file, offset, buffer, durable: false });
        self.in_flight += 1;
        self.offset = (offset + PIECE as u64) % FILE;
    }

    fn complete(&mut self) -> Outcome {
        let Some(completion) = self.channel.complete() else { return Ok(()) };
        self.in_flight -= 1;
        let moved = completion.result?;
        if moved != PIECE {
            return Err("a short write".into());
        }
        self.written.flushes += 1;
        self.written.bytes += moved as u64;
        self.free.extend(completion.buffer);
        Ok(())
    }

    /// The bare loop.
    fn copy(&mut self, writer: &mut Writer, records: u64) -> Outcome {
        let wanted = HEADER + writer.size();
        let mut buffer = self.buffer()?;
        let mut used = 0;
        for number in 0..records {
            if used + wanted > PIECE {
                buffer[used..].fill(0);
                std::hint::black_box(crc_fast::crc32_iscsi(&buffer[..used]));
                self.write(buffer);
                (buffer, used) = (self.buffer()?, 0);
            }
            let room = &mut buffer[used..used + wanted];
            room[..HEADER].copy_from_slice(&(writer.size() as u64).to_le_bytes());
            room[HEADER..].copy_from_slice(writer.payload());
            writer.placed(number);
            used += wanted;
        }
        self.write(buffer);
        Ok(())
    }

    /// Bytes as such.
    fn stream(&mut self, bytes: u64) -> Outcome {
        for _ in 0..bytes.div_ceil(PIECE as u64) {
            let buffer = self.buffer()?;
            self.write(buffer);
        }
        Ok(())
    }
}

impl Contender for RawBulk {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn can(&self, kind: Kind) -> bool {
        kind == Kind::Bulk
    }

    fn append(&self, _who: usize, _payload: &[u8]) -> Outcome<u64> {
        Err("the bulk loop waits for no record".into())
    }

    fn append_batch(&self, _who: usize, _payloads: &[Vec<u8>]) -> Outcome<u64> {
        Err("the bulk loop waits for no record".into())
    }

    fn submit(&self, writer: &mut Writer, records: u64) -> Outcome {
        let mut state = locked(&self.state);
        if self.threads == 1 {
            return state.copy(writer, records);
        }
        writer.tally.records += records;
        state.stream(records * writer.size() as u64)
    }

    fn sync(&self) -> Outcome {
        let mut state = locked(&self.state);
        while state.in_flight > 0 {
            state.complete()?;
        }
        let file = Arc::clone(&state.file);
        state.channel.run(Op::Sync { file }).result?;
        Ok(())
    }

    fn in_flight(&self, _writer: &mut Writer, _depth: usize, _stop: &AtomicBool) -> Outcome {
        Err("the bulk loop waits for no record".into())
    }

    fn settle(&self, _kind: Kind, _size: usize, _appended: Tally) -> Outcome<Option<Written>> {
        Ok(Some(std::mem::take(&mut locked(&self.state).written)))
    }
}
