//! Images that are cut, damaged, foreign or hostile: always a typed error, never a wrong state.

use freeze::ImageError;
use freeze::image::{Identity, PIECE_MAX, Reader, State, Value, Writer};
use std::collections::BTreeMap;

fn state() -> State {
    State {
        identity: Identity { program: [7; 32], options: freeze::Options::default() },
        attachments: BTreeMap::from([("wasi".to_string(), vec![1, 2, 3]), ("empty".to_string(), vec![])]),
        globals: vec![
            (0, Value::I32(5)),
            (1, Value::I64(u64::MAX)),
            (2, Value::F32(0x7fa0_0001)),
            (3, Value::F64(1)),
            (4, Value::V128(u128::MAX - 1)),
            (5, Value::Function(Some(3))),
            (6, Value::Function(None)),
        ],
        tables: vec![(0, vec![None, Some(1)]), (2, vec![])],
        references: vec![Some(9)],
        pages: freeze::Pages::Included,
        dropped_data: vec![1],
        dropped_elem: vec![0, 4],
        memories: vec![3 * 65536, 0],
        frames: (0..40).collect(),
    }
}

fn bytes() -> Vec<u8> {
    let mut writer = Writer::new(vec![], &state()).unwrap();
    writer.memory(0, 4096, &[0xaa; 100]).unwrap();
    writer.memory(0, 3 * 65536 - 4, &[1, 2, 3, 4]).unwrap();
    writer.finish().unwrap()
}

type Pieces = Vec<(u32, u64, Vec<u8>)>;

fn read(mut bytes: &[u8]) -> Result<(State, Pieces), ImageError> {
    let mut reader = Reader::open(&mut bytes)?;
    let mut pieces = vec![];
    while let Some(piece) = reader.piece()? {
        pieces.push((piece.memory, piece.offset, piece.bytes));
    }
    Ok((reader.state().clone(), pieces))
}

#[test]
fn comes_back_as_it_was() {
    let (found, pieces) = read(&bytes()).unwrap();
    assert_eq!(found, state());
    assert_eq!(pieces, [(0, 4096, vec![0xaa; 100]), (0, 3 * 65536 - 4, vec![1, 2, 3, 4])]);
}

#[test]
fn cut_anywhere() {
    let whole = bytes();
    for length in 0..whole.len() {
        match read(&whole[..length]) {
            Err(ImageError::Truncated { .. }) => {}
            Err(ImageError::NotAnImage) if length < 8 => {}
            other => panic!("cut at {length}: {other:?}"),
        }
    }
}

#[test]
fn every_bit_flipped() {
    let whole = bytes();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&flipped).is_err(), "bit {bit} was flipped and nothing noticed");
    }
}

/// Sections as (start, end), behind the header.
fn sections(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut at = 8 + 4 + 4 + 2 + 32 + 32;
    let mut found = vec![];
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at + 5..at + 13].try_into().unwrap()) as usize;
        found.push((at, at + 13 + length + 32));
        at += 13 + length + 32;
    }
    found
}

#[test]
fn sections_left_out_doubled_or_exchanged() {
    let whole = bytes();
    let sections = sections(&whole);
    assert!(sections.len() >= 7);
    for (index, (start, end)) in sections.iter().enumerate() {
        let mut without = whole.clone();
        without.drain(start..end);
        assert!(read(&without).is_err(), "section {index} was left out");
        let mut doubled = whole.clone();
        doubled.splice(end..end, whole[*start..*end].iter().copied());
        let last = index == sections.len() - 1;
        // What follows the end is the next thing in the stream, not part of the image.
        assert_eq!(read(&doubled).is_ok(), last, "section {index} was doubled");
        if let Some((next, next_end)) = sections.get(index + 1) {
            let mut exchanged = whole[..*start].to_vec();
            exchanged.extend_from_slice(&whole[*next..*next_end]);
            exchanged.extend_from_slice(&whole[*start..*end]);
            exchanged.extend_from_slice(&whole[*next_end..]);
            assert!(read(&exchanged).is_err(), "section {index} was exchanged with the next");
        }
    }
}

#[test]
fn lengths_that_lie_take_no_memory() {
    let whole = bytes();
    for (start, _) in sections(&whole) {
        for length in [u64::MAX, 1 << 40, 1 << 33] {
            let mut lie = whole.clone();
            lie[start + 5..start + 13].copy_from_slice(&length.to_le_bytes());
            assert!(matches!(read(&lie), Err(ImageError::Truncated { .. } | ImageError::Damaged { .. })));
        }
    }
}

#[test]
fn other_versions_and_other_things() {
    let whole = bytes();
    let mut other = whole.clone();
    other[8] = 99;
    assert!(matches!(read(&other), Err(ImageError::Version { found: 99, .. })));
    assert!(matches!(read(b"\x7fELF\x02\x01\x01\0 and so on"), Err(ImageError::NotAnImage)));
    assert!(matches!(read(b""), Err(ImageError::NotAnImage)));
    let mut rewriter = whole.clone();
    rewriter[12] = 0xfe;
    let checksum = *blake3::hash(&rewriter[..50]).as_bytes();
    rewriter[50..82].copy_from_slice(&checksum);
    assert!(matches!(read(&rewriter), Err(ImageError::OtherRewriter { .. })));
}

#[test]
fn memory_outside_of_the_memory() {
    for (memory, offset) in [(0, 3 * 65536 - 3), (0, u64::MAX - 1), (1, 0), (2, 0), (u32::MAX, 0)] {
        let mut writer = Writer::new(vec![], &state()).unwrap();
        writer.memory(memory, offset, &[1, 2, 3, 4]).unwrap();
        let image = writer.finish().unwrap();
        assert!(matches!(read(&image), Err(ImageError::Inconsistent { .. })), "memory {memory} at {offset}");
    }
}

#[test]
fn long_memory_is_cut_in_pieces() {
    let mut long = state();
    long.memories[0] = 64 * 65536;
    let mut writer = Writer::new(vec![], &long).unwrap();
    let content: Vec<u8> = (0..PIECE_MAX * 2 + 5).map(|i| (i % 251) as u8).collect();
    writer.memory(0, 3, &content).unwrap();
    let (_, pieces) = read(&writer.finish().unwrap()).unwrap();
    assert_eq!(pieces.iter().map(|(_, _, bytes)| bytes.len()).collect::<Vec<_>>(), [PIECE_MAX, PIECE_MAX, 5]);
    assert_eq!(pieces[2].1, 3 + 2 * PIECE_MAX as u64);
    assert_eq!(pieces.into_iter().flat_map(|(_, _, bytes)| bytes).collect::<Vec<_>>(), content);
}
