//! `una send` and `una recv`: messages to and from a port of the node, by its name.

use crate::failure::{Failure, Result, status};
use crate::{json, limits::seconds, node, print};
use clap::Args;
use daemon::protocol::{Reply, Request};
use std::io::{Read, Write};
use std::time::Duration;

/// Without a limit, a wait still has one: ten years.
const FOR_EVER: Duration = Duration::from_secs(315_360_000);

/// Send a message to a port
///
/// Waits while the port is full. Without TEXT the message is what comes from standard input.
#[derive(Args)]
pub struct Send {
    /// Wait at most so long for room in the port
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,

    /// The port's name in /port
    #[arg(value_name = "PORT")]
    port: String,

    #[arg(value_name = "TEXT")]
    text: Option<String>,
}

impl Send {
    pub fn execute(self) -> Result<u8> {
        let mut connection = node::connect()?;
        let message = match self.text {
            Some(text) => text.into_bytes(),
            None => {
                let mut message = vec![];
                let failure = |error| Failure::new(status::FAILED, "cannot read the message").because(error);
                std::io::stdin().lock().read_to_end(&mut message).map_err(failure)?;
                message
            }
        };
        let timeout_ms = self.timeout.unwrap_or(FOR_EVER).as_millis() as u64;
        let request = Request::Send { port: port_name(&self.port), timeout_ms };
        connection.send(&request).map_err(node::failed)?;
        // If it is refused meanwhile, the reason is the reply.
        let _ = connection.send_content(&mut message.as_slice());
        connection.be_patient().map_err(|error| Failure::new(status::FAILED, "cannot wait").because(error))?;
        match connection.reply().map_err(node::failed)? {
            Reply::Done => {
                if self.json {
                    let told = serde_json::json!({ "port": port_name(&self.port), "bytes": message.len() });
                    print(&json::text("una.send/1", &told))?;
                }
                Ok(0)
            }
            other => Err(node::unexpected(&other)),
        }
    }
}

/// Receive a message from a port, which is made if it is not there
///
/// Prints the message as it is. With -n, each message ends with a line end.
#[derive(Args)]
pub struct Receive {
    /// Wait at most so long for each message
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,

    /// Receive so many messages; 0: without an end
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,

    /// Print JSON for scripts, a line for each message: as `text`, or as `hex` if it is not UTF-8
    #[arg(long)]
    json: bool,

    /// The port's name in /port
    #[arg(value_name = "PORT")]
    port: String,
}

impl Receive {
    pub fn execute(self) -> Result<u8> {
        let mut connection = node::connect()?;
        let timeout_ms = self.timeout.unwrap_or(FOR_EVER).as_millis() as u64;
        let mut received = 0;
        while received < self.count.unwrap_or(1) || self.count == Some(0) {
            let port = port_name(&self.port);
            connection.send(&Request::Receive { port, timeout_ms }).map_err(node::failed)?;
            let mut message = connection.received().map_err(node::failed)?;
            match (self.json, self.count) {
                (true, _) => message = told(&port_name(&self.port), message).into_bytes(),
                (false, Some(_)) => message.push(b'\n'),
                (false, None) => {}
            }
            let mut out = std::io::stdout().lock();
            match out.write_all(&message).and_then(|()| out.flush()) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                    return Ok(status::PIPE);
                }
                Err(error) => {
                    return Err(Failure::new(status::FAILED, "cannot print the message").because(error));
                }
                Ok(()) => {}
            }
            received += 1;
        }
        Ok(0)
    }
}

fn told(port: &str, message: Vec<u8>) -> String {
    let told = match String::from_utf8(message) {
        Ok(text) => serde_json::json!({ "port": port, "text": text }),
        Err(error) => {
            let hex: String = error.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            serde_json::json!({ "port": port, "hex": hex })
        }
    };
    json::line("una.recv/1", &told)
}

/// `/port/x` and `x` are the same.
fn port_name(word: &str) -> String {
    word.strip_prefix("/port/").unwrap_or(word).to_string()
}
