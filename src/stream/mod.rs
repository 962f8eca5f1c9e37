//! Micro-batches over the log: jobs, their driver, what it writes in the log.
//!
//! `docs/execution.md` describes the life of a batch and what a crash leaves of it.

mod batch;
mod boundary;
mod budget;
mod checkpointing;
mod compute;
mod cut;
mod draft;
mod driver;
mod encoder;
mod events;
mod fallible;
mod faults;
mod guarantees;
mod handle;
#[cfg_attr(
    not(feature = "testing"),
    allow(dead_code, unreachable_pub, reason = "only tests strike the crash points")
)]
mod hooks;
mod job;
mod journal;
mod keyed;
mod marks;
mod options;
mod outputs;
mod pace;
mod prepare;
mod progress;
mod publish;
mod rescale;
mod run;
mod saves;
mod side;
mod stateful;
mod streams;
mod trigger;
mod withdraw;

#[cfg(feature = "testing")]
pub use driver::Stepped;
pub use events::{BatchReport, Event, EventListener};
pub use guarantees::{Delivery, Guarantees, Link};
pub use handle::StateHandle;
#[cfg(feature = "testing")]
pub use hooks::{Hooks, NoHooks, Step};
pub use job::{Job, JobBuilder, Stream};
pub use marks::Marks;
pub use options::RunOptions;
pub use progress::{Listener, Progress, Restored};
pub use run::StreamRun;
pub use side::SideInput;
pub use stateful::Stateful;
pub use trigger::Trigger;

pub(crate) use batch::Batch;
pub(crate) use boundary::{Boundary, EngineState};
pub(crate) use budget::Budget;
pub(crate) use checkpointing::Lineage;
pub(crate) use compute::Coming;
pub(crate) use cut::Writing;
pub(crate) use driver::{Env, JobDriver};
#[cfg(not(feature = "testing"))]
pub(crate) use hooks::{Hooks, NoHooks};
#[cfg(test)]
pub(crate) use journal::{BatchAttempt, BatchEnd, BatchResults, StreamEntry};
pub(crate) use journal::{BatchCompletion, BatchPlan, BatchPreparation, Entry, JOURNAL, JobShape};
pub(crate) use pace::Pace;
pub(crate) use progress::Board;
pub(crate) use saves::Saves;
pub(crate) use side::{SideTable, SideVersion};
pub(crate) use streams::{OpenedStream, StreamTable, add as add_stream};
