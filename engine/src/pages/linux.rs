//! What Linux offers for pages, as it is: address space, who has written where (PAGEMAP_SCAN), and faults that a program answers
//! (userfaultfd). Knows nothing of wasm, processes or when any of it is wanted. With `libc` it is the only file of the engine that touches
//! Linux.
//!
//! The one idea: every act is on a range of a [`Reservation`], checked against its ends, so that no other memory of this program can be
//! meant. What lies in a reservation is read and written through raw pointers only; whoever makes references into it keeps others away.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the pages in which Linux protects memory and finds out who wrote.
pub const PAGE: usize = 4096;

/// Address space of our own, at first without access. Given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is a range of addresses; whoever reads or writes there must agree with the others, on one thread or on many.
unsafe impl Send for Reservation {}
// SAFETY: as above; all of its methods are system calls, which the kernel orders.
unsafe impl Sync for Reservation {}

impl Reservation {
    pub fn new(bytes: usize) -> io::Result<Reservation> {
        let (protection, flags) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new mapping at a place that the kernel chooses touches no other.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        match NonNull::new(base.cast::<u8>()).filter(|_| base != libc::MAP_FAILED) {
            Some(base) => Ok(Reservation { base, bytes }),
            None => Err(io::Error::last_os_error()),
        }
    }

    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address of the range's start; the range lies within.
    fn at(&self, range: &Range<usize>) -> *mut u8 {
        assert!(range.start <= range.end && range.end <= self.bytes, "a range outside of its reservation");
        self.base.as_ptr().wrapping_add(range.start)
    }

    /// Lets it be read and written.
    pub fn allow(&self, range: Range<usize>) -> io::Result<()> {
        self.protect(range, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Whoever reads or writes it from now on gets a fault.
    pub fn forbid(&self, range: Range<usize>) -> io::Result<()> {
        self.protect(range, libc::PROT_NONE)
    }

    fn protect(&self, range: Range<usize>, protection: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is ours; what an access to it comes to is up to the caller, who is asked to say it by name.
        done(unsafe { libc::mprotect(self.at(&range).cast(), range.len(), protection) })
    }

    /// Gives the pages back: what is read there next is zero.
    pub fn discard(&self, range: Range<usize>) -> io::Result<()> {
        // SAFETY: the range is ours.
        done(unsafe { libc::madvise(self.at(&range).cast(), range.len(), libc::MADV_DONTNEED) })
    }

    /// Writes there; nobody else reads or writes that range meanwhile, and it can be accessed.
    pub fn copy_in(&mut self, offset: usize, bytes: &[u8]) {
        let at = self.at(&(offset..offset + bytes.len()));
        // SAFETY: the range lies in the reservation, which this has for itself; a slice that can be read never overlaps it, since nobody
        // makes references into one that is being filled.
        unsafe { at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// Moves pages as they are from here to another reservation, whose own are thrown away. Here zeros are left, or what the file has that
    /// is mapped there. The range is one mapping of Linux's; nobody touches either meanwhile.
    pub fn move_out(&self, range: Range<usize>, to: &Reservation, at: usize) -> io::Result<()> {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        let (from, bytes, to) = (self.at(&range), range.len(), to.at(&(at..at + range.len())));
        // SAFETY: both ranges are of reservations of ours, which stay mapped: the one by DONTUNMAP, the other by what is moved there.
        let moved = unsafe { libc::mremap(from.cast(), bytes, bytes, flags, to) };
        if moved == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Copies whole pages out of it, while others may write them: what is written meanwhile may be old, new, or some of both.
    /// The pages can be read and are not missing.
    pub fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        assert!(offset.is_multiple_of(PAGE) && bytes.len().is_multiple_of(PAGE), "pages are copied whole");
        let from = self.at(&(offset..offset + bytes.len())).cast::<u64>();
        for (index, word) in bytes.chunks_exact_mut(size_of::<u64>()).enumerate() {
            // SAFETY: the word lies in the reservation, is aligned and can be read. Loads are atomic since a plain copy of memory that
            // compiled code of a program changes meanwhile would be a data race.
            let value = unsafe { AtomicU64::from_ptr(from.add(index)) }.load(Ordering::Relaxed);
            word.copy_from_slice(&value.to_ne_bytes());
        }
    }
}

/// A file in memory, without a name: pages that many reservations have until they write to them.
#[derive(Debug)]
pub struct MemoryFile {
    file: OwnedFd,
    bytes: usize,
}

impl MemoryFile {
    /// All zeros, which take up no memory.
    pub fn new(bytes: usize) -> io::Result<MemoryFile> {
        // SAFETY: the call makes a file, nothing else; the name is a string that ends.
        let file = unsafe { libc::memfd_create(c"stem".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the file was made just now and belongs to nobody else.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        // SAFETY: a call on a file of ours.
        done(unsafe { libc::ftruncate(file.as_raw_fd(), bytes as libc::off_t) })?;
        Ok(MemoryFile { file, bytes })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies what can be read of a reservation to this place of the file.
    pub fn put_from(&self, offset: usize, from: &Reservation, range: Range<usize>) -> io::Result<()> {
        assert!(offset + range.len() <= self.bytes, "a place outside of the file");
        let (mut at, end) = (range.start, range.end);
        while at < end {
            let (address, place) = (from.at(&(at..end)), (offset + at - range.start) as libc::off_t);
            // SAFETY: the range lies in the reservation; what cannot be read there is an error of the call.
            let written = unsafe { libc::pwrite(self.file.as_raw_fd(), address.cast(), end - at, place) };
            at += counted(written)?;
        }
        Ok(())
    }

    pub fn put(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        assert!(offset + bytes.len() <= self.bytes, "a place outside of the file");
        let mut from = 0;
        while from < bytes.len() {
            let rest = &bytes[from..];
            // SAFETY: a slice that is ours.
            let written = unsafe {
                libc::pwrite(self.file.as_raw_fd(), rest.as_ptr().cast(), rest.len(), (offset + from) as libc::off_t)
            };
            from += counted(written)?;
        }
        Ok(())
    }

    pub fn get(&self, offset: usize, bytes: &mut [u8]) -> io::Result<()> {
        assert!(offset + bytes.len() <= self.bytes, "a place outside of the file");
        let mut from = 0;
        while from < bytes.len() {
            let rest = &mut bytes[from..];
            let place = (offset + from) as libc::off_t;
            // SAFETY: a slice that is ours.
            let read = unsafe { libc::pread(self.file.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), place) };
            from += counted(read)?;
        }
        Ok(())
    }

    /// Ranges of it that take up memory. Where one is adjacent to the next they are two.
    pub fn filled(&self, range: Range<usize>, found: &mut Vec<Range<usize>>) -> io::Result<()> {
        // Linux looks for the end of what is filled in all of the file: for a few pages it is cheaper to ask for each.
        let ends_are_looked_for = range.len() > 256 * PAGE;
        let mut at = range.start;
        while at < range.end {
            // SAFETY: calls on a file of ours, whose own position nobody uses.
            let start = unsafe { libc::lseek(self.file.as_raw_fd(), at as libc::off_t, libc::SEEK_DATA) };
            if start < 0 {
                let error = io::Error::last_os_error();
                return if error.raw_os_error() == Some(libc::ENXIO) { Ok(()) } else { Err(error) };
            }
            let start = start as usize;
            if start >= range.end {
                return Ok(());
            }
            let end = match ends_are_looked_for {
                false => start + PAGE,
                // SAFETY: as above.
                true => match unsafe { libc::lseek(self.file.as_raw_fd(), start as libc::off_t, libc::SEEK_HOLE) } {
                    end if end < 0 => return Err(io::Error::last_os_error()),
                    end => end as usize,
                },
            };
            found.push(start..end.min(range.end));
            at = end;
        }
        Ok(())
    }
}

/// Did [`Reservation::move_out`] fail since the range is more than one mapping of Linux's?
pub fn is_several(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EFAULT)
}

/// How far a call came, which was to read or write something.
fn counted(result: libc::ssize_t) -> io::Result<usize> {
    match result {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        1.. => Ok(result as usize),
        _ => match io::Error::last_os_error() {
            error if is_again(&error) => Ok(0),
            error => Err(error),
        },
    }
}

impl Reservation {
    /// What is there is thrown away; the file's pages are there instead, each until it is written to.
    pub fn map(&self, range: Range<usize>, file: &MemoryFile) -> io::Result<()> {
        assert!(range.len() <= file.bytes, "a mapping is not longer than its file");
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE);
        let (at, length, descriptor) = (self.at(&range), range.len(), file.file.as_raw_fd());
        // SAFETY: the range is ours, and stays mapped: what is put there takes the place of what was there, in one step.
        let mapped = unsafe { libc::mmap(at.cast(), length, protection, flags, descriptor, 0) };
        if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Reservation {
    /// Writes a byte, for whoever tries out what Linux does then. Nobody else has the reservation yet.
    pub fn poke(&self, offset: usize) {
        // SAFETY: the byte lies in the reservation and nobody else knows it; if it cannot be written this program ends, no more.
        unsafe { self.at(&(offset..offset + 1)).write_volatile(1) };
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody uses it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A system call on memory that was disturbed is made again.
fn is_again(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR))
}

const fn request(direction: u64, group: u64, number: u64, bytes: u64) -> u64 {
    (direction << 30) | (bytes << 16) | (group << 8) | number
}

/// `_IOWR`.
const BOTH_WAYS: u64 = 3;
/// `_IOR`.
const READ: u64 = 2;

// PAGEMAP_SCAN (Linux 6.7).

const PAGEMAP_SCAN: u64 = request(BOTH_WAYS, b'f' as u64, 16, size_of::<ScanArgument>() as u64);
const SCAN_WRITE_PROTECTS: u64 = 1;
const SCAN_CHECKS_ASYNC: u64 = 2;
const IS_WRITTEN: u64 = 1 << 1;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_ZERO: u64 = 1 << 5;

#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ScanRegion {
    start: u64,
    end: u64,
    categories: u64,
}

fn pagemap() -> io::Result<RawFd> {
    static FILE: OnceLock<Option<std::fs::File>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::fs::File::open("/proc/self/pagemap").ok());
    file.as_ref().map(|file| file.as_raw_fd()).ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}

impl Reservation {
    /// Ranges of pages within `range` that were written since they were last protected; they are protected again in the same step.
    /// The range is registered for [`Watch::Writes`].
    pub fn take_written(&self, range: Range<usize>, found: &mut Vec<Range<usize>>) -> io::Result<()> {
        let argument = ScanArgument {
            flags: SCAN_WRITE_PROTECTS | SCAN_CHECKS_ASYNC,
            category_mask: IS_WRITTEN,
            return_mask: IS_WRITTEN,
            ..ScanArgument::default()
        };
        self.scan::<512>(range, argument, usize::MAX, found).map(|_| ())
    }

    /// Ranges of pages that take up memory: that were written since the reservation was made or discarded. Gives up where they
    /// are more than `ranges_max` and says so by `false`.
    pub fn resident(&self, range: Range<usize>, ranges_max: usize, found: &mut Vec<Range<usize>>) -> io::Result<bool> {
        let argument = ScanArgument {
            category_inverted: IS_ZERO,
            category_mask: IS_ZERO,
            category_anyof_mask: IS_PRESENT | IS_SWAPPED,
            return_mask: IS_PRESENT,
            ..ScanArgument::default()
        };
        // Linux makes room for as many ranges as it may give, which would cost more than looking for a few.
        match ranges_max {
            ..8 => self.scan::<8>(range, argument, ranges_max, found),
            _ => self.scan::<512>(range, argument, ranges_max, found),
        }
    }

    /// Asks for up to `REGIONS` ranges at once.
    fn scan<const REGIONS: usize>(
        &self, range: Range<usize>, mut argument: ScanArgument, ranges_max: usize, found: &mut Vec<Range<usize>>,
    ) -> io::Result<bool> {
        let file = pagemap()?;
        let base = self.base.as_ptr() as u64;
        let (mut start, end) = (self.at(&range) as u64, base + range.end as u64);
        let mut regions = [ScanRegion::default(); REGIONS];
        while start < end {
            argument.size = size_of::<ScanArgument>() as u64;
            (argument.start, argument.end, argument.walk_end) = (start, end, 0);
            (argument.vec, argument.vec_len) = (regions.as_mut_ptr() as u64, REGIONS as u64);
            // SAFETY: the argument has the layout of `struct pm_scan_arg`, and names a buffer of that many regions that is ours; pages
            // of our own range become protected at most.
            let filled = unsafe { libc::ioctl(file, PAGEMAP_SCAN as _, &mut argument) };
            if filled < 0 {
                let error = io::Error::last_os_error();
                if is_again(&error) {
                    continue;
                }
                return Err(error);
            }
            for region in &regions[..filled as usize] {
                let region = (region.start - base) as usize..(region.end - base) as usize;
                let is_full = found.len() >= ranges_max;
                match found.last_mut().filter(|last| last.end == region.start) {
                    Some(last) => last.end = region.end,
                    None if is_full => return Ok(false),
                    None => found.push(region),
                }
            }
            if argument.walk_end <= start {
                break;
            }
            start = argument.walk_end;
        }
        Ok(true)
    }
}

// userfaultfd.

const API: u64 = 0xaa;
const UFFDIO_API: u64 = request(BOTH_WAYS, API, 0x3f, size_of::<[u64; 3]>() as u64);
const UFFDIO_REGISTER: u64 = request(BOTH_WAYS, API, 0, size_of::<[u64; 4]>() as u64);
const UFFDIO_UNREGISTER: u64 = request(READ, API, 1, size_of::<[u64; 2]>() as u64);
const UFFDIO_WAKE: u64 = request(READ, API, 2, size_of::<[u64; 2]>() as u64);
const UFFDIO_COPY: u64 = request(BOTH_WAYS, API, 3, size_of::<[u64; 5]>() as u64);
const UFFDIO_ZEROPAGE: u64 = request(BOTH_WAYS, API, 4, size_of::<[u64; 4]>() as u64);
const UFFDIO_WRITEPROTECT: u64 = request(BOTH_WAYS, API, 6, size_of::<[u64; 3]>() as u64);
/// `_IO`: of the device, what the system call is elsewhere.
const USERFAULTFD_IOC_NEW: u64 = API << 8;

const FEATURE_WP: u64 = 1;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;

const MODE_MISSING: u64 = 1;
const MODE_WP: u64 = 2;
const EVENT_PAGEFAULT: u8 = 0x12;
const USER_MODE_ONLY: libc::c_int = 1;

/// What of a range is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Who touches a page that is not there waits until it is put there.
    Missing,
    /// Which pages are written, without that anybody waits.
    Writes,
}

/// A place where faults are answered.
#[derive(Debug)]
pub struct Faults {
    file: OwnedFd,
}

impl Faults {
    /// Faults of this program's own code only, which needs no right; the kernel's own, when it is given an address in a system call,
    /// fail there with EFAULT.
    pub fn open(watch: Watch) -> io::Result<Faults> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
        // SAFETY: the call makes a file, nothing else.
        let mut file = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) } as RawFd;
        if file < 0 {
            let refused = io::Error::last_os_error();
            let Ok(device) = std::fs::File::options().read(true).write(true).open("/dev/userfaultfd") else {
                return Err(refused);
            };
            // SAFETY: the call makes a file, nothing else.
            file = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW as _, flags) };
            if file < 0 {
                return Err(refused);
            }
        }
        // SAFETY: the file was made just now and belongs to nobody else.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let features = match watch {
            Watch::Missing => 0,
            Watch::Writes => FEATURE_WP | FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC,
        };
        let faults = Faults { file };
        faults.ioctl(UFFDIO_API, &mut [API, features, 0])?;
        Ok(faults)
    }

    fn ioctl<const WORDS: usize>(&self, request: u64, argument: &mut [u64; WORDS]) -> io::Result<()> {
        // SAFETY: the argument has the size that the request names, and addresses in it are of reservations and slices that callers hold.
        done(unsafe { libc::ioctl(self.file.as_raw_fd(), request as _, argument.as_mut_ptr()) })
    }

    pub fn register(&self, memory: &Reservation, range: Range<usize>, watch: Watch) -> io::Result<()> {
        let mode = match watch {
            Watch::Missing => MODE_MISSING,
            Watch::Writes => MODE_WP,
        };
        self.ioctl(UFFDIO_REGISTER, &mut [memory.at(&range) as u64, range.len() as u64, mode, 0])
    }

    /// Nothing of the range is told any more; who waits there goes on, and finds zeros where nothing was put.
    pub fn unregister(&self, memory: &Reservation, range: Range<usize>) -> io::Result<()> {
        self.ioctl(UFFDIO_UNREGISTER, &mut [memory.at(&range) as u64, range.len() as u64])?;
        // Linux wakes them before it stops watching. Who touches a page in between, with no lock but that of the mapping, would wait for
        // ever. Now nobody can begin to wait any more, and who has is woken.
        self.wake(memory, range)
    }

    /// From now on the range counts as not written.
    pub fn protect(&self, memory: &Reservation, range: Range<usize>) -> io::Result<()> {
        loop {
            match self.ioctl(UFFDIO_WRITEPROTECT, &mut [memory.at(&range) as u64, range.len() as u64, 1]) {
                Err(error) if is_again(&error) => {}
                result => return result,
            }
        }
    }

    /// Puts pages there that are missing, and lets go on who waits for them. What is there already stays as it is.
    pub fn fill(&self, memory: &Reservation, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.put(memory, offset..offset + bytes.len(), |at, from, length| {
            let mut argument = [at, bytes.as_ptr() as u64 + from as u64, length as u64, 0, 0];
            let result = self.ioctl(UFFDIO_COPY, &mut argument);
            (result, argument[4] as i64)
        })
    }

    /// The same with zeros.
    pub fn fill_zero(&self, memory: &Reservation, range: Range<usize>) -> io::Result<()> {
        self.put(memory, range, |at, _, length| {
            let mut argument = [at, length as u64, 0, 0];
            let result = self.ioctl(UFFDIO_ZEROPAGE, &mut argument);
            (result, argument[3] as i64)
        })
    }

    fn put(
        &self, memory: &Reservation, range: Range<usize>, put: impl Fn(u64, usize, usize) -> (io::Result<()>, i64),
    ) -> io::Result<()> {
        let at = memory.at(&range) as u64;
        let mut from = 0;
        while from < range.len() {
            let (result, done) = put(at + from as u64, from, range.len() - from);
            match result {
                Ok(()) => return Ok(()),
                // Interrupted in between: it says how far it came.
                Err(_) if done > 0 => from += done as usize,
                Err(error) if is_again(&error) => {}
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    let _ = self.ioctl(UFFDIO_WAKE, &mut [at + from as u64, PAGE as u64]);
                    from += PAGE;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whoever waits for pages of the range looks again.
    pub fn wake(&self, memory: &Reservation, range: Range<usize>) -> io::Result<()> {
        self.ioctl(UFFDIO_WAKE, &mut [memory.at(&range) as u64, range.len() as u64])
    }

    /// Waits until somebody touches what is missing: the addresses that were touched.
    pub fn wait(&self, touched: &mut Vec<usize>) -> io::Result<()> {
        let mut entry = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry that is ours.
        if unsafe { libc::poll(&mut entry, 1, -1) } < 0 {
            let error = io::Error::last_os_error();
            return if is_again(&error) { Ok(()) } else { Err(error) };
        }
        const MESSAGES: usize = 64;
        let mut messages = [[0u64; 4]; MESSAGES];
        // SAFETY: the buffer is ours and has that size; `struct uffd_msg` is 32 bytes of plain numbers.
        let read = unsafe {
            libc::read(self.file.as_raw_fd(), messages.as_mut_ptr().cast(), size_of::<[[u64; 4]; MESSAGES]>())
        };
        if read < 0 {
            let error = io::Error::last_os_error();
            return if is_again(&error) { Ok(()) } else { Err(error) };
        }
        for message in &messages[..read as usize / size_of::<[u64; 4]>()] {
            if message[0] as u8 == EVENT_PAGEFAULT {
                touched.push(message[2] as usize);
            }
        }
        Ok(())
    }
}
