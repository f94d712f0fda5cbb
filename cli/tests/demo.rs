//! What people are shown first: `una demo`, by the real binary, to its end.

mod house;

use house::House;

#[test]
fn the_demo_shows_what_it_says() {
    let house = House::new();
    let shown = house.done(&["demo", "--directory", "nodes"]);
    assert_eq!((shown.status, shown.err.as_str()), (0, ""), "{}", shown.out);
    for part in ["runs on attic", "runs on cellar", "it counts on, on ", "none is missing, none came twice"] {
        assert!(shown.out.contains(part), "no {part:?} in:\n{}", shown.out);
    }
}
