//! The raw limit of durable appends: a group commit of a mutex and a condition variable over a
//! prepared file, one durable write in flight, one checksum. No frame headers, no rotation, no
//! recovery.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use sawmill::storage::files::fill_zeros;
use sawmill::storage::{
    AlignedBuf, BLOCK, BackendChoice, Channel, File, Op, OpenMode, Storage as _, SystemStorage,
};

use super::contender::{Contender, Written};
use super::workload::Kind;
use super::writer::{Tally, Writer};
use super::{Outcome, now_ns};

/// Bytes of the file, written before anything is measured. Writes go round in it.
pub(super) const FILE: u64 = 256 << 20;
/// Holds the records of one group, whatever the workload.
const BUFFER: usize = 8 << 20;
/// Before each record.
const HEADER: usize = 8;

/// Makes a file of so many bytes that are really written, and a channel to it.
pub(super) fn prepare(
    path: &Path,
    name: &str,
    bytes: u64,
) -> Outcome<(Arc<dyn File>, Box<dyn Channel>)> {
    let storage = SystemStorage::new(BackendChoice::Auto)?;
    let directory = storage.directory(path, true)?;
    let file = directory.open(name, OpenMode::CreateDirect)?;
    file.allocate(bytes)?;
    let mut channel = directory.channel()?;
    fill_zeros(&mut *channel, &file, 0, bytes)?;
    file.sync()?;
    directory.sync()?;
    Ok((file, channel))
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The hand-written group commit.
pub(crate) struct Raw {
    state: Mutex<State>,
    done: Condvar,
    file: Arc<dyn File>,
}

struct State {
    filling: AlignedBuf,
    used: usize,
    /// The group that `filling` belongs to, and the last one that is durable.
    group: u64,
    durable: u64,
    offset: u64,
    records: u64,
    written: Written,
    failed: Option<String>,
    /// The channel and the other buffer; whoever takes them leads.
    idle: Option<(Box<dyn Channel>, AlignedBuf)>,
}

impl Raw {
    pub(crate) fn open(path: &Path) -> Outcome<Raw> {
        let (file, channel) = prepare(path, "raw", FILE)?;
        let mut buffers = AlignedBuf::several(BUFFER, 2);
        let (Some(filling), Some(other)) = (buffers.pop(), buffers.pop()) else {
            return Err("a buffer is missing".into());
        };
        let state = State {
            filling,
            used: 0,
            group: 1,
            durable: 0,
            offset: 0,
            records: 0,
            written: Written::default(),
            failed: None,
            idle: Some((channel, other)),
        };
        Ok(Raw { state: Mutex::new(state), done: Condvar::new(), file })
    }

    /// Copies a record into the group that is filling; returns its number and its group.
    fn stage<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        payload: &[u8],
    ) -> (MutexGuard<'a, State>, u64) {
        // Whoever filled the buffer leads, or waits for a leader.
        while state.used + HEADER + payload.len() > BUFFER {
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let (at, behind) = (state.used, state.used + HEADER + payload.len());
        let room = &mut state.filling[at..behind];
        room[..HEADER].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        room[HEADER..].copy_from_slice(payload);
        state.used = behind;
        state.records += 1;
        let number = state.records;
        (state, number)
    }

    /// Waits until a group is durable, leading if nobody does.
    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>, mine: u64) -> Outcome {
        while state.durable < mine {
            if let Some(failed) = &state.failed {
                return Err(failed.clone().into());
            }
            let Some((channel, other)) = state.idle.take() else {
                state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state = self.lead(state, channel, other);
        }
        Ok(())
    }

    fn lead<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        mut channel: Box<dyn Channel>,
        other: AlignedBuf,
    ) -> MutexGuard<'a, State> {
        let mut buffer = std::mem::replace(&mut state.filling, other);
        let used = std::mem::take(&mut state.used);
        let length = used.next_multiple_of(BLOCK);
        let offset = state.offset;
        state.offset = (offset + length as u64) % (FILE - BUFFER as u64);
        let group = state.group;
        state.group += 1;
        drop(state);
        buffer[used..length].fill(0);
        std::hint::black_box(crc_fast::crc32_iscsi(&buffer[..used]));
        buffer.set_len(length);
        let file = Arc::clone(&self.file);
        let written = channel.run(Op::Write { file, offset, buffer, durable: true });
        let mut state = locked(&self.state);
        match (written.result, written.buffer) {
            (Ok(moved), Some(mut buffer)) if moved == length => {
                buffer.set_len(BUFFER);
                state.idle = Some((channel, buffer));
                state.durable = group;
                state.written.flushes += 1;
                state.written.bytes += length as u64;
            }
            (Err(failure), _) => state.failed = Some(failure.to_string()),
            _ => state.failed = Some("a short write".to_owned()),
        }
        self.done.notify_all();
        state
    }
}

impl Contender for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn can(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Append | Kind::Batch(_) | Kind::InFlight(_))
    }

    fn append(&self, _who: usize, payload: &[u8]) -> Outcome<u64> {
        let (state, number) = self.stage(locked(&self.state), payload);
        let group = state.group;
        self.wait(state, group)?;
        Ok(number)
    }

    fn append_batch(&self, _who: usize, payloads: &[Vec<u8>]) -> Outcome<u64> {
        let mut state = locked(&self.state);
        let first = state.records + 1;
        for payload in payloads {
            (state, _) = self.stage(state, payload);
        }
        let group = state.group;
        self.wait(state, group)?;
        Ok(first)
    }

    fn submit(&self, _writer: &mut Writer, _records: u64) -> Outcome {
        Err("the group commit has no bulk appends".into())
    }

    fn sync(&self) -> Outcome {
        Ok(())
    }

    /// Stages `depth` records, waits for the last one, and again.
    fn in_flight(&self, writer: &mut Writer, depth: usize, stop: &AtomicBool) -> Outcome {
        let mut begun = Vec::with_capacity(depth);
        while !stop.load(Ordering::Relaxed) {
            let mut group = 0;
            for _ in 0..depth {
                begun.push(now_ns());
                let (state, number) = self.stage(locked(&self.state), writer.payload());
                group = state.group;
                drop(state);
                writer.placed(number);
            }
            self.wait(locked(&self.state), group)?;
            let now = now_ns();
            begun.drain(..).for_each(|begun| writer.latency.add(now - begun));
        }
        Ok(())
    }

    fn settle(&self, _kind: Kind, _size: usize, _appended: Tally) -> Outcome<Option<Written>> {
        Ok(Some(std::mem::take(&mut locked(&self.state).written)))
    }
}
