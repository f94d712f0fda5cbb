//! A real etcd, with its own ports and directory, that ends with the test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Members of one etcd.
pub struct Real {
    members: Vec<Member>,
    _place: tempfile::TempDir,
}

struct Member {
    arguments: Vec<String>,
    child: Option<Child>,
    pub url: String,
}

/// A port that nobody uses now. Somebody else might take it before etcd does; then etcd ends, and the test says so.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether there is an etcd to test with. CI has one.
pub fn is_here() -> bool {
    let is_here = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !is_here {
        let what = "etcd is not installed, and nothing was tried with it: apt-get install etcd-server";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{what}");
        println!("{what}");
    }
    is_here
}

impl Real {
    pub fn start(members: usize) -> Real {
        let place = tempfile::tempdir().unwrap();
        let ports: Vec<(u16, u16)> = (0..members).map(|_| (port(), port())).collect();
        let cluster: Vec<String> =
            ports.iter().enumerate().map(|(number, (_, peer))| format!("e{number}=http://127.0.0.1:{peer}")).collect();
        let mut real = Real {
            members: ports
                .iter()
                .enumerate()
                .map(|(number, (client, peer))| {
                    let (url, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
                    let directory = place.path().join(format!("e{number}")).display().to_string();
                    let arguments = [
                        ("name", format!("e{number}")),
                        ("data-dir", directory),
                        ("listen-client-urls", url.clone()),
                        ("advertise-client-urls", url.clone()),
                        ("listen-peer-urls", peer.clone()),
                        ("initial-advertise-peer-urls", peer),
                        ("initial-cluster", cluster.join(",")),
                        ("heartbeat-interval", "100".into()),
                        ("election-timeout", "1000".into()),
                    ];
                    let arguments = arguments.iter().map(|(name, value)| format!("--{name}={value}")).collect();
                    Member { arguments, child: None, url }
                })
                .collect(),
            _place: place,
        };
        (0..members).for_each(|member| real.run(member));
        real
    }

    pub fn run(&mut self, member: usize) {
        let member = &mut self.members[member];
        let child = Command::new("etcd")
            .args(&member.arguments)
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH.replace("aarch64", "arm64"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        member.child = Some(child.unwrap());
    }

    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.url.clone()).collect()
    }

    /// Waits until it does what it is there for.
    pub fn wait(&mut self, works: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !works() {
            assert!(Instant::now() < until, "etcd does not begin to work");
            for member in &mut self.members {
                if let Some(child) = &mut member.child
                    && let Ok(Some(status)) = child.try_wait()
                {
                    panic!("etcd ended ({status}): {:?}", member.arguments);
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A request of etcd's own, for what our trait has no word for.
    pub fn post(&self, path: &str, body: &str) -> String {
        use std::io::{Read, Write};
        let address = self.members[0].url.strip_prefix("http://").unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let head = format!("POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}
