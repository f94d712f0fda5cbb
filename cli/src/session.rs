//! This terminal at the streams of a process that runs in the daemon: what it prints comes here, what is typed here goes there, until
//! the process has ended or the user detaches. Used by `run`, `thaw`, `attach` and `logs`; knows no programs.
//!
//! ```text
//!   main thread     socket  ->  standard output, standard error
//!   input thread    standard input  ->  socket          ctrl-P ctrl-Q on a terminal: detach
//!   signal thread   SIGINT, SIGTERM  ->  kill           on a connection of its own: this one may be full of input
//! ```

use crate::failure::{Failure, Result, status};
use crate::{json, node, program, progress};
use daemon::node::{Output, Pid};
use daemon::protocol::client::{AskError, Connection};
use daemon::protocol::{self, Frame, ProgramId, Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use std::io::{IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, mpsc};

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// What this terminal does with what is typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Typing {
    /// Lines, which can be edited before they are sent; ctrl-C kills, ctrl-D ends the input.
    Lines,
    /// Every key at once, and without an echo: for programs that draw on the screen.
    Keys,
}

/// A program as the daemon asks for it.
pub fn program_id(wasm: &[u8]) -> ProgramId {
    ProgramId { hash: blake3::hash(wasm).to_hex().to_string(), bytes: wasm.len() as u64 }
}

/// Waits until a program that was asked for has started: uploads it if the daemon does not have it, and shows how far its compiling is.
pub fn started(
    connection: &mut Connection, path: &Path, mut wasm: impl FnMut() -> Result<Arc<[u8]>>, image: Option<&mut dyn Read>,
) -> Result<Pid> {
    let mut image = image;
    let shown = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let mut bar = progress::Loading::new(&shown);
    loop {
        match connection.reply() {
            Ok(Reply::ProgramWanted) => {
                // If it is refused meanwhile, the reason is the next reply.
                let _ = connection.send_content(&mut &wasm()?[..]);
            }
            Ok(Reply::ImageWanted) => {
                if let Some(image) = image.take() {
                    let _ = connection.send_content(image);
                }
            }
            Ok(Reply::Loading { phase, done, total }) => {
                let phase = match phase {
                    protocol::Phase::Waiting => engine::Phase::Waiting,
                    protocol::Phase::Rewriting => engine::Phase::Rewriting,
                    protocol::Phase::Compiling => engine::Phase::Compiling,
                };
                bar.tell(engine::Progress { phase, done, total });
            }
            Ok(Reply::Started { pid, .. }) => return Ok(pid),
            Ok(other) => return Err(node::unexpected(&other).with_status(status::UNA)),
            Err(AskError::Refused(refusal)) if refusal.reason == protocol::Reason::BadProgram => {
                return Err(program::refused(&wasm()?, path, &refusal.why));
            }
            Err(error) => return Err(node::failed(error).with_status(status::UNA)),
        }
    }
}

/// Tells the number of a process that runs on in the daemon.
pub fn told_started(schema: &'static str, pid: Pid, as_json: bool) -> Result<u8> {
    crate::print(&match as_json {
        true => json::text(schema, &serde_json::json!({ "pid": pid })),
        false => format!("{pid}\n"),
    })?;
    Ok(0)
}

/// Input for a process.
pub struct Input {
    pub typing: Typing,
}

/// Shows a process's output here until it ends; gives the status to end with.
pub fn follow(mut connection: Connection, pid: Pid, input: Option<Input>) -> Result<u8> {
    let lost = |error: std::io::Error| Failure::new(status::UNA, "cannot follow the process").because(error);
    connection.be_patient().map_err(lost)?;
    let detached = Arc::new(AtomicBool::new(false));
    let mut terminal = None;
    let mut input_wanted = None;
    if let Some(Input { typing }) = input {
        kill_on_signals(pid).map_err(lost)?;
        let is_terminal = std::io::stdin().is_terminal();
        if is_terminal {
            terminal = Terminal::set(typing);
        }
        let writer = connection.writer().map_err(lost)?;
        let detached = detached.clone();
        let (want, wanted) = mpsc::channel();
        input_wanted = Some(want);
        // Without the word of the daemon nothing is read: a program that takes no input leaves it to whoever comes next.
        let send = move || {
            if is_terminal || wanted.recv().is_ok() {
                send_input(writer, is_terminal, &detached);
            }
        };
        // It ends with this process: a read from a terminal cannot be taken back.
        std::thread::Builder::new().name("input".into()).spawn(send).map_err(lost)?;
    }
    let shown = show(&mut connection, pid, Reader::Own(input_wanted), &mut Streams);
    drop(terminal);
    if detached.load(Ordering::Acquire) {
        let line = format!("\nuna: detached; process {pid} runs on: una attach {pid}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
        return Ok(0);
    }
    match (shown, KILLED_BY.load(Ordering::Acquire)) {
        // As a shell counts it, which then stops a loop that this is in.
        (Ok(status::KILLED), signal) if signal != 0 => Ok(128 + signal as u8),
        (shown, _) => shown,
    }
}

/// For whom output is shown.
pub enum Reader {
    /// The one at the process's own streams: if it reads no more, nobody does. Who has its input waits for a word to begin.
    Own(Option<mpsc::Sender<()>>),
    Onlooker,
}

/// What output is shown on.
pub trait Screen {
    fn output(&mut self, stream: Output, bytes: &[u8]) -> std::io::Result<()>;

    /// So much of what was older is not kept any more.
    fn lost(&mut self, bytes: u64) -> std::io::Result<()>;
}

/// This process's own standard output and error.
pub struct Streams;

impl Screen for Streams {
    fn output(&mut self, stream: Output, bytes: &[u8]) -> std::io::Result<()> {
        match stream {
            Output::Out => write(&mut std::io::stdout(), bytes),
            Output::Err => write(&mut std::io::stderr(), bytes),
        }
    }

    fn lost(&mut self, bytes: u64) -> std::io::Result<()> {
        let size = crate::freeze::size(bytes);
        self.output(Output::Err, format!("una: {size} of older output are not kept any more\n").as_bytes())
    }
}

/// Output up to its end, which is that of the process or, for `logs`, of what there is.
pub fn show(connection: &mut Connection, pid: Pid, reader: Reader, screen: &mut dyn Screen) -> Result<u8> {
    loop {
        let written = match connection.frame().map_err(|error| node::failed(error).with_status(status::UNA))? {
            Frame::Bytes(bytes) => screen.output(Output::Out, &bytes),
            Frame::Errors(bytes) => screen.output(Output::Err, &bytes),
            frame => {
                let reply = frame.message::<Reply>().map_err(AskError::Protocol).map_err(node::failed)?;
                match reply {
                    Reply::Ended { end } => return node::end_status(pid, &end),
                    Reply::Done => return Ok(0),
                    Reply::Lost { bytes } => screen.lost(bytes),
                    Reply::Working => Ok(()),
                    Reply::InputWanted => {
                        if let Reader::Own(Some(wanted)) = &reader {
                            let _ = wanted.send(());
                        }
                        Ok(())
                    }
                    Reply::Refused(refusal) => {
                        return Err(node::refused(refusal).with_status(status::UNA));
                    }
                    other => return Err(node::unexpected(&other).with_status(status::UNA)),
                }
            }
        };
        if let Err(error) = written {
            if let Reader::Own(_) = reader {
                // As if the process itself had written to the pipe that nobody reads.
                let _ = node::order(&Request::Kill { pid });
            }
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                return Ok(status::PIPE);
            }
            return Err(Failure::new(status::UNA, "cannot write the program's output").because(error));
        }
    }
}

fn write(to: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// Hands standard input to the process until it ends, here or there.
fn send_input(mut to: std::os::unix::net::UnixStream, is_terminal: bool, detached: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    let mut after_p = false;
    loop {
        if is_terminal {
            wait_for_foreground();
        }
        let length = match rustix::io::read(std::io::stdin(), &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => 0,
        };
        if length == 0 {
            let _ = protocol::write_end(&mut to);
            return;
        }
        let mut typed = Vec::with_capacity(length + 1);
        for byte in &buffer[..length] {
            match (is_terminal, after_p, *byte) {
                (true, true, CTRL_Q) => {
                    detached.store(true, Ordering::Release);
                    // The reading end of this connection sees it too, and follow returns.
                    let _ = to.shutdown(Shutdown::Both);
                    return;
                }
                (true, false, CTRL_P) => after_p = true,
                (_, held, byte) => {
                    if held {
                        typed.push(CTRL_P);
                    }
                    after_p = is_terminal && byte == CTRL_P;
                    if !after_p {
                        typed.push(byte);
                    }
                }
            }
        }
        // The process ended, or takes no more input: what is typed has nowhere to go.
        if protocol::write_bytes(&mut to, Output::Out, &typed).is_err() {
            return;
        }
    }
}

/// Reading from a terminal in the background would stop this process, and with it the program's output.
fn wait_for_foreground() {
    let stdin = std::io::stdin();
    loop {
        let own = rustix::process::getpgrp();
        match rustix::termios::tcgetpgrp(&stdin) {
            Ok(foreground) if foreground != own => std::thread::sleep(std::time::Duration::from_millis(100)),
            _ => {
                // The job may be put into the background while it waits here, so it does not wait for ever.
                let mut entry = [PollFd::new(&stdin, PollFlags::IN)];
                if poll(&mut entry, Some(&Timespec { tv_sec: 0, tv_nsec: 200_000_000 })).is_ok_and(|ready| ready > 0) {
                    return;
                }
            }
        }
    }
}

/// The signal for which the process was killed; 0 if none.
static KILLED_BY: AtomicI32 = AtomicI32::new(0);

/// ctrl-C and SIGTERM end the process; what is left of its output is still shown.
fn kill_on_signals(pid: Pid) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let listen = move || {
        for (times, signal) in signals.forever().enumerate() {
            KILLED_BY.store(signal, Ordering::Release);
            if times > 0 || node::order(&Request::Kill { pid }).is_err() {
                // Who asks twice does not want to wait.
                Terminal::restore();
                std::process::exit(128 + signal);
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen)?;
    Ok(())
}

/// How the terminal was, to be put back when the session ends, however it ends.
struct Terminal;

static BEFORE: std::sync::Mutex<Option<Termios>> = std::sync::Mutex::new(None);

impl Terminal {
    fn set(typing: Typing) -> Option<Terminal> {
        let stdin = std::io::stdin();
        let before = rustix::termios::tcgetattr(stdin.as_fd()).ok()?;
        let mut now = before.clone();
        match typing {
            Typing::Lines => {
                // A line is handed over at these two as well, so that they are seen at once; other keys are left to the terminal.
                now.special_codes[SpecialCodeIndex::VEOL] = CTRL_P;
                now.special_codes[SpecialCodeIndex::VEOL2] = CTRL_Q;
                now.input_modes.remove(rustix::termios::InputModes::IXON);
            }
            Typing::Keys => {
                now.make_raw();
                // Programs end lines with a line feed alone.
                now.output_modes.insert(rustix::termios::OutputModes::OPOST | rustix::termios::OutputModes::ONLCR);
                now.local_modes.remove(LocalModes::ECHO);
            }
        }
        *BEFORE.lock().expect("nothing panics while it holds this lock") = Some(before);
        rustix::termios::tcsetattr(stdin.as_fd(), OptionalActions::Drain, &now).ok()?;
        Some(Terminal)
    }

    fn restore() {
        if let Some(before) = BEFORE.lock().expect("nothing panics while it holds this lock").take() {
            let _ = rustix::termios::tcsetattr(std::io::stdin().as_fd(), OptionalActions::Drain, &before);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        Terminal::restore();
    }
}
