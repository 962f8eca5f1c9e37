//! Newtypes for everything that is counted, with only the operations that mean something.

use std::fmt;

use serde::{Deserialize, Serialize};

const _: () = assert!(usize::BITS == 64, "sawmill addresses files by 64-bit offsets");

/// A length or offset as an index into memory. Lossless: the crate refuses 32-bit targets above.
#[must_use]
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "usize has 64 bits, asserted above")]
pub(crate) const fn to_usize(value: u64) -> usize {
    value as usize
}

/// An index or length in memory as a file's offset or length. Lossless.
#[must_use]
#[inline]
pub(crate) const fn to_u64(value: usize) -> u64 {
    value as u64
}

/// Log sequence number: the dense ordinal of a record, from 1; the total order of a log.
///
/// `Lsn::ZERO` means "before the first record".
///
/// ```
/// use sawmill::Lsn;
/// assert_eq!(Lsn::FIRST.get(), 1);
/// assert_eq!(Lsn::ZERO.next(), Lsn::FIRST);
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Lsn(u64);

impl Lsn {
    /// Before the first record.
    pub const ZERO: Lsn = Lsn(0);
    /// The first record of every log.
    pub const FIRST: Lsn = Lsn(1);

    /// The LSN with this ordinal.
    #[must_use]
    pub const fn new(ordinal: u64) -> Lsn {
        Lsn(ordinal)
    }

    /// The ordinal.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The LSN after this one.
    #[must_use]
    pub const fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }

    /// The LSN before this one; `ZERO` stays `ZERO`.
    #[must_use]
    pub const fn previous(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// The LSN `count` records later.
    #[must_use]
    pub const fn advance(self, count: u64) -> Lsn {
        Lsn(self.0 + count)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! counted {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone,
            Copy,
            Debug,
            Default,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            Hash,
            Serialize,
            Deserialize,
        )]
        pub struct $name(u64);

        impl $name {
            /// The value with this number.
            #[must_use]
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The value after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counted! {
    /// The dense number of a segment file, from 1.
    SegmentNumber
}
counted! {
    /// The number of a writer's incarnation: grows at every opening for writing.
    Epoch
}
counted! {
    /// Who sends records that are to be stored once, however often they are sent. Chosen by the
    /// sender, and the same for all its lives.
    ProducerId
}
counted! {
    /// The number of a batch of one job, from 1. Zero means "before the first batch".
    BatchId
}
counted! {
    /// The number of a job's generation: a new one starts when the job's code or shape changes.
    Generation
}

/// Which of the streams multiplexed in one log a record belongs to. `StreamId::DEFAULT` is the
/// one that [`Wal::append`](crate::Wal::append) writes to.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct StreamId(u16);

impl StreamId {
    /// The stream of a log that is used by itself.
    pub const DEFAULT: StreamId = StreamId(0);

    /// The stream with this number.
    #[must_use]
    pub const fn new(number: u16) -> StreamId {
        StreamId(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The identity of a log: 16 random bytes drawn when it is created, in every header it writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId([u8; 16]);

impl LogId {
    /// The identity with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> LogId {
        LogId(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({self})")
    }
}

/// A place in the log's files: a segment and a byte offset in it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// The segment.
    pub segment: SegmentNumber,
    /// Bytes from the start of the segment's file.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} offset {}", self.segment, self.offset)
    }
}
