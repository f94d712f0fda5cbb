//! Rust's own: maps, sets, queues, strings, trait objects, closures, iterators, shared and counted boxes, drops in order.

use std::cell::RefCell;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt::{self, Write};
use std::rc::Rc;

/// An expression, evaluated through trait objects.
trait Value: fmt::Debug {
    fn value(&self, of: &HashMap<String, i64>) -> Result<i64, Problem>;
}

#[derive(Debug, PartialEq)]
enum Problem {
    Unknown(String),
    DivisionByZero,
    Overflow,
}

#[derive(Debug)]
struct Number(i64);

#[derive(Debug)]
struct Name(String);

#[derive(Debug)]
struct Binary {
    sign: char,
    left: Box<dyn Value>,
    right: Box<dyn Value>,
}

impl Value for Number {
    fn value(&self, _: &HashMap<String, i64>) -> Result<i64, Problem> {
        Ok(self.0)
    }
}

impl Value for Name {
    fn value(&self, of: &HashMap<String, i64>) -> Result<i64, Problem> {
        of.get(&self.0).copied().ok_or_else(|| Problem::Unknown(self.0.clone()))
    }
}

impl Value for Binary {
    fn value(&self, of: &HashMap<String, i64>) -> Result<i64, Problem> {
        let (left, right) = (self.left.value(of)?, self.right.value(of)?);
        match self.sign {
            '+' => left.checked_add(right).ok_or(Problem::Overflow),
            '*' => left.checked_mul(right).ok_or(Problem::Overflow),
            _ if right == 0 => Err(Problem::DivisionByZero),
            _ => left.checked_rem_euclid(right).ok_or(Problem::Overflow),
        }
    }
}

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn expression(chance: &mut Chance, depth: u32) -> Box<dyn Value> {
    match chance.below(4) {
        0 => Box::new(Number(chance.below(100) as i64 - 3)),
        1 => Box::new(Name(format!("n{}", chance.below(12)))),
        _ if depth == 0 => Box::new(Number(1)),
        n => Box::new(Binary {
            sign: ['+', '*', '%'][(n + chance.below(3)) as usize % 3],
            left: expression(chance, depth - 1),
            right: expression(chance, depth - 1),
        }),
    }
}

/// Says when it is dropped, and in which order.
struct Leaf {
    number: u64,
    dropped: Rc<RefCell<Vec<u64>>>,
}

impl Drop for Leaf {
    fn drop(&mut self) {
        self.dropped.borrow_mut().push(self.number);
    }
}

fn words(chance: &mut Chance) -> String {
    let parts = ["und", "grün", "δέλτα", "三", "ligature", "x", "🙂", "straße"];
    let count = 20 + chance.below(40);
    (0..count).map(|_| parts[chance.below(parts.len() as u64) as usize]).collect::<Vec<_>>().join(" ")
}

/// Shortest ways in a grid with holes.
fn ways(chance: &mut Chance) -> (usize, u64) {
    const SIDE: usize = 40;
    let holes: HashSet<(usize, usize)> =
        (0..300).map(|_| (chance.below(SIDE as u64) as usize, chance.below(SIDE as u64) as usize)).collect();
    let mut best: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    let mut open = BinaryHeap::from([(std::cmp::Reverse(0), (0, 0))]);
    while let Some((std::cmp::Reverse(far), (x, y))) = open.pop() {
        if best.contains_key(&(x, y)) {
            continue;
        }
        best.insert((x, y), far);
        let near = [(x + 1, y), (x, y + 1), (x.wrapping_sub(1), y), (x, y.wrapping_sub(1))];
        let inside = near.iter().filter(|(x, y)| *x < SIDE && *y < SIDE && !holes.contains(&(*x, *y)));
        open.extend(inside.map(|(x, y)| (std::cmp::Reverse(far + 1 + (x * y % 3) as u64), (*x, *y))));
    }
    (best.len(), best.values().sum())
}

fn main() {
    let mut chance = Chance(0x9e37_79b9);
    for round in 0..400 {
        let names: HashMap<String, i64> = (0..9).map(|n| (format!("n{}", n), chance.below(1 << 20) as i64)).collect();
        let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
        let mut sum = 0i64;
        for _ in 0..60 {
            match expression(&mut chance, 9).value(&names) {
                Ok(value) => sum = sum.wrapping_mul(31).wrapping_add(value),
                Err(problem) => *outcomes.entry(format!("{:?}", problem)).or_default() += 1,
            }
        }
        println!("{}: {} {:?}", round, sum, outcomes);

        let text = words(&mut chance);
        let mut counted: BTreeMap<&str, (usize, Vec<usize>)> = BTreeMap::new();
        for (at, word) in text.split_whitespace().enumerate() {
            let entry = counted.entry(word).or_default();
            entry.0 += 1;
            entry.1.push(at);
        }
        let mut line = String::new();
        for (word, (count, places)) in &counted {
            let upper: String = word.chars().rev().flat_map(char::to_uppercase).collect();
            write!(line, "{}×{}@{} ", upper, count, places.iter().sum::<usize>()).unwrap();
        }
        println!("{}", line.trim_end());

        let dropped = Rc::new(RefCell::new(vec![]));
        let mut queue: VecDeque<Rc<Leaf>> = VecDeque::new();
        let mut second = vec![];
        for number in 0..200 {
            let leaf = Rc::new(Leaf { number, dropped: dropped.clone() });
            if number % 3 == 0 {
                second.push(Rc::downgrade(&leaf));
            }
            queue.push_back(leaf);
            if queue.len() > 17 {
                queue.rotate_left(chance.below(5) as usize);
                queue.pop_front();
            }
        }
        let living = second.iter().filter(|leaf| leaf.upgrade().is_some()).count();
        drop(queue);
        let order = dropped.borrow().iter().fold(7u64, |hash, number| hash.wrapping_mul(131).wrapping_add(*number));
        println!("{} living, {} dropped, {:x}; {:?}", living, dropped.borrow().len(), order, ways(&mut chance));
    }
}
