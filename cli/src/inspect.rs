//! `una inspect`: what is in an image, without continuing it.

use crate::control::Mounted;
use crate::failure::{Failure, Result, printable, quoted, status};
use crate::program::EngineArgument;
use crate::{freeze, json, print, program, thaw};
use clap::Args;
use engine::{ThawError, wasi};
use serde::Serialize;
use std::path::PathBuf;

/// Say what is in an image
///
/// Reads all of it, so that a damaged image is noticed.
#[derive(Args)]
pub struct Inspect {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    /// The program's own file, if una does not find it
    #[arg(long, value_name = "PROG")]
    program: Option<PathBuf>,

    #[arg(value_name = "FILE")]
    image: PathBuf,
}

#[derive(Serialize)]
struct Inspection {
    name: String,
    arguments: Vec<String>,
    environment: Vec<String>,
    /// BLAKE3 of the program, in hexadecimal.
    program: String,
    /// Does the image carry its program?
    has_program: bool,
    canonical_nans: bool,
    /// Size of each memory.
    memories_bytes: Vec<u64>,
    /// How much of that is in the image: the rest is zero.
    content_bytes: u64,
    mounts: Vec<Mounted>,
    descriptors: Vec<Descriptor>,
    /// Input that was taken before the program asked for it.
    unread_input_bytes: usize,
    /// Innermost first; absent if the program was not found.
    frames: Option<Vec<Frame>>,
    frames_unknown_because: Option<String>,
}

#[derive(Serialize)]
struct Descriptor {
    number: u32,
    #[serde(flatten)]
    what: What,
}

#[derive(Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
enum What {
    Stream {
        stream: &'static str,
    },
    /// Without a path it had been removed, and is in the image itself.
    File {
        path: Option<String>,
        offset_bytes: u64,
    },
    Directory {
        path: Option<String>,
    },
}

#[derive(Serialize)]
struct Frame {
    function: u32,
    name: Option<String>,
}

impl Inspect {
    pub fn execute(self) -> Result<u8> {
        let mut image = thaw::open(&self.image)?;
        let failure = |error: ThawError| {
            Failure::new(status::FAILED, format!("cannot read {}", self.image.display())).because(error)
        };
        let facts = image.facts().map_err(failure)?;
        let saved = wasi::Saved::read(image.system().map_err(failure)?).map_err(|error| failure(error.into()))?;
        let inventory =
            wasi::Saved::inventory(image.system().map_err(failure)?).map_err(|error| failure(error.into()))?;
        let content_bytes = image.check_rest().map_err(|error| failure(error.into()))?;
        let frames = self.frames(&image);
        let mounts = thaw::had(&saved);
        let inspection = Inspection {
            name: facts.name,
            arguments: saved.args,
            environment: saved.env,
            program: image.program_hash().to_hex().to_string(),
            has_program: image.program().is_some(),
            canonical_nans: facts.canonical_nans,
            memories_bytes: image.state().memories.clone(),
            content_bytes,
            mounts,
            descriptors: inventory.descriptors.into_iter().map(describe_descriptor).collect(),
            unread_input_bytes: inventory.unread_bytes,
            frames_unknown_because: frames.as_ref().err().cloned(),
            frames: frames.ok(),
        };
        let text = if self.json { json::text("una.inspect/1", &inspection) } else { describe(&inspection) };
        print(&text)?;
        Ok(0)
    }

    fn frames(&self, image: &engine::Image<impl std::io::Read>) -> std::result::Result<Vec<Frame>, String> {
        let text = |failure: Failure| failure.to_lines().0;
        let wasm = match &self.program {
            Some(path) => program::read(path).map_err(text)?,
            None => thaw::find_program(image, &self.image).map_err(text)?.0,
        };
        let engine = program::engine(EngineArgument::Native, false).map_err(text)?;
        let frames = engine.backtrace(&wasm, image.state())?;
        Ok(frames.into_iter().map(|frame| Frame { function: frame.function, name: frame.name }).collect())
    }
}

fn describe_descriptor((number, object): (u32, wasi::SavedObject)) -> Descriptor {
    let what = match object {
        wasi::SavedObject::Stream(stream) => What::Stream {
            stream: match stream {
                0 => "standard input",
                1 => "standard output",
                _ => "standard error",
            },
        },
        wasi::SavedObject::File { path, offset_bytes } => What::File { path, offset_bytes },
        wasi::SavedObject::Directory { path } => What::Directory { path },
    };
    Descriptor { number, what }
}

fn describe(inspection: &Inspection) -> String {
    let Inspection { name, arguments, environment, program, mounts, .. } = inspection;
    let words = |words: &[String]| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let carried = if inspection.has_program { "in the image" } else { "not in the image" };
    let memory: u64 = inspection.memories_bytes.iter().sum();
    let mut lines = vec![
        ("name", name.clone()),
        ("command", words(arguments)),
        ("program", format!("{program} ({carried})")),
        ("memory", format!("{}, of which {} not zero", freeze::size(memory), freeze::size(inspection.content_bytes))),
    ];
    if !environment.is_empty() {
        lines.push(("environment", words(environment)));
    }
    for Mounted { guest, host, read_only } in mounts {
        let writable = if *read_only { ", read only" } else { "" };
        lines.push(("directory", format!("{guest} (was {host}{writable})")));
    }
    for Descriptor { number, what } in &inspection.descriptors {
        let removed = "a removed ";
        let text = match what {
            What::Stream { stream } => stream.to_string(),
            What::File { path: Some(path), offset_bytes } => format!("{path} at byte {offset_bytes}"),
            What::File { path: None, offset_bytes } => format!("{removed}file at byte {offset_bytes}"),
            What::Directory { path: Some(path) } => path.clone(),
            What::Directory { path: None } => format!("{removed}directory"),
        };
        lines.push(("open", format!("{number} {text}")));
    }
    if inspection.unread_input_bytes > 0 {
        lines.push(("unread", format!("{} of input", freeze::size(inspection.unread_input_bytes as u64))));
    }
    match (&inspection.frames, &inspection.frames_unknown_because) {
        (Some(frames), _) => {
            for (index, Frame { function, name }) in frames.iter().enumerate() {
                let name = name.clone().unwrap_or_else(|| format!("function {function}"));
                lines.push((if index == 0 { "stopped in" } else { "called from" }, name));
            }
        }
        (None, because) => lines.push(("stopped in", format!("unknown: {}", because.as_deref().unwrap_or("?")))),
    }
    lines.iter().map(|(label, value)| format!("{label:<12} {}\n", printable(value))).collect()
}
