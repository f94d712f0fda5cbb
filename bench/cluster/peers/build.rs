//! The service of the gRPC peer, said here so that nobody needs a compiler of its own language for it.

fn main() {
    let call = tonic_build::manual::Method::builder()
        .name("call")
        .route_name("Call")
        .input_type("crate::grpc::Request")
        .output_type("crate::grpc::Answer")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let service = tonic_build::manual::Service::builder().name("Sized").package("una.bench").method(call).build();
    tonic_build::manual::Builder::new().compile(&[service]);
}
