//! A record that was submitted and not waited for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::share::Share;
use crate::error::Result;
use crate::ids::Lsn;
use crate::sync::Arc;

/// A submitted record on its way to stable storage. Dropping it cancels nothing.
///
/// It can be waited for by blocking ([`wait`](Pending::wait)) or as a [`Future`], which needs no
/// runtime of its own: the log's background thread writes what futures wait for.
///
/// ```
/// # let place = tempfile::tempdir()?;
/// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
/// let wal = sawmill::Wal::open(place.path(), options)?;
/// let pending = wal.submit(b"later")?;
/// let lsn = pending.lsn();
/// assert_eq!(pending.wait()?, lsn);
/// assert!(wal.durable_lsn() >= lsn);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pending {
    /// There until it is dropped.
    share: Option<Arc<Share>>,
    lsn: Lsn,
}

impl Pending {
    pub(crate) fn new(share: Arc<Share>, lsn: Lsn) -> Pending {
        Pending { share: Some(share), lsn }
    }

    fn share(&self) -> &Share {
        match &self.share {
            Some(share) => share,
            None => unreachable!("SHARE: given back when it is dropped"),
        }
    }

    /// The record's LSN. A crash may still take it away, and give it to another record.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Waits until the record and every one before it is on stable storage; returns its LSN.
    ///
    /// # Errors
    /// `Poisoned`: the record is indeterminate. `Forked`.
    pub fn wait(&self) -> Result<Lsn> {
        self.share().wait_durable(self.lsn)?;
        Ok(self.lsn)
    }
}

impl Future for Pending {
    type Output = Result<Lsn>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Lsn>> {
        match self.share().poll_durable(self.lsn, context.waker()) {
            Some(outcome) => Poll::Ready(outcome.map(|()| self.lsn)),
            None => Poll::Pending,
        }
    }
}

impl Drop for Pending {
    #[inline]
    fn drop(&mut self) {
        if let Some(share) = self.share.take() {
            share.give_back();
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({})", self.lsn)
    }
}
