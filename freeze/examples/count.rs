//! Freezes a counting program in one operating-system process and continues it in another:
//! `cargo run --release -p freeze --example count`.

use freeze::{Exit, Options, Pages, Program};
use std::collections::BTreeMap;
use std::time::Duration;
use wasmtime::{Config, Engine, Error, Linker, Store};

/// Counts to thirty, doing some work for each number. It knows nothing of being frozen.
const COUNTING: &str = r#"(module
  (import "host" "print" (func $print (param i32)))
  (func (export "count") (local $number i32) (local $work i32)
    (loop $next
      (local.set $number (i32.add (local.get $number) (i32.const 1)))
      (call $print (local.get $number))
      (local.set $work (i32.const 100000000))
      (loop $busy (br_if $busy (local.tee $work (i32.sub (local.get $work) (i32.const 1)))))
      (br_if $next (i32.lt_u (local.get $number) (i32.const 30))))))"#;

fn main() -> Result<(), Error> {
    let mut config = Config::new();
    let engine = Engine::new(freeze::configure(&mut config))?;
    let wasm = wat::parse_str(COUNTING).expect("the program above is right");
    let program = Program::new(&engine, &wasm, &Options::default())?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("host", "print", |number: i32| println!("  {} counts {number}", std::process::id()))?;
    let mut store = Store::new(&engine, ());

    if let Some(image) = std::env::args_os().nth(1) {
        let image = std::fs::File::open(image)?;
        let mut process = program.thaw(&mut store, &linker, image)?.process;
        println!("process {}: going on", std::process::id());
        process.resume(&mut store, &mut [])?;
        println!("process {}: the program has ended", std::process::id());
        return Ok(());
    }

    println!("process {}: starting the program", std::process::id());
    let mut process = program.instantiate(&mut store, &linker)?;
    let request = process.freeze_request();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        request.set();
    });
    match process.call(&mut store, "count", &[], &mut [])? {
        Exit::Returned => println!("the program ended before it could be frozen"),
        Exit::Frozen => {
            let path = std::env::temp_dir().join(format!("count-{}.image", std::process::id()));
            process.capture(&mut store, std::fs::File::create(&path)?, Pages::Included, BTreeMap::new())?;
            let size = std::fs::metadata(&path)?.len();
            println!("process {}: frozen into {size} bytes, {}; I end here", std::process::id(), path.display());
            let status = std::process::Command::new(std::env::current_exe()?).arg(&path).status()?;
            std::fs::remove_file(&path)?;
            std::process::exit(status.code().unwrap_or(1));
        }
    }
    Ok(())
}
