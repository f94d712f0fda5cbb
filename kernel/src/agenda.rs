//! Things in the order of a number, each of which can be taken out early. This file knows neither time nor processes.
//!
//! The one idea: a binary heap whose entries know where they lie, so that a deadline that is met early leaves nothing
//! behind. (A heap that keeps cancelled entries until they come up grows with every call that has a deadline: five million
//! a second.)

use alloc::vec::Vec;

/// Things in the order of their numbers; equal numbers in the order of arrival. All acts cost at most the logarithm of the
/// size; adding what comes last costs nothing.
///
/// Invariants: no entry of `heap` comes before its parent; entry `i` of `heap` names a place whose `position` is `i`;
/// places not named form a list that begins at `free`.
pub(crate) struct Agenda<T> {
    heap: Vec<Entry>,
    places: Vec<Place<T>>,
    free: u32,
    arrivals: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    number: u64,
    arrival: u64,
    place: u32,
}

struct Place<T> {
    /// In the heap if there is a thing, else the next free place.
    position: u32,
    thing: Option<T>,
}

/// Takes one entry out. It belongs to whoever holds it: an entry that came up has no ticket any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket(u32);

const NOWHERE: u32 = u32::MAX;

impl<T: Copy> Agenda<T> {
    pub fn new() -> Agenda<T> {
        Agenda { heap: Vec::new(), places: Vec::new(), free: NOWHERE, arrivals: 0 }
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// The lowest number.
    pub fn first(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.number)
    }

    pub fn add(&mut self, number: u64, thing: T) -> Ticket {
        let position = self.heap.len() as u32;
        let place = if self.free == NOWHERE {
            self.places.push(Place { position, thing: Some(thing) });
            self.places.len() as u32 - 1
        } else {
            let place = self.free;
            let free = &mut self.places[place as usize];
            self.free = free.position;
            *free = Place { position, thing: Some(thing) };
            place
        };
        self.heap.push(Entry { number, arrival: self.arrivals, place });
        self.arrivals += 1;
        self.rise(position as usize);
        Ticket(place)
    }

    /// Takes the first thing and its number.
    pub fn take_first(&mut self) -> Option<(u64, T)> {
        let first = *self.heap.first()?;
        Some((first.number, self.take(Ticket(first.place))))
    }

    pub fn number_of(&self, ticket: Ticket) -> u64 {
        self.heap[self.places[ticket.0 as usize].position as usize].number
    }

    pub fn take(&mut self, ticket: Ticket) -> T {
        let place = &mut self.places[ticket.0 as usize];
        let thing = place.thing.take().expect("whoever holds a ticket has the entry");
        let position = place.position as usize;
        place.position = self.free;
        self.free = ticket.0;
        self.heap.swap_remove(position);
        if position < self.heap.len() {
            self.places[self.heap[position].place as usize].position = position as u32;
            self.sink(position);
            self.rise(position);
        }
        thing
    }

    /// In no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (Ticket, u64, T)> {
        self.heap.iter().map(|entry| {
            let thing = self.places[entry.place as usize].thing;
            (Ticket(entry.place), entry.number, thing.expect("an entry's place holds a thing"))
        })
    }

    fn before(&self, one: usize, other: usize) -> bool {
        let (one, other) = (&self.heap[one], &self.heap[other]);
        (one.number, one.arrival) < (other.number, other.arrival)
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.places[self.heap[one].place as usize].position = one as u32;
        self.places[self.heap[other].place as usize].position = other as u32;
    }

    fn rise(&mut self, mut position: usize) {
        while position > 0 {
            let parent = (position - 1) / 2;
            if !self.before(position, parent) {
                break;
            }
            self.swap(position, parent);
            position = parent;
        }
    }

    fn sink(&mut self, mut position: usize) {
        loop {
            let (left, right) = (2 * position + 1, 2 * position + 2);
            let mut least = position;
            for child in [left, right] {
                if child < self.heap.len() && self.before(child, least) {
                    least = child;
                }
            }
            if least == position {
                break;
            }
            self.swap(position, least);
            position = least;
        }
    }

    pub fn check(&self) {
        for position in 0..self.heap.len() {
            let place = &self.places[self.heap[position].place as usize];
            assert!(place.thing.is_some(), "an entry of the agenda has no thing");
            assert_eq!(place.position as usize, position, "a thing does not know where it lies");
            assert!(position == 0 || !self.before(position, (position - 1) / 2), "the agenda is out of order");
        }
        let things = self.places.iter().filter(|place| place.thing.is_some()).count();
        assert_eq!(things, self.heap.len(), "a thing has no entry");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a sorted list, with a fixed walk through additions and removals.
    #[test]
    fn it_gives_what_a_sorted_list_gives() {
        let mut agenda = Agenda::new();
        let mut list: Vec<(u64, u64, Ticket)> = Vec::new();
        let mut state = 1u64;
        for step in 0..5000u64 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let choice = state >> 33;
            if choice % 5 < 3 || list.is_empty() {
                let number = choice / 5 % 100;
                list.push((number, step, agenda.add(number, step)));
                list.sort_by_key(|entry| (entry.0, entry.1));
            } else if choice % 5 == 3 {
                let (number, thing, _) = list.remove(0);
                assert_eq!(agenda.take_first(), Some((number, thing)));
            } else {
                let (_, thing, ticket) = list.remove(choice as usize / 5 % list.len());
                assert_eq!(agenda.take(ticket), thing);
            }
            agenda.check();
            assert_eq!(agenda.first(), list.first().map(|entry| entry.0));
        }
    }
}
