//! Lost key ranges (ENGINE.md E13): some partitions of the newest checkpoint are not what was
//! written, the others are. The lost ones come from an older checkpoint, and what was planned since
//! is computed again for them alone.
//!
//! PARTIAL-1: what is computed again reads the state as it was at that batch: whatever a lost
//! partition is computed from is taken from the older checkpoint, too, all of it, and moves on
//! with it.
//! PARTIAL-2: of all that only the lost partitions are kept; sinks, positions, totals and the other
//! partitions are those of the newest checkpoint.
//! PARTIAL-3: nothing is restored over a change of the job (another generation), and nothing is
//! begun from empty.

use std::collections::{BTreeMap, BTreeSet};

use super::Scan;
use super::parts::{LostPart, load_parts, state_of};
use crate::checkpoint::{CheckpointStore, Loaded};
use crate::error::{Error, ErrorKind, Result};
use crate::planted::{Bug, planted};
use crate::stream::{JobDriver, Restored};

/// Partitions, by the place of their operator in the job.
type Wanted = BTreeMap<usize, BTreeSet<u32>>;

fn is_in(wanted: &Wanted, operator: usize, partition: u32) -> bool {
    wanted.get(&operator).is_some_and(|partitions| partitions.contains(&partition))
}

/// Loads a checkpoint; what is lost of it is restored, or else all of an older one is loaded.
/// Returns what the log has behind the one that counts, and whether nothing was lost of it.
///
/// # Errors
/// `Corrupt` or `Unreadable` if nothing that is kept is whole: nothing was written.
pub(super) fn load(
    driver: &mut JobDriver,
    store: &CheckpointStore,
    newest: Loaded,
    scan: Scan,
) -> Result<(Scan, bool)> {
    alarm(driver, &newest);
    let lost = load_parts(&driver.env, &newest, &driver.states, |_, _| true)?;
    if lost.is_empty() {
        driver.lineage.parent = Some(newest.meta.checkpoint);
        return Ok((scan, true));
    }
    lost.iter().for_each(|lost| store.distrust(lost.file));
    if restore(driver, store, &newest, &lost)? {
        return Ok((scan, false));
    }
    // All of it is given up.
    let Some(older) = store.newest()? else { return Err(lost_all(&newest, lost)) };
    let mut scan = Scan::new(&driver.env.wal, Some(&older))?;
    scan.read_on(&driver.env.wal)?;
    driver.env.sides.restore(std::mem::take(&mut scan.sides));
    driver.bring_to(scan.parallelism.unwrap_or(driver.shape.parallelism));
    let lost = load_parts(&driver.env, &older, &driver.states, |_, _| true)?;
    if !lost.is_empty() {
        return Err(lost_all(&older, lost));
    }
    alarm(driver, &older);
    driver.lineage.parent = Some(older.meta.checkpoint);
    Ok((scan, true))
}

fn alarm(driver: &JobDriver, loaded: &Loaded) {
    let fell_back = (!loaded.fell_back.is_empty()).then(|| loaded.fell_back.join("; "));
    driver.board.update(|progress| progress.checkpoint_alarm = fell_back);
}

fn lost_all(loaded: &Loaded, lost: Vec<LostPart>) -> Error {
    let message = format!("parts of checkpoint {} are lost", loaded.meta.checkpoint);
    let error = Error::new(ErrorKind::Corrupt, message);
    lost.into_iter().fold(error, |error, lost| error.caused_by(lost.error))
}

/// Brings what is lost of a checkpoint to where the others are; `false` if no older one has what
/// that takes.
fn restore(
    driver: &mut JobDriver,
    store: &CheckpointStore,
    newest: &Loaded,
    lost_parts: &[LostPart],
) -> Result<bool> {
    let mut lost = Wanted::new();
    for part in lost_parts.iter().map(|lost| &newest.parts[lost.place]) {
        let (_, operator) = state_of(&driver.states, part)?;
        lost.entry(operator).or_default().insert(part.partition);
    }
    let wanted = closure(driver, &lost);
    // Of one generation, so in as many partitions.
    let mut candidates = store.older(&newest.meta);
    let older = candidates
        .find(|older| older.parts.len() == newest.parts.len() && take(driver, older, &wanted));
    drop(candidates);
    let Some(from) = older else { return Ok(false) };
    let names = lost.iter().flat_map(|(operator, partitions)| {
        let name = driver.states[*operator].name().to_owned();
        partitions.iter().map(move |partition| (name.clone(), *partition))
    });
    let mut restored = Restored {
        checkpoint: newest.meta.checkpoint,
        lost: names.collect(),
        from: from.meta.checkpoint,
        ..Restored::default()
    };
    if !planted(Bug::LostNotReplayed) {
        replay(driver, &from, newest, &wanted, &mut restored)?;
    }
    for (operator, partitions) in &lost {
        for partition in partitions {
            driver.states[*operator].label(*partition, newest.meta.batch);
        }
    }
    // PARTIAL-2: what was only needed on the way is again as it was.
    let again = |operator, partition| {
        is_in(&wanted, operator, partition) && !is_in(&lost, operator, partition)
    };
    if !load_parts(&driver.env, newest, &driver.states, again)?.is_empty() {
        return Ok(false);
    }
    tell(driver, lost_parts, restored);
    Ok(true)
}

/// PARTIAL-1: the lost partitions, and every partition of whatever stateful operator they are
/// computed from.
fn closure(driver: &JobDriver, lost: &Wanted) -> Wanted {
    let mut wanted = lost.clone();
    if planted(Bug::ClosureForgotten) {
        return wanted;
    }
    for operator in lost.keys() {
        let lineage = driver.job.operators[*operator].lineage();
        for (place, other) in driver.job.operators.iter().enumerate() {
            if place != *operator && lineage.contains(&other.id()) {
                wanted.insert(place, (0..driver.shape.parallelism).collect());
            }
        }
    }
    wanted
}

/// Loads what is wanted from an older checkpoint, if it has all of it.
fn take(driver: &JobDriver, older: &Loaded, wanted: &Wanted) -> bool {
    let has = |part: &&crate::checkpoint::Part| {
        let found = state_of(&driver.states, part);
        found.is_ok_and(|(_, operator)| is_in(wanted, operator, part.partition))
    };
    if older.parts.iter().filter(has).count() < wanted.values().map(BTreeSet::len).sum() {
        return false;
    }
    let wants =
        |operator, partition| is_in(wanted, operator, partition) && !planted(Bug::LostIsEmpty);
    load_parts(&driver.env, older, &driver.states, wants).is_ok_and(|lost| lost.is_empty())
}

/// Computes again what was planned between the two checkpoints, for what is wanted.
fn replay(
    driver: &mut JobDriver,
    from: &Loaded,
    newest: &Loaded,
    wanted: &Wanted,
    restored: &mut Restored,
) -> Result<()> {
    let mut scan = Scan::new(&driver.env.wal, Some(from))?;
    scan.read_on(&driver.env.wal)?;
    driver.env.sides.restore(std::mem::take(&mut scan.sides));
    for found in scan.batches.iter().filter(|found| found.plan.batch <= newest.meta.batch) {
        let Some((done, _)) = &found.completion else { continue };
        restored.tasks += driver.recompute_some(&found.plan, &done.results, wanted)?;
        restored.batches += 1;
    }
    Ok(())
}

/// Says what was lost, and what it cost.
fn tell(driver: &JobDriver, lost: &[LostPart], restored: Restored) {
    let names: Vec<String> = restored
        .lost
        .iter()
        .map(|(operator, partition)| format!("partition {partition} of `{operator}`"))
        .collect();
    let text = format!(
        "checkpoint {} is damaged ({}): {} came from checkpoint {} and from {} batches that were \
         computed again ({} tasks)",
        restored.checkpoint,
        lost.iter().map(|lost| lost.error.to_string()).next().unwrap_or_default(),
        names.join(", "),
        restored.from,
        restored.batches,
        restored.tasks
    );
    driver.board.update(|progress| {
        progress.checkpoint_alarm = Some(text);
        progress.restored = Some(restored);
    });
}
