//! The interface of the service `programs`: which programs the system knows. This file knows nothing of where they are kept.
//!
//! A program is named by the hash of its module, so a record about it is never wrong, only missing. The module's bytes are
//! not here: they lie in the store of blobs under the same hash.

use crate::encoding::{Malformed, Reader, Writer};
use crate::ids::ProgramId;
use crate::message::Bytes;
use alloc::vec::Vec;

/// The most records in one answer to [`Request::List`]; ask again after the last one.
pub const LIST_RECORDS_MAX: u32 = 1000;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    Find(ProgramId),
    /// Records a program whose module is stored already. Doing it again changes nothing.
    Register(Record),
    Forget(ProgramId),
    /// Records in the order of their hashes, after this one.
    List {
        after: Option<ProgramId>,
        records_max: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Record {
    pub program: ProgramId,
    /// Of the module.
    pub bytes: u64,
    pub stops: Stops,
}

/// Whether processes of the program can be frozen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stops {
    Anywhere,
    Never,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    Done,
    Found(Record),
    Records { records: Vec<Record>, more: bool },
    Failed(Failure),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Failure {
    Malformed,
    NotFound,
    /// A different record stands under this hash: one of the two writers is wrong about the module.
    Contradiction,
    Full,
    /// The caller asked for a call older than its latest again.
    Forgotten,
    /// Too many requests wait for the disk: nothing was done, ask later.
    Busy,
}

impl Record {
    pub fn write(&self, to: &mut Writer) {
        to.raw(&self.program.0).u64(self.bytes).u8(match self.stops {
            Stops::Anywhere => 0,
            Stops::Never => 1,
        });
    }

    pub fn read(from: &mut Reader) -> Result<Record, Malformed> {
        let (program, bytes) = (read_program(from)?, from.u64()?);
        let stops = match from.u8()? {
            0 => Stops::Anywhere,
            1 => Stops::Never,
            _ => return Err(from.malformed()),
        };
        Ok(Record { program, bytes, stops })
    }
}

fn read_program(from: &mut Reader) -> Result<ProgramId, Malformed> {
    Ok(ProgramId(from.raw(32)?.try_into().expect("32 bytes were taken")))
}

impl Request {
    pub fn encode(&self) -> Bytes {
        let mut to = Writer::default();
        match self {
            Request::Find(program) => {
                to.u8(0).raw(&program.0);
            }
            Request::Register(record) => record.write(to.u8(1)),
            Request::Forget(program) => {
                to.u8(2).raw(&program.0);
            }
            Request::List { after: None, records_max } => {
                to.u8(3).u32(*records_max);
            }
            Request::List { after: Some(after), records_max } => {
                to.u8(4).u32(*records_max).raw(&after.0);
            }
        }
        to.finish().into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Request, Malformed> {
        let mut from = Reader::new(bytes);
        let request = match from.u8()? {
            0 => Request::Find(read_program(&mut from)?),
            1 => Request::Register(Record::read(&mut from)?),
            2 => Request::Forget(read_program(&mut from)?),
            3 => Request::List { records_max: from.u32()?, after: None },
            4 => Request::List { records_max: from.u32()?, after: Some(read_program(&mut from)?) },
            _ => return Err(from.malformed()),
        };
        from.finish()?;
        Ok(request)
    }
}

impl Answer {
    pub fn encode(&self) -> Bytes {
        let mut to = Writer::default();
        match self {
            Answer::Done => {
                to.u8(0);
            }
            Answer::Found(record) => record.write(to.u8(1)),
            Answer::Records { records, more } => {
                to.u8(2).u8(u8::from(*more)).u32(records.len() as u32);
                records.iter().for_each(|record| record.write(&mut to));
            }
            Answer::Failed(failure) => {
                to.u8(3).u8(*failure as u8);
            }
        }
        to.finish().into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Answer, Malformed> {
        const FAILURES: [Failure; 6] = [
            Failure::Malformed,
            Failure::NotFound,
            Failure::Contradiction,
            Failure::Full,
            Failure::Forgotten,
            Failure::Busy,
        ];
        let mut from = Reader::new(bytes);
        let answer = match from.u8()? {
            0 => Answer::Done,
            1 => Answer::Found(Record::read(&mut from)?),
            2 => {
                let more = match from.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(from.malformed()),
                };
                let count = from.u32()?;
                let records = (0..count).map(|_| Record::read(&mut from)).collect::<Result<_, _>>()?;
                Answer::Records { records, more }
            }
            3 => {
                let number = from.u8()?;
                let known = FAILURES.into_iter().find(|failure| *failure as u8 == number);
                Answer::Failed(known.ok_or(from.malformed())?)
            }
            _ => return Err(from.malformed()),
        };
        from.finish()?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn requests_and_answers_survive_the_way() {
        let record = Record { program: ProgramId([7; 32]), bytes: 1 << 40, stops: Stops::Never };
        let requests = [
            Request::Find(record.program),
            Request::Register(record),
            Request::Forget(record.program),
            Request::List { after: None, records_max: 3 },
            Request::List { after: Some(record.program), records_max: 3 },
        ];
        for request in requests {
            let bytes = request.encode();
            assert!((0..bytes.len()).all(|length| Request::decode(&bytes[..length]).is_err()));
            assert_eq!(Request::decode(&bytes), Ok(request));
        }
        let answers = [
            Answer::Done,
            Answer::Found(record),
            Answer::Records { records: vec![record], more: false },
            Answer::Failed(Failure::Full),
        ];
        for answer in answers {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
    }
}
