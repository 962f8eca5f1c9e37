//! A two-phase sink outside of the engine, which no crash of the engine takes anything from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sawmill::sim::SimDisk;
use sawmill::{BatchId, BatchOutput, Opening, Outcome, SinkError, TwoPhaseSink};

use super::Row;

/// Where the process dies, or only the answer, around one call of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// The call does not reach the sink.
    Before,
    /// The sink does what it is asked, and the process dies.
    After,
    /// The sink does what it is asked, and says that it failed.
    ReplyLost,
}

impl Strike {
    pub const ALL: [Strike; 3] = [Strike::Before, Strike::After, Strike::ReplyLost];
}

/// What a ledger has: survives everything.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    next: u64,
    /// Prepared under a batch's id, by token.
    pub held: BTreeMap<u64, (BatchId, Vec<Row>)>,
    /// In the order of publication.
    pub published: Vec<(u64, BatchId, Vec<Row>)>,
    /// Calls so far.
    pub calls: u64,
    pub complaints: Vec<String>,
}

/// The sink, in one life of the process.
pub struct LedgerSink {
    pub ledger: Arc<Mutex<Ledger>>,
    pub disk: SimDisk,
    /// What is prepared does not survive an opening.
    pub expires: bool,
    /// At which call what happens.
    pub strike: Option<(u64, Strike)>,
}

impl LedgerSink {
    fn call<T>(&self, act: impl FnOnce(&mut Ledger) -> T) -> Result<T, SinkError> {
        let mut ledger = self.ledger.lock().unwrap();
        if self.disk.is_off() {
            return Err("the process is dead".into());
        }
        ledger.calls += 1;
        let strike = self.strike.filter(|(call, _)| *call == ledger.calls);
        let Some((_, strike)) = strike else { return Ok(act(&mut ledger)) };
        if strike != Strike::Before {
            act(&mut ledger);
        }
        if strike != Strike::ReplyLost {
            self.disk.power_off();
        }
        Err("struck".into())
    }
}

impl TwoPhaseSink<Row> for LedgerSink {
    fn open(&self, _opening: &Opening<'_>) -> Result<(), SinkError> {
        if self.expires {
            self.ledger.lock().unwrap().held.clear();
        }
        Ok(())
    }

    fn prepare(&self, batch: &BatchOutput<'_, Row>) -> Result<Vec<u8>, SinkError> {
        self.call(|ledger| {
            if ledger.held.values().any(|(id, _)| *id == batch.id()) {
                let text = format!("batch {} is prepared over what is held", batch.id());
                ledger.complaints.push(text);
            }
            ledger.next += 1;
            ledger.held.insert(ledger.next, (batch.id(), batch.rows().cloned().collect()));
            ledger.next.to_le_bytes().to_vec()
        })
    }

    fn publish(&self, batch: BatchId, token: &[u8]) -> Result<Outcome, SinkError> {
        let token = u64::from_le_bytes(token.try_into()?);
        self.call(|ledger| {
            if ledger.published.iter().any(|(published, ..)| *published == token) {
                return Outcome::Published;
            }
            let Some((id, rows)) = ledger.held.remove(&token) else { return Outcome::Expired };
            if id != batch {
                ledger.complaints.push(format!("batch {batch} with the token of batch {id}"));
            }
            ledger.published.push((token, id, rows));
            Outcome::Published
        })
    }

    fn abort(&self, batch: BatchId) -> Result<(), SinkError> {
        self.call(|ledger| ledger.held.retain(|_, (id, _)| *id != batch))
    }
}
