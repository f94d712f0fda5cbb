//! A failure as people read it: what, where, why, and the next thing to do. Knows no command.

use miette::Diagnostic;
use std::fmt::Display;
use std::io::Write;

/// The status that `una` ends with. `docs/exit-codes` and `una help` say the same.
pub mod status {
    /// A command other than `run` and `thaw` did not do what it was asked for.
    pub const FAILED: u8 = 1;
    /// The command line was wrong, for commands other than `run` and `thaw`.
    pub const USAGE: u8 = 2;
    // `run` and `thaw` end with the status of their program, so their own are those that shells use.
    /// una itself failed: the program did not run or cannot go on.
    pub const UNA: u8 = 125;
    /// The program was found and cannot run.
    pub const NOT_RUNNABLE: u8 = 126;
    pub const NOT_FOUND: u8 = 127;
    /// The program was killed: as if ended by SIGKILL.
    pub const KILLED: u8 = 137;
    /// The program used all the processor time it may: as if ended by SIGXCPU.
    pub const CPU_LIMIT: u8 = 152;
    /// Nobody reads the program's output any more: as if ended by SIGPIPE.
    pub const PIPE: u8 = 141;
    /// The program trapped: as if ended by SIGABRT.
    pub const TRAPPED: u8 = 134;
    /// The program was frozen into an image: as if stopped by SIGTSTP.
    pub const FROZEN: u8 = 148;
}

/// Ends the command that meets it.
#[derive(Debug)]
pub struct Failure {
    what: String,
    causes: Option<Box<Cause>>,
    help: Option<String>,
    pub status: u8,
}

/// Why, and why that.
#[derive(Debug)]
struct Cause {
    text: String,
    next: Option<Box<Cause>>,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(status: u8, what: impl Display) -> Failure {
        Failure { what: lines(what), causes: None, help: None, status }
    }

    /// Adds the reason of the reason given last.
    pub fn because(mut self, why: impl Display) -> Failure {
        let mut end = &mut self.causes;
        while let Some(cause) = end {
            end = &mut cause.next;
        }
        *end = Some(Box::new(Cause { text: lines(why), next: None }));
        self
    }

    pub fn help(mut self, help: impl Display) -> Failure {
        self.help = Some(lines(help));
        self
    }

    pub fn with_status(mut self, status: u8) -> Failure {
        self.status = status;
        self
    }

    /// The message and its causes on one line, and the help: for sending to another process.
    pub fn to_lines(&self) -> (String, Option<String>) {
        let mut text = self.what.clone();
        let mut cause = self.causes.as_deref();
        while let Some(Cause { text: why, next }) = cause {
            text.push_str(": ");
            text.push_str(why);
            cause = next.as_deref();
        }
        (text, self.help.clone())
    }

    /// Prints it on standard error, for people.
    pub fn print(self) {
        // In one piece, so that nothing that a program prints comes between its lines.
        let text = format!("{:?}", miette::Report::new(self));
        let _ = std::io::stderr().write_all(format!("{}\n", text.trim_end()).as_bytes());
    }
}

fn lines(text: impl Display) -> String {
    text.to_string().split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.what.fmt(f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.causes.as_deref().map(|cause| cause as _)
    }
}

impl Diagnostic for Failure {
    fn help<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as _)
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.text.fmt(f)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.next.as_deref().map(|cause| cause as _)
    }
}

/// Sets how failures are printed: lines are left whole, so that the command in a help can be copied.
pub fn install() {
    let handler = |_: &_| -> Box<dyn miette::ReportHandler> {
        Box::new(miette::MietteHandlerOpts::new().wrap_lines(false).break_words(false).build())
    };
    // Fails only if it was done before.
    let _ = miette::set_hook(Box::new(handler));
}

/// Text that may come from anywhere (a program, an image), so that it cannot play with the reader's terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
