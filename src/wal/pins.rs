//! Named readers that keep records from being truncated (LOG.md L17).
//!
//! PIN-1: while a pin is held at an LSN, no truncation and no retention takes that record or one
//! behind it. A truncation holds the list's lock until its new start stands, so a pin is taken
//! before it or after it, never within.

use std::collections::BTreeMap;
use std::fmt;

use super::core::Core;
use super::wal::Wal;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Lsn;
use crate::sync::{Arc, lock};

/// Who holds what; a number tells pins of one name apart.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    taken: u64,
    held: BTreeMap<u64, (String, Lsn)>,
}

impl Pins {
    /// `lsn`, or the lowest LSN that is pinned, if that is lower.
    pub(crate) fn clamp(&self, lsn: Lsn) -> Lsn {
        self.held.values().map(|(_, pinned)| *pinned).fold(lsn, Lsn::min)
    }

    /// The pins below `lsn`, lowest first.
    pub(crate) fn below(&self, lsn: Lsn) -> Vec<(String, Lsn)> {
        let mut below: Vec<_> =
            self.held.values().filter(|(_, pinned)| *pinned < lsn).cloned().collect();
        below.sort_by(|one, other| one.1.cmp(&other.1).then_with(|| one.0.cmp(&other.0)));
        below
    }
}

/// A named reader's hold on the log: the record at its LSN and all behind it stay until it moves on
/// or is dropped. Taken by [`Wal::pin`].
///
/// It lives in this process only: after a crash or a clean restart nothing is pinned until somebody
/// pins again, so pin before you call [`truncate_before`](Wal::truncate_before), and do not set
/// [`retain_bytes`](crate::WalOptions::retain_bytes) or
/// [`retain_age`](crate::WalOptions::retain_age) for a log whose readers must find their place
/// again after a restart.
#[must_use = "the pin is given up when it is dropped"]
pub struct Pin {
    core: Arc<Core>,
    number: u64,
    name: String,
}

impl Pin {
    /// The reader's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first record that stays.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        let pins = lock(&self.core.pins);
        pins.held.get(&self.number).map_or(Lsn::ZERO, |(_, lsn)| *lsn)
    }

    /// Moves on: what is below `lsn` may go from now on.
    ///
    /// # Errors
    /// `Invalid` if `lsn` is below the present one: what was given up may be gone already. The pin
    /// stays where it is then.
    pub fn advance(&self, lsn: Lsn) -> Result<()> {
        let mut pins = lock(&self.core.pins);
        match pins.held.get_mut(&self.number) {
            Some((_, pinned)) if *pinned <= lsn => {
                *pinned = lsn;
                Ok(())
            }
            _ => {
                let message = format!("pin {:?} cannot go back to record {lsn}", self.name);
                Err(Error::new(ErrorKind::Invalid, message))
            }
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // In a forked child the lock may be held by a thread that does not exist; and it truncates
        // nothing anyway.
        if !self.core.fork.is_forked() {
            lock(&self.core.pins).held.remove(&self.number);
        }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({:?} at {})", self.name, self.lsn())
    }
}

impl Wal {
    /// Keeps the record at `lsn` and all behind it from being truncated, in the name of a reader,
    /// until the [`Pin`] moves on or is dropped. Several pins may have one name.
    ///
    /// What it holds is told by [`truncation_plan`](Wal::truncation_plan). On a full disk a pin
    /// may be what keeps it full. Poison changes nothing: a poisoned log truncates nothing.
    ///
    /// # Errors
    /// `Invalid` if the log starts above `lsn` already; `Poisoned`, `Closed`, `Forked`.
    ///
    /// ```
    /// use sawmill::Lsn;
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// for _ in 0..10 {
    ///     wal.append(&[0; 28_000])?;
    /// }
    /// let pin = wal.pin("indexer", Lsn::new(3))?;
    /// wal.truncate_before(Lsn::new(9))?;
    /// assert!(wal.first_lsn() <= pin.lsn());
    /// pin.advance(Lsn::new(8))?;
    /// wal.truncate_before(Lsn::new(9))?;
    /// assert!(wal.first_lsn() > Lsn::new(3) && wal.first_lsn() <= Lsn::new(8));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pin(&self, name: impl Into<String>, lsn: Lsn) -> Result<Pin> {
        let core = self.core();
        core.check()?;
        let name = name.into();
        let mut pins = lock(&core.pins);
        let first = core.first_lsn();
        if lsn < first {
            let message = format!("the log starts at record {first}: {lsn} cannot be pinned");
            return Err(Error::new(ErrorKind::Invalid, message).at_path(self.path()));
        }
        pins.taken += 1;
        let number = pins.taken;
        pins.held.insert(number, (name.clone(), lsn));
        drop(pins);
        Ok(Pin { core: Arc::clone(core), number, name })
    }

    /// The pins that are held now: names and LSNs, lowest first. Empty in a forked child.
    #[must_use]
    pub fn pins(&self) -> Vec<(String, Lsn)> {
        let core = self.core();
        if core.fork.is_forked() {
            return Vec::new();
        }
        lock(&core.pins).below(Lsn::new(u64::MAX))
    }
}
