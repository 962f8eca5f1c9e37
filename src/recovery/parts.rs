//! The parts of a checkpoint, loaded into the states that they are of.

use crate::checkpoint::{Loaded, Part};
use crate::error::{Error, ErrorKind, Result};
use crate::state::OperatorState;
use crate::stream::Env;

/// A part whose bytes the medium lost.
pub(super) struct LostPart {
    pub(super) place: usize,
    /// The file that had them.
    pub(super) file: u64,
    pub(super) error: Error,
}

/// Decodes those parts of a checkpoint that are wanted, by operator and partition, in parallel:
/// each from its base, then its deltas in order. Returns those that are lost, as they were.
pub(super) fn load_parts(
    env: &Env,
    loaded: &Loaded,
    states: &[OperatorState],
    wanted: impl Fn(usize, u32) -> bool,
) -> Result<Vec<LostPart>> {
    let mut places = Vec::new();
    for (place, part) in loaded.parts.iter().enumerate() {
        let (_, operator) = state_of(states, part)?;
        if wanted(operator, part.partition) {
            places.push(place);
        }
    }
    let load = |number: usize| -> Result<Option<LostPart>> {
        let (place, part) = (places[number], &loaded.parts[places[number]]);
        let (state, _) = state_of(states, part)?;
        let lost = loaded.restore(part, state)?;
        Ok(lost.map(|(file, error)| LostPart { place, file, error }))
    };
    let outcomes = env.executor.for_each_number(places.len(), load).into_iter();
    outcomes.filter_map(Result::transpose).collect()
}

/// The state that a part is of, and its place.
pub(super) fn state_of<'s>(
    states: &'s [OperatorState],
    part: &Part,
) -> Result<(&'s OperatorState, usize)> {
    let place = states.iter().position(|state| state.name() == part.operator);
    let fitting = place.filter(|place| {
        states[*place].schema() == part.schema
            && usize::try_from(part.partition).is_ok_and(|at| at < states[*place].partitions())
    });
    fitting.map(|place| (&states[place], place)).ok_or_else(|| {
        let message = format!(
            "the checkpoint has state of operator `{}`, partition {}, that the job has not",
            part.operator, part.partition
        );
        Error::new(ErrorKind::JobMismatch, message)
    })
}
