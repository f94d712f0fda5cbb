//! Whatever bytes come from another node, no kernel panics, loses an invariant or gives out a right: at worst the session ends.

use sim::cluster;

#[test]
fn forged_packets_end_sessions_and_nothing_else() {
    let mut ended = 0;
    for seed in 0..150 {
        match cluster::play_forged(seed) {
            Ok(breaches) => ended += breaches,
            Err(violation) => panic!("{}", violation.0),
        }
    }
    assert!(ended > 100, "only {ended} sessions were ended: the forgeries are not heeded");
}

#[test]
fn bytes_that_are_no_packet_are_told_from_those_that_are() {
    assert!(!kernel::session::examine(b""));
    assert!(!kernel::session::examine(&[1; 34]));
    let mut state = 1u64;
    for length in 0..2000usize {
        let bytes: Vec<u8> = (0..length % 200)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as u8
            })
            .collect();
        kernel::session::examine(&bytes);
    }
}
