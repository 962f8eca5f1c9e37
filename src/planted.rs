//! Bugs planted on purpose: each switches one rule off, so that the tests that guard the rule can
//! be seen to fail. Without the feature `planted` every question is a constant `false`, but in the
//! library's own tests.
//!
//! With the feature, a bug is chosen for the whole process by the environment variable
//! `SAWMILL_PLANTED`, or for one thread by [`with_planted`].

macro_rules! bugs {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A rule that can be switched off.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $variant,)*
        }

        impl Bug {
            /// Every planted bug.
            pub const ALL: &'static [Bug] = &[$(Bug::$variant),*];

            /// The name by which `SAWMILL_PLANTED` chooses it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Bug::$variant => $name,)* }
            }
        }
    };
}

bugs! {
    /// L8: frames are written without the durable flag.
    SkipDurableFlag => "skip-durable-flag",
    /// L8: an append is acknowledged before its write has completed.
    AcknowledgeAtSubmit => "acknowledge-at-submit",
    /// L8: a durable frame behind a plain one is written without flushing the plain one.
    PlainBeforeDurable => "plain-before-durable",
    /// L8: the durable LSN rises over a frame that has not landed.
    DurableOverHole => "durable-over-hole",
    /// L1: a prepared segment's directory entry is not synced.
    NoDirectorySync => "no-directory-sync",
    /// L16: the new epoch counts accepted frames only.
    EpochFromAccepted => "epoch-from-accepted",
    /// L16: no barrier is written at the cut.
    NoBarrier => "no-barrier",
    /// L3: a frame is accepted wherever it stands.
    ChecksumWithoutPosition => "checksum-without-position",
    /// L15: the first bad frame always ends the log.
    TruncateAtFirstBad => "truncate-at-first-bad",
    /// L15: a whole frame behind a hole counts as attestation.
    ExistenceAttests => "existence-attests",
    /// L15: whole frames behind a hole are refused, attested or not.
    RefuseBehindHole => "refuse-behind-hole",
    /// L13: after an opening, the LSN that was shown last is given again.
    ShownLsnReused => "shown-lsn-reused",
    /// L11: a forked child takes itself for its parent.
    ForkUnnoticed => "fork-unnoticed",
    /// L11: the lock is not looked at again before a segment is begun.
    LockNotChecked => "lock-not-checked",
    /// L12: a buffer is freed, and used again, while its write is in flight.
    BufferFreedInFlight => "buffer-freed-in-flight",
    /// L4: a length read from disk is believed.
    TrustLength => "trust-length",
    /// L7: the slot is left free without telling the committer that there is work.
    LostWakeup => "lost-wakeup",
    /// L7: a group that only futures wait for is appointed to lead.
    LeadershipToFuture => "leadership-to-future",
    /// L7: who is woken in a row does not wake the next one.
    RowForgets => "row-forgets",
    /// L7: leaders do not see to groups that are woken in rows.
    RowsForgotten => "rows-forgotten",
    /// L7: who looks after a frame that is held for others sleeps without a limit.
    PatienceWithoutEnd => "patience-without-end",
    /// L7: a time limit that passes as the frame is taken out makes nobody wait for the outcome.
    DeadlineForgetsFlight => "deadline-forgets-flight",
    /// L12: a short write counts as a whole one.
    ShortWriteCounts => "short-write-counts",
    /// L12: a failed sync is repeated and believed.
    RetrySync => "retry-sync",
    /// L12: the log goes on after a failed write.
    ContinueAfterError => "continue-after-error",
    /// L10: the committer is not told that there is something to attest.
    RiseUnnoticed => "rise-unnoticed",
    /// L10: a poisoned log attests once more.
    AttestAfterPoison => "attest-after-poison",
    /// L14: recovered records are shown before the barrier is durable.
    ShowBeforeBarrier => "show-before-barrier",
    /// L14: recovery reads through the page cache, without syncing first.
    RecoverFromCache => "recover-from-cache",
    /// L14: a read error is taken for a torn tail.
    ReadErrorIsTorn => "read-error-is-torn",
    /// L17: segments are unlinked before the new start is durable.
    UnlinkBeforeStart => "unlink-before-start",
    /// L18: a segment that somebody can see is recycled.
    RecycleShared => "recycle-shared",
    /// L18: a reader does not hold the lock of the segments that it has open.
    ReaderUnlocked => "reader-unlocked",
    /// L22: a record that was sent again is answered before its original is durable.
    DuplicateBeforeDurable => "duplicate-before-durable",
    /// L19: readers are shown records above the durable LSN.
    ReadAboveDurable => "read-above-durable",
    /// L21: a position that was cut off is resumed without a word.
    SilentDivergence => "silent-divergence",
    /// L24: an opening takes the clock's time, though it is before the last frame's.
    SealTimeFalls => "seal-time-falls",
    /// L5: an LSN is given before there is space for its record.
    LsnBeforeSpace => "lsn-before-space",
    /// L3: padding is taken for the end of the log.
    PaddingIsEnd => "padding-is-end",
    /// E1: a checkpoint becomes visible before its batch's completion is durable.
    CheckpointBeforeCompletion => "checkpoint-before-completion",
    /// E1: sinks are called before the plan is durable.
    PlanNotDurable => "plan-not-durable",
    /// E15: retention counts files, not the chains that kept checkpoints need.
    ChainCut => "chain-cut",
    /// E15: a delta that is not whole is left out of its chain.
    DeltaSkipped => "delta-skipped",
    /// E15: a delta that was written beside a fold is not in the first one on the fold.
    FoldForgetsDelta => "fold-forgets-delta",
    /// E17: what a failed checkpoint had taken is not in the next delta.
    FailedCutForgotten => "failed-cut-forgotten",
    /// E15: on a full disk the log makes no room for a checkpoint.
    FullDiskKeepsLog => "full-disk-keeps-log",
    /// STATE-7: a value that changes while its cut is encoded is not kept.
    CutMoves => "cut-moves",
    /// E13: lost key ranges are restored over a change of the job.
    RebuildAcrossGeneration => "rebuild-across-generation",
    /// E13: a lost key range is taken from the older checkpoint as it was then.
    LostNotReplayed => "lost-not-replayed",
    /// E13: what a lost key range is computed from has the state of the newer checkpoint.
    ClosureForgotten => "closure-forgotten",
    /// E13: a key range that is lost is taken for one without keys.
    LostIsEmpty => "lost-is-empty",
    /// E3: the retention floor is the log's end at the checkpoint.
    FloorFromLogEnd => "floor-from-log-end",
    /// E5: a sink's identity leaves its name out.
    SinkWithoutName => "sink-without-name",
    /// E1: a draft becomes a batch by a plan that says something else.
    DraftPlannedAnew => "draft-planned-anew",
    /// E4: a planned batch is executed with the parallelism that the options have now.
    ParallelismUnderPlan => "parallelism-under-plan",
    /// E2: a planned batch is planned anew after a restart.
    ReplanAfterRestart => "replan-after-restart",
    /// E6: a bucket that was lost in the middle of a task is taken for an empty one.
    LostBucketIsEmpty => "lost-bucket-is-empty",
    /// E8: a batch that is executed again reads the newest version of a side input.
    SideInputLatest => "side-input-latest",
    /// E8: a checkpoint keeps the newest versions of side inputs only.
    SideInputUnkept => "side-input-unkept",
    /// E7: whether to fold before the shuffle is found out from the wanted buckets' rows.
    SampleOfWanted => "sample-of-wanted",
    /// E2: a prepared batch is aborted at recovery, and prepared anew.
    AbortPrepared => "abort-prepared",
    /// E12: what a recomputed partition adds to an accumulator is counted again.
    CountOnRecompute => "count-on-recompute",
    /// E10: the overlay of a failed attempt is merged.
    MergeFailedOverlay => "merge-failed-overlay",
    /// E18: a file's range is read again without comparing digests.
    NoDigestCheck => "no-digest-check",
    /// E19: the file sink does not cut its file back at restart.
    NoSinkCut => "no-sink-cut",
    /// E5: a writer that was taken over from goes on.
    LowerEpochWrites => "lower-epoch-writes",
    /// E5: a log sink does not look for its own commit before it publishes.
    CommitNotLookedFor => "commit-not-looked-for",
    /// E19: a compacted file's entry has only the batch of the compaction.
    CompactionForgetsRange => "compaction-forgets-range",
    /// E11: what a batch does without is decided again whenever it is computed again.
    SkipDecidedAgain => "skip-decided-again",
    /// E4: a batch is withdrawn whatever sinks have of it.
    WithdrawSeen => "withdraw-seen",
    /// E4: that a process ended within a batch is not recorded before the batch is computed again.
    DeathNotCounted => "death-not-counted",
    /// At most once: sinks are called before the batch counts as completed.
    PublishBeforePosition => "publish-before-position",
    /// E15: a savepoint gets its name before its bytes are durable.
    SavepointNotSynced => "savepoint-not-synced",
    /// E15: the manifest is switched before the data file is durable.
    ManifestBeforeData => "manifest-before-data",
}

/// Whether `bug` is switched on here. Constant `false` without the feature `planted`.
#[cfg(not(any(test, feature = "planted")))]
#[must_use]
#[inline(always)]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(any(test, feature = "planted"))]
mod switched {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::Bug;

    static PROCESS: OnceLock<Option<Bug>> = OnceLock::new();
    // A bit for each.
    thread_local!(static THREAD: Cell<u128> = const { Cell::new(0) });
    const _: () = assert!(Bug::ALL.len() <= 128);

    fn bit(bug: Bug) -> u128 {
        1 << (bug as u32)
    }

    fn of_process() -> Option<Bug> {
        *PROCESS.get_or_init(|| {
            let name = std::env::var("SAWMILL_PLANTED").ok()?;
            let found = Bug::ALL.iter().copied().find(|bug| bug.name() == name);
            assert!(found.is_some(), "SAWMILL_PLANTED={name} names no planted bug");
            found
        })
    }

    /// Whether `bug` is switched on here.
    #[must_use]
    pub(crate) fn planted(bug: Bug) -> bool {
        THREAD.get() & bit(bug) != 0 || of_process() == Some(bug)
    }

    /// Runs `body` with `bug` switched on in this thread, beside those that are.
    pub fn with_planted<T>(bug: Bug, body: impl FnOnce() -> T) -> T {
        struct Reset(u128);
        impl Drop for Reset {
            fn drop(&mut self) {
                THREAD.set(self.0);
            }
        }
        let _reset = Reset(THREAD.replace(THREAD.get() | bit(bug)));
        body()
    }
}

#[cfg(any(test, feature = "planted"))]
pub(crate) use switched::planted;
#[cfg(any(test, feature = "planted"))]
pub use switched::with_planted;
