//! A network that can be made bad: passes bytes on between a port of its own and another address. Knows nothing of what they are.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub struct Relay {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    target: Option<SocketAddr>,
    sockets: Vec<TcpStream>,
    weather: Weather,
    /// Connections that have passed.
    connections: usize,
}

#[derive(Clone, Copy, Default, PartialEq)]
pub enum Weather {
    #[default]
    Fair,
    /// Nothing arrives, and nobody is told: a cut cable.
    Dark,
    /// New connections are closed at once.
    Closed,
    /// In each connection, towards the target, the byte at this place is another.
    Flip(usize),
    /// In each connection, towards the target, nothing comes after so many bytes but the end.
    Cut(usize),
    /// Nothing arrives until the weather is another; then all does.
    Held,
    /// All arrives so much later.
    Slow(Duration),
}

impl Relay {
    pub fn new() -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let target = {
                    let mut state = shared.lock().unwrap();
                    state.connections += 1;
                    if state.weather == Weather::Closed { None } else { state.target }
                };
                let Some(Ok(far)) = target.map(TcpStream::connect) else { continue };
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                shared.lock().unwrap().sockets.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                pump(near.try_clone().unwrap(), far.try_clone().unwrap(), shared.clone(), true);
                pump(far, near, shared.clone(), false);
            }
        });
        Relay { address, state }
    }

    pub fn lead_to(&self, target: SocketAddr) {
        self.state.lock().unwrap().target = Some(target);
    }

    pub fn weather(&self, weather: Weather) {
        self.state.lock().unwrap().weather = weather;
    }

    pub fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }

    /// Ends all connections that are.
    pub fn cut(&self) {
        for socket in std::mem::take(&mut self.state.lock().unwrap().sockets) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, state: Arc<Mutex<State>>, towards: bool) {
    std::thread::spawn(move || {
        let (mut bytes, mut passed) = (vec![0; 65536], 0);
        loop {
            let Ok(read @ 1..) = from.read(&mut bytes) else { break };
            let mut weather = state.lock().unwrap().weather;
            while weather == Weather::Held {
                std::thread::sleep(Duration::from_millis(1));
                weather = state.lock().unwrap().weather;
            }
            let mut part = &mut bytes[..read];
            match weather {
                Weather::Dark => continue,
                Weather::Slow(delay) => std::thread::sleep(delay),
                Weather::Flip(place) if towards && (passed..passed + read).contains(&place) => {
                    part[place - passed] ^= 0x20
                }
                Weather::Cut(place) if towards && passed + read > place => {
                    let end = place.saturating_sub(passed);
                    part = &mut part[..end];
                }
                _ => {}
            }
            passed += read;
            if to.write_all(part).is_err() || part.len() < read {
                break;
            }
        }
        // Over a cut cable the end does not get through either.
        while state.lock().unwrap().weather == Weather::Dark {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
