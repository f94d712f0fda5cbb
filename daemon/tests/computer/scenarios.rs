//! What must hold of the files of the whole computer, each as a story. A story panics where it is not so.

use super::*;
use std::sync::atomic::AtomicBool;

pub type Scenario = (&'static str, fn());

pub const ALL: &[Scenario] = &[
    ("everybody sees the same", everybody_sees_the_same),
    ("a late word of a lost holder changes nothing", a_late_word_of_a_lost_holder_changes_nothing),
    ("a holder that is cut off tells nothing old", a_holder_that_is_cut_off_tells_nothing_old),
    ("what is asked twice is done once", what_is_asked_twice_is_done_once),
    ("an open file without a name survives its holder", an_open_file_without_a_name_survives_its_holder),
    ("synced content survives any one disk", synced_content_survives_any_one_disk),
    ("a crash between content and fact leaves the old file", a_crash_between_content_and_fact_leaves_the_old_file),
    ("a removal that is late removes nothing", a_removal_that_is_late_removes_nothing),
    ("nothing acknowledged is lost with the holder", nothing_acknowledged_is_lost_with_the_holder),
    ("half a checkpoint is never recorded", kept::half_a_checkpoint_is_never_recorded),
    ("a checkpoint survives any one node", kept::a_checkpoint_survives_any_one_node_and_goes_when_it_is_removed),
];

pub fn everybody_sees_the_same() {
    let computer = Computer::of(3);
    let holder = computer.holder();
    let mut sessions: Vec<SharedFiles> = computer.all().iter().map(|(_, shared)| shared.session()).collect();
    for writer in 0..3 {
        let path = format!("of {writer}");
        let file = sessions[writer].open(OpenId(0), &path, &NEW).unwrap().id;
        for (round, at) in [0u64, 10, 70_000].into_iter().enumerate() {
            let bytes = pattern(5000, round as u64 + writer as u64);
            sessions[writer].write_at(file, &bytes, at).unwrap();
            // Nothing was synced, and nobody was told but by the answer.
            for (reader, session) in sessions.iter_mut().enumerate() {
                let content = get(session, &path).unwrap();
                assert!(content[at as usize..] == bytes, "node {reader} reads something else than {writer} wrote");
            }
        }
        let mut ends = vec![];
        for session in &mut sessions {
            let file = session.open(OpenId(0), &path, &WRITE).unwrap().id;
            ends.push(session.append(file, b"end").unwrap().1);
            session.close(file);
        }
        assert_eq!(ends, [75_003, 75_006, 75_009]);
        sessions[writer].close(file);
    }
    assert_eq!(computer.holder(), holder, "nobody took it away");
    let views: Vec<_> = computer.all().into_iter().map(|(_, shared)| shared.view()).collect();
    assert_eq!(views.iter().filter(|view| view.tree.is_some()).count(), 1, "one holds the tree");
    assert!(views.iter().all(|view| view.holder == Some(holder)), "and all know which");
    computer.all().iter().for_each(|(_, shared)| shared.check());
}

pub fn a_late_word_of_a_lost_holder_changes_nothing() {
    let computer = Computer::of(3);
    let first = computer.holder();
    let mut theirs = computer.session(computer.others()[0]);
    put(&mut theirs, "before", b"before").unwrap();
    computer.memory.hold_back(first);
    let late = {
        let mut files = computer.session(computer.others()[1]);
        std::thread::spawn(move || {
            // The first holder decides it, and is lost before that is durable.
            let file = files.open(OpenId(0), "file", &NEW)?.id;
            files.write_at(file, b"content", 0)?;
            files.sync(file, Durable::Everything)?;
            files.close(file);
            Ok::<(), Errno>(())
        })
    };
    until("the change is on its way", || computer.memory.waiting() > 0);
    computer.cut_off(first);
    until("another takes over", || {
        computer.all().iter().any(|(node, shared)| *node != first && shared.view().tree.is_some())
    });
    assert_eq!(late.join().unwrap(), Ok(()));
    assert_eq!(get(&mut theirs, "file"), Ok(b"content".to_vec()));
    let before = computer.memory.tree();
    computer.memory.let_through(first);
    until("what was late has arrived", || computer.memory.waiting() == 0);
    assert!(computer.memory.tree() == before, "a lost holder changed facts");
    let second =
        computer.all().into_iter().find(|(node, shared)| *node != first && shared.view().tree.is_some()).unwrap().0;
    computer.join_again(first);
    computer.kill(second);
    let mut files = computer.session(first);
    assert_eq!(get(&mut files, "file"), Ok(b"content".to_vec()));
    assert_eq!(get(&mut files, "before"), Ok(b"before".to_vec()));
    computer.node(computer.holder()).check();
}

pub fn a_holder_that_is_cut_off_tells_nothing_old() {
    let computer = Computer::with(3, SharedOptions { patience: Duration::from_secs(3), ..OPTIONS });
    let first = computer.holder();
    let mut old = computer.session(first);
    let mut new = computer.session(computer.others()[0]);
    put(&mut old, "file", b"old").unwrap();
    assert_eq!(get(&mut new, "file"), Ok(b"old".to_vec()));
    let held = old.open(OpenId(0), "file", &READ).unwrap().id;
    computer.cut_off(first);
    put(&mut new, "file", b"new").unwrap();
    new.unlink(OpenId(0), "file").unwrap();
    // It cannot know that, so it must not answer.
    let mut buffer = [0; 3];
    let read = old.read_at(held, &mut buffer, 0);
    assert_eq!(read, Err(Errno::TimedOut), "it said {buffer:?}");
    assert_eq!(old.stat_at(OpenId(0), "file", LastLink::Target), Err(Errno::TimedOut));
    assert_eq!(old.create_directory(OpenId(0), "made"), Err(Errno::TimedOut));
    let complaints = computer.node(first).view().complaints;
    assert!(complaints.iter().any(|one| one.contains("no majority can be reached")), "{complaints:?}");
    computer.join_again(first);
    assert_eq!(get(&mut old, "file"), Err(Errno::NoEnt));
    assert_eq!(new.stat_at(OpenId(0), "made", LastLink::Target).map(drop), Err(Errno::NoEnt));
    put(&mut old, "file", b"again").unwrap();
    assert_eq!(get(&mut new, "file"), Ok(b"again".to_vec()));
}

pub fn what_is_asked_twice_is_done_once() {
    let computer = Computer::of(2);
    let mut files = computer.session(computer.others()[0]);
    let log = files.open(OpenId(0), "log", &NEW).unwrap().id;
    computer.lose_answers(11, Some(4));
    for round in 0..60 {
        let (name, other) = (format!("file{round}"), format!("other{round}"));
        let file = files.open(OpenId(0), &name, &NEW).expect("nobody else makes it").id;
        files.close(file);
        files.create_directory(OpenId(0), &format!("directory{round}")).unwrap();
        files.link((OpenId(0), &name), (OpenId(0), &other)).unwrap();
        files.rename((OpenId(0), &name), (OpenId(0), "renamed")).unwrap();
        files.unlink(OpenId(0), &other).unwrap();
        files.symlink("x", OpenId(0), &other).unwrap();
        files.remove_directory(OpenId(0), &format!("directory{round}")).unwrap();
        files.append(log, b"12345").unwrap();
    }
    computer.lose_answers(0, None);
    assert_eq!(files.stat(log).unwrap().size_bytes, 300, "each append was done once");
    assert_eq!(computer.holder(), NodeId(3 - computer.others()[0].0));
    computer.node(computer.holder()).check();
}

pub fn an_open_file_without_a_name_survives_its_holder() {
    let computer = Computer::of(3);
    let mut files = computer.session(computer.others()[0]);
    let content = pattern(200_000, 3);
    put(&mut files, "file", &content).unwrap();
    let file = files.open(OpenId(0), "file", &WRITE).unwrap().id;
    let inode = files.stat(file).unwrap().inode;
    files.unlink(OpenId(0), "file").unwrap();
    let orphan = files.orphan_file(b"never had a name").unwrap();
    files.sync(orphan, Durable::Everything).unwrap();
    let directory = files.orphan_directory().unwrap();
    computer.kill(computer.holder());
    let mut all = vec![0; content.len()];
    assert_eq!(files.read_at(file, &mut all, 0), Ok(content.len()));
    assert!(all == content);
    assert_eq!((files.stat(file).unwrap().inode, files.stat(file).unwrap().links), (inode, 0));
    assert_eq!(files.locate(file), Ok(Place::Unlinked("file".into())));
    assert_eq!(files.content(orphan, 100), Ok(b"never had a name".to_vec()));
    assert_eq!(files.list(directory).unwrap().len(), 2);
    files.write_at(file, b"more", 0).unwrap();
    files.sync(file, Durable::Everything).unwrap();
    // It stays for as long as it is open, and no longer.
    let holder = computer.holder();
    std::thread::sleep(computer.options.grace + Duration::from_millis(500));
    assert_eq!(files.read_at(file, &mut all, 0), Ok(content.len()));
    assert!(all[..4] == *b"more" && all[4..] == content[4..]);
    drop(files);
    until("what nobody has open is gone", || {
        let _ = computer.node(holder).flush();
        computer.all().iter().all(|(node, _)| computer.chunks(*node) == 0)
    });
    assert!(computer.node(holder).view().tree.unwrap().inodes == 1);
}

pub fn synced_content_survives_any_one_disk() {
    let computer = Computer::of(3);
    let mut expected = BTreeMap::new();
    for round in 0..4 {
        let node = computer.all()[round % 3].0;
        let mut files = computer.session(node);
        for index in 0..8 {
            let (path, content) = (format!("{round}-{index}"), pattern(100_000 + index, (round * 8 + index) as u64));
            put(&mut files, &path, &content).unwrap();
            expected.insert(path, content);
        }
        drop(files);
        // At once: nothing has had time to be copied afterwards.
        let lost = computer.holder();
        computer.kill(lost);
        computer.wipe(lost);
        let mut files = computer.session(computer.all()[0].0);
        for (path, content) in &expected {
            let found = get(&mut files, path);
            assert!(found.as_ref() == Ok(content), "{path} was lost with {lost}: {:?}", found.err());
        }
        let holder = computer.holder();
        until("there are two copies of everything again", || {
            let view = computer.node(holder).view();
            view.copies.is_some_and(|copies| copies.thin == 0 && copies.chunks >= 2 * expected.len() as u64)
        });
        let names: BTreeSet<PathBuf> =
            computer.all().iter().flat_map(|(node, _)| files_in(&computer.directory(*node))).collect();
        assert!(!names.is_empty());
        computer.start(lost);
        assert_eq!(computer.all().len(), 3);
    }
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path()).collect()
}

pub fn a_crash_between_content_and_fact_leaves_the_old_file() {
    let computer = Computer::of(3);
    let holder = computer.holder();
    let mut files = computer.session(computer.others()[0]);
    let (old, new) = (pattern(150_000, 1), pattern(150_000, 2));
    put(&mut files, "file", &old).unwrap();
    let chunks: usize = computer.all().iter().map(|(node, _)| computer.chunks(*node)).sum();
    let file = files.open(OpenId(0), "file", &WRITE).unwrap().id;
    files.write_at(file, &new, 0).unwrap();
    computer.memory.hold_back(holder);
    let sync = std::thread::spawn(move || {
        let synced = files.sync(file, Durable::Everything);
        (files, file, synced)
    });
    until("the content is stored and the fact is on its way", || computer.memory.waiting() > 0);
    let stored: usize = computer.all().iter().map(|(node, _)| computer.chunks(*node)).sum();
    assert!(stored > chunks, "content is stored before the fact");
    computer.kill(holder);
    let (mut files, file, synced) = sync.join().unwrap();
    assert_eq!(synced, Err(Errno::Io), "what was only in the holder's memory is gone, and that is said");
    assert!(get(&mut files, "file").unwrap() == old);
    assert_eq!(files.sync(file, Durable::Everything), Ok(()), "once");
    computer.memory.let_through(holder);
    until("what nobody needs is gone", || {
        computer.all().iter().map(|(node, _)| computer.chunks(*node)).sum::<usize>() <= 6
    });
    assert!(get(&mut files, "file").unwrap() == old);
}

pub fn a_removal_that_is_late_removes_nothing() {
    let computer = Computer::with(3, SharedOptions { copies: 3, scan_every: LONG, ..OPTIONS });
    let first = computer.holder();
    let others = computer.others();
    let content = pattern(200_000, 9);
    let mut files = computer.session(others[0]);
    put(&mut files, "file", &content).unwrap();
    // Files, of which one holds all chunks of a sync.
    let on_disks = || others.iter().map(|node| computer.chunks(*node)).collect::<Vec<usize>>();
    let stored = on_disks();
    assert!(stored.iter().all(|files| *files > 0));
    computer.remove_late(Some(first));
    files.unlink(OpenId(0), "file").unwrap();
    until("it is to be removed everywhere", || {
        let _ = computer.node(first).flush();
        computer.late() >= 2
    });
    computer.cut_off(first);
    let left: Vec<NodeId> = others.clone();
    others.iter().for_each(|node| computer.node(*node).members(&left));
    put(&mut files, "again", &content).unwrap();
    let again = on_disks();
    assert!(again.iter().all(|files| *files > 0));
    computer.remove_late(None);
    until("what was late has arrived", || computer.late() == 0);
    assert_eq!(on_disks(), again, "a holder that had lost the tree removed what is needed");
    assert!(get(&mut files, "again").unwrap() == content);
}

/// What one caller knows of his own directory.
struct Caller {
    directory: String,
    /// What certainly stands in each file; nothing if it certainly is not there.
    known: BTreeMap<String, Option<Vec<u8>>>,
    acts: u64,
}

impl Caller {
    fn work(mut self, mut files: SharedFiles, seed: u64, ends: &AtomicBool) -> Caller {
        let random = Random::new(seed);
        let _ = files.create_directory(OpenId(0), &self.directory);
        let mut round = 0;
        while !ends.load(Ordering::SeqCst) {
            round += 1;
            let path = format!("{}/{}", self.directory, random.below(12));
            let size = [10, 3000, 70_000][random.below(3) as usize];
            let content = pattern(size, seed * 1000 + round);
            let there = self.known.get(&path).cloned();
            match (random.below(4), there) {
                (0, Some(Some(_))) => match files.unlink(OpenId(0), &path) {
                    Ok(()) => drop(self.known.insert(path, None)),
                    Err(Errno::NoEnt) => panic!("{path} is gone, though nobody removed it"),
                    Err(_) => drop(self.known.remove(&path)),
                },
                (1, Some(Some(was))) => {
                    let to = format!("{path}-{round}");
                    match files.rename((OpenId(0), &path), (OpenId(0), &to)) {
                        Ok(()) => {
                            self.known.insert(path, None);
                            self.known.insert(to.clone(), Some(was));
                            match files.unlink(OpenId(0), &to) {
                                Ok(()) => drop(self.known.insert(to, None)),
                                Err(Errno::NoEnt) => panic!("{to} is gone, though nobody removed it"),
                                Err(_) => drop(self.known.remove(&to)),
                            }
                        }
                        Err(Errno::NoEnt) => panic!("{path} is gone, though nobody moved it"),
                        Err(_) => {
                            self.known.remove(&path);
                            self.known.remove(&to);
                        }
                    }
                }
                (2, Some(None)) => match files.open(OpenId(0), &path, &NEW) {
                    Ok(opened) => {
                        files.close(opened.id);
                        self.known.insert(path, Some(vec![]));
                    }
                    Err(Errno::Exist) => panic!("{path} is there, though nobody made it"),
                    Err(_) => drop(self.known.remove(&path)),
                },
                (3, Some(Some(was))) => match get(&mut files, &path) {
                    Ok(found) => assert!(found == was, "{path} has other content than was synced"),
                    Err(Errno::NoEnt) => panic!("{path} is gone"),
                    Err(_) => {}
                },
                _ => {
                    // Until it is synced it may be anything.
                    self.known.remove(&path);
                    if put(&mut files, &path, &content).is_ok() {
                        self.known.insert(path, Some(content));
                    }
                }
            }
            self.acts += 1;
        }
        self
    }
}

pub fn nothing_acknowledged_is_lost_with_the_holder() {
    for seed in 0..2 {
        let computer = Computer::of(3);
        computer.holder();
        computer.lose_answers(seed, Some(30));
        let ends = AtomicBool::new(false);
        let callers: Vec<Caller> = std::thread::scope(|scope| {
            let ends = &ends;
            let callers: Vec<_> = (0..6)
                .map(|number: u64| {
                    let files = computer.session(NodeId(1 + (number % 3) as u16));
                    let caller = Caller { directory: format!("of {number}"), known: BTreeMap::new(), acts: 0 };
                    scope.spawn(move || caller.work(files, seed * 10 + number + 1, ends))
                })
                .collect();
            let random = Random::new(seed ^ 99);
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(200 + random.below(500)));
                let holder = computer.holder();
                // A session of a node that is cut off waits; it is there again before its patience ends.
                computer.cut_off(holder);
                let others: Vec<NodeId> =
                    computer.all().into_iter().map(|(node, _)| node).filter(|node| *node != holder).collect();
                for (node, shared) in computer.all() {
                    if node != holder {
                        shared.members(&others);
                    }
                }
                until("another takes over", || {
                    computer.all().iter().any(|(node, shared)| *node != holder && shared.view().tree.is_some())
                });
                std::thread::sleep(Duration::from_millis(100 + random.below(300)));
                computer.join_again(holder);
            }
            std::thread::sleep(Duration::from_millis(300));
            ends.store(true, Ordering::SeqCst);
            callers.into_iter().map(|caller| caller.join().expect("a caller finds what it left")).collect()
        });
        computer.lose_answers(0, None);
        let acts: u64 = callers.iter().map(|caller| caller.acts).sum();
        assert!(acts > 50, "only {acts} acts were done");
        // What is left is what a new start of everything finds.
        let holder = computer.holder();
        computer.node(holder).check();
        computer.kill(holder);
        let mut files = computer.session(computer.all()[0].0);
        for caller in &callers {
            for (path, known) in &caller.known {
                match (get(&mut files, path), known) {
                    (Ok(found), Some(content)) => assert!(found == *content, "seed {seed}: {path} has other content"),
                    (Err(Errno::NoEnt), None) => {}
                    (found, _) => {
                        panic!("seed {seed}: {path}: {:?}, should be there: {}", found.map(|_| ()), known.is_some())
                    }
                }
            }
        }
    }
}
