//! etcd's words in JSON: numbers of 64 bits are text, bytes are base64, what is zero or empty is left out, and depending on its
//! version names are `like_this` or `likeThis`.

use crate::coordinator::Revision;
use serde_json::Value;

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as base64 (RFC 4648).
pub fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let number = (0..3).fold(0u32, |number, place| number << 8 | u32::from(group.get(place).copied().unwrap_or(0)));
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// What base64 means, if it is that.
pub fn bytes(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut number = 0u32;
        for place in 0..4 {
            let digit = match group.get(place) {
                Some(digit) => value(*digit)?,
                None => 0,
            };
            number = number << 6 | digit;
        }
        if group.len() == 1 {
            return None;
        }
        bytes.extend(&number.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

fn value(digit: u8) -> Option<u32> {
    Some(u32::from(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    }))
}

/// A field, by its name `like_this`.
pub fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| {
        let mut camel = String::new();
        let mut is_upper = false;
        for letter in name.chars() {
            match letter {
                '_' => is_upper = true,
                letter if is_upper => {
                    camel.push(letter.to_ascii_uppercase());
                    is_upper = false;
                }
                letter => camel.push(letter),
            }
        }
        object.get(camel)
    })
}

/// A number. What is left out is zero.
pub fn int_of(object: &Value, name: &str) -> u64 {
    match field(object, name) {
        Some(Value::String(text)) => text.parse().unwrap_or(0),
        Some(Value::Number(number)) => number.as_u64().unwrap_or(0),
        _ => 0,
    }
}

pub fn bytes_of(object: &Value, name: &str) -> Option<Vec<u8>> {
    bytes(field(object, name)?.as_str()?)
}

/// What is left out has nothing in it.
pub fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    field(object, name).and_then(Value::as_array).map_or(&[], |list| list)
}

pub fn header_revision(answer: &Value) -> Option<Revision> {
    match int_of(field(answer, "header")?, "revision") {
        0 => None,
        revision => Some(Revision(revision)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_in_its_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(text(plain.as_bytes()), coded);
            assert_eq!(bytes(coded).unwrap(), plain.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes(&text(&all)).unwrap(), all);
        assert_eq!(bytes("Zg!="), None);
        assert_eq!(bytes("Z"), None);
    }

    #[test]
    fn both_ways_of_writing_names_are_read() {
        let object = serde_json::json!({ "modRevision": "7", "create_revision": 3, "kvs": [1] });
        assert_eq!((int_of(&object, "mod_revision"), int_of(&object, "create_revision")), (7, 3));
        assert_eq!((int_of(&object, "none"), list(&object, "kvs").len(), list(&object, "none").len()), (0, 1, 0));
    }
}
