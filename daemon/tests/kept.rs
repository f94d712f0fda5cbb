//! Checkpoints beside the files of a computer of several nodes. `tests/computer/kept.rs` says what can happen to them.

mod computer;

use computer::kept;

#[test]
fn half_a_checkpoint_is_never_recorded() {
    kept::half_a_checkpoint_is_never_recorded();
}

#[test]
fn a_checkpoint_survives_any_one_node_and_goes_when_it_is_removed() {
    kept::a_checkpoint_survives_any_one_node_and_goes_when_it_is_removed();
}

#[test]
fn a_draft_lasts_until_its_node_is_gone() {
    kept::a_draft_lasts_until_its_node_is_gone();
}

#[test]
fn a_checkpoint_is_recorded_once_whatever_is_lost_on_the_way() {
    kept::a_checkpoint_is_recorded_once_whatever_is_lost_on_the_way();
}

#[test]
fn on_a_full_disk_nothing_is_half_kept() {
    kept::on_a_full_disk_nothing_is_half_kept();
}
