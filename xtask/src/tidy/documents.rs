//! Rules for documents: what they link to is there.

use super::{Complaint, File};
use std::collections::{BTreeMap, BTreeSet};

/// `exists` says whether there is a file or directory at a path from the project's directory.
pub fn check(files: &[File], exists: &dyn Fn(&str) -> bool) -> Vec<Complaint> {
    let documents = || files.iter().filter(|file| file.path.ends_with(".md"));
    let headings: BTreeMap<&str, BTreeSet<String>> =
        documents().map(|file| (file.path.as_str(), headings(&file.text))).collect();
    let mut complaints = vec![];
    for file in documents() {
        for (number, line) in prose(&file.text) {
            for target in links(line) {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
                let path = if path.is_empty() { file.path.clone() } else { relative(&file.path, path) };
                if !exists(&path) {
                    complaints.push(Complaint::line(file, number, format!("the link to `{target}` leads nowhere")));
                } else if !anchor.is_empty() && !headings.get(path.as_str()).is_some_and(|set| set.contains(anchor)) {
                    complaints.push(Complaint::line(file, number, format!("`{path}` has no heading `#{anchor}`")));
                }
            }
        }
    }
    complaints
}

/// The lines that are not in a block of code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

/// Where `[text](target)` and `<img src="target">` lead.
fn links(line: &str) -> Vec<&str> {
    let mut targets = vec![];
    for (mark, end) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
        let mut rest = line;
        while let Some(at) = rest.find(mark) {
            rest = &rest[at + mark.len()..];
            let Some(length) = rest.find(end) else { break };
            targets.push(&rest[..length]);
        }
    }
    targets
}

/// A link's path, seen from the project's directory.
fn relative(from: &str, to: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in to.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Headings as they are linked to: small letters, digits and hyphens.
fn headings(text: &str) -> BTreeSet<String> {
    let heading = |(_, line): (usize, &str)| {
        let title = line.trim_start_matches('#');
        let marks = line.len() - title.len();
        ((1..=6).contains(&marks) && title.starts_with(' ')).then(|| {
            let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        })
    };
    prose(text).filter_map(heading).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn broken(text: &str, expect: &[&str]) {
        let files = [
            File { path: "docs/a.md".into(), text: text.into() },
            File { path: "docs/b.md".into(), text: "# The words, once\n\n```sh\n# not a heading\n```\n".into() },
        ];
        let exists = |path: &str| ["docs/a.md", "docs/b.md", "README.md", "docs"].contains(&path);
        let found: Vec<String> = check(&files, &exists).into_iter().map(|complaint| complaint.what).collect();
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.contains(expect), "{found:?} does not say {expect:?}");
        }
    }

    #[test]
    fn links_lead_somewhere() {
        broken("# Here\n[b](b.md), [top](../README.md), [web](https://example.com), [all](.), [here](#here)", &[]);
        broken("[b](b.md#the-words-once)", &[]);
        broken("[c](c.md) and <img src=\"d.svg\">", &["`c.md`", "`d.svg`"]);
        broken("[b](b.md#not-a-heading)", &["no heading `#not-a-heading`"]);
        broken("```\n[c](c.md)\n```\n", &[]);
    }
}
