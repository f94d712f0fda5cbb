//! Where the content of files is, for whoever wants a program to be near its data. Knows the tree and its copies; no program.
//!
//! The one idea: it is a hint, and costs as little as one. Of a large file its beginning is looked at, and the rest is taken to lie alike.

use super::tree::Tree;
use abi::file::{Access, Existence, FileSystem, Kind, LastLink, Open};
use abi::ids::NodeId;
use drivers::chunks::ChunkName;
use services::files::Stretch;
use std::collections::BTreeMap;

/// Files that are looked for at once; others do not count.
pub const PATHS_MAX: usize = 16;
/// A longer path is none.
pub const PATH_BYTES_MAX: usize = 4096;
/// So much of all files together is looked at.
const LOOKED_AT_BYTES_MAX: u64 = 128 << 20;

/// A file or a directory that is there, and is only read.
pub(crate) const READING: Open = Open {
    last_link: LastLink::Target,
    existence: Existence::Required,
    kind: Kind::Any,
    access: Access::Read,
    truncate: false,
};

/// How many bytes these files have, and how many of them each node has on its disk. What is no file does not count.
pub(super) fn locate(tree: &Tree, paths: &[String], me: NodeId, living: &[NodeId]) -> (u64, Vec<(NodeId, u64)>) {
    let (mut bytes, mut at) = (0_u64, BTreeMap::new());
    let mut files = tree.session();
    let root = files.root();
    let mut paths: Vec<&String> = paths.iter().filter(|path| path.len() <= PATH_BYTES_MAX).take(PATHS_MAX).collect();
    paths.sort();
    paths.dedup();
    let most = LOOKED_AT_BYTES_MAX / paths.len().max(1) as u64;
    for path in paths {
        let Ok(opened) = files.open(root, path, &READING) else { continue };
        let size = files.stat(opened.id).map_or(0, |stat| stat.size_bytes);
        let looked_at = size.min(most);
        let stretches = files.stretches(opened.id, 0, looked_at as usize);
        files.close(opened.id);
        // A directory has no content.
        let Ok(stretches) = stretches else { continue };
        bytes = bytes.saturating_add(size);
        let mut of_file: BTreeMap<NodeId, u64> = BTreeMap::new();
        for stretch in stretches {
            // What is in no chunk is with the holder's facts, and comes with the answer.
            let Stretch::Chunk { hash, from, to } = stretch else { continue };
            for node in tree.copies().whereabouts(&ChunkName(hash.0), me, living) {
                *of_file.entry(node).or_insert(0) += (to - from) as u64;
            }
        }
        for (node, found) in of_file {
            let all = u128::from(found) * u128::from(size) / u128::from(looked_at.max(1));
            let sum: &mut u64 = at.entry(node).or_insert(0);
            *sum = sum.saturating_add(all as u64);
        }
    }
    (bytes, at.into_iter().collect())
}
