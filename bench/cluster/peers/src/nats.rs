//! A request by NATS: through a server, which is a third process.

use crate::{ANSWER_BYTES_MAX, Asker, Outcome, REQUEST_BYTES};
use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt;

const SUBJECT: &str = "una.bench.sized";

pub async fn serve(url: &str) -> Outcome {
    let client = async_nats::connect(url).await?;
    let mut requests = client.subscribe(SUBJECT).await?;
    client.flush().await?;
    println!("ready");
    let most = Bytes::from(vec![7; ANSWER_BYTES_MAX]);
    let answering = async {
        while let Some(request) = requests.next().await {
            let wanted = request.payload.first_chunk().map_or(0, |wanted| u32::from_le_bytes(*wanted) as usize);
            if let Some(reply) = request.reply {
                client.publish(reply, most.slice(..wanted.min(most.len()))).await?;
            }
        }
        Outcome::Ok(())
    };
    tokio::select! {
        ended = answering => ended,
        done = crate::until_input_ends() => done,
    }
}

#[derive(Clone)]
pub struct Near(Client);

pub async fn connect(url: &str) -> Outcome<Near> {
    Ok(Near(async_nats::connect(url).await?))
}

impl Asker for Near {
    async fn ask(&mut self, bytes: usize) -> Outcome<usize> {
        let mut request = vec![0; REQUEST_BYTES];
        request[..4].copy_from_slice(&(bytes as u32).to_le_bytes());
        Ok(self.0.request(SUBJECT, request.into()).await?.payload.len())
    }
}
