//! A disk that exists only in memory, and that loses what a real one may lose.
//!
//! [`SimDisk`] stands behind the same traits as the real backends. A test runs its code on it, cuts
//! the power at a chosen operation, picks what survives, and opens the disk that is found then:
//!
//! ```
//! use std::path::Path;
//! use sawmill::sim::{CrashManner, CrashOutcome, SimDisk};
//! use sawmill::storage::{OpenMode, Storage};
//!
//! let disk = SimDisk::new(7);
//! let directory = disk.directory(Path::new("/log"), true)?;
//! let file = directory.open("segment", OpenMode::Create)?;
//! file.set_length(100)?;
//! file.sync()?;
//! // The name was never synced: a crash may lose it, however durable the bytes are.
//! let found = disk.power_cycle(CrashOutcome::LoseAll);
//! assert_eq!(found.files(), Vec::<std::path::PathBuf>::new());
//! assert!(directory.sync().is_err(), "the old disk is off");
//! # Ok::<(), sawmill::storage::IoFailure>(())
//! ```
//!
//! # Fault model
//!
//! Each line names the test in `tests/` that shows it.
//!
//! Bytes and lengths (`durability.rs`):
//! - SIM-1: a write is visible at its completion and pending until something makes it durable; a
//!   power cut loses it: `plain_write_is_lost_with_the_power`.
//! - SIM-2: a durable write makes its own sectors durable and the length needed to read them:
//!   `durable_write_survives_with_the_length_it_needs`. With FUA that is all it does:
//!   `fua_write_leaves_earlier_plain_writes_pending`. Without, it flushes the device, hence every
//!   direct write that completed before its submit:
//!   `flush_reaches_what_completed_before_the_submit`, but
//!   `flush_reaches_no_page_cache_and_no_other_length`.
//! - SIM-3: a sync reaches the writes of its file that completed before its submit:
//!   `sync_covers_what_completed_before_the_submit`.
//! - SIM-4: a length is a change of its own: `length_needs_a_sync`.
//! - SIM-5: of several pending versions of a sector any may survive, none that is older than the
//!   durable one: `what_is_durable_is_not_undone_by_older_writes`.
//! - SIM-6: a write tears between sectors, never within one: `writes_tear_by_sector`.
//! - SIM-7: space that a file gained without a sync reads as zeros or, in a seeded outcome, as
//!   stale bytes: `space_gained_may_show_stale_bytes`, `stale_bytes_come_from_deleted_files`.
//!
//! Names and locks (`names.rs`):
//! - SIM-8: names are created, renamed and removed durably only by a sync of the directory:
//!   `created_name_needs_a_directory_sync`, `rename_survives_whole_or_not_at_all`,
//!   `unlinked_name_may_return_until_the_directory_is_synced`. Directories are durable at once:
//!   `directories_are_durable_at_once`.
//! - SIM-9: locks die with their holder, `locks_exclude_and_die_with_their_holder`, and byte locks
//!   belong to the open file: `byte_locks_belong_to_the_open_file`.
//!
//! Crashes (`cuts.rs`):
//! - SIM-10: the power goes before, within or after an operation:
//!   `power_goes_before_within_or_after_an_operation`, `power_goes_at_a_sync`,
//!   `power_goes_at_a_create`; then `nothing_works_when_the_power_is_off`.
//! - SIM-11: what is in flight may land, `power_goes_before_within_or_after_an_operation`;
//!   `completions_come_in_seeded_order`; `dropped_channel_waits_for_what_is_in_flight`.
//! - SIM-12: every outcome can be had: `subsets_enumerate_every_outcome`; of whole writes, too:
//!   `writes_survive_whole_or_not_at_all`.
//! - SIM-13: a killed process leaves the page cache and what was pending:
//!   `kill_keeps_the_page_cache_but_makes_nothing_durable`,
//!   `write_in_flight_at_a_kill_lands_whole_in_part_or_not`.
//!
//! Faults (`faults.rs`):
//! - SIM-14: an operation fails without or with its effect, once or from then on, or is short:
//!   `ordered_failure_strikes_submit_or_completion`, `failure_may_be_reported_of_what_happened`,
//!   `sticky_failure_stays`, `write_may_be_short`, `lock_reported_as_failed_is_free`.
//! - SIM-15: a failed sync forgets: later ones succeed and make nothing of it durable, no crash
//!   brings it back, and only the page cache still shows what the device never got:
//!   `failed_sync_forgets_what_it_should_have_written`,
//!   `direct_write_is_gone_after_a_failed_sync`,
//!   `failed_directory_sync_forgets_the_names`, `rewriting_after_a_failed_sync_is_durable_again`.
//! - SIM-16: sectors go bad and bytes rot: `bad_sector_fails_reads_for_good`,
//!   `flipped_byte_is_flipped_everywhere`.
//! - SIM-17: a full disk refuses to allocate and shortens growing writes:
//!   `full_disk_refuses_and_shortens`, `used_up_quota_says_so`.
//! - LATENCY-1 to LATENCY-4: operations take time on a clock; see [`Latency`]'s file:
//!   `latency.rs`.
//! - SIM-20: a write or a sync is reported done and dropped: `write_reported_done_may_be_dropped`,
//!   `sync_reported_done_may_be_dropped`; all of them are, on a device that lies:
//!   `a_device_that_lies_makes_nothing_durable`. A write lands, or a read reads, elsewhere:
//!   `write_may_land_elsewhere`, `read_may_come_from_elsewhere`.
//! - SIM-21: the medium rots below the page cache, gives old bytes for good, or none until it is
//!   written: `medium_rots_below_the_page_cache`, `sector_may_read_stale_for_good`,
//!   `latent_error_is_healed_by_a_write`.
//! - SIM-18: a direct file wants whole blocks: `direct_files_want_whole_blocks`.
//!
//! Repetition (`repeat.rs`):
//! - SIM-19: one seed and one sequence of operations give one trace, one digest, one image after a
//!   crash: `one_seed_gives_one_trace_and_one_digest`. With several threads the sequence is theirs,
//!   but each channel draws its order from a stream of its own.
//!
//! Over random operations, with nothing failing, what a crash keeps whole is what was visible, and
//! what was synced is never lost: `random.rs`.
//!
//! Not modelled: torn sectors, writes that land in another file, several processes (files lock
//! against other open files of the same disk only), hard links, renames between directories.
mod channel;
mod crash;
mod directory;
mod disk;
mod fault;
mod file;
mod flight;
mod inode;
mod latency;
mod medium;
mod names;
mod pages;
mod rng;
mod state;
mod struck;
#[cfg(test)]
mod tests;
mod trace;

pub use crash::{CrashManner, CrashOutcome};
pub use disk::{Device, SimDisk, SimOptions};
pub use fault::FaultKind;
pub use latency::Latency;
