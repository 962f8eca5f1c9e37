//! The segmented write-ahead log.

pub(crate) mod frame;
pub(crate) mod index;
pub(crate) mod log_file;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod segment;
pub(crate) mod transfer;
pub(crate) mod truncate;
