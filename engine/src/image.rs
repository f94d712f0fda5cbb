//! What una puts into an image beside the frozen program, and how it is found there. Knows no running process.

use crate::error::ThawError;
use crate::kept::Kept;
use crate::process::Stage;
use freeze::ImageError;
use freeze::image::{Reader, State};
use std::io::Read;

// Names of attachments.

/// What [`crate::wasi::System`] saved.
pub(crate) const SYSTEM: &str = "wasi";
pub(crate) const FACTS: &str = "una";
/// What functions of the import module `una` remember, if they do.
pub(crate) const KEPT: &str = "kept";
/// The ports of a durable process, if it has some.
pub(crate) const PORTS: &str = "ports";
/// What the process may use, if somebody said it.
pub(crate) const LIMITS: &str = "limits";
/// The program itself, if the image carries it.
pub(crate) const PROGRAM: &str = "program";

const FACTS_FORM: u8 = 1;

/// What is known of a process beside its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What people call it.
    pub name: String,
    /// See [`crate::Options::canonical_nans`]. Who continues the process should keep to it.
    pub canonical_nans: bool,
    pub stage: Stage,
}

impl Facts {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let stage = match self.stage {
            Stage::Initializing => 0,
            Stage::Main => 1,
            Stage::Ended => 2,
        };
        let mut bytes = vec![FACTS_FORM, stage, self.canonical_nans as u8];
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Facts> {
        let ([FACTS_FORM, stage, canonical_nans @ (0 | 1)], name) = bytes.split_first_chunk()? else { return None };
        let stage = match stage {
            0 => Stage::Initializing,
            1 => Stage::Main,
            // What has ended is not frozen.
            _ => return None,
        };
        let name = String::from_utf8(name.to_vec()).ok()?;
        Some(Facts { name, canonical_nans: *canonical_nans == 1, stage })
    }
}

/// An image that has been read up to the contents of its memory.
pub struct Image<R> {
    pub(crate) reader: Reader<R>,
}

impl<R: Read> Image<R> {
    pub fn open(input: R) -> Result<Image<R>, ImageError> {
        Ok(Image { reader: Reader::open(input)? })
    }

    pub fn state(&self) -> &State {
        self.reader.state()
    }

    /// BLAKE3 of the program that this is a process of.
    pub fn program_hash(&self) -> blake3::Hash {
        blake3::Hash::from_bytes(self.state().identity.program)
    }

    /// The program, if the image carries it.
    pub fn program(&self) -> Option<&[u8]> {
        self.state().attachments.get(PROGRAM).map(Vec::as_slice)
    }

    pub fn facts(&self) -> Result<Facts, ThawError> {
        let facts = Facts::from_bytes(self.attachment(FACTS)?);
        facts.ok_or_else(|| ImageError::Inconsistent { what: "its facts are in an unknown form".into() }.into())
    }

    /// What the process may use, as whoever ran it wrote that: see [`crate::Process::save_with_limits`].
    pub fn limits(&self) -> Option<&[u8]> {
        self.state().attachments.get(LIMITS).map(Vec::as_slice)
    }

    pub(crate) fn kept(&self) -> Result<Kept, ThawError> {
        let Some(bytes) = self.state().attachments.get(KEPT) else { return Ok(Kept::default()) };
        let malformed = |_| ImageError::Inconsistent { what: "what it kept between two calls is malformed".into() };
        Ok(Kept::restore(bytes).map_err(malformed)?)
    }

    /// What the ports of a durable process were saved as.
    pub(crate) fn ports(&self) -> Option<&[u8]> {
        self.state().attachments.get(PORTS).map(Vec::as_slice)
    }

    /// What [`crate::wasi::System::restore`] takes.
    pub fn system(&self) -> Result<&[u8], ThawError> {
        self.attachment(SYSTEM)
    }

    /// Reads the rest, which is the contents of the memory, and checks it. Gives how many bytes of memory there were.
    pub fn check_rest(&mut self) -> Result<u64, ImageError> {
        let mut bytes = 0;
        while let Some(piece) = self.reader.piece()? {
            bytes += piece.bytes.len() as u64;
        }
        Ok(bytes)
    }

    fn attachment(&self, name: &'static str) -> Result<&[u8], ThawError> {
        let attachment = self.state().attachments.get(name).map(Vec::as_slice);
        attachment.ok_or(ThawError::NotOurs { attachment: name })
    }
}
