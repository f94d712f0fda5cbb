//! Handles: what a process holds. This file knows what the kinds of objects are, not how they work.
//!
//! The one idea: a right exists in exactly one place at a time, a process's table or a message, and is moved, never
//! remade. Whatever destroys a right puts it on the kernel's pile of dropped ones, which is worked off at the end of the
//! step: an end that causes ends cannot overflow the stack.

use crate::Kernel;
use crate::call::Call;
use crate::foreign::Import;
use crate::pipe::Pipe;
use crate::planted::{Bug, planted};
use crate::port::Port;
use crate::process::Process;
use crate::table::Key;
use crate::watch::Watch;
use abi::call::{Description, DuplicateError, HandleError, Outcome, TransferCause, TransferError};
use abi::ids::{DeviceId, HandleId, ObjectId};
use abi::limits::Limit;
use abi::message::{Badge, MESSAGE_HANDLES_MAX, Transfer, TransferMode};
use abi::process::Fault;
use abi::rights::{Kind, Rights};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// What somebody may do with an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Right {
    pub object: Object,
    pub rights: Rights,
    pub badge: Badge,
}

/// An object. The key of a port or watch may outlive it: then it is closed, or over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Object {
    Process(Key<Process>),
    Port(Key<Port>),
    Pipe(Key<Pipe>),
    Reply(Key<Call>),
    Call(Key<Call>),
    Watch(Key<Watch>),
    Device(DeviceId),
    /// An object of another node.
    Foreign(Kind, Key<Import>),
}

impl Object {
    pub fn kind(self) -> Kind {
        match self {
            Object::Process(_) => Kind::Process,
            Object::Port(_) => Kind::Port,
            Object::Pipe(_) => Kind::Pipe,
            Object::Reply(_) => Kind::Reply,
            Object::Call(_) => Kind::Call,
            Object::Watch(_) => Kind::Watch,
            Object::Device(_) => Kind::Device,
            Object::Foreign(kind, _) => kind,
        }
    }
}

impl Right {
    /// All rights to a new object.
    pub fn all(object: Object) -> Right {
        Right { object, rights: Rights::all_of(object.kind()), badge: Badge::default() }
    }
}

/// The handles of one process.
///
/// Invariants: `used` places hold a right, at most `max`; the others form a list that begins at `free`.
pub(crate) struct Handles {
    places: Vec<Place>,
    free: u16,
    used: u32,
    max: u32,
}

enum Place {
    Used { generation: u16, right: Right },
    Free { generation: u16, next: u16 },
}

const NOWHERE: u16 = u16::MAX;

impl Handles {
    pub fn new(max: u32) -> Handles {
        Handles { places: Vec::new(), free: NOWHERE, used: 0, max: max.min(u32::from(NOWHERE)) }
    }

    /// How many more fit.
    pub fn room(&self) -> usize {
        (self.max - self.used) as usize
    }

    pub fn len(&self) -> u32 {
        self.used
    }

    /// Whoever calls this has seen that there is room.
    pub fn insert(&mut self, right: Right) -> HandleId {
        assert!(self.used < self.max, "a handle was put into a full table");
        self.used += 1;
        if self.free == NOWHERE {
            self.places.push(Place::Used { generation: 0, right });
            return HandleId(self.places.len() as u32);
        }
        let index = self.free;
        let place = &mut self.places[usize::from(index)];
        let Place::Free { generation, next } = *place else {
            unreachable!("the list of free handles holds a used one")
        };
        *place = Place::Used { generation, right };
        self.free = next;
        HandleId(u32::from(generation) << 16 | (u32::from(index) + 1))
    }

    pub fn find(&self, handle: HandleId) -> Result<&Right, HandleError> {
        let index = (handle.0 & 0xffff).wrapping_sub(1) as usize;
        match self.places.get(index) {
            Some(Place::Used { generation, right }) if u32::from(*generation) == handle.0 >> 16 => Ok(right),
            _ => Err(HandleError::Bad),
        }
    }

    pub fn find_mut(&mut self, handle: HandleId) -> Result<&mut Right, HandleError> {
        let index = (handle.0 & 0xffff).wrapping_sub(1) as usize;
        match self.places.get_mut(index) {
            Some(Place::Used { generation, right }) if u32::from(*generation) == handle.0 >> 16 => Ok(right),
            _ => Err(HandleError::Bad),
        }
    }

    pub fn remove(&mut self, handle: HandleId) -> Result<Right, HandleError> {
        self.find(handle)?;
        let index = (handle.0 & 0xffff) as u16 - 1;
        let generation = ((handle.0 >> 16) as u16).wrapping_add(1);
        let place =
            core::mem::replace(&mut self.places[usize::from(index)], Place::Free { generation, next: self.free });
        self.free = index;
        self.used -= 1;
        let Place::Used { right, .. } = place else { unreachable!("the handle was just found") };
        Ok(right)
    }

    /// All places, each with how often it was used and what it holds; the table is empty then.
    pub fn take_places(&mut self) -> Vec<(u16, Option<Right>)> {
        let places = core::mem::take(&mut self.places);
        (self.free, self.used) = (NOWHERE, 0);
        let open = |place| match place {
            Place::Used { generation, right } => (generation, Some(right)),
            Place::Free { generation, .. } => (generation, None),
        };
        places.into_iter().map(open).collect()
    }

    /// A table with these places, of which no more are used than may be.
    pub fn from_places(max: u32, places: Vec<(u16, Option<Right>)>) -> Handles {
        let mut handles = Handles::new(max);
        for (index, (generation, right)) in places.into_iter().enumerate() {
            handles.places.push(match right {
                Some(right) => {
                    handles.used += 1;
                    Place::Used { generation, right }
                }
                None => {
                    let next = core::mem::replace(&mut handles.free, index as u16);
                    Place::Free { generation, next }
                }
            });
        }
        handles
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Right> {
        self.places.iter_mut().filter_map(|place| match place {
            Place::Used { right, .. } => Some(right),
            Place::Free { .. } => None,
        })
    }

    /// All of them, in the order of places; the table is empty then.
    pub fn drain(&mut self) -> impl Iterator<Item = Right> + use<> {
        let places = core::mem::take(&mut self.places);
        (self.free, self.used) = (NOWHERE, 0);
        places.into_iter().filter_map(|place| match place {
            Place::Used { right, .. } => Some(right),
            Place::Free { .. } => None,
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = (HandleId, &Right)> {
        self.places.iter().enumerate().filter_map(|(index, place)| match place {
            Place::Used { generation, right } => {
                Some((HandleId(u32::from(*generation) << 16 | (index as u32 + 1)), right))
            }
            Place::Free { .. } => None,
        })
    }

    pub fn check(&self) {
        assert_eq!(self.iter().count(), self.used as usize, "a handle table counts wrongly");
        assert!(self.used <= self.max, "a handle table is over its bound");
        let (mut index, mut free) = (self.free, 0);
        while index != NOWHERE {
            let Place::Free { next, .. } = self.places[usize::from(index)] else {
                panic!("the list of free handles holds a used one")
            };
            (index, free) = (next, free + 1);
            assert!(free <= self.places.len(), "the list of free handles is a circle");
        }
        assert_eq!(free + self.used as usize, self.places.len(), "a place of a handle table is lost");
    }
}

/// Why a message's handles cannot go along.
pub(crate) enum Refusal {
    Error(TransferError),
    Breach(Fault),
}

/// Looking handles up.
impl Kernel {
    fn find(&self, holder: Key<Process>, handle: HandleId, needed: Rights) -> Result<&Right, HandleError> {
        let right = self.processes[holder].handles.find(handle)?;
        match right.rights.contains(needed) {
            true => Ok(right),
            false if Rights::all_of(right.object.kind()).contains(needed) => {
                Err(HandleError::Lacks(needed.without(right.rights)))
            }
            false => Err(HandleError::WrongKind),
        }
    }

    pub(crate) fn find_object(
        &self, holder: Key<Process>, handle: HandleId, needed: Rights,
    ) -> Result<Object, HandleError> {
        Ok(self.find(holder, handle, needed)?.object)
    }

    /// The port may be closed.
    pub(crate) fn find_port(
        &self, holder: Key<Process>, handle: HandleId, needed: Rights,
    ) -> Result<(Key<Port>, Badge), HandleError> {
        match *self.find(holder, handle, needed)? {
            Right { object: Object::Port(port), badge, .. } => Ok((port, badge)),
            _ => Err(HandleError::WrongKind),
        }
    }

    pub(crate) fn find_process(
        &self, holder: Key<Process>, handle: HandleId, needed: Rights,
    ) -> Result<Key<Process>, HandleError> {
        match self.find(holder, handle, needed)?.object {
            Object::Process(process) => Ok(process),
            _ => Err(HandleError::WrongKind),
        }
    }

    pub(crate) fn find_pipe(
        &self, holder: Key<Process>, handle: HandleId, needed: Rights,
    ) -> Result<Key<Pipe>, HandleError> {
        match self.find(holder, handle, needed)?.object {
            Object::Pipe(pipe) => Ok(pipe),
            _ => Err(HandleError::WrongKind),
        }
    }
}

/// System calls on handles.
impl Kernel {
    pub(crate) fn duplicate(&mut self, me: Key<Process>, handle: HandleId, rights: Rights) -> Outcome {
        Outcome::Duplicated(self.second_handle(me, handle, rights, None))
    }

    pub(crate) fn make_badge(&mut self, me: Key<Process>, handle: HandleId, badge: Badge, rights: Rights) -> Outcome {
        let owners = Rights::RECEIVE.with(Rights::BADGE);
        Outcome::Badged(match self.find_port(me, handle, Rights::BADGE) {
            Err(error) => Err(DuplicateError::Handle(error)),
            Ok((_, set)) if set != Badge(0) || badge == Badge(0) || !rights.both(owners).is_empty() => {
                Err(DuplicateError::Badge)
            }
            Ok(_) => self.second_handle(me, handle, rights, Some(badge)),
        })
    }

    fn second_handle(
        &mut self, me: Key<Process>, handle: HandleId, rights: Rights, badge: Option<Badge>,
    ) -> Result<HandleId, DuplicateError> {
        let source = self.find(me, handle, Rights::COPY).map_err(|error| match error {
            // A kind that cannot be copied at all lacks the right as much as a handle that gave it up.
            HandleError::WrongKind => DuplicateError::Handle(HandleError::Lacks(Rights::COPY)),
            error => DuplicateError::Handle(error),
        })?;
        let held = source.rights;
        let rights = held.attenuate(rights).map_err(|amplified| DuplicateError::Amplified(amplified.missing))?;
        let rights = if planted(Bug::CopyAmplifies) { held } else { rights };
        let source = source.clone();
        if self.processes[me].handles.room() == 0 {
            return Err(DuplicateError::Limit(Limit::Handles));
        }
        if matches!(source.object, Object::Foreign(..)) && !self.foreign_room(1) {
            return Err(DuplicateError::Limit(Limit::NodeForeign));
        }
        let badge = badge.unwrap_or(source.badge);
        let right = self.copy_right(&source, rights, badge);
        Ok(self.processes[me].handles.insert(right))
    }

    pub(crate) fn attenuate(&mut self, me: Key<Process>, handle: HandleId, rights: Rights) -> Outcome {
        Outcome::Attenuated(self.narrow_handle(me, handle, rights))
    }

    fn narrow_handle(&mut self, me: Key<Process>, handle: HandleId, rights: Rights) -> Result<(), DuplicateError> {
        let right = self.processes[me].handles.find(handle).map_err(DuplicateError::Handle)?.clone();
        let rights =
            right.rights.attenuate(rights).map_err(|amplified| DuplicateError::Amplified(amplified.missing))?;
        let narrowed = self.narrow(right, rights);
        *self.processes[me].handles.find_mut(handle).expect("the handle was just found") = narrowed;
        Ok(())
    }

    pub(crate) fn close(&mut self, me: Key<Process>, handle: HandleId) -> Outcome {
        Outcome::Closed(self.processes[me].handles.remove(handle).map(|right| self.dropped.push(right)))
    }

    pub(crate) fn describe(&self, me: Key<Process>, handle: HandleId) -> Outcome {
        Outcome::Described(self.describe_handle(me, handle))
    }

    fn describe_handle(&self, me: Key<Process>, handle: HandleId) -> Result<Description, HandleError> {
        let right = self.processes[me].handles.find(handle)?;
        self.describe_right(right).ok_or(HandleError::Ended)
    }

    /// `None` if the object is no more.
    pub(crate) fn describe_right(&self, right: &Right) -> Option<Description> {
        let object = match right.object {
            Object::Process(key) => ObjectId::Process(self.processes[key].id),
            Object::Port(key) => ObjectId::Port(self.ports.get(key)?.id),
            Object::Pipe(key) => ObjectId::Pipe(self.pipes[key].id),
            Object::Reply(key) => ObjectId::Reply(self.calls[key].id),
            Object::Call(key) => ObjectId::Call(self.calls[key].id),
            Object::Watch(key) => ObjectId::Watch(self.watches.get(key)?.id),
            Object::Device(device) => ObjectId::Device(device),
            Object::Foreign(_, key) => {
                let import = &self.imports[key];
                if import.lost {
                    return None;
                }
                import.object
            }
        };
        Some(Description { object, rights: right.rights, badge: right.badge })
    }
}

/// Rights on their way.
impl Kernel {
    /// Whether these handles may go along in a message to this port, or to a process if there is none.
    pub(crate) fn check_transfers(
        &mut self, holder: Key<Process>, transfers: &[Transfer], port: Option<Key<Port>>,
    ) -> Result<(), Refusal> {
        if transfers.is_empty() {
            return Ok(());
        }
        if transfers.len() > MESSAGE_HANDLES_MAX {
            return Err(Refusal::Error(TransferError {
                index: MESSAGE_HANDLES_MAX as u8,
                cause: TransferCause::TooMany,
            }));
        }
        let mut receivers = 0;
        // What a stand-in was given is not its to keep.
        let gives_all = self.processes[holder].abroad.is_some();
        let foreign_room = self.foreign_room(transfers.len());
        for (index, transfer) in transfers.iter().enumerate() {
            let refuse = |cause| Err(Refusal::Error(TransferError { index: index as u8, cause }));
            let right = match self.processes[holder].handles.find(transfer.handle) {
                Ok(right) => right,
                Err(error) => return refuse(TransferCause::Handle(error)),
            };
            let needed = match transfer.mode {
                TransferMode::Move => Rights::MOVE,
                TransferMode::Copy => Rights::COPY,
            };
            if !right.rights.contains(needed) && !gives_all {
                return refuse(TransferCause::Handle(HandleError::Lacks(needed)));
            }
            if matches!(right.object, Object::Foreign(..)) && !foreign_room {
                return refuse(TransferCause::Limit(Limit::NodeForeign));
            }
            if let Err(amplified) = right.rights.attenuate(transfer.rights) {
                return refuse(TransferCause::Amplified(amplified.missing));
            }
            let again = |other: &Transfer| other.handle == transfer.handle;
            if transfer.mode == TransferMode::Move && transfers.iter().filter(|other| again(other)).count() > 1 {
                return Err(Refusal::Breach(Fault::MovedTwice));
            }
            if let (Object::Port(key), true) = (right.object, transfer.rights.contains(Rights::RECEIVE)) {
                receivers += 1;
                if port == Some(key) {
                    return refuse(TransferCause::Buried);
                }
            }
        }
        if port.is_some() && receivers > 0 && !self.receivers_may_travel(receivers) {
            let cause = TransferCause::Limit(Limit::NodeReceiversInTransit);
            return Err(Refusal::Error(TransferError { index: 0, cause }));
        }
        Ok(())
    }

    /// Takes what the check allowed out of the sender's table.
    pub(crate) fn take(&mut self, holder: Key<Process>, transfers: &[Transfer]) -> Box<[Right]> {
        if transfers.is_empty() {
            return Box::default();
        }
        transfers.iter().map(|transfer| self.take_one(holder, transfer)).collect()
    }

    fn take_one(&mut self, holder: Key<Process>, transfer: &Transfer) -> Right {
        let handles = &mut self.processes[holder].handles;
        let kept = planted(Bug::MoveDuplicates)
            && matches!(handles.find(transfer.handle), Ok(r) if r.object.kind() == Kind::Port);
        if transfer.mode == TransferMode::Move && !kept {
            let right = handles.remove(transfer.handle).expect("a sender's handles are as they were checked");
            return self.narrow(right, transfer.rights);
        }
        let source = handles.find(transfer.handle).expect("a sender's handles are as they were checked");
        let rights = if planted(Bug::CopyAmplifies) { source.rights } else { transfer.rights };
        let source = source.clone();
        self.copy_right(&source, rights, source.badge)
    }

    /// Puts rights into a table that has room for them.
    pub(crate) fn install(&mut self, holder: Key<Process>, rights: Box<[Right]>) -> Box<[HandleId]> {
        let handles = &mut self.processes[holder].handles;
        rights.into_iter().map(|right| handles.insert(right)).collect()
    }

    /// The same right with less in it.
    fn narrow(&mut self, right: Right, rights: Rights) -> Right {
        if rights == right.rights {
            return right;
        }
        let narrowed = Right { rights, ..right.clone() };
        match right.object {
            // These exist once and nobody counts them: a copy and a drop would end what they stand for.
            Object::Reply(_) | Object::Call(_) | Object::Watch(_) | Object::Device(_) => {}
            Object::Foreign(_, import) => self.narrow_import(import, rights),
            Object::Process(_) | Object::Port(_) | Object::Pipe(_) => {
                self.retain(&narrowed);
                self.dropped.push(right);
            }
        }
        narrowed
    }

    /// Counts one right more.
    pub(crate) fn retain(&mut self, right: &Right) {
        match right.object {
            Object::Process(key) => self.processes[key].references += 1,
            Object::Port(key) => {
                if let Some(port) = self.ports.get_mut(key) {
                    port.send_rights += u32::from(right.rights.contains(Rights::SEND));
                    port.receive_rights += u32::from(right.rights.contains(Rights::RECEIVE));
                }
            }
            Object::Pipe(key) => self.pipes[key].retain(right.rights),
            Object::Device(_) => {}
            Object::Reply(_) | Object::Call(_) | Object::Watch(_) => {
                unreachable!("these kinds never carry the right to copy")
            }
            Object::Foreign(..) => unreachable!("a copy of a foreign right is a right of its own"),
        }
    }

    /// Works the pile of dropped rights off.
    pub(crate) fn release_dropped(&mut self) {
        while let Some(right) = self.dropped.pop() {
            match right.object {
                Object::Process(key) => self.release_process(key),
                Object::Port(key) => self.release_port(key, right.rights),
                Object::Pipe(key) => self.release_pipe(key, right.rights),
                Object::Reply(key) => self.release_reply(key),
                Object::Call(key) => self.cancel_call(key),
                Object::Watch(key) => self.cancel_watch(key),
                Object::Device(_) => {}
                Object::Foreign(_, key) => self.release_import(key),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u16) -> Right {
        Right::all(Object::Device(DeviceId(number)))
    }

    #[test]
    fn a_closed_handle_does_not_find_what_takes_its_place() {
        let mut handles = Handles::new(2);
        let first = handles.insert(device(1));
        assert_eq!(first, HandleId(1));
        handles.remove(first).expect("it is there");
        let second = handles.insert(device(2));
        assert_eq!((second.0 & 0xffff, handles.find(first)), (1, Err(HandleError::Bad)));
        assert_eq!(handles.find(second), Ok(&device(2)));
        assert_eq!(handles.find(HandleId::NONE), Err(HandleError::Bad));
        assert_eq!(handles.find(HandleId(u32::MAX)), Err(HandleError::Bad));
        handles.check();
    }
}
