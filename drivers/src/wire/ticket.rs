//! A ticket: all that a new node must know to join, as one word that can be copied, mailed and read out. Knows no network.
//!
//! The one idea: it names the issuer by key, so the addresses in it need not be trusted, and holds a secret that works once, so the
//! issuer need not know who comes. It is only as secret as the way it is sent, and only until it expires.
//!
//! ```text
//!   una1 base32( length 1 | form 1 | key 32 | secret 16 | expires 8 | count 1 | (4|6 1, address 4|16, port 2)* | check 4 )
//! ```
//! Numbers are big-endian; `check` is the beginning of the BLAKE3 hash of what stands before it.

use abi::ids::NodeKey;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

const PREFIX: &str = "una1";
const FORM: u8 = 1;
const CHECK_BYTES: usize = 4;
/// Up to and with the count.
const FIXED_BYTES: usize = 1 + 1 + 32 + 16 + 8 + 1;
/// More addresses are left out, the last first.
pub const ADDRESSES_MAX: usize = 8;
/// Base32 as in RFC 4648, in small letters, without padding.
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Not `Debug`, so that the secret does not end in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Who gave it out, and will have to be met.
    pub issuer: NodeKey,
    /// Works once.
    pub secret: [u8; 16],
    /// Seconds since 1970 by the issuer's clock, which alone decides.
    pub expires: u64,
    /// Where the issuer may be found. Eight at most are written.
    pub addresses: Vec<SocketAddr>,
}

/// What is wrong with a text that should be a ticket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TicketError {
    #[error("this is no ticket: a ticket begins with `una1`; get one by `una ticket` on a node of the system")]
    NotATicket,
    #[error("this ticket is of a newer una (form {0}): bring this machine to the same version")]
    Newer(u8),
    #[error("the ticket is cut short or has something added: copy all of it, from `una1` to its end")]
    Cut,
    #[error("the ticket has a character ({0:?}) that tickets do not have: copy it again")]
    Character(char),
    #[error("the ticket was changed on the way: copy it again, or get a new one by `una ticket`")]
    Damaged,
}

impl Ticket {
    /// `now` in seconds since 1970. The issuer's clock decides; anyone else's only helps to guess why the issuer is not there.
    pub fn is_expired(&self, now: u64) -> bool {
        now >= self.expires
    }

    fn to_bytes(&self) -> Vec<u8> {
        let addresses = &self.addresses[..self.addresses.len().min(ADDRESSES_MAX)];
        let mut bytes = vec![0, FORM];
        bytes.extend(self.issuer.0);
        bytes.extend(self.secret);
        bytes.extend(self.expires.to_be_bytes());
        bytes.push(u8::try_from(addresses.len()).expect("eight at most"));
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend(ip.octets());
                }
            }
            bytes.extend(address.port().to_be_bytes());
        }
        bytes[0] = u8::try_from(bytes.len() + CHECK_BYTES).expect("eight addresses of 19 bytes fit");
        let check = blake3::hash(&bytes);
        bytes.extend(&check.as_bytes()[..CHECK_BYTES]);
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Result<Ticket, TicketError> {
        match bytes {
            [] | [_] => return Err(TicketError::Cut),
            [_, form, ..] if *form > FORM => return Err(TicketError::Newer(*form)),
            [length, ..] if usize::from(*length) != bytes.len() => return Err(TicketError::Cut),
            _ if bytes.len() < FIXED_BYTES + CHECK_BYTES => return Err(TicketError::Cut),
            _ => {}
        }
        let (content, check) = bytes.split_at(bytes.len() - CHECK_BYTES);
        if blake3::hash(content).as_bytes()[..CHECK_BYTES] != *check || content[1] != FORM {
            return Err(TicketError::Damaged);
        }
        let mut rest = &content[2..];
        let issuer = NodeKey(take(&mut rest)?);
        let secret = take(&mut rest)?;
        let expires = u64::from_be_bytes(take(&mut rest)?);
        let [count] = take(&mut rest)?;
        let mut addresses = Vec::new();
        for _ in 0..count {
            let ip = match take(&mut rest)? {
                [4] => IpAddr::from(take::<4>(&mut rest)?),
                [6] => IpAddr::from(take::<16>(&mut rest)?),
                _ => return Err(TicketError::Damaged),
            };
            addresses.push(SocketAddr::new(ip, u16::from_be_bytes(take(&mut rest)?)));
        }
        match rest {
            [] => Ok(Ticket { issuer, secret, expires, addresses }),
            _ => Err(TicketError::Damaged),
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], TicketError> {
    let (taken, after) = rest.split_first_chunk().ok_or(TicketError::Damaged)?;
    *rest = after;
    Ok(*taken)
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(PREFIX)?;
        f.write_str(&letters_of(&self.to_bytes()))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Space around it, capital letters and line breaks inside, as mail programs make them, do no harm.
    fn from_str(text: &str) -> Result<Ticket, TicketError> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect();
        let letters = text.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
        Ticket::of_bytes(&bytes_of(letters)?)
    }
}

fn letters_of(bytes: &[u8]) -> String {
    let (mut text, mut held, mut bits) = (String::new(), 0u32, 0);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(LETTERS[(held >> bits & 31) as usize]));
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(LETTERS[(held << (5 - bits) & 31) as usize]));
    }
    text
}

fn bytes_of(letters: &str) -> Result<Vec<u8>, TicketError> {
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0u32, 0);
    for letter in letters.chars() {
        let value = LETTERS.iter().position(|known| char::from(*known) == letter);
        held = held << 5 | u32::try_from(value.ok_or(TicketError::Character(letter))?).expect("below 32");
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    // What is left over is less than a letter and zero, or something is missing.
    match bits >= 5 || held != 0 {
        true => Err(TicketError::Cut),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(addresses: &[&str]) -> Ticket {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Ticket { issuer: NodeKey([7; 32]), secret: [9; 16], expires: 1_800_000_000, addresses }
    }

    #[test]
    fn it_comes_back_as_it_was() {
        for addresses in [&[][..], &["10.0.0.1:7700"], &["10.0.0.1:7700", "[fd00::1]:7701"], &["[::1]:1"; 8]] {
            let (made, text) = (ticket(addresses), ticket(addresses).to_string());
            assert!(text.parse::<Ticket>().unwrap() == made, "{text}");
            let mailed = format!(" {}\n{}\r\n", &text[..20].to_uppercase(), &text[20..]);
            assert!(mailed.parse::<Ticket>().unwrap() == made, "{mailed}");
        }
    }

    #[test]
    fn more_addresses_than_fit_are_left_out() {
        assert_eq!(ticket(&["10.0.0.1:1"; 20]).to_string().parse::<Ticket>().unwrap().addresses.len(), ADDRESSES_MAX);
    }

    #[test]
    fn no_other_text_is_a_ticket() {
        let text = ticket(&["10.0.0.1:7700", "[fd00::1]:7701"]).to_string();
        for length in 0..text.len() {
            assert!(text[..length].parse::<Ticket>().is_err(), "{length}");
        }
        for place in 4..text.len() {
            for letter in
                LETTERS.iter().map(|letter| char::from(*letter)).filter(|letter| !text[place..].starts_with(*letter))
            {
                let changed = format!("{}{letter}{}", &text[..place], &text[place + 1..]);
                assert!(changed.parse::<Ticket>().is_err(), "{changed}");
            }
        }
        let check = |text: &str, expect| assert_eq!(text.parse::<Ticket>().err(), Some(expect), "{text}");
        check("", TicketError::NotATicket);
        check("https://example.org", TicketError::NotATicket);
        check("una1", TicketError::Cut);
        check(&text[..50], TicketError::Cut);
        check(&format!("{text}aaaaaaaa"), TicketError::Cut);
        check(&text.replace('q', "ä"), TicketError::Character('ä'));
        let mut newer = ticket(&[]).to_bytes();
        newer[1] = 2;
        check(&format!("una1{}", letters_of(&newer)), TicketError::Newer(2));
    }

    #[test]
    fn it_expires() {
        assert!(!ticket(&[]).is_expired(1_799_999_999));
        assert!(ticket(&[]).is_expired(1_800_000_000));
    }
}
