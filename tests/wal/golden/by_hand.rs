//! A reader of the log that was written from `docs/format.md` alone, and uses nothing of the
//! product.

const BLOCK: usize = 4096;

/// CRC32C, bit by bit (RFC 3720).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().unwrap()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

fn zeros(bytes: &[u8]) {
    assert!(bytes.iter().all(|byte| *byte == 0), "zeros");
}

/// One slot of `LOG`.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) log: [u8; 16],
    pub(crate) sequence: u64,
    pub(crate) start_lsn: u64,
    pub(crate) start_segment: u64,
    pub(crate) segment_size: u64,
    pub(crate) state: u32,
}

/// The slots that verify.
pub(crate) fn slots(log: &[u8]) -> [Option<Slot>; 2] {
    assert_eq!(log.len(), 2 * BLOCK);
    [0, 1].map(|index| {
        let slot = &log[index * BLOCK..][..BLOCK];
        if crc32c(&slot[..4092]) != u32_at(slot, 4092) {
            return None;
        }
        assert_eq!((&slot[..8], u32_at(slot, 8), u32_at(slot, 12)), (&b"SAWMLOG1"[..], 1, 4096));
        let sequence = u64_at(slot, 32);
        assert_eq!(sequence % 2, index as u64);
        zeros(&slot[92..96]);
        zeros(&slot[112..4092]);
        Some(Slot {
            log: number(slot, 16),
            sequence,
            start_lsn: u64_at(slot, 40),
            start_segment: u64_at(slot, 48),
            segment_size: u64_at(slot, 80),
            state: u32_at(slot, 88),
        })
    })
}

#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) lsn: u64,
    pub(crate) stream: u16,
    pub(crate) kind: u8,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) payload: Vec<u8>,
}

/// A log, as far as it was read.
#[derive(Debug)]
pub(crate) struct Reading {
    log: [u8; 16],
    /// Header CRC of the last frame.
    chain: u32,
    next_lsn: u64,
    durable_lsn: u64,
    seal_time: u64,
    incarnation: (u64, u64),
    pub(crate) records: Vec<Record>,
    pub(crate) kinds: Vec<u8>,
}

impl Reading {
    pub(crate) fn new(log: [u8; 16]) -> Reading {
        Reading {
            log,
            chain: 0,
            next_lsn: 1,
            durable_lsn: 0,
            seal_time: 0,
            incarnation: (0, 0),
            records: Vec::new(),
            kinds: Vec::new(),
        }
    }

    /// A segment: its header, and the frames up to the first block that holds none.
    pub(crate) fn segment(&mut self, segment: u64, bytes: &[u8]) {
        let header = &bytes[..BLOCK];
        assert_eq!(&header[..8], b"SAWMSEG1");
        assert_eq!((u32_at(header, 8), u32_at(header, 12)), (1, 4096));
        assert_eq!(header[16..32], self.log);
        assert_eq!(u64_at(header, 32), segment);
        assert_eq!(u64_at(header, 40), bytes.len() as u64);
        zeros(&header[48..4092]);
        assert_eq!(crc32c(&header[..4092]), u32_at(header, 4092));
        let mut at = BLOCK;
        while at < bytes.len() {
            match self.frame(segment, at, bytes) {
                Some(length) => at += length.next_multiple_of(BLOCK),
                None => break,
            }
        }
    }

    /// The frame at `at`, if one stands there; how long it is without its padding.
    fn frame(&mut self, segment: u64, at: usize, bytes: &[u8]) -> Option<usize> {
        let header = &bytes[at..at + 128];
        if &header[..4] != b"FRAM" || crc32c(&header[8..]) != u32_at(header, 4) {
            return None;
        }
        let (length, records) = (u32_at(header, 84) as usize, u32_at(header, 80));
        let payload = &bytes[at + 128..at + 128 + length];
        if crc32c(payload) != u32_at(header, 88) {
            // A torn one: nothing attests it, so that the log ends here.
            return None;
        }
        assert_eq!(header[8..24], self.log);
        assert_eq!((u64_at(header, 24), u64_at(header, 32)), (segment, at as u64));
        assert_eq!(u32_at(header, 92), self.chain, "chain at {at}");
        assert_eq!(u64_at(header, 56), self.next_lsn);
        let (durable, sealed) = (u64_at(header, 64), u64_at(header, 72));
        assert!(durable < self.next_lsn && durable >= self.durable_lsn);
        assert!(sealed >= self.seal_time);
        assert_eq!((header[97], u32_at(header, 100) as usize), (0, length), "not compressed");
        zeros(&header[98..100]);
        zeros(&header[112..128]);
        let end = at + 128 + length;
        zeros(&bytes[end..end.next_multiple_of(BLOCK)]);
        let incarnation = (u64_at(header, 40), u64_at(header, 48));
        match header[96] {
            1 => self.records(payload, records),
            2 => self.barrier(payload, incarnation),
            _ => assert_eq!((length, records), (0, 0), "attestation, closing"),
        }
        assert_eq!(self.incarnation, incarnation);
        (self.chain, self.durable_lsn, self.seal_time) = (u32_at(header, 4), durable, sealed);
        self.kinds.push(header[96]);
        Some(128 + length)
    }

    fn barrier(&mut self, payload: &[u8], incarnation: (u64, u64)) {
        assert_eq!(u64_at(payload, 0), self.next_lsn - 1);
        assert_eq!(u32_at(payload, 24), self.chain);
        let pairs = u32_at(payload, 28) as usize;
        assert_eq!(payload.len(), 48 + 16 * pairs);
        // Of each writer before this one.
        assert_eq!(pairs as u64, self.incarnation.0);
        assert!(incarnation.0 > self.incarnation.0);
        self.incarnation = incarnation;
    }

    fn records(&mut self, payload: &[u8], count: u32) {
        let mut rest = payload;
        for _ in 0..count {
            let length = u32_at(rest, 0) as usize;
            let mut record = Record {
                lsn: self.next_lsn,
                stream: u16_at(rest, 4),
                kind: rest[6],
                ..Record::default()
            };
            let mut body = &rest[8..8 + length];
            if rest[7] == 1 {
                let fields = usize::from(u16_at(body, 0));
                record.extension(&body[2..2 + fields]);
                body = &body[2 + fields..];
            } else {
                assert_eq!(rest[7], 0);
            }
            record.payload = body.to_vec();
            self.records.push(record);
            self.next_lsn += 1;
            rest = &rest[8 + length..];
        }
        assert!(rest.is_empty());
    }
}

impl Record {
    fn extension(&mut self, mut fields: &[u8]) {
        while !fields.is_empty() {
            let length = usize::from(u16_at(fields, 1));
            let value = &fields[3..3 + length];
            match fields[0] {
                1 => self.key = Some(value.to_vec()),
                2 => self.timestamp = Some(i64::from_le_bytes(number(value, 0))),
                3 => assert_eq!(length, 20, "producer"),
                tag => panic!("tag {tag}"),
            }
            fields = &fields[3 + length..];
        }
    }
}
