//! Where this machine can be reached: the addresses of its network interfaces, as they are now. Knows no peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What others may try: `listening` as it is, and for "any address" one for each interface that is up. Addresses of this machine alone
/// are told only if there is nothing else.
pub fn reachable(listening: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for address in listening {
        if !address.ip().is_unspecified() {
            found.push(*address);
            continue;
        }
        let fits = |ip: &IpAddr| ip.is_ipv4() || address.is_ipv6();
        found.extend(interfaces().into_iter().filter(fits).map(|ip| SocketAddr::new(ip, address.port())));
    }
    found.sort_by_key(|address| (address.ip().is_loopback(), address.is_ipv6()));
    found.dedup();
    if found.iter().any(|address| !address.ip().is_loopback()) {
        found.retain(|address| !address.ip().is_loopback());
    }
    found
}

/// Addresses of interfaces that are up, without those that mean nothing elsewhere (link-local ones need a zone).
fn interfaces() -> Vec<IpAddr> {
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` is a place for one pointer, and what is written there is given back below.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    }
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: the list is ours until it is freed, and each entry is whole.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        if entry.ifa_addr.is_null() || entry.ifa_flags & libc::IFF_UP as u32 == 0 {
            continue;
        }
        // SAFETY: an address says by its family what it is, and is as long as one of that family.
        let ip = match i32::from(unsafe { (*entry.ifa_addr).sa_family }) {
            libc::AF_INET => {
                // SAFETY: as above.
                let address = unsafe { &*entry.ifa_addr.cast::<libc::sockaddr_in>() };
                IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let address = unsafe { &*entry.ifa_addr.cast::<libc::sockaddr_in6>() };
                IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr))
            }
            _ => continue,
        };
        let means_something = match ip {
            IpAddr::V4(ip) => !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        };
        if means_something {
            found.push(ip);
        }
    }
    // SAFETY: the list came from getifaddrs and nothing of it is used any more.
    unsafe { libc::freeifaddrs(list) };
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_becomes_those_of_the_machine() {
        let given: SocketAddr = "192.0.2.7:7700".parse().unwrap();
        assert_eq!(reachable(&[given]), [given]);
        let found = reachable(&["0.0.0.0:7700".parse().unwrap()]);
        assert!(
            !found.is_empty() && found.iter().all(|address| address.port() == 7700 && !address.ip().is_unspecified())
        );
        assert_eq!(reachable(&[]), []);
    }
}
