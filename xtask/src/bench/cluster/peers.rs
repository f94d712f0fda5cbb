//! Other systems whose calls from one node to another are measured beside una's. Knows how each is started, and nothing of what is asked.
//!
//! The one idea: each is two processes, one of which answers lines with lines, in the same words. So whoever measures does not know whom.

use super::far::Far;
use crate::Outcome;
use crate::step::{cargo, output};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// For whatever says where it listens.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// For an answer, on a machine however busy: then the comparison has a fault, and it is said whose.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Some have others to end.
const END_TIMEOUT: Duration = Duration::from_secs(20);
const RAY: &str = "ray==2.60.0";

/// The end that asks. Its far end and whatever else it needs ends with it.
pub struct Peer {
    pub name: &'static str,
    near: Child,
    questions: Option<ChildStdin>,
    answers: Receiver<std::io::Result<String>>,
    _others: Vec<Far>,
    server: Option<Server>,
}

/// A server between the two ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It keeps nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Peer {
    pub fn of(name: &'static str, near: &mut Command, others: Vec<Far>) -> Outcome<Peer> {
        let started = near.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut near = started.map_err(|error| format!("cannot start {near:?}: {error}"))?;
        let questions = near.stdin.take();
        let lines = BufReader::new(near.stdout.take().ok_or("a pipe was asked for")?).lines();
        // A question has one answer, so nothing piles up; the thread ends with the peer.
        let (said, answers) = sync_channel(1);
        std::thread::spawn(move || lines.into_iter().all(|line| said.send(line).is_ok()));
        Ok(Peer { name, near, questions, answers, _others: others, server: None })
    }

    pub fn ask(&mut self, line: &str) -> Outcome<String> {
        // One that has ended may have said why.
        let asked = writeln!(self.questions.as_mut().ok_or("a pipe was asked for")?, "{line}");
        let answer = match self.answers.recv_timeout(ANSWER_TIMEOUT) {
            Ok(answer) => answer?,
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("{} does not answer to `{line}`", self.name).into());
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(format!("{} ended instead of an answer to `{line}`", self.name).into());
            }
        };
        asked.map_err(|_| format!("{} ended and said `{}`", self.name, answer.trim()))?;
        Ok(answer.trim_end().into())
    }

    /// A number.
    pub fn number(&mut self, line: &str) -> Outcome<f64> {
        let answer = self.ask(line)?;
        Ok(answer.parse().map_err(|_| format!("{} says `{answer}` to `{line}`", self.name))?)
    }

    /// Nanoseconds of each of so many requests, one after the other.
    pub fn pings(&mut self, count: u32, bytes: usize) -> Outcome<Vec<u64>> {
        let answer = self.ask(&format!("pings {count} {bytes}"))?;
        let times: Result<Vec<u64>, _> = answer.split(' ').map(str::parse).collect();
        let times = times.map_err(|_| format!("{} says `{answer}` instead of times", self.name))?;
        match times.len() == count as usize {
            true => Ok(times),
            false => Err(format!("{} says {} times instead of {count}", self.name, times.len()).into()),
        }
    }

    /// Thousands of requests a second, with so many under way.
    pub fn many(&mut self, count: u32, in_flight: u32) -> Outcome<f64> {
        let each = count / in_flight;
        Ok(f64::from(each * in_flight) / self.number(&format!("many {each} {in_flight}"))? * 1e6)
    }

    fn ready(mut self) -> Outcome<Peer> {
        match self.ask("ready 0 0")?.as_str() {
            "1" => Ok(self),
            other => Err(format!("{}: its two ends do not find each other: `{other}`", self.name).into()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends with its questions, and so can end what it started; one that does not is ended.
        drop(self.questions.take());
        let until = Instant::now() + END_TIMEOUT;
        while let Ok(None) = self.near.try_wait() {
            if Instant::now() > until {
                let _ = self.near.kill();
                let _ = self.near.wait();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A directory of one peer, empty.
fn directory(name: &str) -> Outcome<PathBuf> {
    let directory = crate::root().join("target/bench/cluster").join(name);
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// The Erlang system, whose own distribution is what others are measured by. With a certificate it uses TLS, which names no users here.
pub fn erlang(is_secret: bool) -> Outcome<Peer> {
    const ADVICE: &str = "Debian's packages erlang-base and erlang-ssl have it";
    let place = directory(if is_secret { "erlang-tls" } else { "erlang" })?;
    output(Command::new("erlc").arg("-o").arg(&place).arg(crate::root().join("bench/cluster/far.erl")), ADVICE)?;
    let mut more = vec![];
    if is_secret {
        let pem = place.join("far.pem");
        let mut make = Command::new("openssl");
        make.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ]);
        make.args(["-subj", "/CN=far", "-keyout"]).arg(&pem).arg("-out").arg(place.join("certificate.pem"));
        output(&mut make, "Debian's package openssl has it")?;
        let options = format!(
            "[{{server, [{{certfile, \"{0}/certificate.pem\"}}, {{keyfile, \"{0}/far.pem\"}}, {{verify, verify_none}}]}},\n \
             {{client, [{{verify, verify_none}}]}}].\n",
            place.display()
        );
        std::fs::write(place.join("tls.conf"), options)?;
        more = vec!["-proto_dist".to_string(), "inet_tls".into(), "-ssl_dist_optfile".into()];
        more.push(place.join("tls.conf").display().to_string());
    }
    // A port that both know, so that no registry is left running.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let erl = |name: &str, own: &[&str]| {
        let mut command = Command::new("erl");
        command.args(["-noshell", "-pa"]).arg(&place).args(["-setcookie", "una", "-name", name]);
        command.args(["-start_epmd", "false", "-erl_epmd_port", &port]).args(&more).args(own);
        command
    };
    let far = Far::of(&mut erl("far@127.0.0.1", &["-s", "far", "serve"]))?;
    let name = if is_secret { "Erlang, TLS" } else { "Erlang, not secret" };
    Peer::of(name, &mut erl("near@127.0.0.1", &["-dist_listen", "false", "-s", "far", "main"]), vec![far])?.ready()
}

/// The ends of gRPC and NATS are a program that is made when it is first wanted.
fn built() -> Outcome<PathBuf> {
    let directory = crate::root().join("target/bench/peers");
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--manifest-path"]);
    build.arg(crate::root().join("bench/cluster/peers/Cargo.toml")).arg("--target-dir").arg(&directory);
    output(&mut build, "cargo comes with Rust")?;
    Ok(directory.join("release/una-bench-peers"))
}

pub fn grpc() -> Outcome<Peer> {
    let (program, place) = (built()?, directory("grpc")?);
    let far = Far::of(Command::new(&program).args(["grpc", "far"]).arg(&place))?;
    let mut near = Command::new(&program);
    near.args(["grpc", "near", &far.line]).arg(&place);
    Peer::of("gRPC (tonic), TLS", &mut near, vec![far])?.ready()
}

pub fn nats() -> Outcome<Peer> {
    let (program, place) = (built()?, directory("nats")?);
    // It says where it listens, as it chose the port.
    let mut server = Command::new("nats-server");
    server.args(["--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir"]).arg(&place);
    let server = Server(
        server
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start nats-server: {error}; Debian's package nats-server has it"))?,
    );
    let told = place.join(format!("nats-server_{}.ports", server.0.id()));
    let until = Instant::now() + START_TIMEOUT;
    let url = loop {
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        if let Ok(ports) = serde_json::from_str::<serde_json::Value>(&text)
            && let Some(url) = ports["nats"][0].as_str()
        {
            break url.to_string();
        }
        if Instant::now() > until {
            return Err(format!("nats-server does not say where it listens: {text}").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let far = Far::of(Command::new(&program).args(["nats", "far", &url]))?;
    let mut peer = Peer::of("NATS, not secret", Command::new(&program).args(["nats", "near", &url]), vec![far])?;
    peer.server = Some(server);
    peer.ready()
}

/// An actor of Ray, on another of its nodes.
pub fn ray() -> Outcome<Peer> {
    let place = crate::root().join("target/bench/ray");
    let python = place.join("venv/bin/python");
    if !place.join("venv/ready").exists() {
        eprintln!("calls: installing Ray from PyPI, which takes a minute");
        const ADVICE: &str = "Debian's package python3-venv has it";
        output(Command::new("python3").args(["-m", "venv"]).arg(place.join("venv")), ADVICE)?;
        output(Command::new(&python).args(["-m", "pip", "install", "--quiet", RAY]), "PyPI has it")?;
        std::fs::write(place.join("venv/ready"), RAY)?;
    }
    let mut near = Command::new(&python);
    Peer::of("Ray", near.arg(crate::root().join("bench/cluster/ray_calls.py")), vec![])?.ready()
}
