//! Files that can be looked at and not changed, whatever files they are.

use abi::errno::Errno;
use abi::file::*;
use abi::wasi::Advice;

pub(super) struct ReadOnly(pub Box<dyn FileSystem + Send>);

impl FileSystem for ReadOnly {
    fn root(&self) -> OpenId {
        self.0.root()
    }

    fn open(&mut self, directory: OpenId, path: &str, how: &Open) -> Result<Opened, Errno> {
        if how.access != Access::Read || how.truncate || how.existence != Existence::Required {
            return Err(Errno::RoFs);
        }
        self.0.open(directory, path, how)
    }

    fn duplicate(&mut self, id: OpenId) -> Result<OpenId, Errno> {
        self.0.duplicate(id)
    }

    fn close(&mut self, id: OpenId) {
        self.0.close(id);
    }

    fn read_at(&mut self, file: OpenId, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        self.0.read_at(file, buffer, offset)
    }

    fn write_at(&mut self, _: OpenId, _: &[u8], _: u64) -> Result<usize, Errno> {
        Err(Errno::RoFs)
    }

    fn append(&mut self, _: OpenId, _: &[u8]) -> Result<(usize, u64), Errno> {
        Err(Errno::RoFs)
    }

    fn stat(&mut self, id: OpenId) -> Result<Stat, Errno> {
        self.0.stat(id)
    }

    fn set_size(&mut self, _: OpenId, _: u64) -> Result<(), Errno> {
        Err(Errno::RoFs)
    }

    fn set_times(&mut self, _: OpenId, _: SetTimes) -> Result<(), Errno> {
        Err(Errno::RoFs)
    }

    fn allocate(&mut self, _: OpenId, _: u64, _: u64) -> Result<(), Errno> {
        Err(Errno::RoFs)
    }

    fn advise(&mut self, file: OpenId, offset: u64, length: u64, advice: Advice) -> Result<(), Errno> {
        self.0.advise(file, offset, length, advice)
    }

    fn sync(&mut self, id: OpenId, what: Durable) -> Result<(), Errno> {
        self.0.sync(id, what)
    }

    fn list(&mut self, directory: OpenId) -> Result<Vec<Entry>, Errno> {
        self.0.list(directory)
    }

    fn stat_at(&mut self, directory: OpenId, path: &str, last_link: LastLink) -> Result<Stat, Errno> {
        self.0.stat_at(directory, path, last_link)
    }

    fn set_times_at(&mut self, _: OpenId, _: &str, _: LastLink, _: SetTimes) -> Result<(), Errno> {
        Err(Errno::RoFs)
    }

    fn create_directory(&mut self, _: OpenId, _: &str) -> Result<(), Errno> {
        Err(Errno::RoFs)
    }

    fn remove_directory(&mut self, _: OpenId, _: &str) -> Result<(), Errno> {
        Err(Errno::RoFs)
    }

    fn unlink(&mut self, _: OpenId, _: &str) -> Result<(), Errno> {
        Err(Errno::RoFs)
    }

    fn rename(&mut self, _: (OpenId, &str), _: (OpenId, &str)) -> Result<(), Errno> {
        Err(Errno::RoFs)
    }

    fn link(&mut self, _: (OpenId, &str), _: (OpenId, &str)) -> Result<(), Errno> {
        Err(Errno::RoFs)
    }

    fn symlink(&mut self, _: &str, _: OpenId, _: &str) -> Result<(), Errno> {
        Err(Errno::RoFs)
    }

    fn read_link(&mut self, directory: OpenId, path: &str) -> Result<String, Errno> {
        self.0.read_link(directory, path)
    }

    fn locate(&mut self, id: OpenId) -> Result<Place, Errno> {
        self.0.locate(id)
    }

    fn content(&mut self, file: OpenId, bytes_max: u64) -> Result<Vec<u8>, Errno> {
        self.0.content(file, bytes_max)
    }

    fn readiness(&mut self, file: OpenId, direction: Direction) -> Option<(Readiness, Source)> {
        self.0.readiness(file, direction)
    }

    // What was removed elsewhere meanwhile is made again for who had it open, and is nobody else's.
    fn orphan_file(&mut self, content: &[u8]) -> Result<OpenId, Errno> {
        self.0.orphan_file(content)
    }

    fn orphan_directory(&mut self) -> Result<OpenId, Errno> {
        self.0.orphan_directory()
    }
}
