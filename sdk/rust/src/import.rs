//! The import module `una` as it is: numbers and pointers. Laid out as `sdk/una.h` says; knows nothing of what it means.

pub const FIRST_HANDLE: u32 = 2;
const HANDLES_MAX: usize = 8;

#[repr(C)]
pub struct Transfer {
    pub handle: u32,
    pub rights: u32,
    pub moved: u32,
}

#[repr(C)]
#[derive(Default)]
pub struct Message {
    pub kind: u32,
    pub length: u32,
    pub sender: u64,
    pub badge: u64,
    pub reply: u32,
    pub handle_count: u32,
    pub handles: [u32; HANDLES_MAX],
    pub token: u64,
    pub event: u32,
    pub exit_kind: u32,
    pub exit_code: u32,
    pub index: u32,
}

#[repr(C)]
#[derive(Default)]
pub struct Answer {
    pub length: u32,
    pub handle_count: u32,
    pub handles: [u32; HANDLES_MAX],
}

#[repr(C)]
#[derive(Default)]
pub struct PortStatus {
    pub messages: u32,
    pub bytes: u32,
    pub senders_waiting: u32,
    pub receivers_waiting: u32,
    pub dropped: u64,
}

#[repr(C)]
#[derive(Default)]
pub struct Spawned {
    pub process: u32,
    pub unused: u32,
    pub pid: u64,
}

#[repr(C)]
#[derive(Default)]
pub struct ExitStatus {
    pub kind: u32,
    pub code: u32,
}

#[link(wasm_import_module = "una")]
extern "C" {
    pub fn port_create(messages_max: u32, bytes_max: u32, drops: u32, port: *mut u32) -> u32;
    pub fn port_status(port: u32, status: *mut PortStatus) -> u32;
    pub fn port_badge(port: u32, badge: u64, rights: u32, badged: *mut u32) -> u32;
    pub fn send(port: u32, bytes: *const u8, length: u32, handles: *const Transfer, count: u32, deadline_ns: u64) -> u32;
    pub fn send_unreliable(port: u32, bytes: *const u8, length: u32) -> u32;
    pub fn receive(port: u32, buffer: *mut u8, room: u32, message: *mut Message, deadline_ns: u64) -> u32;
    pub fn select(
        ports: *const u32,
        count: u32,
        buffer: *mut u8,
        room: u32,
        message: *mut Message,
        deadline_ns: u64,
    ) -> u32;
    pub fn call(
        port: u32,
        bytes: *const u8,
        length: u32,
        handles: *const Transfer,
        count: u32,
        buffer: *mut u8,
        room: u32,
        answer: *mut Answer,
        deadline_ns: u64,
    ) -> u32;
    pub fn last_answer(buffer: *mut u8, room: u32, answer: *mut Answer) -> u32;
    pub fn reply(reply: u32, bytes: *const u8, length: u32, handles: *const Transfer, count: u32) -> u32;
    pub fn pipe_create(bytes_max: u32, pipe: *mut u32) -> u32;
    pub fn pipe_read(pipe: u32, buffer: *mut u8, room: u32, length: *mut u32, deadline_ns: u64) -> u32;
    pub fn pipe_write(pipe: u32, bytes: *const u8, length: u32, written: *mut u32, deadline_ns: u64) -> u32;
    pub fn handle_close(handle: u32) -> u32;
    pub fn handle_duplicate(handle: u32, rights: u32, copy: *mut u32) -> u32;
    pub fn handle_rights(handle: u32, rights: *mut u32) -> u32;
    pub fn watch(subject: u32, port: u32, token: u64, watch: *mut u32) -> u32;
    pub fn timer(at_ns: u64, port: u32, token: u64, timer: *mut u32) -> u32;
    pub fn name_bind(path: *const u8, length: u32, port: u32, replaces: u32) -> u32;
    pub fn name_unbind(path: *const u8, length: u32) -> u32;
    pub fn name_lookup(path: *const u8, length: u32, port: *mut u32) -> u32;
    pub fn spawn(
        file: i32,
        args: *const u8,
        args_length: u32,
        env: *const u8,
        env_length: u32,
        handles: *const Transfer,
        count: u32,
        spawned: *mut Spawned,
    ) -> u32;
    pub fn spawn_placed(
        file: i32,
        args: *const u8,
        args_length: u32,
        env: *const u8,
        env_length: u32,
        handles: *const Transfer,
        count: u32,
        place: *const u8,
        place_length: u32,
        spawned: *mut Spawned,
    ) -> u32;
    pub fn process_wait(process: u32, status: *mut ExitStatus, deadline_ns: u64) -> u32;
    pub fn process_kill(process: u32) -> u32;
    pub fn process_hold(process: u32) -> u32;
    pub fn process_release(process: u32) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
extern "C" {
    fn clock_time_get(clock: u32, precision_ns: u64, time_ns: *mut u64) -> u32;
}

const MONOTONIC: u32 = 1;

/// The clock that deadlines are moments of; `std::time::Instant` does not tell its number.
pub fn monotonic_ns() -> u64 {
    let mut time_ns = 0;
    // SAFETY: the result is a place of ours.
    let errno = unsafe { clock_time_get(MONOTONIC, 0, &mut time_ns) };
    assert!(errno == 0, "every system has a monotonic clock");
    time_ns
}
