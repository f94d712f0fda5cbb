//! A table of things with keys. This file knows nothing of what is in it.
//!
//! The one idea: a key is a place and the number of things that were there before, so a key to something that is gone finds
//! nothing, for ever: a place whose numbers are used up is not used again.

use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Index, IndexMut};

/// Finds one thing in one table.
pub struct Key<T> {
    place: u32,
    generation: u32,
    kind: PhantomData<fn() -> T>,
}

/// Things with keys.
///
/// Invariants: `used` places hold a thing; the free ones form a list that begins at `free`; there are never more than `max`
/// things.
pub(crate) struct Table<T> {
    places: Vec<Place<T>>,
    free: u32,
    used: u32,
    max: u32,
}

struct Place<T> {
    generation: u32,
    content: Content<T>,
}

enum Content<T> {
    Used(T),
    Free { next: u32 },
}

/// The end of the list of free places.
const NOWHERE: u32 = u32::MAX;

/// The table holds as much as it may.
#[derive(Debug)]
pub(crate) struct TableFull;

impl<T> Key<T> {
    /// Of a place that no table has.
    pub(crate) const fn nothing() -> Key<T> {
        Key { place: u32::MAX, generation: u32::MAX, kind: PhantomData }
    }

    /// Where the thing lies. No two things of a table lie at one place at the same time, and places are no more than things were.
    pub fn place(self) -> u32 {
        self.place
    }

    /// As a number, for other nodes: it means nothing to them.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.place)
    }

    pub(crate) fn from_bits(bits: u64) -> Key<T> {
        Key { place: bits as u32, generation: (bits >> 32) as u32, kind: PhantomData }
    }
}

impl<T> Table<T> {
    pub fn new(max: u32) -> Table<T> {
        Table { places: Vec::new(), free: NOWHERE, used: 0, max }
    }

    pub fn len(&self) -> u32 {
        self.used
    }

    /// How many more fit.
    pub fn room(&self) -> u32 {
        self.max - self.used
    }

    pub fn is_full(&self) -> bool {
        self.used == self.max
    }

    pub fn insert(&mut self, thing: T) -> Result<Key<T>, TableFull> {
        if self.is_full() {
            return Err(TableFull);
        }
        self.used += 1;
        if self.free == NOWHERE {
            let place = u32::try_from(self.places.len()).expect("places are counted in 32 bits");
            self.places.push(Place { generation: 0, content: Content::Used(thing) });
            return Ok(Key { place, generation: 0, kind: PhantomData });
        }
        let place = self.free;
        let free = &mut self.places[place as usize];
        let Content::Free { next } = free.content else { unreachable!("the list of free places holds a used one") };
        self.free = next;
        free.content = Content::Used(thing);
        Ok(Key { place, generation: free.generation, kind: PhantomData })
    }

    pub fn get(&self, key: Key<T>) -> Option<&T> {
        match self.places.get(key.place as usize) {
            Some(Place { generation, content: Content::Used(thing) }) if *generation == key.generation => Some(thing),
            _ => None,
        }
    }

    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        match self.places.get_mut(key.place as usize) {
            Some(Place { generation, content: Content::Used(thing) }) if *generation == key.generation => Some(thing),
            _ => None,
        }
    }

    pub fn remove(&mut self, key: Key<T>) -> Option<T> {
        self.get(key)?;
        let place = &mut self.places[key.place as usize];
        let retired = place.generation == u32::MAX;
        let next = if retired { NOWHERE } else { self.free };
        let Content::Used(thing) = core::mem::replace(&mut place.content, Content::Free { next }) else {
            unreachable!("the key was just found")
        };
        self.used -= 1;
        if !retired {
            place.generation += 1;
            self.free = key.place;
        }
        Some(thing)
    }

    /// In the order of places, which depends only on the order of insertions and removals.
    pub fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        self.places.iter().enumerate().filter_map(|(place, Place { generation, content })| match content {
            Content::Used(thing) => {
                Some((Key { place: place as u32, generation: *generation, kind: PhantomData }, thing))
            }
            Content::Free { .. } => None,
        })
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().filter_map(|place| match &mut place.content {
            Content::Used(thing) => Some(thing),
            Content::Free { .. } => None,
        })
    }

    pub fn check(&self) {
        assert_eq!(self.iter().count(), self.used as usize, "the table counts its things wrongly");
        assert!(self.used <= self.max, "the table is over its bound");
        let (mut place, mut free) = (self.free, 0);
        while place != NOWHERE {
            let Content::Free { next } = self.places[place as usize].content else {
                panic!("the list of free places holds a used one")
            };
            (place, free) = (next, free + 1);
            assert!(free <= self.places.len(), "the list of free places is a circle");
        }
    }
}

impl<T> Index<Key<T>> for Table<T> {
    type Output = T;

    /// For keys that an invariant says are alive.
    fn index(&self, key: Key<T>) -> &T {
        self.get(key).expect("an invariant says that this key is alive")
    }
}

impl<T> IndexMut<Key<T>> for Table<T> {
    fn index_mut(&mut self, key: Key<T>) -> &mut T {
        self.get_mut(key).expect("an invariant says that this key is alive")
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Key<T> {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Key<T>) -> bool {
        self.place == other.place && self.generation == other.generation
    }
}

impl<T> Eq for Key<T> {}

impl<T> PartialOrd for Key<T> {
    fn partial_cmp(&self, other: &Key<T>) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Key<T> {
    fn cmp(&self, other: &Key<T>) -> core::cmp::Ordering {
        (self.place, self.generation).cmp(&(other.place, other.generation))
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "@{}~{}", self.place, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_finds_nothing() {
        let mut table = Table::new(2);
        let first = table.insert('a').expect("there is room");
        assert_eq!(table.remove(first), Some('a'));
        let second = table.insert('b').expect("there is room");
        assert_eq!((second.place, table.get(first), table.get(second)), (first.place, None, Some(&'b')));
        assert_eq!(table.remove(first), None);
        table.check();
    }

    #[test]
    fn a_place_whose_generations_are_used_up_is_retired() {
        let mut table = Table::new(2);
        let first = table.insert('a').expect("there is room");
        table.places[0].generation = u32::MAX;
        let last = Key { generation: u32::MAX, ..first };
        assert_eq!(table.remove(last), Some('a'));
        let next = table.insert('b').expect("there is room");
        assert_eq!((next.place, table.get(last)), (1, None));
        table.check();
    }

    #[test]
    fn a_full_table_refuses() {
        let mut table = Table::new(1);
        let first = table.insert('a').expect("there is room");
        assert!(table.insert('b').is_err());
        table.remove(first);
        assert!(table.insert('b').is_ok());
    }
}
