//! Two nodes meet: a connection becomes secret, each learns who the other is and what it wants. Knows no link that exists.
//!
//! ```text
//!   who reaches out          who is reached
//!   TLS, both keys proved
//!   Hello ───────────────►   known? same system? same protocol?      else Refused, with the reason
//!           ◄───────────── Hello
//!   the second connection, in the same way
//!   Commit ──────────────►   is there no better link by now?         else Refused: not now
//!           ◄───────────── Welcome
//! ```

use super::channel::take_plain;
use super::frame::{self, Frames, Header, Kind, No, NoHello, Purpose, Versions};
use super::link::{PARTING, prepare, throw_away};
use super::secure::{Secure, proved};
use super::{Class, Hello, Refusal, Violation};
use abi::ids::NodeKey;
use rustls::{CertificateError, Connection, Error as TlsError};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The other end of a connection that is secret, with its key proved.
pub struct Met {
    pub peer: NodeKey,
    pub address: SocketAddr,
    pub socket: TcpStream,
    pub tls: Connection,
    /// What has arrived and is not looked at yet. The first frames may come with the end of the handshake.
    pub frames: Frames,
    /// What this end speaks.
    versions: Versions,
}

/// Why two nodes did not come together.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    #[error("{0}")]
    Io(String),
    /// The machine answers, and says that nobody listens there.
    #[error("{0}")]
    Closed(String),
    #[error("another node answers there")]
    OtherKey,
    #[error("the handshake failed: {0}")]
    Tls(String),
    #[error("it sent what it must not send: {0}")]
    Violated(Violation),
    #[error("{0}")]
    Refused(Refusal),
    /// By us; it has been told.
    #[error("{0}")]
    WeRefused(Refusal),
    #[error("not now: {0}")]
    NotNow(String),
    #[error("it did not answer in time")]
    Late,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error.to_string())
    }
}

impl From<Violation> for Trouble {
    fn from(violation: Violation) -> Trouble {
        Trouble::Violated(violation)
    }
}

impl From<No> for Trouble {
    fn from(no: No) -> Trouble {
        match no {
            No::Refused(refusal) => Trouble::Refused(refusal),
            No::NotNow(why) => Trouble::NotNow(why),
        }
    }
}

/// Reaches out to an address, and meets the holder of the key there or nobody.
pub async fn reach(secure: &Secure, versions: Versions, address: SocketAddr, key: NodeKey) -> Result<Met, Trouble> {
    let socket = TcpStream::connect(address).await.map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => Trouble::Closed(error.to_string()),
        _ => error.into(),
    })?;
    Met::shake(socket, secure.connect(key).map_err(trouble_of_tls)?, versions).await
}

/// Meets who has come.
pub async fn receive(secure: &Secure, versions: Versions, socket: TcpStream) -> Result<Met, Trouble> {
    Met::shake(socket, secure.accept().map_err(trouble_of_tls)?, versions).await
}

impl Met {
    async fn shake(socket: TcpStream, mut tls: Connection, versions: Versions) -> Result<Met, Trouble> {
        prepare(&socket);
        tls.set_buffer_limit(None);
        let mut frames = Frames::default();
        while tls.is_handshaking() {
            flush(&socket, &mut tls).await?;
            if tls.is_handshaking() {
                read(&socket, &mut tls, &mut frames).await?;
            }
        }
        flush(&socket, &mut tls).await?;
        let peer = proved(&tls).ok_or(Trouble::Tls("no key was proved".into()))?;
        let address = canonical(socket.peer_addr()?);
        Ok(Met { peer, address, socket, tls, frames, versions })
    }

    pub async fn send(&mut self, frame: &[u8]) -> Result<(), Trouble> {
        self.tls.writer().write_all(frame)?;
        flush(&self.socket, &mut self.tls).await
    }

    async fn next(&mut self) -> Result<(Header, Vec<u8>), Trouble> {
        loop {
            if let Some((header, payload)) = self.frames.next()? {
                return Ok((header, payload.into()));
            }
            read(&self.socket, &mut self.tls, &mut self.frames).await?;
        }
    }

    /// The next frame, which must be of this kind, or a refusal.
    pub async fn expect(&mut self, kind: Kind) -> Result<Vec<u8>, Trouble> {
        let (header, payload) = self.next().await?;
        match header.kind {
            found if found == kind => Ok(payload),
            Kind::Refused => Err(frame::parse_refused(header.detail, &payload)?.into()),
            _ => Err(Violation::OutOfPlace("something else than the handshake").into()),
        }
    }

    /// What the other end wants and tells of itself. One whose protocol we do not speak is told so.
    pub async fn hello(&mut self) -> Result<(Purpose, Hello), Trouble> {
        let payload = self.expect(Kind::Hello).await?;
        match frame::parse_hello(&payload, self.versions) {
            Ok(told) => Ok(told),
            Err(NoHello::Violation(violation)) => Err(violation.into()),
            Err(NoHello::OtherProtocol(theirs)) => {
                let (ours, theirs) = (self.versions.to_string(), theirs.to_string());
                let refusal = Refusal::OtherProtocol { ours, theirs };
                let _ = self.send(&frame::refused(&No::Refused(refusal.clone()))).await;
                Err(Trouble::WeRefused(refusal))
            }
        }
    }

    pub async fn tell(&mut self, purpose: Purpose, hello: &Hello) -> Result<(), Trouble> {
        self.send(&frame::hello(purpose, hello, self.versions)).await
    }

    /// A frame that says nothing but that it is there, and perhaps a number.
    pub async fn signal(&mut self, kind: Kind, number: u64) -> Result<(), Trouble> {
        let header = Header { kind, class: Class::Control, detail: 0, id: 0 };
        self.send(&header.frame(&[&number.to_le_bytes()])).await
    }

    /// The number that came with a signal.
    pub async fn signalled(&mut self, kind: Kind) -> Result<u64, Trouble> {
        let payload = self.expect(kind).await?;
        let number = payload.try_into().map_err(|_| Violation::Malformed("number"))?;
        Ok(u64::from_le_bytes(number))
    }

    /// Sends the other end away, and waits until it can have read why.
    pub async fn refuse(mut self, no: &No) {
        let parting = async {
            if self.send(&frame::refused(no)).await.is_ok() {
                self.tls.send_close_notify();
                let _ = flush(&self.socket, &mut self.tls).await;
                let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
                throw_away(&self.socket).await;
            }
        };
        let _ = timeout(PARTING, parting).await;
    }
}

/// Who comes by IPv4 to a socket for both is known by the IPv4 address.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn flush(socket: &TcpStream, tls: &mut Connection) -> Result<(), Trouble> {
    while tls.wants_write() {
        match tls.write_tls(&mut Writer(socket)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn read(socket: &TcpStream, tls: &mut Connection, frames: &mut Frames) -> Result<(), Trouble> {
    let mut bytes = [0; 8192];
    loop {
        socket.readable().await?;
        let read = match socket.try_read(&mut bytes) {
            Ok(0) => return Err(Trouble::Io("it closed the connection".into())),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        let mut rest = &bytes[..read];
        while !rest.is_empty() {
            if tls.read_tls(&mut rest)? == 0 {
                return Err(Trouble::Io("it closed the connection".into()));
            }
            // What goes wrong is told to the other end, if it still listens.
            if let Err(error) = tls.process_new_packets() {
                let _ = flush(socket, tls).await;
                return Err(trouble_of_tls(error));
            }
            take_plain(tls, frames.buffer())?;
        }
        return Ok(());
    }
}

fn trouble_of_tls(error: TlsError) -> Trouble {
    match error {
        TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => Trouble::OtherKey,
        other => Trouble::Tls(other.to_string()),
    }
}

struct Writer<'a>(&'a TcpStream);

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
