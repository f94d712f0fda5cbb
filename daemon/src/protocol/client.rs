//! The client's end of a connection to a node. Knows which frames follow which; not what they are shown as.

use super::place::{self, Found, Holder};
use super::{Content, Frame, ProtocolError, Refusal, Reply, Request};
use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a client waits for any sign of life where the node answers at once.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no daemon is running")]
    NoDaemon,
    #[error("the daemon does not answer: {error}")]
    Silent { holder: Option<Holder>, error: io::Error },
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Io(io::Error),
}

/// Why a request has no answer that it could have.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{}", .0.why)]
    Refused(Refusal),
    #[error("the daemon ended")]
    Gone,
    #[error(transparent)]
    Protocol(ProtocolError),
}

impl From<ProtocolError> for AskError {
    fn from(error: ProtocolError) -> AskError {
        if error.is_gone() { AskError::Gone } else { AskError::Protocol(error) }
    }
}

pub struct Connection {
    from: BufReader<UnixStream>,
    to: UnixStream,
    /// The node's hello is read with the first answer, which spares one way to it and back.
    greeted: bool,
}

impl Connection {
    /// Connects to the node with this data directory.
    pub fn open(data: &Path) -> Result<Connection, ConnectError> {
        match place::find(data).map_err(ConnectError::Io)? {
            Found::Nothing => Err(ConnectError::NoDaemon),
            Found::Silent(holder, error) => Err(ConnectError::Silent { holder, error }),
            Found::Node(_, stream) => Connection::over(stream).map_err(ConnectError::Io),
        }
    }

    pub fn over(stream: UnixStream) -> io::Result<Connection> {
        let mut to = stream.try_clone()?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        // A node that refuses the connection may have closed it already, and said why: that is read later.
        if let Err(error) = super::write_hello(&mut to)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(error);
        }
        Ok(Connection { from: BufReader::with_capacity(64 << 10, stream), to, greeted: false })
    }

    /// Checks that the other side speaks this protocol.
    pub fn greet(&mut self) -> Result<(), ProtocolError> {
        if !self.greeted {
            super::read_hello(&mut self.from)?;
            self.greeted = true;
        }
        Ok(())
    }

    pub fn send(&mut self, request: &Request) -> Result<(), AskError> {
        match super::write_message(&mut self.to, request) {
            Err(error) if error.is_gone() => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Asks what has one answer.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, AskError> {
        self.send(request)?;
        self.reply()
    }

    /// The next message that is one: `Working` is a sign of life only.
    pub fn reply(&mut self) -> Result<Reply, AskError> {
        loop {
            let frame = self.frame()?;
            match frame.message::<Reply>()? {
                Reply::Working => {}
                Reply::Refused(refusal) => return Err(AskError::Refused(refusal)),
                reply => return Ok(reply),
            }
        }
    }

    pub fn frame(&mut self) -> Result<Frame, AskError> {
        self.greet()?;
        super::read_frame(&mut self.from)?.ok_or(AskError::Gone)
    }

    /// The bytes that the node sends now.
    pub fn content(&mut self) -> Content<'_, BufReader<UnixStream>> {
        Content::new(&mut self.from)
    }

    /// A message: `Working` may come before it, or a refusal in its place.
    pub fn received(&mut self) -> Result<Vec<u8>, AskError> {
        let mut message = vec![];
        loop {
            match self.frame()? {
                Frame::Bytes(bytes) => message.extend_from_slice(&bytes),
                Frame::End => return Ok(message),
                frame => match frame.message::<Reply>()? {
                    Reply::Working => {}
                    Reply::Refused(refusal) => return Err(AskError::Refused(refusal)),
                    other => {
                        return Err(ProtocolError::Unreadable(format!("{other:?} in a message")).into());
                    }
                },
            }
            if message.len() > super::MESSAGE_BYTES_MAX {
                let (bytes, max) = (message.len(), super::MESSAGE_BYTES_MAX);
                return Err(ProtocolError::TooLong { bytes, max }.into());
            }
        }
    }

    /// Sends bytes and their end.
    pub fn send_content(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        let mut piece = vec![0; super::PIECE_BYTES_MAX];
        loop {
            let length = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            super::write_bytes(&mut self.to, crate::node::Output::Out, &piece[..length]).map_err(io::Error::other)?;
        }
        super::write_end(&mut self.to).map_err(io::Error::other)
    }

    /// A second hand that writes to this connection: standard input.
    pub fn writer(&self) -> io::Result<UnixStream> {
        self.to.try_clone()
    }

    /// Lets the node be silent for as long as it likes: a process may print nothing for days.
    pub fn be_patient(&self) -> io::Result<()> {
        self.from.get_ref().set_read_timeout(None)
    }

    pub fn more(&mut self, more: &super::More) -> Result<(), AskError> {
        Ok(super::write_message(&mut self.to, more)?)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
