//! Delay and reordering where the kernel has no netem: a relay of our own between two machines. It knows nothing of what it hands on.
//!
//! The one idea: every piece that arrives is held for a time of its own and then handed on, in order within a connection, as TCP would; two
//! connections of one pair overtake each other, which is what the receiver of una's two connections must bear.

use crate::Outcome;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// How long a piece is held.
#[derive(Clone, Copy)]
pub struct Delays {
    pub least: Duration,
    pub most: Duration,
}

pub struct Relay {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

/// Pieces on their way in one direction of one connection. Then reading waits, as a full pipe would.
const PIECES_MAX: usize = 1024;

impl Relay {
    pub fn start(listen: SocketAddr, target: SocketAddr, delays: Delays) -> Outcome<Relay> {
        let listener = TcpListener::bind(listen)?;
        let relay = Relay { address: listener.local_addr()?, ended: Arc::default() };
        let ended = relay.ended.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Relaxed) {
                    return;
                }
                let Ok(near) = stream else { continue };
                let Ok(far) = TcpStream::connect(target) else { continue };
                let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
                hand_on(near, far_too, delays);
                hand_on(far, near_too, delays);
            }
        });
        Ok(relay)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        // The thread that accepts looks at it with the next connection.
        let _ = TcpStream::connect(self.address);
    }
}

/// One direction, on two threads: one reads and notes when each piece is due, one writes it then.
fn hand_on(mut from: TcpStream, mut to: TcpStream, delays: Delays) {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let mut dice = SEED.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let _ = from.set_nodelay(true);
    let _ = to.set_nodelay(true);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length) = from.read(&mut buffer) {
            dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let span = (delays.most.saturating_sub(delays.least)).as_micros() as u64;
            let due = Instant::now() + delays.least + Duration::from_micros((dice >> 33) % (span + 1));
            // The end of the stream is a piece without bytes: it is not told early either.
            if sender.send((due, buffer[..length].to_vec())).is_err() || length == 0 {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, piece) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if piece.is_empty() || to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
