//! The other end of a comparison: a process that answers, until its standard input ends. Knows nothing of what is measured.

use super::ranked;
use crate::Outcome;
use abi::clock::{HybridClock, Stamp, WallMs};
use abi::ids::{NodeId, NodeKey};
use drivers::wire::{Answer, Class, Clock, Hello, Identity, Receiver, Service, Stream, Unlinked, Wire};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A request begins with the length of the answer that it wants.
pub const SIZED: Service = Service(1);
/// A stream that is read to its end; then how much it was is written back.
pub const SINK: Service = Service(2);

/// The process that is the other end of something.
pub struct Far {
    child: Child,
    _input: ChildStdin,
    /// What it said first.
    pub line: String,
}

impl Far {
    pub fn start(words: &[&str]) -> Outcome<Far> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "cluster", "--far"]).args(words);
        Far::of(&mut command)
    }

    /// Any program that says one line when it is ready and ends with its input.
    pub fn of(command: &mut Command) -> Outcome<Far> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().ok_or("a pipe was asked for")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("a pipe was asked for")?).read_line(&mut line)?;
        Ok(Far { child, _input: input, line: line.trim().into() })
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // It only answers: nothing is lost.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn serve(words: &[String]) -> Outcome {
    match words {
        [what] if what == "tcp" => tcp()?,
        [what, key] if what == "wire" => wire(key)?,
        _ => return Err("what other end?".into()),
    }
    Ok(())
}

fn until_input_ends() -> Outcome {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn tcp() -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || answer(socket));
        }
    });
    until_input_ends()
}

/// Requests of 64 bytes, which begin with the length of the answer; 0 means that a long way of bytes follows, to be counted.
fn answer(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let (mut request, answer) = ([0; 64], vec![7; 1 << 20]);
    loop {
        socket.read_exact(&mut request)?;
        match u32::from_le_bytes([request[0], request[1], request[2], request[3]]) as usize {
            0 => {
                let all = drain(&mut socket)?;
                return socket.write_all(&all.to_le_bytes());
            }
            length => socket.write_all(&answer[..length.min(answer.len())])?,
        }
    }
}

fn drain(from: &mut impl Read) -> std::io::Result<u64> {
    let (mut bytes, mut all) = (vec![0; 256 << 10], 0);
    loop {
        match from.read(&mut bytes)? {
            0 => return Ok(all),
            read => all += read as u64,
        }
    }
}

fn wire(key: &str) -> Outcome {
    let key = key_of(key).ok_or("a key has 64 hexadecimal digits")?;
    let wire = start("far", &["127.0.0.1:0".parse()?])?;
    wire.admit(key, &[]);
    let at = wire.addresses().first().copied().ok_or("it listens nowhere")?;
    println!("{} {at}", wire.me());
    until_input_ends()
}

/// A wire that answers what [`serve`] says.
pub fn start(name: &str, listen: &[SocketAddr]) -> Outcome<Wire> {
    let hello = Hello {
        system: None,
        node: None,
        life: 1,
        name: name.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        addresses: vec![],
    };
    let clock = Arc::new(Hybrid(Mutex::new(HybridClock::new(Stamp::ZERO))));
    Ok(Wire::start(Identity::make()?, hello, listen, Arc::new(Answers), clock)?)
}

pub fn key_of(text: &str) -> Option<NodeKey> {
    let mut key = [0; 32];
    for (place, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(NodeKey(key))
}

/// As nodes have one.
struct Hybrid(Mutex<HybridClock>);

fn wall() -> WallMs {
    WallMs(drivers::clock::now_ms())
}

impl Clock for Hybrid {
    fn stamp(&self) -> Stamp {
        self.0.lock().expect("nothing panics while it holds this lock").stamp(wall())
    }

    fn heard(&self, _: NodeKey, stamp: Stamp) {
        let mut clock = self.0.lock().expect("nothing panics while it holds this lock");
        clock.heard(wall(), NodeId(2), stamp).expect("both ends are on one machine");
    }
}

struct Answers;

impl Receiver for Answers {
    fn linked(&self, _: NodeKey, _: &Hello) {}

    fn unlinked(&self, _: NodeKey, _: &Unlinked) {}

    fn arrived(&self, _: NodeKey, _: Class, _: &[u8]) {}

    fn asked(&self, _: NodeKey, _: Service, body: Vec<u8>, answer: Answer) {
        let length = body.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
        answer.give(Ok(vec![7; length]));
    }

    fn opened(&self, _: NodeKey, _: Service, _: Vec<u8>, mut stream: Stream) {
        std::thread::spawn(move || {
            let all = drain(&mut stream)?;
            stream.write_all(&all.to_le_bytes())?;
            stream.shutdown(Shutdown::Write)
        });
    }

    fn visited(&self, _: NodeKey, _: &Hello, _: SocketAddr, _: Vec<u8>, _: Stream) {}

    fn room(&self, _: NodeKey, _: Class) {}
}

/// One that wants so many bytes.
pub fn request(bytes: usize) -> [u8; 64] {
    let mut request = [0; 64];
    request[..4].copy_from_slice(&(bytes as u32).to_le_bytes());
    request
}

pub fn expect_length(found: usize, wanted: usize) -> Outcome {
    if found != wanted {
        return Err(format!("{found} bytes instead of {wanted}").into());
    }
    Ok(())
}

/// Requests over a connection with nothing on it.
pub struct Tcp {
    far: Far,
    socket: TcpStream,
}

impl Tcp {
    pub fn start() -> Outcome<Tcp> {
        let far = Far::start(&["tcp"])?;
        let socket = TcpStream::connect(&far.line)?;
        socket.set_nodelay(true)?;
        Ok(Tcp { far, socket })
    }

    pub fn pings(&mut self, count: u32, bytes: usize, share: f64) -> Outcome<f64> {
        let (request, mut answer) = (request(bytes), vec![0; bytes]);
        let mut times = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let start = Instant::now();
            self.socket.write_all(&request)?;
            self.socket.read_exact(&mut answer)?;
            times.push(start.elapsed().as_nanos() as u64);
        }
        Ok(ranked(times, share))
    }

    pub fn bulk(&mut self, bytes: usize) -> Outcome<f64> {
        let mut socket = TcpStream::connect(&self.far.line)?;
        let (piece, start) = (vec![5; 256 << 10], Instant::now());
        socket.write_all(&request(0))?;
        for _ in 0..bytes / piece.len() {
            socket.write_all(&piece)?;
        }
        socket.shutdown(Shutdown::Write)?;
        let mut counted = [0; 8];
        socket.read_exact(&mut counted)?;
        expect_length(u64::from_le_bytes(counted) as usize, bytes)?;
        Ok(bytes as f64 / start.elapsed().as_secs_f64() / 1e6)
    }
}
