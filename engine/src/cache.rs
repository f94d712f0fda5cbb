//! Compiled code on disk, so that a program is compiled once. Knows files and checksums; not how code is made.
//!
//! ```text
//!   DIRECTORY/code/KEY.code        machine code (an ELF file, mapped as it is)
//!                                  map of the rewriter
//!                                  trailer: magic 8, code length 8, map length 8, BLAKE3 of all before it 32
//!   DIRECTORY/code/KEY.lock        held by who compiles it now
//!   DIRECTORY/continuations/*      what freeze keeps there
//! ```
//! KEY is the BLAKE3 of all that the code follows from: the program, the rewriter's version and options, and the engine's
//! settings, version and processor. Entries are written under another name and renamed, so that there are whole ones only; a
//! damaged one is noticed by its checksum and made again. The checksum is no protection from people: machine code is run as it
//! is found, so the directory must be one that only its user writes to.

use crate::error::CacheError;
use std::fs::{File, TryLockError};
use std::hash::{Hash, Hasher};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// When the directory holds more, the entries used longest ago are removed.
pub const BYTES_MAX: u64 = 2 << 30;

/// How long one process waits for another that compiles the same program, before it compiles the program too: the other may be
/// stopped or much slower.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// An entry's time of use is written down no more often.
const USE_UNIT: Duration = Duration::from_secs(3600);

/// Of an entry: hexadecimal of 20 bytes of its key.
const NAME_CHARACTERS: usize = 40;

const MAGIC: [u8; 8] = *b"unacode\x01";
const TRAILER_BYTES: usize = 8 + 8 + 8 + 32;

pub struct Cache {
    directory: PathBuf,
    bytes_max: u64,
}

/// What one piece of compiled code follows from.
#[derive(Clone, Copy)]
pub struct Key(blake3::Hash);

/// A checked entry.
pub struct Entry {
    /// Of the file, whose first bytes are the code: [`wasmtime::Module::deserialize_open_file`] takes it as it is.
    pub code: File,
    pub map: Vec<u8>,
}

/// The right to compile a program that others want too; ends when it is dropped.
pub struct Turn {
    lock: Option<(File, PathBuf)>,
}

impl Key {
    /// From everything that could make the code different.
    pub fn new(program: &blake3::Hash, engine: &wasmtime::Engine, rewriting: impl Hash) -> Key {
        let mut hasher = KeyHasher(blake3::Hasher::new());
        hasher.write(program.as_bytes());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        rewriting.hash(&mut hasher);
        Key(hasher.0.finalize())
    }

    pub fn name(&self) -> String {
        self.0.to_hex()[..NAME_CHARACTERS].to_string()
    }
}

/// A [`Hasher`] that cannot collide by bad luck, unlike those of 64 bits.
struct KeyHasher(blake3::Hasher);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(&self) -> u64 {
        u64::from_le_bytes(self.0.finalize().as_bytes()[..8].try_into().expect("eight of thirty-two"))
    }
}

impl Cache {
    /// Makes the directory if need be.
    pub fn open(directory: &Path) -> Result<Cache, CacheError> {
        let cache = Cache { directory: directory.into(), bytes_max: BYTES_MAX };
        for part in [directory.to_path_buf(), cache.code(), cache.continuations()] {
            check_private(&part)?;
        }
        Ok(cache)
    }

    fn code(&self) -> PathBuf {
        self.directory.join("code")
    }

    /// Where freeze may keep compiled continuations.
    pub fn continuations(&self) -> PathBuf {
        self.directory.join("continuations")
    }

    /// The entry, if there is a whole one.
    pub fn find(&self, key: &Key) -> Option<Entry> {
        let path = self.code().join(key.name()).with_extension("code");
        let mut file = File::open(&path).ok()?;
        let entry = check_entry(&mut file);
        if entry.is_some() {
            note_use(&file);
        }
        entry.map(|map| Entry { code: file, map })
    }

    /// Waits until no other process compiles this program, within bounds. `waiting` is called now and then.
    pub fn take_turn(&self, key: &Key, mut waiting: impl FnMut()) -> Turn {
        let path = self.code().join(key.name()).with_extension("lock");
        let Ok(file) = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path) else {
            return Turn { lock: None };
        };
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Turn { lock: Some((file, path)) },
                Err(TryLockError::WouldBlock) if start.elapsed() < WAIT_MAX => {
                    waiting();
                    // Locks of files cannot be waited for with a bound; an entry takes far longer to make than this.
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(_) => return Turn { lock: None },
            }
        }
    }

    /// Keeps an entry, in place of a damaged one if there is one. Then removes what is too much.
    pub fn keep(&self, key: &Key, code: &[u8], map: &[u8]) -> std::io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = self.code().join(key.name()).with_extension("code");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.new", std::process::id()));
        let written = write_entry(&temporary, code, map).and_then(|()| std::fs::rename(&temporary, &path));
        if let Err(error) = written {
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
        self.shrink(&path);
        Ok(())
    }

    /// A whole entry by its name, for another engine of the same kind; read it from its start.
    pub fn lend(&self, name: &str) -> Option<File> {
        if name.len() != NAME_CHARACTERS || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut file = File::open(self.code().join(name).with_extension("code")).ok()?;
        check_entry(&mut file)?;
        file.rewind().ok()?;
        Some(file)
    }

    /// Keeps an entry that another engine lent. False: it is not a whole one, or could not be kept.
    pub fn borrow(&self, key: &Key, from: &mut dyn Read) -> bool {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = self.code().join(key.name()).with_extension("code");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.lent", std::process::id()));
        let mut copy = || -> std::io::Result<bool> {
            let mut file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&temporary)?;
            std::io::copy(&mut from.take(self.bytes_max), &mut file)?;
            if check_entry(&mut file).is_none() {
                return Ok(false);
            }
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            Ok(true)
        };
        let kept = copy().unwrap_or(false);
        if kept {
            self.shrink(&path);
        } else {
            let _ = std::fs::remove_file(&temporary);
        }
        kept
    }

    /// Removes the entries used longest ago until the rest is within the bound. Another process that runs one of them has it
    /// mapped and does not notice.
    fn shrink(&self, newest: &Path) {
        let mut files = vec![];
        for directory in [self.code(), self.continuations()] {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if let Ok(metadata) = entry.metadata() {
                    let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    // One file may have several names, one for each continuation in it.
                    files.push((used, entry.path(), metadata.len() / metadata.nlink().max(1)));
                }
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, _, bytes)| bytes).sum();
        for (_, path, size) in files.iter().filter(|(_, path, _)| path != newest) {
            if bytes <= self.bytes_max {
                break;
            }
            if std::fs::remove_file(path).is_ok() {
                bytes -= size;
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((file, path)) = self.lock.take() {
            // Who opened it before it goes has a lock on nothing, and at worst compiles the program once more.
            let _ = std::fs::remove_file(path);
            let _ = file.unlock();
        }
    }
}

fn check_private(directory: &Path) -> Result<(), CacheError> {
    let unusable = |error| CacheError::Unusable { path: directory.into(), error };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
    let metadata = std::fs::symlink_metadata(directory).map_err(unusable)?;
    if !metadata.is_dir() {
        return Err(unusable(std::io::ErrorKind::NotADirectory.into()));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(CacheError::WritableByOthers { path: directory.into(), mode });
    }
    Ok(())
}

fn write_entry(path: &Path, code: &[u8], map: &[u8]) -> std::io::Result<()> {
    let mut hasher = blake3::Hasher::new();
    let mut trailer = MAGIC.to_vec();
    trailer.extend_from_slice(&(code.len() as u64).to_le_bytes());
    trailer.extend_from_slice(&(map.len() as u64).to_le_bytes());
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    for part in [code, map, &trailer] {
        hasher.update(part);
        file.write_all(part)?;
    }
    file.write_all(hasher.finalize().as_bytes())?;
    // Without this a crash of the machine could leave an entry of the right name and size with other content.
    file.sync_all()
}

/// The map of a whole entry.
fn check_entry(file: &mut File) -> Option<Vec<u8>> {
    let length = usize::try_from(file.metadata().ok()?.len()).ok()?;
    let body = length.checked_sub(TRAILER_BYTES)?;
    let mut trailer = [0; TRAILER_BYTES];
    file.seek(SeekFrom::Start(body as u64)).ok()?;
    file.read_exact(&mut trailer).ok()?;
    let word = |at: usize| u64::from_le_bytes(trailer[at..at + 8].try_into().expect("eight bytes"));
    let (code, map) = (word(8), word(16));
    if trailer[..8] != MAGIC || code.checked_add(map)? != body as u64 {
        return None;
    }
    let map_start = code as usize;
    let mut map = Vec::with_capacity(map as usize);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut position = 0;
    file.seek(SeekFrom::Start(0)).ok()?;
    while position < body {
        let step = (body - position).min(buffer.len());
        let bytes = &mut buffer[..step];
        file.read_exact(bytes).ok()?;
        hasher.update(bytes);
        map.extend_from_slice(&bytes[map_start.saturating_sub(position).min(step)..]);
        position += step;
    }
    hasher.update(&trailer[..24]);
    (hasher.finalize() == <[u8; 32]>::try_from(&trailer[24..]).ok()?).then_some(map)
}

fn note_use(file: &File) {
    let now = SystemTime::now();
    let known = file.metadata().and_then(|metadata| metadata.modified());
    if known.is_ok_and(|known| now.duration_since(known).is_ok_and(|age| age > USE_UNIT)) {
        let _ = file.set_modified(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(program: &[u8]) -> Key {
        Key(blake3::hash(program))
    }

    fn only_file(cache: &Cache) -> PathBuf {
        let mut files = std::fs::read_dir(cache.code()).unwrap();
        let path = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none());
        path
    }

    #[test]
    fn an_entry_is_found_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("cache")).unwrap();
        // Larger than one step of the check, the map across a border of it.
        let code = vec![7; (256 << 10) - 5];
        let map: Vec<u8> = (0..100).collect();
        assert!(cache.find(&key(b"a")).is_none());
        cache.keep(&key(b"a"), &code, &map).unwrap();
        assert!(cache.find(&key(b"b")).is_none());
        let entry = cache.find(&key(b"a")).unwrap();
        assert_eq!(entry.map, map);

        let path = only_file(&cache);
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(cache.find(&key(b"a")).is_none(), "cut at {cut}");
        }
        let end = whole.len();
        for at in [0, code.len() - 1, code.len(), code.len() + 99, end - 56, end - 48, end - 40, end - 32, end - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            std::fs::write(&path, &damaged).unwrap();
            assert!(cache.find(&key(b"a")).is_none(), "flipped at {at}");
        }
        cache.keep(&key(b"a"), &code, &map).unwrap();
        assert!(cache.find(&key(b"a")).is_some());
    }

    #[test]
    fn an_entry_is_lent_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let lender = Cache::open(&directory.path().join("lender")).unwrap();
        let borrower = Cache::open(&directory.path().join("borrower")).unwrap();
        lender.keep(&key(b"a"), b"code", b"map").unwrap();
        let mut lent = vec![];
        lender.lend(&key(b"a").name()).unwrap().read_to_end(&mut lent).unwrap();
        assert!(!borrower.borrow(&key(b"a"), &mut &lent[..lent.len() - 1]));
        assert!(borrower.find(&key(b"a")).is_none());
        assert!(borrower.borrow(&key(b"a"), &mut &lent[..]));
        assert_eq!(borrower.find(&key(b"a")).unwrap().map, b"map");
        for name in ["", "../../../etc/passwd", &"0".repeat(40), &"z".repeat(40)] {
            assert!(lender.lend(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_entry_used_longest_ago_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(directory.path().join("cache").as_path()).unwrap();
        cache.bytes_max = 2500;
        let old = SystemTime::now() - Duration::from_secs(100_000);
        for (number, program) in [b"a", b"b"].into_iter().enumerate() {
            cache.keep(&key(program), &[1; 1000], &[]).unwrap();
            let entry = cache.find(&key(program)).unwrap();
            entry.code.set_modified(old + Duration::from_secs(number as u64)).unwrap();
        }
        // Using the older one makes it the newer.
        assert!(cache.find(&key(b"a")).is_some());
        cache.keep(&key(b"c"), &[1; 1000], &[]).unwrap();
        assert!(cache.find(&key(b"b")).is_none());
        assert!(cache.find(&key(b"a")).is_some() && cache.find(&key(b"c")).is_some());
    }

    #[test]
    fn a_directory_of_everybody_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache");
        Cache::open(&path).unwrap();
        std::fs::set_permissions(path.join("code"), std::fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(Cache::open(&path), Err(CacheError::WritableByOthers { mode: 0o770, .. })));
    }

    #[test]
    fn only_one_compiles_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("cache")).unwrap();
        let turn = cache.take_turn(&key(b"a"), || {});
        assert!(turn.lock.is_some());
        let (tell, told) = std::sync::mpsc::channel();
        let cache = &cache;
        std::thread::scope(|scope| {
            let other = scope.spawn(move || {
                let mut waited = false;
                let turn = cache.take_turn(&key(b"a"), || {
                    if !waited {
                        tell.send(()).unwrap();
                    }
                    waited = true;
                });
                (turn.lock.is_some(), waited)
            });
            told.recv().unwrap();
            drop(turn);
            assert_eq!(other.join().unwrap(), (true, true));
        });
    }
}
