//! Both ends of a remote call by other means, as processes of their own: `grpc far DIRECTORY`, `grpc near ADDRESS DIRECTORY`,
//! `nats far URL`, `nats near URL`. A far end says one line when it is ready and ends with its input; a near end answers each line with a
//! line: `pings COUNT BYTES` with the nanoseconds of each request, `many EACH INFLIGHT` with those of all.

mod grpc;
mod nats;

use std::error::Error;
use std::future::Future;
use std::time::Instant;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes of a request, and the most of an answer.
pub const REQUEST_BYTES: usize = 64;
pub const ANSWER_BYTES_MAX: usize = 65536;

/// Whoever asks the far end for so many bytes. A clone shares the connection.
pub trait Asker: Clone + Send + 'static {
    fn ask(&mut self, bytes: usize) -> impl Future<Output = Outcome<usize>> + Send;
}

#[tokio::main]
async fn main() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["grpc", "far", directory] => grpc::serve(directory).await,
        ["grpc", "near", address, directory] => measure(grpc::connect(address, directory).await?).await,
        ["nats", "far", url] => nats::serve(url).await,
        ["nats", "near", url] => measure(nats::connect(url).await?).await,
        _ => Err("which end of what?".into()),
    }
}

fn input() -> Lines<BufReader<Stdin>> {
    BufReader::new(tokio::io::stdin()).lines()
}

/// Until nobody wants it any more.
pub async fn until_input_ends() -> Outcome {
    let mut lines = input();
    while lines.next_line().await?.is_some() {}
    Ok(())
}

async fn measure(asker: impl Asker) -> Outcome {
    let mut lines = input();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |place: usize| words.get(place).and_then(|word| word.parse::<usize>().ok()).ok_or("a number is missing");
        match words.first() {
            Some(&"ready") => println!("1"),
            Some(&"pings") => {
                // A task of its own, as a server's work would be.
                let times = tokio::spawn(pings(asker.clone(), number(1)?, number(2)?)).await??;
                println!("{}", times.iter().map(u64::to_string).collect::<Vec<_>>().join(" "));
            }
            Some(&"many") => println!("{}", many(&asker, number(1)?, number(2)?).await?),
            _ => return Err(format!("what is `{line}`?").into()),
        }
    }
    Ok(())
}

async fn pings(mut asker: impl Asker, count: usize, bytes: usize) -> Outcome<Vec<u64>> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        let found = asker.ask(bytes).await?;
        times.push(start.elapsed().as_nanos() as u64);
        if found != bytes {
            return Err(format!("{found} bytes instead of {bytes}").into());
        }
    }
    Ok(times)
}

async fn many(asker: &impl Asker, each: usize, in_flight: usize) -> Outcome<u64> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..in_flight).map(|_| tokio::spawn(pings(asker.clone(), each, REQUEST_BYTES))).collect();
    for task in tasks {
        task.await??;
    }
    Ok(start.elapsed().as_nanos() as u64)
}
