//! What the service `names` promises, as simply as it can be said: a map from whole paths. It shares no code with the service.

use abi::interface::names::{Answer, Existing, Failure, Form, Request};
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Tree {
    at: BTreeMap<String, Entry>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Entry {
    Directory,
    /// Shared: the search keeps many trees.
    Record(Rc<[u8]>),
}

impl Tree {
    /// Paths here are well formed; ports are not in it.
    pub fn apply(&mut self, request: &Request) -> Answer {
        self.try_apply(request).unwrap_or_else(Answer::Failed)
    }

    fn try_apply(&mut self, request: &Request) -> Result<Answer, Failure> {
        match request {
            Request::Lookup { path } => match self.look(path)? {
                None | Some(Entry::Directory) => Ok(Answer::Directory),
                Some(Entry::Record(record)) => Ok(Answer::Record(record.to_vec())),
            },
            Request::List { path, after, names_max } => {
                if let Some(Entry::Record(_)) = self.look(path)? {
                    return Err(Failure::NotADirectory);
                }
                let above = if path == "/" { "/".to_string() } else { format!("{path}/") };
                let names: Vec<(String, Form)> = self
                    .at
                    .iter()
                    .filter_map(|(other, entry)| {
                        let name = other.strip_prefix(&above)?;
                        let form = match entry {
                            Entry::Directory => Form::Directory,
                            Entry::Record(_) => Form::Record,
                        };
                        (!name.contains('/') && name > after.as_str()).then(|| (name.to_string(), form))
                    })
                    .collect();
                let more = names.len() > *names_max as usize;
                let names = names.into_iter().take(*names_max as usize).collect();
                Ok(Answer::Names { names, more })
            }
            Request::MakeDirectory { path } => {
                self.parent(path)?;
                match self.at.contains_key(path) {
                    true => Err(Failure::Exists),
                    false => {
                        self.at.insert(path.clone(), Entry::Directory);
                        Ok(Answer::Done)
                    }
                }
            }
            Request::Bind { path, record, existing } => {
                self.parent(path)?;
                match (self.at.get(path), existing) {
                    (Some(_), Existing::Refuse | Existing::Follow { .. }) => Err(Failure::Exists),
                    (Some(Entry::Directory), Existing::Replace) => Err(Failure::IsADirectory),
                    _ => {
                        self.at.insert(path.clone(), Entry::Record(record.as_slice().into()));
                        Ok(Answer::Done)
                    }
                }
            }
            Request::BindPort { .. } => unreachable!("ports are not in this tree"),
            Request::Unbind { path } => {
                self.parent(path)?;
                if !self.at.contains_key(path) {
                    return Err(Failure::NotFound);
                }
                let below = format!("{path}/");
                if self.at.keys().any(|other| other.starts_with(&below)) {
                    return Err(Failure::NotEmpty);
                }
                self.at.remove(path);
                Ok(Answer::Done)
            }
            Request::Rename { from, to } => {
                self.parent(from)?;
                self.parent(to)?;
                if !self.at.contains_key(from) {
                    return Err(Failure::NotFound);
                }
                let below = format!("{from}/");
                if to.starts_with(&below) {
                    return Err(Failure::Impossible);
                }
                if self.at.contains_key(to) {
                    return Err(Failure::Exists);
                }
                let moved: Vec<String> =
                    self.at.keys().filter(|path| *path == from || path.starts_with(&below)).cloned().collect();
                for path in moved {
                    let entry = self.at.remove(&path).expect("it was just listed");
                    self.at.insert(format!("{to}{}", &path[from.len()..]), entry);
                }
                Ok(Answer::Done)
            }
        }
    }

    /// What is at a path; `None` for the root.
    fn look(&self, path: &str) -> Result<Option<&Entry>, Failure> {
        if path == "/" {
            return Ok(None);
        }
        self.parent(path)?;
        self.at.get(path).map(Some).ok_or(Failure::NotFound)
    }

    /// Whether the directories above a path are there. The root is above everything and below nothing.
    fn parent(&self, path: &str) -> Result<(), Failure> {
        if path == "/" {
            return Err(Failure::Impossible);
        }
        for (end, _) in path.match_indices('/').skip(1) {
            match self.at.get(&path[..end]) {
                None => return Err(Failure::NotFound),
                Some(Entry::Directory) => {}
                Some(Entry::Record(_)) => return Err(Failure::NotADirectory),
            }
        }
        Ok(())
    }
}
