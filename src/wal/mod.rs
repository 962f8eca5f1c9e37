//! The segmented write-ahead log.

pub(crate) mod frame;
pub(crate) mod record;
