//! The memories of programs: reservations that are given to new processes and taken back when these end. Knows nothing of processes.
//!
//! The one idea: a reservation of 4 GiB that has been used costs less than a new one. It is kept with the pages that can be accessed, and
//! cleaned by what its last user has written, so that for the next process of the same program hardly a system call is made.
//!
//! ```text
//!   guard │ memory: accessible up to its size, reserved up to 4 GiB │ guard
//!         └ base
//! ```

use super::PagesError;
use super::linux::{MemoryFile, PAGE, Reservation, is_several};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// What a memory with 32-bit addresses can grow to.
const RESERVED_BYTES: usize = 4 << 30;

/// What one with 64-bit addresses can grow to; growing beyond fails.
const RESERVED_BYTES_64: usize = 64 << 30;

/// wasmtime's usual guard, so that what was made for staging fits later.
const GUARD_BYTES: usize = 32 << 20;

/// Reservations that are kept for later. More are given back to Linux.
const KEPT_MAX: usize = 2048;

/// Larger ones are given back: of their page tables nothing would be freed.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// So many ranges of pages are made zero by hand and stay; for more than that it is cheaper to give them back to Linux.
const CLEANED_RANGES_MAX: usize = 4;
const CLEANED_BYTES_MAX: usize = 16 * PAGE;

/// Of all kept reservations together.
const RESIDENT_BYTES_MAX: usize = 32 << 20;

/// The address space of one memory.
#[derive(Debug)]
pub struct Space {
    reservation: Reservation,
    /// Before the memory and behind it.
    guard_bytes: usize,
    capacity_bytes: usize,
    /// What of it can be accessed: a multiple of the size of a page. Changed by whoever the memory belongs to.
    accessible_bytes: AtomicUsize,
}

impl Space {
    fn new(capacity_bytes: usize, guard_bytes: usize) -> std::io::Result<Space> {
        let reservation = Reservation::new(capacity_bytes + 2 * guard_bytes)?;
        Ok(Space { reservation, guard_bytes, capacity_bytes, accessible_bytes: AtomicUsize::new(0) })
    }

    /// Room for the pages of a memory that nobody runs in any more.
    pub fn aside(bytes: usize) -> std::io::Result<Space> {
        let space = Space::new(bytes, 0)?;
        space.make_accessible(bytes)?;
        Ok(space)
    }

    pub fn reservation(&self) -> &Reservation {
        &self.reservation
    }

    /// A range of the memory as one of the reservation.
    fn within(&self, range: Range<usize>) -> Range<usize> {
        self.guard_bytes + range.start..self.guard_bytes + range.end
    }

    pub fn accessible_bytes(&self) -> usize {
        self.accessible_bytes.load(Ordering::Relaxed)
    }

    /// Writes where it can be accessed.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        let at = self.within(offset..offset + bytes.len()).start;
        self.reservation.copy_in(at, bytes);
    }

    /// Makes it zero.
    pub fn discard(&self, range: Range<usize>) -> std::io::Result<()> {
        self.reservation.discard(self.within(range))
    }

    pub fn make_accessible(&self, bytes: usize) -> std::io::Result<()> {
        let (present, bytes) = (self.accessible_bytes(), bytes.next_multiple_of(PAGE));
        match bytes.cmp(&present) {
            std::cmp::Ordering::Greater => self.reservation.allow(self.within(present..bytes))?,
            std::cmp::Ordering::Less => self.reservation.forbid(self.within(bytes..present))?,
            std::cmp::Ordering::Equal => {}
        }
        self.accessible_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// All zero again; says how many bytes still take up memory.
    fn clean(&self, may_stay: bool) -> std::io::Result<usize> {
        let all = self.within(0..self.accessible_bytes());
        let mut written = vec![];
        if may_stay && matches!(self.reservation.resident(all.clone(), CLEANED_RANGES_MAX, &mut written), Ok(true)) {
            let bytes = written.iter().map(|range| range.len()).sum();
            if bytes <= CLEANED_BYTES_MAX {
                for range in written {
                    // SAFETY: the range can be accessed, and the memory's last user is gone.
                    unsafe { self.reservation.base().add(range.start).write_bytes(0, range.len()) };
                }
                return Ok(bytes);
            }
        }
        self.reservation.discard(all)?;
        Ok(0)
    }
}

/// All memories of an engine, those in use and those that are kept.
#[derive(Debug, Default)]
pub struct Pool {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By where they begin.
    used: HashMap<usize, Weak<Mapping>>,
    /// By capacity and guard, then by how much can be accessed.
    kept: BTreeMap<(usize, usize), BTreeMap<usize, Vec<(Space, usize)>>>,
    kept_count: usize,
    resident_bytes: usize,
}

/// A memory that a program uses, or that somebody still looks at.
#[derive(Debug)]
pub struct Mapping {
    /// There until it is dropped.
    space: Option<Space>,
    base: usize,
    /// As the program sees it.
    bytes: AtomicUsize,
    in_use: Mutex<Use>,
    /// Linux was asked to tell of its pages: then it is not used again.
    was_watched: AtomicBool,
    /// The process is gone; somebody looks at what it left.
    ended: AtomicBool,
    /// What it has of pages that it has not written, if it began with those of others.
    backing: Mutex<Option<Arc<MemoryFile>>>,
    home: Weak<Pool>,
}

impl Pool {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }

    /// The memory that begins at this address, if it is one of these.
    pub fn find(&self, base: *const u8) -> Option<Arc<Mapping>> {
        self.inner().used.get(&(base as usize)).and_then(Weak::upgrade)
    }

    fn take(&self, capacity_bytes: usize, guard_bytes: usize, bytes: usize) -> std::io::Result<Space> {
        let kept = {
            let mut inner = self.inner();
            let taken = inner.take(capacity_bytes, guard_bytes, bytes.next_multiple_of(PAGE));
            taken.inspect(|(_, resident)| {
                inner.kept_count -= 1;
                inner.resident_bytes -= resident;
            })
        };
        let space = match kept {
            Some((space, _)) => space,
            None => Space::new(capacity_bytes, guard_bytes)?,
        };
        space.make_accessible(bytes)?;
        Ok(space)
    }

    /// Address space for what will be a memory.
    pub fn stage(&self) -> std::io::Result<Space> {
        self.take(RESERVED_BYTES, GUARD_BYTES, 0)
    }

    pub fn give_back(&self, space: Space) {
        if space.accessible_bytes() > KEPT_BYTES_MAX {
            return;
        }
        let may_stay = {
            let inner = self.inner();
            if inner.kept_count >= KEPT_MAX {
                return;
            }
            inner.resident_bytes < RESIDENT_BYTES_MAX
        };
        let Ok(resident) = space.clean(may_stay) else { return };
        let mut inner = self.inner();
        inner.kept_count += 1;
        inner.resident_bytes += resident;
        let same = inner.kept.entry((space.capacity_bytes, space.guard_bytes)).or_default();
        same.entry(space.accessible_bytes()).or_default().push((space, resident));
    }
}

impl Inner {
    /// One of which as much can be accessed, or else the nearest above, or any.
    fn take(&mut self, capacity_bytes: usize, guard_bytes: usize, accessible: usize) -> Option<(Space, usize)> {
        let same = self.kept.get_mut(&(capacity_bytes, guard_bytes))?;
        let nearest = same.range(accessible..).next().or_else(|| same.iter().next_back()).map(|(bytes, _)| *bytes)?;
        let list = same.get_mut(&nearest)?;
        let taken = list.pop();
        if list.is_empty() {
            same.remove(&nearest);
        }
        taken
    }
}

impl Mapping {
    fn space(&self) -> &Space {
        self.space.as_ref().expect("it is there until this is dropped")
    }

    pub fn reservation(&self) -> &Reservation {
        &self.space().reservation
    }

    /// A range of the memory as one of its reservation.
    pub fn within(&self, range: Range<usize>) -> Range<usize> {
        self.space().within(range)
    }

    /// Where the memory begins.
    pub fn base(&self) -> usize {
        self.base
    }

    /// The program's size of it, now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    pub fn capacity_bytes(&self) -> usize {
        self.space().capacity_bytes
    }

    /// What of it can be accessed, now.
    pub fn accessible_bytes(&self) -> usize {
        self.space().accessible_bytes()
    }

    /// What of it may be other than zero: ranges of its reservation, in order.
    pub fn contents(&self, range: Range<usize>, found: &mut Vec<Range<usize>>) -> std::io::Result<()> {
        contents(self.reservation(), range, self.within(0..0).start, self.backing().as_deref(), found)
    }

    fn backing(&self) -> MutexGuard<'_, Option<Arc<MemoryFile>>> {
        self.backing.lock().expect("no code panics while it holds this lock")
    }

    /// From now on it has what the file has, as far as the file goes. The process does not run.
    pub fn stand_on(&self, file: &Arc<MemoryFile>) -> std::io::Result<()> {
        self.was_watched.store(true, Ordering::Relaxed);
        if file.bytes() > 0 {
            self.reservation().map(self.within(0..file.bytes()), file)?;
        }
        *self.backing() = Some(file.clone());
        Ok(())
    }

    /// Moves all pages to where they are only looked at. The process does not run, and finds zeros or worse until somebody gives it others.
    pub fn lay_aside(&self) -> std::io::Result<Aside> {
        let bytes = self.accessible_bytes();
        let aside = Aside { space: Space::aside(bytes)?, backing: self.backing().clone() };
        let from = self.within(0..bytes);
        let mut moved = vec![];
        self.was_watched.store(true, Ordering::Relaxed);
        if let Err(error) = move_mapped(self.reservation(), from.clone(), aside.space.reservation(), 0, &mut moved) {
            for range in moved {
                let (at, length) = (from.start + range.start, range.len());
                let back = move_mapped(aside.space.reservation(), range, self.reservation(), at, &mut vec![]);
                // The program would run on with zeros where its data was.
                assert!(
                    back.is_ok(),
                    "{length} bytes of a program's memory cannot be put back where they were: {back:?}"
                );
            }
            return Err(error);
        }
        Ok(aside)
    }

    /// Undoes it.
    pub fn take_back(&self, aside: Aside) {
        let Aside { space, backing } = aside;
        let at = self.within(0..0).start;
        let back = move_mapped(space.reservation(), 0..space.accessible_bytes(), self.reservation(), at, &mut vec![]);
        assert!(back.is_ok(), "a program's memory cannot be put back where it was: {back:?}");
        *self.backing() = backing;
    }

    /// Moves all pages of a space here, whose content is thrown away. The process does not run, and as much can be accessed here.
    pub fn take_over(&self, from: &mut Space) -> std::io::Result<()> {
        let bytes = from.accessible_bytes();
        if bytes == 0 {
            return Ok(());
        }
        // What was put together of parts is not used again.
        self.was_watched.store(true, Ordering::Relaxed);
        let range = from.within(0..bytes);
        from.reservation.move_out(range, self.reservation(), self.within(0..bytes).start)
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Must be called before Linux is asked to tell of its pages.
    pub fn begin(&self, what: Use) -> Result<(), PagesError> {
        let mut in_use = self.in_use();
        if *in_use != Use::Own {
            return Err(PagesError::InUse);
        }
        *in_use = what;
        self.was_watched.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub fn end(&self, what: Use) {
        let mut in_use = self.in_use();
        if *in_use == what {
            *in_use = Use::Own;
        }
    }

    fn in_use(&self) -> MutexGuard<'_, Use> {
        self.in_use.lock().expect("no code panics while it holds this lock")
    }
}

/// The pages that a memory had.
#[derive(Debug)]
pub struct Aside {
    space: Space,
    backing: Option<Arc<MemoryFile>>,
}

impl Aside {
    pub fn reservation(&self) -> &Reservation {
        self.space.reservation()
    }

    /// What of it may be other than zero.
    pub fn contents(&self, range: Range<usize>, found: &mut Vec<Range<usize>>) -> std::io::Result<()> {
        contents(self.reservation(), range, 0, self.backing.as_deref(), found)
    }
}

/// `base`: where the memory begins in its reservation.
fn contents(
    reservation: &Reservation, range: Range<usize>, base: usize, backing: Option<&MemoryFile>,
    found: &mut Vec<Range<usize>>,
) -> std::io::Result<()> {
    let mut all = vec![];
    reservation.resident(range.clone(), usize::MAX, &mut all)?;
    if let Some(file) = backing {
        let mut filled = vec![];
        file.filled((range.start - base).min(file.bytes())..(range.end - base).min(file.bytes()), &mut filled)?;
        all.extend(filled.into_iter().map(|part| base + part.start..base + part.end));
        all.sort_unstable_by_key(|part| part.start);
    }
    for part in all {
        match found.last_mut().filter(|last| last.end >= part.start) {
            Some(last) => last.end = last.end.max(part.end),
            None => found.push(part),
        }
    }
    Ok(())
}

/// Moves a range in pieces that are each one mapping of Linux's, and says which.
fn move_mapped(
    from: &Reservation, range: Range<usize>, to: &Reservation, at: usize, moved: &mut Vec<Range<usize>>,
) -> std::io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    match from.move_out(range.clone(), to, at) {
        Ok(()) => {
            moved.push(at..at + range.len());
            Ok(())
        }
        // Where it consists of several: there is no call that tells where they meet.
        Err(error) if is_several(&error) && range.len() > PAGE => {
            let half = (range.len() / 2).next_multiple_of(PAGE);
            move_mapped(from, range.start..range.start + half, to, at, moved)?;
            move_mapped(from, range.start + half..range.end, to, at + half, moved)
        }
        Err(error) => Err(error),
    }
}

/// What is done with a memory beside the process using it: one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Own,
    /// By a [`super::Tracker`].
    Tracked,
    /// By a [`super::Missing`] or a [`super::Stem`].
    Filled,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (Some(space), Some(home)) = (self.space.take(), self.home.upgrade()) else { return };
        home.inner().used.remove(&self.base);
        if !self.was_watched.load(Ordering::Relaxed) {
            home.give_back(space);
        }
    }
}

/// Gives wasmtime its memories. Instances made with it may not be initialized by mapping files.
pub struct Creator(pub Arc<Pool>);

/// What wasmtime has of a memory.
struct Used(Arc<Mapping>);

impl Drop for Used {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

// SAFETY: a new memory is zero: it is a new mapping, or one that was cleaned. What lies behind its size, up to what is reserved and the
// guard behind that, cannot be accessed: only `make_accessible` allows it, exactly up to the size (sizes are multiples of Linux's pages,
// except those with pages of one byte, which compiled code checks itself). Nobody but wasmtime writes there, but who fills pages that a
// program is to find, and those that wait for them have not seen them.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self, ty: MemoryType, bytes: usize, maximum: Option<usize>, reserved: Option<usize>, guard_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let usual = match ty.is_64() {
            true => maximum.map_or(RESERVED_BYTES_64, |most| most.min(RESERVED_BYTES_64)),
            false => RESERVED_BYTES,
        };
        let capacity_bytes = usual.max(reserved.unwrap_or(0)).max(bytes).next_multiple_of(PAGE);
        let guard_bytes = guard_bytes.next_multiple_of(PAGE);
        let refused = |error| format!("no address space for a memory of {bytes} bytes: {error}");
        let space = self.0.take(capacity_bytes, guard_bytes, bytes).map_err(refused)?;
        let base = space.reservation.base() as usize + guard_bytes;
        let mapping = Arc::new(Mapping {
            space: Some(space),
            base,
            bytes: AtomicUsize::new(bytes),
            in_use: Mutex::new(Use::Own),
            was_watched: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            backing: Mutex::new(None),
            home: Arc::downgrade(&self.0),
        });
        self.0.inner().used.insert(base, Arc::downgrade(&mapping));
        Ok(Box::new(Used(mapping)))
    }
}

// SAFETY: see the creator; the base never moves, and growing beyond the capacity fails.
unsafe impl LinearMemory for Used {
    fn byte_size(&self) -> usize {
        self.0.bytes()
    }

    fn byte_capacity(&self) -> usize {
        self.0.capacity_bytes()
    }

    fn grow_to(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if bytes > self.0.capacity_bytes() {
            return Err(wasmtime::Error::msg(format!("a memory cannot grow to {bytes} bytes")));
        }
        self.0.space().make_accessible(bytes)?;
        self.0.bytes.store(bytes, Ordering::Release);
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.base as *mut u8
    }
}
