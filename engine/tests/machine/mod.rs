//! What tests of processes share: an engine, programs from their text, and the world of a process whose streams are files.

use drivers::{HostClock, HostEntropy, HostStream, HostWaiter};
use engine::{Engine, Options, Program, Target, wasi};
use std::fs::File;
use std::os::fd::OwnedFd;

pub fn engine(target: Target) -> Engine {
    Engine::new(&Options { target, canonical_nans: false, cache: None }).unwrap()
}

pub fn load(engine: &Engine, text: &str) -> Program {
    engine.load(wat::parse_str(text).unwrap(), &mut |_| {}).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub fn stream(file: impl Into<OwnedFd>) -> Box<HostStream> {
    Box::new(HostStream::new(file.into()).unwrap())
}

pub fn nothing() -> File {
    File::options().read(true).write(true).open("/dev/null").unwrap()
}

pub fn setup(stdin: impl Into<OwnedFd>, stdout: impl Into<OwnedFd>) -> wasi::Setup {
    wasi::Setup {
        args: vec!["program".into()],
        env: vec![],
        mounts: vec![],
        stdin: stream(stdin),
        stdout: stream(stdout),
        stderr: stream(nothing()),
        clock: Box::new(HostClock),
        entropy: Box::new(HostEntropy),
        waiter: Box::new(HostWaiter::new().unwrap()),
    }
}

pub fn resume(stdin: impl Into<OwnedFd>, stdout: impl Into<OwnedFd>) -> wasi::Resume {
    let wasi::Setup { stdin, stdout, stderr, clock, entropy, waiter, .. } = setup(stdin, stdout);
    wasi::Resume { mounts: vec![], stdin, stdout, stderr, clock, entropy, waiter }
}
