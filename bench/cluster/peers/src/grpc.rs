//! gRPC by tonic, over TLS. The certificate is made by the far end and left in a directory that both know.

use crate::{ANSWER_BYTES_MAX, Asker, Outcome, REQUEST_BYTES};
use bytes::Bytes;
use std::path::Path;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Response, Status};

#[allow(clippy::all)]
mod service {
    include!(concat!(env!("OUT_DIR"), "/una.bench.Sized.rs"));
}

use service::sized_client::SizedClient;
use service::sized_server::{Sized as Serve, SizedServer};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// How many bytes are wanted.
    #[prost(uint32, tag = "1")]
    pub wanted: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub bytes: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Answer {
    #[prost(bytes = "bytes", tag = "1")]
    pub bytes: Bytes,
}

/// The name that the certificate is for.
const NAME: &str = "far";
const CERTIFICATE: &str = "grpc.pem";

struct Far {
    most: Bytes,
}

#[tonic::async_trait]
impl Serve for Far {
    async fn call(&self, request: tonic::Request<Request>) -> Result<Response<Answer>, Status> {
        let wanted = request.get_ref().wanted as usize;
        if wanted > self.most.len() {
            return Err(Status::out_of_range("so much there is not"));
        }
        Ok(Response::new(Answer { bytes: self.most.slice(..wanted) }))
    }
}

pub async fn serve(directory: &str) -> Outcome {
    let made = rcgen::generate_simple_self_signed([NAME.to_string()])?;
    std::fs::write(Path::new(directory).join(CERTIFICATE), made.cert.pem())?;
    let identity = Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
    // The option of the server reaches only sockets that it accepts itself; without it 4 KiB wait 40 ms for an acknowledgement.
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?.with_nodelay(Some(true));
    let address = incoming.local_addr()?;
    let far = SizedServer::new(Far { most: Bytes::from(vec![7; ANSWER_BYTES_MAX]) });
    let server = Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))?
        .add_service(far)
        .serve_with_incoming(incoming);
    println!("{address}");
    tokio::select! {
        ended = server => Ok(ended?),
        done = crate::until_input_ends() => done,
    }
}

#[derive(Clone)]
pub struct Near(SizedClient<Channel>);

pub async fn connect(address: &str, directory: &str) -> Outcome<Near> {
    let certificate = Certificate::from_pem(std::fs::read(Path::new(directory).join(CERTIFICATE))?);
    let tls = ClientTlsConfig::new().ca_certificate(certificate).domain_name(NAME);
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?.tcp_nodelay(true);
    Ok(Near(SizedClient::new(endpoint.connect().await?)))
}

impl Asker for Near {
    async fn ask(&mut self, bytes: usize) -> Outcome<usize> {
        let request = Request { wanted: bytes as u32, bytes: Bytes::from_static(&[0; REQUEST_BYTES]) };
        Ok(self.0.call(request).await?.into_inner().bytes.len())
    }
}
