//! Who takes part: sawmill, and the raw limit of each kind of work.

use std::path::Path;

use sawmill::WalOptions;

use super::Outcome;
use super::contender::Contender;
use super::raw::Raw;
use super::raw_bulk::RawBulk;
use super::sawmill_log::{SawmillLog, State};
use super::workload::{Kind, Workload};

/// Opened for a set of workloads.
pub(crate) struct Contenders {
    raw: Option<Raw>,
    bulk: Vec<(usize, RawBulk)>,
    log: SawmillLog,
    /// For bulk work: a log that does not use its segments again.
    fresh: Option<SawmillLog>,
}

impl Contenders {
    /// Opens what the workloads need, in directories below `path`.
    pub(crate) fn open(path: &Path, options: WalOptions, of: &[Workload]) -> Outcome<Contenders> {
        let place = path.join("raw");
        let grouped = of.iter().any(|one| !matches!(one.kind, Kind::Bulk | Kind::Replay));
        let raw = if grouped { Some(Raw::open(&place)?) } else { None };
        let mut bulk: Vec<(usize, RawBulk)> = Vec::new();
        for workload in of.iter().filter(|workload| workload.kind == Kind::Bulk) {
            if bulk.iter().all(|(threads, _)| *threads != workload.threads) {
                bulk.push((workload.threads, RawBulk::open(&place, workload.threads)?));
            }
        }
        let open = |state, name| SawmillLog::open(state, name, &path.join(name), options.clone());
        let fresh = if bulk.is_empty() { None } else { Some(open(State::Fresh, "fresh")?) };
        Ok(Contenders { raw, bulk, log: open(State::Steady, "sawmill")?, fresh })
    }

    pub(crate) fn backend(&self) -> String {
        self.log.wal().backend().to_string()
    }

    /// Those for one workload, the raw limit first.
    pub(crate) fn of(&self, workload: Workload) -> Vec<&dyn Contender> {
        let bulk = self.bulk.iter().find(|(threads, _)| *threads == workload.threads);
        let raw: Option<&dyn Contender> = match workload.kind {
            Kind::Bulk => bulk.map(|(_, bulk)| bulk as &dyn Contender),
            Kind::Replay => None,
            Kind::Append | Kind::Batch(_) | Kind::InFlight(_) => {
                self.raw.as_ref().map(|raw| raw as &dyn Contender)
            }
        };
        let fresh = self.fresh.iter().filter(|_| workload.kind == Kind::Bulk);
        let fresh = fresh.map(|fresh| fresh as &dyn Contender);
        raw.into_iter().chain([&self.log as &dyn Contender]).chain(fresh).collect()
    }

    pub(crate) fn close(self) -> Outcome {
        if let Some(fresh) = self.fresh {
            fresh.close()?;
        }
        self.log.close()
    }
}
