//! Finds known nodes on the same network by multicast DNS, and lets them find this one. Knows no link.
//!
//! The one idea: what is heard is only a hint where a node whose key is known already might be. Whoever lies costs an attempt to
//! connect, since the key has to be proved there. Nobody is let in by it.
//!
//! What is told of the system is a hash of its number, so that strangers can see that machines belong together, which they see anyway,
//! and no more. Where multicast does not work nothing happens.

use super::peers::Shared;
use super::{Wire, channel::lock};
use abi::ids::NodeKey;
use mdns_sd::{ServiceDaemon, ServiceEvent, ServiceInfo};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

const SERVICE: &str = "_una._tcp.local.";
/// What an announcement says besides a port and addresses.
const SYSTEM: &str = "system";
const KEY: &str = "key";
/// The form of what is announced, so that a later one can be told apart.
const FORM: &str = "form";
const FORM_VALUE: &str = "1";

/// Announces and listens until it is dropped.
pub struct Discovery {
    daemon: ServiceDaemon,
    listening: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    #[error("multicast DNS does not work on this machine ({0}): start una with the addresses of other nodes instead")]
    Multicast(String),
    #[error("no thread could be started: {0}")]
    Thread(std::io::Error),
}

impl Discovery {
    /// `system` is the number of the system whose nodes are to find each other.
    pub fn start(wire: &Wire, system: [u8; 16]) -> Result<Discovery, DiscoveryError> {
        let refused = |error: mdns_sd::Error| DiscoveryError::Multicast(error.to_string());
        let daemon = ServiceDaemon::new().map_err(refused)?;
        let shared = wire.0.shared.clone();
        if let Some(announcement) = announcement(&shared, system).map_err(refused)? {
            daemon.register(announcement).map_err(refused)?;
        }
        let events = daemon.browse(SERVICE).map_err(refused)?;
        let listen = move || {
            while let Ok(event) = events.recv() {
                if let ServiceEvent::ServiceResolved(service) = event {
                    let property = |name: &str| service.get_property_val_str(name).unwrap_or_default();
                    if property(FORM) != FORM_VALUE || property(SYSTEM) != name_of(system) {
                        continue;
                    }
                    if let Some(key) = key_of(property(KEY)) {
                        let ips = service.get_addresses().iter().map(|ip| ip.to_ip_addr());
                        shared.found(key, &addresses(ips, service.get_port()));
                    }
                }
            }
        };
        let listening = std::thread::Builder::new().name("una-discovery".into()).spawn(listen);
        let listening = Mutex::new(Some(listening.map_err(DiscoveryError::Thread)?));
        Ok(Discovery { daemon, listening })
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        // The others are told that this node leaves; that they hear it is not promised.
        if self.daemon.shutdown().is_ok()
            && let Some(listening) = lock(&self.listening).take()
        {
            let _ = listening.join();
        }
    }
}

/// `None`: this node can only be reached from its own machine, or not at all.
fn announcement(shared: &Arc<Shared>, system: [u8; 16]) -> Result<Option<ServiceInfo>, mdns_sd::Error> {
    let outside = shared.listening.iter().find(|address| !address.ip().is_loopback());
    let Some(address) = outside else { return Ok(None) };
    let name = name_of(shared.me.0);
    let properties: HashMap<String, String> = [
        (FORM.to_string(), FORM_VALUE.to_string()),
        (SYSTEM.to_string(), name_of(system)),
        (KEY.to_string(), shared.me.to_string()),
    ]
    .into();
    let host = format!("una-{name}.local.");
    let announcement = match address.ip().is_unspecified() {
        true => ServiceInfo::new(SERVICE, &name, &host, "", address.port(), properties)?.enable_addr_auto(),
        false => ServiceInfo::new(SERVICE, &name, &host, address.ip(), address.port(), properties)?,
    };
    Ok(Some(announcement))
}

/// A name that says nothing of what it is made from.
fn name_of<const N: usize>(secret: [u8; N]) -> String {
    let hash = blake3::Hasher::new_derive_key("una discovery 1").update(&secret).finalize();
    hash.as_bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key_of(text: &str) -> Option<NodeKey> {
    let mut key = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 2 * key.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(NodeKey(key))
}

/// Addresses that can be tried: link-local ones would need to say by which interface.
fn addresses(ips: impl Iterator<Item = IpAddr>, port: u16) -> Vec<SocketAddr> {
    let means_something = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
    };
    let mut found: Vec<SocketAddr> = ips.filter(means_something).map(|ip| SocketAddr::new(ip, port)).collect();
    found.sort_by_key(|address| (address.is_ipv6(), *address));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written_and_nothing_else_is_one() {
        let key = NodeKey([0xa5; 32]);
        assert_eq!(key_of(&key.to_string()), Some(key));
        for text in ["", "a5", &"a5".repeat(31), &"a5".repeat(33), &"zz".repeat(32), &"+5".repeat(32), &"ä".repeat(32)]
        {
            assert_eq!(key_of(text), None, "{text}");
        }
    }

    #[test]
    fn names_do_not_show_what_they_are_made_from() {
        assert_ne!(name_of([1; 16]), name_of([2; 16]));
        assert_eq!(name_of([1; 16]).len(), 16);
        assert!(!NodeKey([1; 32]).to_string().contains(&name_of([1; 32])));
    }

    #[test]
    fn addresses_that_mean_nothing_elsewhere_are_left_out() {
        let ips = ["::1", "fe80::1", "0.0.0.0", "224.0.0.251", "10.0.0.2", "10.0.0.1"].map(|ip| ip.parse().unwrap());
        let expect: Vec<SocketAddr> = ["10.0.0.1:7", "10.0.0.2:7", "[::1]:7"].map(|it| it.parse().unwrap()).into();
        assert_eq!(addresses(ips.into_iter(), 7), expect);
    }
}
