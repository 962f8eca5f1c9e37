//! What can be chosen when a log is opened, and the limits that follow from it (LOG.md L4).

use std::time::Duration;

use super::attest::IDLE_MIN;
use super::compress::Compression;
use super::depth::DEPTH_MAX;
use super::frame::FRAME_HEADER;
use super::record::RECORD_HEADER;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{to_u64, to_usize};
use crate::storage::{BLOCK, BackendChoice};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// A frame that nobody enlarges is sealed before it grows beyond this, so that a write is long
/// enough to use the device and short enough to be waited for.
const FRAME_TARGET: u64 = MIB;

/// How a log is opened. Every field has a default; limits are checked by
/// [`Wal::open`](crate::Wal::open), which refuses what is out of range with
/// [`ErrorKind::Invalid`].
///
/// ```
/// use sawmill::WalOptions;
/// let options = WalOptions { segment_size: 1 << 20, ..WalOptions::default() };
/// assert_eq!(options.max_record, 16 << 20); // shrinks with the segment when the log is opened
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// Bytes in each segment file prepared from now on, a multiple of 4096. Three are prepared at
    /// rest, the active one among them. Default 64 MiB, minimum 64 KiB, maximum 4 GiB.
    pub segment_size: u64,
    /// Bound, in bytes, on the memory of records that are appended and not yet written; whoever
    /// appends more waits. A single frame may exceed it when nothing else is held. Default
    /// 32 MiB, minimum 1 MiB, maximum 16 GiB.
    pub memory: u64,
    /// The largest payload of a record, in bytes. Half a segment less a record's header bounds it
    /// further. Default 16 MiB, minimum 1, maximum 1 GiB.
    pub max_record: u64,
    /// How long opening waits for another writer to go before it fails with
    /// [`ErrorKind::Locked`]. Default 5 s, minimum 0, maximum 1 h.
    pub lock_wait: Duration,
    /// How many segment files that were given up are kept, to be used again instead of preparing
    /// new ones: that saves writing every byte twice. Disk that a log holds: its records, the
    /// active segment and those prepared ahead, these, and what open readers still read below the
    /// start. Each of these keeps a file open. As many as a truncation gives up are enough. None
    /// are kept on copy-on-write file systems and in memory. Default 8, minimum 0 (off), maximum
    /// 1024.
    pub recycled: u64,
    /// How many segments may be prepared ahead, beside the active one, while the log takes them
    /// faster than they are made; two at rest. Those that are ready stay until they are used, also
    /// by the next opening. Default 8, minimum 2, maximum 64.
    pub prepared_ahead: u64,
    /// Bytes of segments beyond which the oldest ones go, whenever the log comes into a new one and
    /// at [`Wal::apply_retention`](crate::Wal::apply_retention). The active segment always stays,
    /// spare ones are not counted. Default `None`: nothing goes by itself. Minimum 64 KiB. Not
    /// for the log of an [`Engine`](crate::Engine), which knows what it needs.
    pub retain_bytes: Option<u64>,
    /// Age beyond which records go, by the segment, at the same occasions: by the time at which
    /// their frame was sealed. With both options, what either lets go goes. Default `None`,
    /// minimum 1 s, maximum 100 years. Not for the log of an [`Engine`](crate::Engine).
    pub retain_age: Option<Duration>,
    /// How many producers the log knows; when it knows so many, a new one is refused. None is
    /// forgotten but by [`Wal::forget_producer`](crate::Wal::forget_producer). Each takes up to
    /// 10 KiB of memory, and as much of the log whenever the catalog is repeated. Where that takes
    /// more than half a segment, only `truncate_before` and `apply_retention` repeat it, and
    /// `retain_bytes` and `retain_age` let nothing go by themselves. Default 1024, minimum 0,
    /// maximum 1,048,576.
    pub max_producers: u64,
    /// Whether frames are compressed, each by itself, where that saves a block: less to write for
    /// the time it takes. Records are shown as they were appended. A log may have frames of both
    /// kinds. Default [`Compression::None`].
    pub compression: Compression,
    /// After how long without anything to write the log attests its last acknowledged records by a
    /// frame of their own, a block of 4096 bytes, so that damage to them can be told from a write
    /// that never finished. At most one frame in so long, none if nothing was acknowledged since
    /// the last one. Default 50 ms, which is also the minimum; maximum 1 h; `None`: never.
    pub attest_after: Option<Duration>,
    /// Who carries the file operations. Default [`BackendChoice::Auto`]: what works best; the
    /// environment variable `SAWMILL_BACKEND` then overrides it.
    pub backend: BackendChoice,
    /// Who does what no caller waits for. Default [`Background::Threads`].
    #[doc(hidden)]
    pub background: Background,
    /// How many durable writes may be in flight, 1 to 16; 0: one, and it waits for those who were
    /// served by the one before; `None`, the default: as many as pay.
    #[doc(hidden)]
    pub write_depth: Option<usize>,
}

/// Who prepares segments, updates `LOG` and writes what nobody waits for.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Background {
    /// Two threads of the log.
    #[default]
    Threads,
    /// Whoever calls: no threads at all, for deterministic simulation.
    Inline,
}

impl Default for WalOptions {
    fn default() -> WalOptions {
        WalOptions {
            segment_size: 64 * MIB,
            memory: 32 * MIB,
            max_record: 16 * MIB,
            lock_wait: Duration::from_secs(5),
            recycled: 8,
            prepared_ahead: 8,
            retain_bytes: None,
            retain_age: None,
            max_producers: 1024,
            compression: Compression::None,
            attest_after: Some(IDLE_MIN),
            backend: BackendChoice::Auto,
            background: Background::Threads,
            write_depth: None,
        }
    }
}

/// What one system call moves at most, in whole blocks.
const MOVED_AT_ONCE: u64 = 0x7fff_f000;

impl WalOptions {
    /// Refuses what is out of range.
    ///
    /// # Errors
    /// `Invalid`, naming the option and its range.
    pub(crate) fn check(&self) -> Result<()> {
        let within = |name: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let message = format!("option {name} is {value}, but must be {least} to {most}");
            Err(Error::new(ErrorKind::Invalid, message))
        };
        within("segment_size", self.segment_size, 64 * KIB, 4096 * MIB)?;
        within("memory", self.memory, MIB, 16 * 1024 * MIB)?;
        within("max_record", self.max_record, 1, 1024 * MIB)?;
        within("max_producers", self.max_producers, 0, 1 << 20)?;
        within("recycled", self.recycled, 0, 1024)?;
        within("prepared_ahead", self.prepared_ahead, 2, 64)?;
        within("lock_wait (seconds)", self.lock_wait.as_secs(), 0, 3600)?;
        if let Some(depth) = self.write_depth {
            within("write_depth", to_u64(depth), 0, to_u64(DEPTH_MAX))?;
        }
        if let Some(bytes) = self.retain_bytes {
            within("retain_bytes", bytes, 64 * KIB, u64::MAX)?;
        }
        if let Some(idle) = self.attest_after {
            let least = u64::try_from(IDLE_MIN.as_millis()).unwrap_or(u64::MAX);
            let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
            within("attest_after (milliseconds)", idle, least, 3_600_000)?;
        }
        if let Some(age) = self.retain_age {
            within("retain_age (seconds)", age.as_secs(), 1, 100 * 366 * 86_400)?;
        }
        if !self.compression.is_built() {
            let message = "option compression is Lz4, which needs the feature lz4";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if !self.segment_size.is_multiple_of(to_u64(BLOCK)) {
            let message =
                format!("option segment_size is {}, no multiple of 4096", self.segment_size);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }

    /// The limits that these options and segments of this size set.
    pub(crate) fn limits(&self) -> Limits {
        // The system moves no more at once.
        let batch = (self.segment_size / 2).min(MOVED_AT_ONCE);
        let headers = to_u64(FRAME_HEADER + RECORD_HEADER);
        Limits {
            record: self.max_record.min(batch - headers),
            batch: batch - to_u64(FRAME_HEADER),
            frame: to_usize(FRAME_TARGET.min(batch)),
            memory: to_usize(self.memory),
            ahead: to_usize(self.prepared_ahead),
        }
    }
}

/// Limits in bytes, checked before anything is reserved (LOG.md L4).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of one record's payload.
    pub(crate) record: u64,
    /// Of an atomic batch: payloads and record headers together. Always inside one frame.
    pub(crate) batch: u64,
    /// Of a frame on disk, header included, unless a single append is larger.
    pub(crate) frame: usize,
    /// Of all staging buffers together.
    pub(crate) memory: usize,
    /// Of segments prepared beside the active one.
    pub(crate) ahead: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_shrink_with_the_segment() {
        let options = WalOptions { segment_size: 64 * KIB, ..WalOptions::default() };
        let limits = options.limits();
        assert_eq!(limits.batch, 32 * KIB - 128);
        assert_eq!(limits.record, 32 * KIB - 136);
        assert_eq!(limits.frame, 32 * 1024);
        assert_eq!(WalOptions::default().limits().record, 16 * MIB);
    }

    #[test]
    fn refuses_each_option_out_of_range() {
        let good = WalOptions::default();
        good.check().unwrap();
        let bad = [
            WalOptions { segment_size: 60 * KIB, ..good.clone() },
            WalOptions { segment_size: 64 * KIB + 1, ..good.clone() },
            WalOptions { memory: 1, ..good.clone() },
            WalOptions { max_record: 0, ..good.clone() },
            WalOptions { max_producers: (1 << 20) + 1, ..good.clone() },
            WalOptions { attest_after: Some(Duration::from_millis(49)), ..good.clone() },
            WalOptions { recycled: 1025, ..good.clone() },
            WalOptions { prepared_ahead: 1, ..good.clone() },
            WalOptions { lock_wait: Duration::from_secs(4000), ..good.clone() },
            WalOptions { write_depth: Some(17), ..good.clone() },
            WalOptions { retain_bytes: Some(1), ..good.clone() },
            WalOptions { retain_age: Some(Duration::from_millis(999)), ..good.clone() },
        ];
        for options in bad {
            assert_eq!(options.check().unwrap_err().kind(), ErrorKind::Invalid, "{options:?}");
        }
    }
}
