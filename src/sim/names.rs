//! A directory's entries: as programs see them, as the medium holds them, and what lies between.

use std::collections::BTreeMap;

/// Names and inode numbers.
pub(super) type Entries = BTreeMap<String, u64>;

/// A change of entries that a crash keeps or loses as a whole.
#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link { name: String, inode: u64 },
    Unlink { name: String },
    Rename { from: String, to: String, inode: u64 },
}

/// A change that is not durable.
#[derive(Clone, Debug)]
pub(super) struct PendingName {
    /// A failed sync has forgotten it.
    pub(super) clean: bool,
    pub(super) change: NameChange,
}

/// The entries of one directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) visible: Entries,
    pub(super) durable: Entries,
    pub(super) pending: Vec<PendingName>,
}

impl NameChange {
    pub(super) fn apply(&self, entries: &mut Entries) {
        match self {
            NameChange::Link { name, inode } => {
                entries.insert(name.clone(), *inode);
            }
            NameChange::Unlink { name } => {
                entries.remove(name);
            }
            NameChange::Rename { from, to, inode } => {
                if entries.get(from) == Some(inode) {
                    entries.remove(from);
                }
                entries.insert(to.clone(), *inode);
            }
        }
    }

    pub(super) fn inode(&self) -> Option<u64> {
        match self {
            NameChange::Link { inode, .. } | NameChange::Rename { inode, .. } => Some(*inode),
            NameChange::Unlink { .. } => None,
        }
    }

    fn touches(&self, other: &NameChange) -> bool {
        self.names().iter().any(|name| other.names().contains(name))
    }

    fn names(&self) -> Vec<&str> {
        match self {
            NameChange::Link { name, .. } | NameChange::Unlink { name } => vec![name],
            NameChange::Rename { from, to, .. } => vec![from, to],
        }
    }
}

impl Names {
    /// Names that are durable from the start.
    pub(super) fn settled(entries: Entries) -> Names {
        Names { visible: entries.clone(), durable: entries, pending: Vec::new() }
    }

    pub(super) fn change(&mut self, change: NameChange) {
        change.apply(&mut self.visible);
        self.pending.push(PendingName { clean: false, change });
    }

    /// Makes the names durable, but for those that a failed sync has forgotten.
    pub(super) fn harden(&mut self) {
        let mut kept: Vec<PendingName> = Vec::new();
        for item in std::mem::take(&mut self.pending) {
            if item.clean {
                kept.push(item);
            } else {
                item.change.apply(&mut self.durable);
                kept.retain(|older| !older.change.touches(&item.change));
            }
        }
        self.pending = kept;
    }

    pub(super) fn spoil(&mut self) {
        for item in &mut self.pending {
            item.clean = true;
        }
    }

    /// Whether the inode has, or after a crash may have, a name here.
    pub(super) fn refers_to(&self, inode: u64) -> bool {
        self.visible.values().any(|number| *number == inode) || self.may_survive(inode)
    }

    /// Whether the inode may have a name here after a crash.
    pub(super) fn may_survive(&self, inode: u64) -> bool {
        self.durable.values().any(|number| *number == inode)
            || self.pending.iter().any(|item| item.change.inode() == Some(inode))
    }
}
