//! What sinks promise about each row.

/// What a sink promises about each row, however often the process dies and replies are lost; from
/// the weakest to the strongest. `sawmill::testing::certify` finds out which one a sink keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Published once or never.
    AtMostOnce,
    /// Published once, or several times.
    AtLeastOnce,
    /// Published once in the end. In between, parts of a batch may be seen.
    Idempotent,
    /// Published once; whole batches are seen, in order, or nothing of them; and a writer that a
    /// later one has taken over from changes nothing any more.
    Transactional,
}
