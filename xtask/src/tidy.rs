//! The rules that no compiler checks. Knows the project's files and what cargo says of its crates; changes nothing.
//!
//! Each rule looks at the repository and lists what breaks it; a rule is a function from what it looks at to complaints, so that
//! it can be tried on a planted breach.

mod crates;
mod documents;
mod sources;

use crate::Outcome;
use crate::step::output;
use std::path::PathBuf;
use std::process::Command;

/// Something that breaks a rule: where, and what to do about it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    pub place: String,
    pub what: String,
}

impl Complaint {
    pub fn new(place: impl Into<String>, what: impl Into<String>) -> Complaint {
        Complaint { place: place.into(), what: what.into() }
    }

    fn line(file: &File, line: usize, what: impl Into<String>) -> Complaint {
        Complaint::new(format!("{}:{}", file.path, line + 1), what)
    }
}

/// A text file of the repository.
pub struct File {
    /// From the project's directory, with slashes.
    pub path: String,
    pub text: String,
}

impl File {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().expect("a split has at least one part")
    }
}

pub fn run() -> Outcome {
    let complaints = complaints()?;
    for Complaint { place, what } in &complaints {
        eprintln!("{place}: {what}");
    }
    match complaints.len() {
        0 => Ok(()),
        1 => Err("tidy: one complaint; see above".into()),
        count => Err(format!("tidy: {count} complaints; see above").into()),
    }
}

fn complaints() -> Outcome<Vec<Complaint>> {
    let files = files()?;
    let mut complaints = vec![];
    for file in &files {
        complaints.extend(sources::check(file));
    }
    complaints.extend(documents::check(&files, &|path| crate::root().join(path).exists()));
    complaints.extend(crates::check(&files)?);
    complaints.sort();
    Ok(complaints)
}

/// The files that git knows or would take, but for those that are not text.
fn files() -> Outcome<Vec<File>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(crate::root());
    let list = output(&mut git, "Debian's package git has it")?;
    let mut files = vec![];
    for path in list.lines() {
        let on_disk: PathBuf = crate::root().join(path);
        // A file that was deleted and not yet committed is still listed.
        if let Ok(text) =
            std::fs::read(on_disk).map_err(|_| ()).and_then(|bytes| String::from_utf8(bytes).map_err(|_| ()))
        {
            files.push(File { path: path.into(), text });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_is_tidy() {
        let complaints = super::complaints().expect("git and cargo are there");
        let list: String = complaints.iter().map(|c| format!("  {}: {}\n", c.place, c.what)).collect();
        assert!(complaints.is_empty(), "\n{list}");
    }
}
