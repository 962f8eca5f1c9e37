//! The segmented write-ahead log.

pub(crate) mod barrier;
pub(crate) mod frame;
pub(crate) mod index;
pub(crate) mod log_file;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod replay;
pub(crate) mod scan;
pub(crate) mod segment;
#[cfg(test)]
pub(crate) mod test_writer;
pub(crate) mod transfer;
pub(crate) mod truncate;
pub(crate) mod window;
