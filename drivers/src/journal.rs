//! A journal in a file: bytes that only grow, and what was flushed survives anything. Knows nothing of what they mean, nor of
//! threads: work is done while the caller waits.
//!
//! The one idea: the file's content is the journal's. What lies behind the last flush may be torn by a crash; whoever reads it can
//! tell (`services::ledger`). Replacing writes a second file and renames it.

use abi::device::{JournalFailure, JournalResult, JournalWork};
use abi::message::Bytes;
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A journal in use. Nobody else may have the file open for writing.
///
/// Invariants: `file` is what `path` names, open for appending, or `None` after a failure, until it is opened again by a load.
pub struct FileJournal {
    path: PathBuf,
    file: Option<File>,
}

impl FileJournal {
    /// The file and its directory are made if they are not there.
    pub fn open(path: &Path) -> std::io::Result<FileJournal> {
        let directory = path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut journal = FileJournal { path: path.into(), file: None };
        journal.reopen()?;
        Ok(journal)
    }

    fn reopen(&mut self) -> std::io::Result<&mut File> {
        let there = std::fs::exists(&self.path)?;
        let file = File::options().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        if !there {
            // A file that could vanish with a crash would take what was flushed along.
            file.sync_all()?;
            self.sync_directory()?;
        }
        Ok(self.file.insert(file))
    }

    fn sync_directory(&self) -> std::io::Result<()> {
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Does one piece of work. After a failure only a load helps.
    pub fn work(&mut self, work: JournalWork) -> JournalResult {
        let done = match work {
            JournalWork::Load => self.load().map(|content| JournalResult::Loaded(content.into())),
            JournalWork::Append(bytes) => self.append(&bytes).map(|()| JournalResult::Appended),
            JournalWork::Flush => self.flush().map(|()| JournalResult::Flushed),
            JournalWork::Replace(bytes) => self.replace(&bytes).map(|()| JournalResult::Replaced),
        };
        done.unwrap_or_else(|error| {
            self.file = None;
            JournalResult::Failed(match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => JournalFailure::Full,
                _ => JournalFailure::Broken,
            })
        })
    }

    fn load(&mut self) -> std::io::Result<Vec<u8>> {
        self.reopen()?;
        let mut content = vec![];
        File::open(&self.path)?.read_to_end(&mut content)?;
        Ok(content)
    }

    fn in_use(&mut self) -> std::io::Result<&mut File> {
        self.file.as_mut().ok_or_else(|| std::io::Error::other("an earlier failure"))
    }

    fn append(&mut self, bytes: &Bytes) -> std::io::Result<()> {
        self.in_use()?.write_all(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.in_use()?.sync_data()
    }

    fn replace(&mut self, bytes: &Bytes) -> std::io::Result<()> {
        self.in_use()?;
        let new = self.path.with_extension("new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        self.sync_directory()?;
        self.reopen()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn loaded(journal: &mut FileJournal) -> Vec<u8> {
        match journal.work(JournalWork::Load) {
            JournalResult::Loaded(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_appended_and_replaced_is_there_for_the_next_who_opens_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/er/names.journal");
        let mut journal = FileJournal::open(&path).unwrap();
        assert_eq!(loaded(&mut journal), b"");
        assert_eq!(journal.work(JournalWork::Append(Bytes::new(b"one"))), JournalResult::Appended);
        assert_eq!(journal.work(JournalWork::Append(Bytes::new(b"two"))), JournalResult::Appended);
        assert_eq!(journal.work(JournalWork::Flush), JournalResult::Flushed);
        assert_eq!(loaded(&mut FileJournal::open(&path).unwrap()), b"onetwo");
        assert_eq!(journal.work(JournalWork::Replace(Bytes::new(b"three"))), JournalResult::Replaced);
        assert_eq!(journal.work(JournalWork::Append(Bytes::new(b"four"))), JournalResult::Appended);
        assert_eq!(loaded(&mut FileJournal::open(&path).unwrap()), b"threefour");
    }

    #[test]
    fn after_a_failure_nothing_is_written_before_a_load() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("names.journal");
        let mut journal = FileJournal::open(&path).unwrap();
        assert_eq!(journal.work(JournalWork::Append(Bytes::new(b"kept"))), JournalResult::Appended);
        // A directory stands where the second file would be.
        std::fs::create_dir(path.with_extension("new")).unwrap();
        let failed = JournalResult::Failed(JournalFailure::Broken);
        assert_eq!(journal.work(JournalWork::Replace(Bytes::new(b"new"))), failed);
        assert_eq!(journal.work(JournalWork::Append(Bytes::new(b"lost"))), failed);
        assert_eq!(loaded(&mut journal), b"kept");
        assert_eq!(journal.work(JournalWork::Append(Bytes::new(b"!"))), JournalResult::Appended);
        assert_eq!(loaded(&mut journal), b"kept!");
    }
}
