//! Requests to one of several endpoints, and streams of answers. It does not know what they are about.
//!
//! The one idea: of a request without an answer it is said whether the endpoint can have got it.

use crate::coordinator::Failure;
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longer answers are not taken.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long a connection may take to be made. Then another endpoint is tried.
const CONNECT_MAX: Duration = Duration::from_millis(1500);
/// A stream looks this often whether it is still wanted.
const LOOK_AFTER: Duration = Duration::from_millis(200);

/// Where an etcd is.
pub struct Http {
    agent: ureq::Agent,
    endpoints: Vec<String>,
    current: AtomicUsize,
}

/// Why there is no answer.
pub enum Missed {
    /// etcd answered that it could not.
    Said(String),
    NotSent(String),
    Lost(String),
    TooLong,
}

impl Http {
    pub fn new(endpoints: &[String]) -> Result<Http, Failure> {
        let refused = |why: String| Err(Failure::Refused { why });
        if endpoints.is_empty() {
            return refused("no endpoint of etcd is named: give one like http://127.0.0.1:2379".into());
        }
        let mut clean = vec![];
        for endpoint in endpoints {
            let endpoint = endpoint.trim_end_matches('/');
            match endpoint.strip_prefix("http://") {
                Some(address) if address.contains(':') && !address.contains('/') => clean.push(endpoint.to_string()),
                _ => {
                    return refused(format!("{endpoint} is no endpoint of etcd: give one like http://127.0.0.1:2379"));
                }
            }
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_MAX))
            // An idle connection that the other side has closed looks like a lost answer.
            .max_idle_age(Duration::from_secs(3))
            .max_idle_connections_per_host(32)
            .max_idle_connections(64)
            .proxy(None)
            .build()
            .new_agent();
        Ok(Http { agent, endpoints: clean, current: AtomicUsize::new(0) })
    }

    fn endpoint(&self) -> &str {
        &self.endpoints[self.current.load(Ordering::Relaxed) % self.endpoints.len()]
    }

    /// Asks another endpoint from now on.
    pub fn turn(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks once.
    pub fn post(&self, path: &str, body: &Value, deadline: Instant) -> Result<Value, Missed> {
        let wait = deadline.saturating_duration_since(Instant::now());
        self.post_to(self.endpoint(), path, body, wait)
    }

    fn post_to(&self, endpoint: &str, path: &str, body: &Value, wait: Duration) -> Result<Value, Missed> {
        let missed = |error: ureq::Error| {
            let why = format!("{endpoint}: {error}");
            match error {
                ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::BadUri(_) => {
                    Missed::NotSent(why)
                }
                ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => Missed::NotSent(why),
                ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => Missed::NotSent(why),
                ureq::Error::BodyExceedsLimit(_) => Missed::TooLong,
                _ => Missed::Lost(why),
            }
        };
        let request = self.agent.post(format!("{endpoint}/v3/{path}"));
        // With no leader, it says so at once.
        let request = request.header("Grpc-Metadata-hasleader", "true").header("Content-Type", "application/json");
        let request = request.config().timeout_global(Some(wait)).build();
        let mut response = request.send(body.to_string()).map_err(missed)?;
        let is_ok = response.status().is_success();
        let content = response.body_mut().with_config().limit(ANSWER_BYTES_MAX as u64).read_to_vec().map_err(missed)?;
        // A stream of one answer is one line.
        let content = content.split(|byte| *byte == b'\n').next().unwrap_or(&content);
        let answer: Value = serde_json::from_slice(content).map_err(|_| {
            Missed::Lost(format!("{endpoint} answers what is no JSON: is it an etcd of version 3.4 or later?"))
        })?;
        if is_ok && answer.get("error").is_none() {
            return Ok(answer);
        }
        let error = answer.get("error").unwrap_or(&answer);
        let message = error
            .as_str()
            .or_else(|| error.get("message").and_then(Value::as_str))
            .or_else(|| answer.get("message").and_then(Value::as_str));
        Err(Missed::Said(message.unwrap_or("it gives no reason").to_string()))
    }

    /// Whether one of these addresses answers.
    pub fn is_there(&self, urls: &[String], wait: Duration) -> bool {
        let nothing = Value::Object(Default::default());
        urls.iter().any(|url| self.post_to(url.trim_end_matches('/'), "maintenance/status", &nothing, wait).is_ok())
    }

    /// Asks for a stream of answers.
    pub fn stream(&self, path: &str, body: &Value) -> Result<Stream<'_>, ()> {
        let endpoint = self.endpoint();
        let address = endpoint.strip_prefix("http://").unwrap_or(endpoint);
        let connect = || -> std::io::Result<TcpStream> {
            let mut last = std::io::Error::from(ErrorKind::NotFound);
            for address in address.to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, CONNECT_MAX) {
                    Ok(mut stream) => {
                        stream.set_read_timeout(Some(LOOK_AFTER))?;
                        stream.set_write_timeout(Some(CONNECT_MAX))?;
                        stream.set_nodelay(true)?;
                        let body = body.to_string();
                        let head = format!(
                            "POST /v3/{path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
                             Grpc-Metadata-hasleader: true\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        stream.write_all(head.as_bytes())?;
                        return Ok(stream);
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        let socket = connect().map_err(|_| ())?;
        Ok(Stream { http: self, endpoint: endpoint.into(), socket, raw: vec![], lines: vec![], state: Part::Head })
    }
}

/// Answers that come one after the other: JSON in lines, in a chunked body (RFC 9112, section 7.1).
pub struct Stream<'a> {
    http: &'a Http,
    endpoint: String,
    socket: TcpStream,
    /// What has arrived and was not looked at.
    raw: Vec<u8>,
    lines: Vec<u8>,
    state: Part,
}

#[derive(Clone, Copy)]
enum Part {
    Head,
    Size,
    Chunk { left: usize },
    ChunkEnd,
}

/// The stream is over.
pub struct Over;

impl Stream<'_> {
    /// The next answer; none for now.
    pub fn next(&mut self) -> Result<Option<Value>, Over> {
        loop {
            if let Some(end) = self.lines.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.lines.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|_| Over);
            }
            if self.take()? {
                continue;
            }
            let mut buffer = [0; 16 << 10];
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(Over),
                Ok(length) => self.raw.extend(&buffer[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
                {
                    return Ok(None);
                }
                Err(_) => return Err(Over),
            }
            if self.raw.len() + self.lines.len() > ANSWER_BYTES_MAX {
                return Err(Over);
            }
        }
    }

    /// Looks at what has arrived. Says whether that led anywhere.
    fn take(&mut self) -> Result<bool, Over> {
        match self.state {
            Part::Head => {
                let Some(end) = self.raw.windows(4).position(|window| window == b"\r\n\r\n") else {
                    return Ok(false);
                };
                let head = String::from_utf8_lossy(&self.raw[..end]).to_ascii_lowercase();
                let is_ok = head.split(' ').nth(1) == Some("200");
                if !is_ok || !head.contains("transfer-encoding: chunked") {
                    return Err(Over);
                }
                self.raw.drain(..end + 4);
                self.state = Part::Size;
            }
            Part::Size => {
                let Some(end) = self.raw.windows(2).position(|window| window == b"\r\n") else {
                    return Ok(false);
                };
                let line = String::from_utf8_lossy(&self.raw[..end]).into_owned();
                let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16).map_err(|_| Over)?;
                if size == 0 {
                    return Err(Over);
                }
                self.raw.drain(..end + 2);
                self.state = Part::Chunk { left: size };
            }
            Part::Chunk { left } => {
                let here = left.min(self.raw.len());
                if here == 0 {
                    return Ok(false);
                }
                self.lines.extend(self.raw.drain(..here));
                self.state = if here == left { Part::ChunkEnd } else { Part::Chunk { left: left - here } };
            }
            Part::ChunkEnd => {
                if self.raw.len() < 2 {
                    return Ok(false);
                }
                self.raw.drain(..2);
                self.state = Part::Size;
            }
        }
        Ok(true)
    }

    /// Whether the endpoint still answers other questions.
    pub fn is_there(&self, wait: Duration) -> bool {
        self.http.is_there(std::slice::from_ref(&self.endpoint), wait)
    }
}
