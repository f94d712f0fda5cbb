//! Small programs for tests, as text.

/// What all of them begin with: WASI, and a few functions over it. An error of a call ends the program with status 100 + errno.
/// Memory below 1024 is scratch; the programs' own data begins there.
const PRELUDE: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $path_filestat_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 4)
  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (i32.add (i32.const 100) (local.get $errno))))))
  (func $write (param $fd i32) (param $at i32) (param $length i32)
    (loop $more
      (if (i32.eqz (local.get $length)) (then (return)))
      (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $length))
      (call $check (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $at (i32.add (local.get $at) (i32.load (i32.const 8))))
      (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 8))))
      (br $more)))
  (func $read (param $fd i32) (param $at i32) (param $length i32) (result i32)
    (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $length))
    (call $check (call $fd_read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.load (i32.const 8)))
  (func $open (param $at i32) (param $length i32) (param $oflags i32) (param $rights i64) (result i32)
    (call $check (call $path_open (i32.const 3) (i32.const 1) (local.get $at) (local.get $length) (local.get $oflags)
      (local.get $rights) (local.get $rights) (i32.const 0) (i32.const 8)))
    (i32.load (i32.const 8)))
  (func $exists (param $at i32) (param $length i32) (result i32)
    (i32.eqz (call $path_filestat_get (i32.const 3) (i32.const 1) (local.get $at) (local.get $length) (i32.const 64))))
  (func $newline (i32.store8 (i32.const 12) (i32.const 10)) (call $write (i32.const 1) (i32.const 12) (i32.const 1)))
  (func $number (param $n i32) (local $at i32)
    (local.set $at (i32.const 40))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
      (br_if $digit (local.tee $n (i32.div_u (local.get $n) (i32.const 10)))))
    (call $write (i32.const 1) (local.get $at) (i32.sub (i32.const 40) (local.get $at)))
    (call $newline))
  (func $length (param $at i32) (result i32) (local $n i32)
    (loop $next (if (i32.load8_u (i32.add (local.get $at) (local.get $n)))
      (then (local.set $n (i32.add (local.get $n) (i32.const 1))) (br $next))))
    (local.get $n))
"#;

/// A program of the prelude and this body.
pub fn program(body: &str) -> String {
    format!("(module {PRELUDE} {body})")
}

pub fn hello() -> String {
    program(
        r#"(data (i32.const 1024) "hello\n") (func (export "_start") (call $write (i32.const 1) (i32.const 1024) (i32.const 6)))"#,
    )
}

pub fn exiting(status: u32) -> String {
    program(&format!(r#"(func (export "_start") (call $proc_exit (i32.const {status})))"#))
}

/// Prints its arguments, then its environment, one a line.
pub fn words() -> String {
    program(
        r#"(func $list (param $count i32) (local $i i32) (local $at i32)
             (loop $next
               (if (i32.eq (local.get $i) (local.get $count)) (then (return)))
               (local.set $at (i32.load (i32.add (i32.const 2048) (i32.mul (i32.const 4) (local.get $i)))))
               (call $write (i32.const 1) (local.get $at) (call $length (local.get $at)))
               (call $newline)
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br $next)))
           (func (export "_start")
             (call $check (call $args_sizes_get (i32.const 16) (i32.const 20)))
             (call $check (call $args_get (i32.const 2048) (i32.const 65536)))
             (call $list (i32.load (i32.const 16)))
             (call $check (call $environ_sizes_get (i32.const 16) (i32.const 20)))
             (call $check (call $environ_get (i32.const 2048) (i32.const 65536)))
             (call $list (i32.load (i32.const 16))))"#,
    )
}

/// Copies standard input to standard output.
pub fn cat() -> String {
    program(
        r#"(func (export "_start") (local $n i32)
             (loop $next
               (local.set $n (call $read (i32.const 0) (i32.const 4096) (i32.const 4096)))
               (if (i32.eqz (local.get $n)) (then (return)))
               (call $write (i32.const 1) (i32.const 4096) (local.get $n))
               (br $next)))"#,
    )
}

/// Counts aloud, for ever if `end` is zero; `work` rounds of work go into each number. At the end it waits for the end of its input,
/// so that it is not over before it can be frozen.
pub fn counting(end: u32, work: u32) -> String {
    program(&format!(
        r#"(func $busy (param $n i32) (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))
           (func $count (export "count") (local $i i32)
             (loop $next
               (call $number (local.get $i))
               (call $busy (i32.const {work}))
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br_if $next (i32.ne (local.get $i) (i32.const {end})))))
           (func (export "_start")
             (call $count)
             (drop (call $read (i32.const 0) (i32.const 4096) (i32.const 1))))"#
    ))
}

/// Counts aloud for ever, and sleeps after each number.
pub fn resting(ms: u64) -> String {
    resting_with(ms, 0)
}

/// The same with so much more memory, of which it has written each page of 4 KiB.
pub fn resting_with(ms: u64, mib: u32) -> String {
    let imports = r#"
      (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory")"#;
    let body = format!(
        r#"(func (export "_start") (local $i i32) (local $at i32)
             (drop (memory.grow (i32.const {pages})))
             (local.set $at (i32.const 262144))
             (block $filled
               (loop $fill
                 (br_if $filled (i32.ge_u (local.get $at) (i32.const {end})))
                 (i32.store (local.get $at) (local.get $at))
                 (local.set $at (i32.add (local.get $at) (i32.const 4096)))
                 (br $fill)))
             (loop $next
               (call $number (local.get $i))
               (i32.store (i32.const 616) (i32.const 1))
               (i64.store (i32.const 624) (i64.const {ms}000000))
               (call $check (call $poll_oneoff (i32.const 600) (i32.const 660) (i32.const 1) (i32.const 8)))
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br $next)))"#,
        pages = mib * 16,
        end = 262144 + (mib << 20)
    );
    program(&body).replacen("(memory (export \"memory\")", imports, 1)
}

/// For each byte of its input: prints the next three bytes of `in` and the name of the next entry of the directory, and adds the
/// three bytes to `out`. Says `ready` first.
pub fn files() -> String {
    program(
        r#"(data (i32.const 1024) "ready\n") (data (i32.const 1040) "in") (data (i32.const 1050) "out")
           (func (export "_start") (local $in i32) (local $out i32) (local $cookie i64)
             (local.set $in (call $open (i32.const 1040) (i32.const 2) (i32.const 0) (i64.const 2)))
             (local.set $out (call $open (i32.const 1050) (i32.const 3) (i32.const 1) (i64.const 64)))
             (call $write (i32.const 1) (i32.const 1024) (i32.const 6))
             (loop $next
               (if (i32.eqz (call $read (i32.const 0) (i32.const 1100) (i32.const 1))) (then (return)))
               (drop (call $read (local.get $in) (i32.const 1104) (i32.const 3)))
               (call $write (i32.const 1) (i32.const 1104) (i32.const 3))
               (call $newline)
               (call $write (local.get $out) (i32.const 1104) (i32.const 3))
               (call $check (call $fd_readdir (i32.const 3) (i32.const 2048) (i32.const 1024) (local.get $cookie) (i32.const 16)))
               (local.set $cookie (i64.load (i32.const 2048)))
               (call $write (i32.const 1) (i32.const 2072) (i32.load (i32.const 2064)))
               (call $newline)
               (br $next)))"#,
    )
}

/// Says `busy`, computes until there is a file `go`, then copies its input to its output.
pub fn busy_before_reading() -> String {
    program(
        r#"(data (i32.const 1024) "busy\n") (data (i32.const 1040) "go")
           (func (export "_start") (local $n i32)
             (call $write (i32.const 1) (i32.const 1024) (i32.const 5))
             (loop $wait (br_if $wait (i32.eqz (call $exists (i32.const 1040) (i32.const 2)))))
             (loop $next
               (local.set $n (call $read (i32.const 0) (i32.const 4096) (i32.const 4096)))
               (if (i32.eqz (local.get $n)) (then (return)))
               (call $write (i32.const 1) (i32.const 4096) (local.get $n))
               (br $next)))"#,
    )
}

/// Makes a file `new`, or ends with 100 + errno.
pub fn creating(name: &str) -> String {
    program(&format!(
        r#"(data (i32.const 1024) "{name}")
           (func (export "_start")
             (drop (call $open (i32.const 1024) (i32.const {}) (i32.const 1) (i64.const 64))))"#,
        name.len()
    ))
}

/// Prints the file of this name, or ends with 100 + errno.
pub fn printing(name: &str) -> String {
    program(&format!(
        r#"(data (i32.const 1024) "{name}")
           (func (export "_start") (local $fd i32)
             (local.set $fd (call $open (i32.const 1024) (i32.const {}) (i32.const 0) (i64.const 2)))
             (call $write (i32.const 1) (i32.const 4096) (call $read (local.get $fd) (i32.const 4096) (i32.const 4096))))"#,
        name.len()
    ))
}

/// Writes a number in 16 hexadecimal digits and a space behind them, and counts down to keep busy. The digits lie at 1060.
const HEX_AND_BUSY: &str = r#"(data (i32.const 1060) "0123456789abcdef")
           (func $hex (param $value i64) (param $at i32) (local $digit i32)
             (loop $next
               (i32.store8 (i32.add (local.get $at) (local.get $digit))
                 (i32.load8_u (i32.add (i32.const 1060) (i32.wrap_i64 (i64.shr_u (local.get $value) (i64.const 60))))))
               (local.set $value (i64.shl (local.get $value) (i64.const 4)))
               (br_if $next (i32.lt_u (local.tee $digit (i32.add (local.get $digit) (i32.const 1))) (i32.const 16))))
             (i32.store8 (i32.add (local.get $at) (i32.const 16)) (i32.const 32)))
           (func $busy (param $n i32) (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))"#;

/// Looks at everything that can differ from run to run, and says in each line what it saw and what all of it comes to so far: number,
/// random number, monotonic clock, a byte of the file `letters`, sum; in hexadecimal. `work` rounds of work go into each, and it
/// sleeps at times.
pub fn witnessing(work: u32) -> String {
    let imports = r#"
      (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_pread" (func $fd_pread (param i32 i32 i32 i64 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
      (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory")"#;
    let body = format!(
        r#"(data (i32.const 1024) "letters")
           {HEX_AND_BUSY}
           (func (export "_start") (local $i i64) (local $sum i64) (local $fd i32) (local $byte i64)
             (local.set $fd (call $open (i32.const 1024) (i32.const 7) (i32.const 0) (i64.const 6)))
             (loop $next
               (call $check (call $random_get (i32.const 512) (i32.const 8)))
               (call $check (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 520)))
               (if (i32.eqz (i32.and (i32.wrap_i64 (local.get $i)) (i32.const 7)))
                 (then
                   (i32.store (i32.const 616) (i32.const 1))
                   (i64.store (i32.const 624) (i64.const 2000000))
                   (call $check (call $poll_oneoff (i32.const 600) (i32.const 660) (i32.const 1) (i32.const 8)))
                   (call $check (call $fd_close (local.get $fd)))
                   (local.set $fd (call $open (i32.const 1024) (i32.const 7) (i32.const 0) (i64.const 6)))))
               (i32.store (i32.const 0) (i32.const 528)) (i32.store (i32.const 4) (i32.const 1))
               (call $check (call $fd_pread (local.get $fd) (i32.const 0) (i32.const 1)
                 (i64.rem_u (local.get $i) (i64.const 26)) (i32.const 8)))
               (local.set $byte (i64.load8_u (i32.const 528)))
               (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 1099511628211))
                 (i64.xor (i64.xor (i64.load (i32.const 512)) (i64.load (i32.const 520))) (local.get $byte))))
               (call $hex (local.get $i) (i32.const 700))
               (call $hex (i64.load (i32.const 512)) (i32.const 717))
               (call $hex (i64.load (i32.const 520)) (i32.const 734))
               (call $hex (local.get $byte) (i32.const 751))
               (call $hex (local.get $sum) (i32.const 768))
               (i32.store8 (i32.const 784) (i32.const 10))
               (call $write (i32.const 1) (i32.const 700) (i32.const 85))
               (call $busy (i32.const {work}))
               (local.set $i (i64.add (local.get $i) (i64.const 1)))
               (br $next)))"#
    );
    program(&body).replacen("(memory (export \"memory\")", imports, 1)
}

/// Keeps a book: draws a random number, appends it to the file `book` and says it, each in a line with a number before it, in hexadecimal.
/// The last number is also in the file `count`, over the one before, and is read back each time; at times a file is made and removed
/// again. Ends with 90 if a file is not as it left it, with 100 + errno if it is told an error, and with 0 after so many lines.
pub fn bookkeeping(lines: u32, work: u32) -> String {
    let imports = r#"
      (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_pread" (func $fd_pread (param i32 i32 i32 i64 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_pwrite" (func $fd_pwrite (param i32 i32 i32 i64 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
      (import "wasi_snapshot_preview1" "path_unlink_file" (func $path_unlink_file (param i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "path_rename" (func $path_rename (param i32 i32 i32 i32 i32 i32) (result i32)))
      (memory (export "memory")"#;
    let body = format!(
        r#"(data (i32.const 1024) "bookcounttempgone")
           {HEX_AND_BUSY}
           (func (export "_start") (local $i i64) (local $book i32) (local $count i32)
             (call $check (call $path_open (i32.const 3) (i32.const 1) (i32.const 1024) (i32.const 4) (i32.const 1)
               (i64.const 64) (i64.const 0) (i32.const 1) (i32.const 8)))
             (local.set $book (i32.load (i32.const 8)))
             (local.set $count (call $open (i32.const 1028) (i32.const 5) (i32.const 1) (i64.const 70)))
             (loop $next
               (call $check (call $random_get (i32.const 512) (i32.const 8)))
               (i32.store (i32.const 0) (i32.const 520)) (i32.store (i32.const 4) (i32.const 8))
               (i64.store (i32.const 520) (i64.const 0))
               (call $check (call $fd_pread (local.get $count) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 8)))
               (if (i64.ne (i64.load (i32.const 520)) (local.get $i)) (then (call $proc_exit (i32.const 90))))
               (local.set $i (i64.add (local.get $i) (i64.const 1)))
               (call $hex (local.get $i) (i32.const 700))
               (call $hex (i64.load (i32.const 512)) (i32.const 717))
               (i32.store8 (i32.const 733) (i32.const 10))
               (call $write (local.get $book) (i32.const 700) (i32.const 34))
               (call $write (i32.const 1) (i32.const 700) (i32.const 34))
               (i64.store (i32.const 520) (local.get $i))
               (i32.store (i32.const 0) (i32.const 520)) (i32.store (i32.const 4) (i32.const 8))
               (call $check (call $fd_pwrite (local.get $count) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 8)))
               (if (i32.eqz (i32.and (i32.wrap_i64 (local.get $i)) (i32.const 3)))
                 (then
                   (call $check (call $fd_close (call $open (i32.const 1033) (i32.const 4) (i32.const 5) (i64.const 64))))
                   (call $check (call $path_rename
                     (i32.const 3) (i32.const 1033) (i32.const 4) (i32.const 3) (i32.const 1037) (i32.const 4)))
                   (call $check (call $path_unlink_file (i32.const 3) (i32.const 1037) (i32.const 4)))))
               (call $busy (i32.const {work}))
               (br_if $next (i64.lt_u (local.get $i) (i64.const {lines})))))"#
    );
    program(&body).replacen("(memory (export \"memory\")", imports, 1)
}

/// Waits for input, then takes what it can get: opens directories, makes ports with 16 KiB each, and writes. Prints how many there were of
/// the first two, each with the error of the one that there was not, and ends with the error of writing. With an argument a child does it.
pub fn greedy() -> String {
    let imports = r#"(import "una" "port_create" (func $port_create (param i32 i32 i32 i32) (result i32)))
      (import "una" "spawn" (func $spawn (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
      (import "una" "process_wait" (func $process_wait (param i32 i32 i64) (result i32)))
      (memory (export "memory")"#;
    let body = r#"(data (i32.const 1024) ".") (data (i32.const 1028) "kid\00")
      (func (export "_start") (local $n i32) (local $code i32)
        (call $check (call $args_sizes_get (i32.const 16) (i32.const 20)))
        (if (i32.gt_u (i32.load (i32.const 16)) (i32.const 1)) (then
          (call $check (call $spawn (i32.const -1) (i32.const 1028) (i32.const 4) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0) (i32.const 96)))
          (call $check (call $process_wait (i32.load (i32.const 96)) (i32.const 112) (i64.const -1)))
          (call $check (i32.load (i32.const 112)))
          (call $proc_exit (i32.load (i32.const 116)))))
        (drop (call $read (i32.const 0) (i32.const 2048) (i32.const 64)))
        (loop $more
          (local.set $code (call $path_open (i32.const 3) (i32.const 1) (i32.const 1024) (i32.const 1) (i32.const 2)
            (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 8)))
          (if (i32.eqz (local.get $code)) (then (local.set $n (i32.add (local.get $n) (i32.const 1))) (br $more))))
        (call $number (local.get $n)) (call $number (local.get $code))
        (local.set $n (i32.const 0))
        (loop $more
          (local.set $code (call $port_create (i32.const 1) (i32.const 16384) (i32.const 0) (i32.const 96)))
          (if (i32.eqz (local.get $code)) (then (local.set $n (i32.add (local.get $n) (i32.const 1))) (br $more))))
        (call $number (local.get $n)) (call $number (local.get $code))
        (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 100))
        (loop $more
          (local.set $code (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          (br_if $more (i32.eqz (local.get $code))))
        (call $proc_exit (local.get $code)))"#;
    program(body).replacen("(memory (export \"memory\")", imports, 1)
}

/// Makes a pipe and waits for ever.
pub fn piping() -> String {
    let imports = r#"(import "una" "pipe_create" (func $pipe_create (param i32 i32) (result i32)))
      (import "una" "pipe_read" (func $pipe_read (param i32 i32 i32 i32 i64) (result i32)))
      (memory (export "memory")"#;
    let body = r#"(func (export "_start")
        (call $check (call $pipe_create (i32.const 64) (i32.const 96)))
        (call $check (call $pipe_read (i32.load (i32.const 96)) (i32.const 1024) (i32.const 64) (i32.const 100) (i64.const -1))))"#;
    program(body).replacen("(memory (export \"memory\")", imports, 1)
}

/// What programs with ports begin with: they end with the code of what failed.
const UNA: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "una" "port_create" (func $port_create (param i32 i32 i32 i32) (result i32)))
  (import "una" "name_bind" (func $name_bind (param i32 i32 i32 i32) (result i32)))
  (import "una" "name_unbind" (func $name_unbind (param i32 i32) (result i32)))
  (import "una" "name_lookup" (func $name_lookup (param i32 i32 i32) (result i32)))
  (import "una" "receive" (func $receive (param i32 i32 i32 i32 i64) (result i32)))
  (import "una" "call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32 i64) (result i32)))
  (import "una" "reply" (func $reply (param i32 i32 i32 i32 i32) (result i32)))
  (import "una" "spawn_placed" (func $spawn_placed (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "una" "process_wait" (func $process_wait (param i32 i32 i64) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func $check (param $code i32) (if (local.get $code) (then (call $proc_exit (local.get $code)))))
"#;

/// Spawns a child, and counts aloud for ever; so does the child, from a million on. Each number is written in one piece.
pub fn family() -> String {
    r#"(module
      (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
      (import "una" "spawn" (func $spawn (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 2)
      (data (i32.const 1024) "child\00of\00")
      (func $check (param $code i32) (if (local.get $code) (then (call $proc_exit (local.get $code)))))
      (func $line (param $n i32) (local $at i32)
        (local.set $at (i32.const 60))
        (i32.store8 (local.get $at) (i32.const 10))
        (loop $digit
          (local.set $at (i32.sub (local.get $at) (i32.const 1)))
          (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
          (br_if $digit (local.tee $n (i32.div_u (local.get $n) (i32.const 10)))))
        (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (i32.sub (i32.const 61) (local.get $at)))
        (call $check (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
      (func (export "_start") (local $i i32)
        (call $check (call $args_sizes_get (i32.const 80) (i32.const 84)))
        (if (i32.eq (i32.load (i32.const 80)) (i32.const 1))
          (then (call $check (call $spawn (i32.const -1) (i32.const 1024) (i32.const 9) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0) (i32.const 96))))
          (else (local.set $i (i32.const 1000000))))
        (loop $next
          (call $line (local.get $i))
          (i32.store (i32.const 616) (i32.const 1))
          (i64.store (i32.const 624) (i64.const 3000000))
          (call $check (call $poll_oneoff (i32.const 600) (i32.const 660) (i32.const 1) (i32.const 8)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))"#
        .into()
}

/// Answers every request to the port of this path with the request.
pub fn answering(path: &str) -> String {
    let length = path.len();
    format!(
        r#"(module {UNA} (data (i32.const 1024) "{path}")
             (func (export "_start")
               (call $check (call $port_create (i32.const 16) (i32.const 65536) (i32.const 0) (i32.const 64)))
               (call $check (call $name_bind (i32.const 1024) (i32.const {length}) (i32.load (i32.const 64)) (i32.const 0)))
               (loop $next
                 (call $check (call $receive (i32.load (i32.const 64)) (i32.const 4096) (i32.const 4096) (i32.const 128) (i64.const -1)))
                 (drop (call $reply (i32.load (i32.const 152)) (i32.const 4096) (i32.load (i32.const 132)) (i32.const 0) (i32.const 0)))
                 (br $next))))"#
    )
}

/// Asks at the port of this path, waits two seconds at most, and prints the answer.
pub fn asking(path: &str) -> String {
    let length = path.len();
    format!(
        r#"(module {UNA} (data (i32.const 1024) "{path}") (data (i32.const 2048) "ping\0a")
             (func (export "_start")
               (call $check (call $name_lookup (i32.const 1024) (i32.const {length}) (i32.const 64)))
               (call $check (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 80)))
               (call $check (call $call (i32.load (i32.const 64)) (i32.const 2048) (i32.const 5) (i32.const 0) (i32.const 0)
                 (i32.const 4096) (i32.const 4096) (i32.const 128) (i64.add (i64.load (i32.const 80)) (i64.const 2000000000))))
               (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.load (i32.const 128)))
               (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    )
}

/// Asks at the port of this path again and again, every few milliseconds, through the one handle that it found at first, and prints each
/// answer.
pub fn asking_on(path: &str) -> String {
    let length = path.len();
    format!(
        r#"(module {UNA} (data (i32.const 1024) "{path}") (data (i32.const 2048) "ping\0a")
             (func $in (param $ms i64) (result i64)
               (call $check (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 80)))
               (i64.add (i64.load (i32.const 80)) (i64.mul (local.get $ms) (i64.const 1000000))))
             (func (export "_start")
               (call $check (call $name_lookup (i32.const 1024) (i32.const {length}) (i32.const 64)))
               (call $check (call $port_create (i32.const 1) (i32.const 64) (i32.const 0) (i32.const 68)))
               (loop $next
                 (call $check (call $call (i32.load (i32.const 64)) (i32.const 2048) (i32.const 5) (i32.const 0) (i32.const 0)
                   (i32.const 4096) (i32.const 4096) (i32.const 128) (call $in (i64.const 30000))))
                 (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.load (i32.const 128)))
                 (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                 (drop (call $receive (i32.load (i32.const 68)) (i32.const 4096) (i32.const 64) (i32.const 192) (call $in (i64.const 5))))
                 (br $next))))"#
    )
}

/// Spawns itself as a child called `kid` that is to be there, and waits for it. The child says so and waits for ever.
pub fn placing(place: &str) -> String {
    let length = place.len();
    format!(
        r#"(module {UNA} (data (i32.const 1024) "{place}") (data (i32.const 2048) "kid\00child\00") (data (i32.const 2064) "kid\0a")
             (func (export "_start")
               (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
               (call $check (call $port_create (i32.const 1) (i32.const 64) (i32.const 0) (i32.const 64)))
               (if (i32.gt_u (i32.load (i32.const 16)) (i32.const 1)) (then
                 (i32.store (i32.const 0) (i32.const 2064)) (i32.store (i32.const 4) (i32.const 4))
                 (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                 (drop (call $receive (i32.load (i32.const 64)) (i32.const 4096) (i32.const 64) (i32.const 192) (i64.const -1)))))
               (call $check (call $spawn_placed (i32.const -1) (i32.const 2048) (i32.const 10) (i32.const 0) (i32.const 0)
                 (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const {length}) (i32.const 80)))
               (call $check (call $process_wait (i32.load (i32.const 80)) (i32.const 96) (i64.const -1)))))"#
    )
}

/// Begins itself by the file `/proc/new`, with this line before, and one more argument. Whoever has that waits for ever.
pub fn beginning(line: &str) -> String {
    let length = line.len() + "\nself\nkid\n".len();
    format!(
        r#"(module {UNA} (data (i32.const 1024) "new") (data (i32.const 2048) "{line}\0aself\0akid\0a")
             (func (export "_start") (local $errno i32)
               (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
               (if (i32.gt_u (i32.load (i32.const 16)) (i32.const 1)) (then
                 (call $check (call $port_create (i32.const 1) (i32.const 64) (i32.const 0) (i32.const 64)))
                 (drop (call $receive (i32.load (i32.const 64)) (i32.const 4096) (i32.const 64) (i32.const 192) (i64.const -1)))))
               (call $check (call $path_open (i32.const {PROC}) (i32.const 1) (i32.const 1024) (i32.const 3) (i32.const 0)
                 (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 8)))
               (i32.store (i32.const 0) (i32.const 2048)) (i32.store (i32.const 4) (i32.const {length}))
               (local.set $errno (call $fd_write (i32.load (i32.const 8)) (i32.const 0) (i32.const 1) (i32.const 12)))
               (if (local.get $errno) (then (call $proc_exit (i32.add (i32.const 100) (local.get $errno)))))))"#
    )
}

/// Makes the name free, whoever has bound it.
pub fn unbinding(path: &str) -> String {
    let length = path.len();
    format!(
        r#"(module {UNA} (data (i32.const 1024) "{path}")
             (func (export "_start") (call $check (call $name_unbind (i32.const 1024) (i32.const {length})))))"#
    )
}

/// Of the directories in a program's tree.
pub const PROC: u32 = 4;
pub const PORT: u32 = 5;
pub const NODE: u32 = 6;

/// Prints a file of the system.
pub fn showing(directory: u32, path: &str) -> String {
    let length = path.len();
    program(&format!(
        r#"(data (i32.const 1024) "{path}")
           (func (export "_start") (local $n i32) (local $fd i32)
             (call $check (call $path_open (i32.const {directory}) (i32.const 1) (i32.const 1024) (i32.const {length}) (i32.const 0)
               (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 8)))
             (local.set $fd (i32.load (i32.const 8)))
             (loop $next
               (local.set $n (call $read (local.get $fd) (i32.const 4096) (i32.const 4096)))
               (if (i32.eqz (local.get $n)) (then (return)))
               (call $write (i32.const 1) (i32.const 4096) (local.get $n))
               (br $next)))"#
    ))
}

/// Writes a word into a file of the system.
pub fn telling(directory: u32, path: &str, word: &str) -> String {
    let (length, word_length) = (path.len(), word.len());
    program(&format!(
        r#"(data (i32.const 1024) "{path}") (data (i32.const 2048) "{word}")
           (func (export "_start")
             (call $check (call $path_open (i32.const {directory}) (i32.const 1) (i32.const 1024) (i32.const {length}) (i32.const 0)
               (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 8)))
             (call $write (i32.load (i32.const 8)) (i32.const 2048) (i32.const {word_length})))"#
    ))
}
