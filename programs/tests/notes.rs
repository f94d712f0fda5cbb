//! What Rust's standard library makes of WASI: lines of standard input, the environment, files and directories below its first
//! argument, clocks; and how a Rust program ends: `notes DIRECTORY`, `notes exit`, `notes panic`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

fn main() -> io::Result<()> {
    let first = std::env::args().nth(1).expect("an argument says what to do");
    match first.as_str() {
        "exit" => std::process::exit(41),
        "panic" => {
            let none: Option<u32> = std::env::args().nth(99).map(|_| 1);
            println!("{}", none.expect("there are no ninety-nine arguments"));
            Ok(())
        }
        directory => notes(Path::new(directory)),
    }
}

fn notes(directory: &Path) -> io::Result<()> {
    let began = Instant::now();
    let variables: BTreeMap<String, String> = std::env::vars().collect();
    println!("environment: {:?}", variables);

    let kept = directory.join("notes");
    fs::create_dir_all(kept.join("old/older"))?;
    let mut lines: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut log = OpenOptions::new().create(true).append(true).open(kept.join("log"))?;
    let (mut number, mut sum) = (0usize, 0u32);
    for line in io::stdin().lock().split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        sum = line.bytes().fold(sum, |sum, byte| sum.rotate_left(5) ^ u32::from(byte));
        number += 1;
        println!("{}: {} bytes, {:08x}", number, line.len(), sum);
        writeln!(log, "{} {:08x}", number, sum)?;
        // A file for each length, rewritten whole through a new one that takes its name.
        let all = lines.entry(line.len() % 10).or_default();
        all.push(line);
        let (new, name) = (kept.join("new"), kept.join(format!("length-{}", all[0].len() % 10)));
        fs::write(&new, all.join("\n"))?;
        fs::rename(&new, &name)?;
        if number % 50 == 0 {
            fs::rename(&name, kept.join("old").join(format!("{}", number)))?;
            std::thread::sleep(Duration::from_millis(3));
        }
    }
    drop(log);

    let mut log = File::open(kept.join("log"))?;
    let mut text = String::new();
    log.read_to_string(&mut text)?;
    assert_eq!(text.lines().count(), number);
    log.seek(SeekFrom::End(-9))?;
    text.clear();
    log.read_to_string(&mut text)?;
    assert_eq!(text.trim_end(), format!("{:08x}", sum));
    print_tree(&kept, 0)?;

    assert_eq!(fs::remove_dir(kept.join("old")).unwrap_err().raw_os_error(), Some(55), "it is not empty");
    assert_eq!(File::open(kept.join("nothing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(fs::create_dir(&kept).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    fs::remove_dir_all(kept.join("old"))?;
    let size = fs::metadata(kept.join("log"))?.len();
    fs::copy(kept.join("log"), kept.join("copy"))?;
    OpenOptions::new().write(true).open(kept.join("copy"))?.set_len(100)?;
    println!("log {} bytes, copy {}", size, fs::metadata(kept.join("copy"))?.len());
    let modified = fs::metadata(kept.join("copy"))?.modified()?;
    assert!(modified <= SystemTime::now() + Duration::from_secs(1), "the clock of files is not ahead");
    assert!(began.elapsed() >= Duration::from_millis(3 * (number as u64 / 50)));
    Ok(())
}

fn print_tree(directory: &Path, depth: usize) -> io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let kind = if entry.file_type()?.is_dir() { "directory" } else { "file" };
        println!("{}{} {}", "  ".repeat(depth), kind, entry.file_name().to_string_lossy());
        if kind == "directory" {
            print_tree(&entry.path(), depth + 1)?;
        }
    }
    Ok(())
}
