//! What follows when batches are completed: readers are told, and what was replaced goes (PARTS-5).

use super::io::failed;
use super::manifest::{self, FileManifest, ManifestFile};
use super::parts::{PartFiles, empty, lines_to};
use super::progress::FileMark;
use crate::checksum::crc32c;
use crate::error::Result;
use crate::ids::BatchId;
use crate::storage::OpenMode;

impl PartFiles {
    /// All that was published is completed: readers are told, then what was replaced goes
    /// (PARTS-5).
    pub(super) fn settle(&mut self) -> Result<()> {
        let (batch, time, finished) = self.published;
        if self.manifest.0 == batch || batch == BatchId::default() {
            return Ok(());
        }
        let mut manifest = FileManifest::new(&self.identity, batch);
        manifest.files.clone_from(&self.older);
        let names = &self.lines.names;
        let entry = |mark, open| ManifestFile::new(names.of(mark), mark, open);
        manifest.files.extend(self.progress.finished.iter().map(|mark| entry(mark, false)));
        manifest.files.extend(self.progress.open.iter().map(|mark| entry(mark, true)));
        self.io.replace(manifest::NAME, &manifest.encode()?)?;
        if finished {
            self.remove(|files, numbers| files.progress.is_replaced(numbers))?;
        }
        self.manifest = (batch, time);
        Ok(())
    }

    /// Finds out about the files that are not in the progress any more: from the manifest, and from
    /// the files where that does not know them.
    pub(super) fn recall(&mut self) -> Result<()> {
        let Some(oldest) = self.progress.files().next().cloned() else { return Ok(()) };
        if oldest.number == 0 {
            return Ok(());
        }
        let names = self.io.names()?;
        let mut known = match names.iter().any(|name| name == manifest::NAME) {
            true => {
                let file = self.io.open(manifest::NAME, OpenMode::Read)?;
                let length = file.stamp().map_err(failed)?.length;
                let read = FileManifest::parse(&self.io.read_all(&file, length)?);
                let read = read.ok().filter(|manifest| manifest.is_of(&self.identity));
                read.map(FileManifest::by_name).unwrap_or_default()
            }
            false => Default::default(),
        };
        let mut older: Vec<((u64, u64), String)> = names
            .into_iter()
            .filter_map(|name| Some((self.lines.names.numbers(&name)?, name)))
            .filter(|((_, through), _)| *through < oldest.number)
            .collect();
        older.sort();
        let mut from = BatchId::new(1);
        for (_, name) in older {
            let entry = match known.remove(&name) {
                Some(entry) => {
                    from = entry.last_batch;
                    ManifestFile { open: false, ..entry }
                }
                None => self.survey(name, (from, oldest.first))?,
            };
            self.older.push(entry);
        }
        Ok(())
    }

    /// What a file says that no manifest knows: its batches lie between those that are known.
    fn survey(&mut self, name: String, (first, last): (BatchId, BatchId)) -> Result<ManifestFile> {
        let file = self.io.open(&name, OpenMode::Read)?;
        let length = file.stamp().map_err(failed)?.length;
        let bytes = self.io.read_all(&file, length)?;
        let body = bytes.get(self.lines.header.len()..).unwrap_or_default();
        let (_, rows) = lines_to(body, (u64::MAX, u64::MAX), self.lines.quoted);
        let mark = FileMark { length, crc32c: crc32c(&bytes), rows, ..empty(0, first, 0) };
        Ok(ManifestFile { last_batch: last, ..ManifestFile::new(name, &mark, false) })
    }
}
