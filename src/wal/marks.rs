//! How readers in other processes learn how far the writer has come (LOG.md L19). Layout:
//! `docs/format.md`, "`MARKS`".
//!
//! MARKS-1: a page is believed only while its writer lives, and it lives while byte 0 of `MARKS` is
//! locked; each writer makes a file of its own. MARKS-2: what the page says was durable when it was
//! stored: it lags, and never leads. MARKS-3: that nothing can be published is no error: readers
//! then know less, and later.

use crate::ids::{Epoch, LogId, Lsn, to_usize};
use crate::storage::files;
use crate::storage::{
    AlignedBuf, BLOCK, Directory, File, LockKind, OpenMode, PageView, SharedPage,
};
use crate::sync::{Arc, Mutex, lock};
use crate::wal::segment::{block_size, open_block, seal_block, word};
use crate::wal::slot::Identity;
use crate::wal::transfer;

/// The file's name.
pub(crate) const MARKS_NAME: &str = "MARKS";
/// Its name until it says everything.
const MARKS_UNFINISHED: &str = "MARKS.tmp";
const MAGIC: [u8; 8] = *b"SAWMMRK1";
const VERSION: u32 = 1;
/// Where the address begins, and how long it can be.
const ADDRESS: usize = 56;
const ADDRESS_MAX: usize = 256;

/// The page's words.
const MAGIC_WORD: usize = 0;
const EPOCH_WORD: usize = 1;
const NONCE_WORD: usize = 2;
const DURABLE_WORD: usize = 3;

/// The writer's side.
#[derive(Debug)]
pub(crate) struct Marks {
    page: SharedPage,
    /// Holds the lock of byte 0, until the log is closed.
    file: Mutex<Option<Arc<dyn File>>>,
}

impl Marks {
    /// Publishes what an opening has found; `None` if that is not possible here (MARKS-3).
    pub(crate) fn publish(
        directory: &dyn Directory,
        identity: Identity,
        durable: Lsn,
    ) -> Option<Marks> {
        let (page, address) = directory.new_page()?;
        if address.len() > ADDRESS_MAX {
            return None;
        }
        page.store(DURABLE_WORD, durable.get());
        page.store(EPOCH_WORD, identity.epoch.get());
        page.store(NONCE_WORD, identity.nonce);
        page.store(MAGIC_WORD, u64::from_le_bytes(MAGIC));
        // A file of its own: who has that of the writer before finds its lock gone.
        files::remove_if_there(directory, MARKS_UNFINISHED).ok()?;
        let file = directory.open(MARKS_UNFINISHED, OpenMode::Create).ok()?;
        if !file.try_lock(0, LockKind::Exclusive).ok()? {
            return None;
        }
        let mut block = AlignedBuf::zeroed(BLOCK);
        encode(&identity, &address, &mut block);
        let mut channel = directory.channel().ok()?;
        // Neither synced nor durable: after a crash it means nothing.
        transfer::write_all(&mut *channel, &file, 0, block, false).ok()?;
        directory.rename(MARKS_UNFINISHED, MARKS_NAME).ok()?;
        Some(Marks { page, file: Mutex::new(Some(file)) })
    }

    /// Ends it: the log is closed.
    pub(crate) fn let_go(&self) {
        lock(&self.file).take();
    }

    /// Says how far the log is durable: one store.
    #[inline]
    pub(crate) fn set_durable(&self, lsn: Lsn) {
        self.page.store(DURABLE_WORD, lsn.get());
    }
}

fn encode(identity: &Identity, address: &str, block: &mut [u8]) {
    block[0..8].copy_from_slice(&MAGIC);
    block[8..12].copy_from_slice(&VERSION.to_le_bytes());
    block[12..16].copy_from_slice(&block_size().to_le_bytes());
    block[16..32].copy_from_slice(identity.log.as_bytes());
    block[32..40].copy_from_slice(&identity.epoch.get().to_le_bytes());
    block[40..48].copy_from_slice(&identity.nonce.to_le_bytes());
    block[48..56].copy_from_slice(&crate::ids::to_u64(address.len()).to_le_bytes());
    block[ADDRESS..ADDRESS + address.len()].copy_from_slice(address.as_bytes());
    seal_block(block);
}

/// Who publishes, and where.
fn decode(bytes: &[u8]) -> Option<(Identity, &str)> {
    let block = open_block(bytes, MAGIC, VERSION).ok()?;
    let length = to_usize(word(block, 48));
    let address = block.get(ADDRESS..)?.get(..length.min(ADDRESS_MAX + 1))?;
    let log = LogId::from_bytes(block[16..32].try_into().ok()?);
    let identity = Identity { log, epoch: Epoch::new(word(block, 32)), nonce: word(block, 40) };
    let address = str::from_utf8(address).ok().filter(|address| address.len() == length)?;
    Some((identity, address))
}

/// What a reader sees of the writer.
#[derive(Debug)]
pub(crate) enum Writer {
    /// Nobody writes the log.
    None,
    /// Somebody has the directory's lock, and says nothing that could be understood here: it is
    /// being opened or repaired, or the writer is another user's or in another container.
    Silent,
    /// A writer publishes its marks.
    Live(LiveMarks),
}

/// A live writer's marks.
#[derive(Debug)]
pub(crate) struct LiveMarks {
    pub(crate) epoch: Epoch,
    pub(crate) nonce: u64,
    page: PageView,
    file: Arc<dyn File>,
}

impl LiveMarks {
    /// How far the log is durable; `None` if the writer is gone (MARKS-1).
    pub(crate) fn durable(&self) -> Option<Lsn> {
        let durable = self.page.load(DURABLE_WORD);
        // The lock after the load: what was stored before it went was durable then.
        self.file.is_locked(0).ok().filter(|held| *held).map(|_| Lsn::new(durable))
    }
}

impl Writer {
    /// Whether this is the same incarnation, or nobody as well.
    pub(crate) fn is_like(&self, other: &Writer) -> bool {
        match (self, other) {
            (Writer::None, Writer::None) | (Writer::Silent, Writer::Silent) => true,
            (Writer::Live(one), Writer::Live(two)) => one.nonce == two.nonce,
            (Writer::None | Writer::Silent | Writer::Live(_), _) => false,
        }
    }

    /// Looks who writes the log `log` in `directory`.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn look(
        directory: &dyn Directory,
        lock_name: &str,
        log: LogId,
    ) -> crate::error::Result<Writer> {
        if let Some(marks) = live(directory, log) {
            return Ok(Writer::Live(marks));
        }
        Ok(if directory.is_locked(lock_name)? { Writer::Silent } else { Writer::None })
    }
}

fn live(directory: &dyn Directory, log: LogId) -> Option<LiveMarks> {
    let file = directory.open(MARKS_NAME, OpenMode::Read).ok()?;
    if !file.is_locked(0).ok()? {
        return None;
    }
    let mut channel = directory.channel().ok()?;
    let block = transfer::read(&mut *channel, &file, 0, AlignedBuf::zeroed(BLOCK)).ok()?;
    let (identity, address) = decode(&block)?;
    let page = directory.open_page(address)?;
    // The address may belong to somebody else by now.
    let said = [MAGIC_WORD, EPOCH_WORD, NONCE_WORD].map(|word| page.load(word));
    let wanted = [u64::from_le_bytes(MAGIC), identity.epoch.get(), identity.nonce];
    let own = identity.log == log && said == wanted;
    own.then_some(LiveMarks { epoch: identity.epoch, nonce: identity.nonce, page, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_encodes_and_refuses_every_flipped_byte() {
        let log = LogId::from_bytes([7; 16]);
        let identity = Identity { log, epoch: Epoch::new(3), nonce: 9 };
        let mut block = vec![0; BLOCK];
        encode(&identity, "/proc/1/fd/2", &mut block);
        let (found, address) = decode(&block).unwrap();
        assert_eq!((found.log, found.epoch, found.nonce), (log, Epoch::new(3), 9));
        assert_eq!(address, "/proc/1/fd/2");
        for at in 0..BLOCK {
            block[at] ^= 1;
            assert!(decode(&block).is_none(), "byte {at}");
            block[at] ^= 1;
        }
        block[48..56].copy_from_slice(&u64::MAX.to_le_bytes());
        seal_block(&mut block);
        assert!(decode(&block).is_none(), "a length beyond the block");
    }
}
