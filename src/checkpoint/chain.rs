//! Which files a checkpoint needs, and which of them stay. Pure over the manifest's entries.

use super::manifest::Entry;
use crate::planted::{Bug, planted};

/// The most deltas on one base: restoring opens a file for each, and the log is kept from the base
/// on, in case one of them rots.
const DELTAS_MAX: usize = 64;

/// Places of an entry and of all that it builds on, its base first. Of a manifest's entries, each
/// of which comes behind what it builds on.
pub(super) fn chain(entries: &[Entry], mut place: usize) -> Vec<usize> {
    let mut places = vec![place];
    while entries[place].meta.parent != 0 {
        let parent = entries[place].meta.parent;
        let found = entries[..place].iter().position(|entry| entry.meta.checkpoint == parent);
        #[allow(clippy::expect_used, reason = "checked where entries are decoded and added")]
        let found = found.expect("CKPT-7: what is named builds on what is named");
        place = found;
        places.push(place);
    }
    places.reverse();
    places
}

/// The newest checkpoint, and older ones that share no file with a newer one of these: at most
/// `keep`, newest first.
fn independent(entries: &[Entry], keep: usize) -> Vec<Vec<usize>> {
    let mut chosen: Vec<Vec<usize>> = Vec::new();
    for place in (0..entries.len()).rev() {
        if chosen.len() == keep {
            break;
        }
        let chain = chain(entries, place);
        if chosen.iter().flatten().all(|used| !chain.contains(used)) {
            chosen.push(chain);
        }
    }
    chosen
}

/// What of these stays: so many independent checkpoints, what they build on, and whatever is newer
/// than the oldest of them and builds on files that stay. Nothing else.
pub(super) fn retain(entries: &[Entry], keep: usize) -> Vec<Entry> {
    let chosen = independent(entries, keep);
    let oldest = chosen.last().and_then(|chain| chain.last()).copied().unwrap_or(0);
    let mut needed: Vec<usize> = chosen.into_iter().flatten().collect();
    if planted(Bug::ChainCut) {
        needed.retain(|place| *place >= oldest);
    }
    needed.sort_unstable();
    let kept = |place: usize| Entry { kept: place >= oldest, ..entries[place].clone() };
    needed.into_iter().map(kept).collect()
}

/// Whether one bad file could cost all that is kept, of a store that keeps more than one.
pub(super) fn needs_base(entries: &[Entry], keep: usize) -> bool {
    let wanted = keep.min(2);
    independent(entries, wanted).len() < wanted
}

/// Whether the newest checkpoint is to be written as one file: its deltas have become larger than
/// its base, or too many.
pub(super) fn needs_fold(entries: &[Entry]) -> bool {
    let Some(newest) = entries.len().checked_sub(1) else { return false };
    let chain = chain(entries, newest);
    let (base, deltas) = (entries[chain[0]].digest.length, &chain[1..]);
    let bytes: u64 = deltas.iter().map(|place| entries[*place].digest.length).sum();
    bytes > base || deltas.len() >= DELTAS_MAX
}

#[cfg(test)]
mod tests {
    use super::super::manifest::Digest;
    use super::*;
    use crate::checkpoint::CheckpointMeta;
    use crate::ids::{BatchId, Generation, LogId, Lsn};

    /// Entries with these numbers, parents and lengths.
    fn entries(list: &[(u64, u64, u64)]) -> Vec<Entry> {
        let entry = |(checkpoint, parent, length): &(u64, u64, u64)| Entry {
            meta: CheckpointMeta {
                checkpoint: *checkpoint,
                parent: *parent,
                job: "job".to_owned(),
                log_id: LogId::from_bytes([1; 16]),
                generation: Generation::new(1),
                batch: BatchId::new(*checkpoint),
                floor: Lsn::new(*checkpoint),
                engine: Vec::new(),
            },
            digest: Digest { length: *length, crc: 0, xxh3: 0 },
            kept: true,
        };
        list.iter().map(entry).collect()
    }

    fn shown(entries: &[Entry]) -> Vec<(u64, bool)> {
        entries.iter().map(|entry| (entry.meta.checkpoint, entry.kept)).collect()
    }

    #[test]
    fn what_stays_is_two_checkpoints_without_a_common_file_and_what_they_need() {
        let bases = entries(&[(1, 0, 9), (2, 0, 9), (3, 0, 9)]);
        assert_eq!(shown(&retain(&bases, 2)), [(2, true), (3, true)]);
        assert_eq!(shown(&retain(&bases, 1)), [(3, true)]);
        let deltas = entries(&[(1, 0, 9), (2, 0, 9), (3, 2, 1), (4, 3, 1)]);
        let all = [(1, true), (2, true), (3, true), (4, true)];
        assert_eq!(shown(&retain(&deltas, 2)), all, "1 is the only one beside 2, 3, 4");
        // 5 is 4 folded: 1 has done its duty, and nobody goes back before 4.
        let folded = entries(&[(1, 0, 9), (2, 0, 9), (3, 2, 1), (4, 3, 1), (5, 0, 9), (6, 5, 1)]);
        let expected = [(2, false), (3, false), (4, true), (5, true), (6, true)];
        assert_eq!(shown(&retain(&folded, 2)), expected);
        assert_eq!(shown(&retain(&folded, 1)), [(5, false), (6, true)]);
    }

    #[test]
    fn a_base_is_needed_while_one_file_is_in_all_of_them() {
        assert!(needs_base(&[], 2));
        assert!(needs_base(&entries(&[(1, 0, 9), (2, 1, 9)]), 2));
        assert!(!needs_base(&entries(&[(1, 0, 9), (2, 1, 9)]), 1));
        assert!(!needs_base(&entries(&[(1, 0, 9), (2, 0, 9)]), 9));
    }

    #[test]
    fn a_fold_is_due_when_deltas_outgrow_their_base_or_are_many() {
        assert!(!needs_fold(&[]));
        assert!(!needs_fold(&entries(&[(1, 0, 9), (2, 1, 5), (3, 2, 4)])));
        assert!(needs_fold(&entries(&[(1, 0, 9), (2, 1, 5), (3, 2, 5)])));
        let mut many = vec![(1, 0, 900)];
        many.extend((2..=64).map(|number| (number, number - 1, 1)));
        assert!(!needs_fold(&entries(&many)));
        many.push((65, 64, 1));
        assert!(needs_fold(&entries(&many)));
    }
}
