//! Lines in files: JSON, text, CSV (ENGINE.md E19).
//!
//! PARTS-1: bytes at and behind the length in the progress belong to no completed batch, and are
//! written or cut at will; bytes before it are never touched again.
//! PARTS-2: when `publish` returns, what it wrote is durable, with the names of the files.
//! PARTS-3: a directory holds the part files of one sink, and says whose (ENGINE.md E5).
//! PARTS-4: what follows from the progress is the same at every attempt: rolls and compactions are
//! decided from bytes, rows and batch time, never from a clock or from what is on disk.
//! PARTS-5: when a batch is completed, and before the next one writes anything, `_manifest` may say
//! so, and then the files go that a compaction in it replaced: whoever reads the manifest finds
//! every file it names, whenever the power goes.

mod compaction;
#[cfg(feature = "csv")]
mod csv;
mod io;
mod json;
mod manifest;
mod options;
mod parts;
mod progress;
mod settle;
mod sink;
#[cfg(test)]
mod tests;
mod text;

#[cfg(feature = "csv")]
pub use csv::{CsvFields, CsvRow};
pub use json::JsonRow;
pub use manifest::{FileManifest, ManifestFile};
pub use options::OutputFiles;
pub use text::TextRow;

#[cfg(feature = "csv")]
pub(crate) use csv::Csv;
pub(crate) use json::Json;
pub(crate) use sink::file_sink;
pub(crate) use text::Text;
