//! From a path to an inode. Knows nothing of content, nor of what anybody wants there.
//!
//! The one idea: the walk keeps the directories between where it began and where it is; `..` takes the last one off, and a path
//! that would take the first one off, by itself or by a link, leads out and ends there.

use super::planted::{Bug, planted};
use super::{Body, Files, Inode};
use abi::errno::Errno;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

pub const NAME_BYTES_MAX: usize = 255;
pub const PATH_BYTES_MAX: usize = 4096;
/// More links in one path are taken for a circle.
const LINKS_MAX: usize = 40;

/// What happens to a link at the end of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Follow {
    Never,
    /// Only if a slash behind it says that a directory is meant.
    BeforeSlash,
    Always,
}

/// Where a path ends. `slash`: it says that it means a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Last {
    Missing {
        directory: Inode,
        name: Arc<str>,
        slash: bool,
    },
    Found {
        directory: Inode,
        name: Arc<str>,
        inode: Inode,
        slash: bool,
    },
    /// In `.` or `..`, so that the last name is not in the path.
    Directory(Inode),
}

pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']) && name.len() <= NAME_BYTES_MAX
}

/// May a link say this?
pub(super) fn is_content(content: &str) -> Result<(), Errno> {
    match content {
        "" => Err(Errno::NoEnt),
        _ if content.starts_with('/') => Err(Errno::NotCapable),
        _ if content.contains('\0') => Err(Errno::Inval),
        _ if content.len() > PATH_BYTES_MAX => Err(Errno::NameTooLong),
        _ => Ok(()),
    }
}

/// Puts the parts of a path on top of what is still to be walked, the first one last.
fn push(rest: &mut Vec<String>, path: &str) -> Result<(), Errno> {
    is_content(path)?;
    rest.extend(path.split('/').rev().filter(|part| !part.is_empty()).map(String::from));
    Ok(())
}

impl Files {
    pub(super) fn walk(&mut self, start: Inode, path: &str, follow: Follow) -> Result<Last, Errno> {
        let mut rest = Vec::new();
        push(&mut rest, path)?;
        let mut slash = path.ends_with('/');
        let mut above = Vec::new();
        let mut directory = start;
        let mut links = 0;
        while let Some(part) = rest.pop() {
            match part.as_str() {
                "." => continue,
                ".." => {
                    directory = match above.pop() {
                        Some(directory) => directory,
                        None if links > 0 && planted(Bug::LinkEscapes) => {
                            self.node(directory).names.first().map_or(directory, |called| called.directory)
                        }
                        None => return Err(Errno::NotCapable),
                    };
                    continue;
                }
                name if name.len() > NAME_BYTES_MAX => return Err(Errno::NameTooLong),
                _ => {}
            }
            let is_last = rest.is_empty();
            let listing = self.listing(directory);
            let Some((name, named)) = listing.entries.get_key_value(part.as_str()) else {
                let removed_at = listing.removed_at;
                self.see(removed_at);
                return match is_last {
                    true => Ok(Last::Missing { directory, name: part.into(), slash }),
                    false => Err(Errno::NoEnt),
                };
            };
            let (name, inode, at) = (name.clone(), named.inode, named.at);
            self.see(at);
            let follows = match follow {
                _ if !is_last => true,
                Follow::Never => false,
                Follow::BeforeSlash => slash,
                Follow::Always => true,
            };
            match &self.node(inode).body {
                Body::Link(content) if follows => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::Loop);
                    }
                    slash |= is_last && content.ends_with('/');
                    push(&mut rest, content)?;
                }
                _ if is_last => return Ok(Last::Found { directory, name, inode, slash }),
                Body::Directory(_) => {
                    above.push(directory);
                    directory = inode;
                }
                Body::File(_) | Body::Link(_) => return Err(Errno::NotDir),
            }
        }
        Ok(Last::Directory(directory))
    }
}
