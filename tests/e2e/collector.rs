//! A collector of OTLP over gRPC in mutual TLS. It keeps requests as the bytes that came, so that others than ourselves can read them.
use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    task::{Context as Task, Poll},
};

use anyhow::Result;
use hotadd_harness::Pki;
use prost::bytes::{Buf as _, BufMut as _};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService},
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

/// See the module. It ends with the test's runtime.
#[derive(Debug)]
pub struct Collector {
    pub address: SocketAddr,
    listener: Option<TcpListener>,
    taken: Taken,
}

type Taken = Arc<Mutex<Vec<Vec<u8>>>>;

impl Collector {
    /// Has its port, and does not serve yet.
    pub async fn bind() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Ok(Self { address: listener.local_addr()?, listener: Some(listener), taken: Taken::default() })
    }

    /// With the certificate `server` of its own authority, for clients of that other one.
    pub fn serve(&mut self, own: &Pki, clients: &Path) -> Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let identity =
            Identity::from_pem(std::fs::read(own.file("server.pem"))?, std::fs::read(own.file("server.key"))?);
        let tls =
            ServerTlsConfig::new().identity(identity).client_ca_root(Certificate::from_pem(std::fs::read(clients)?));
        let service = TraceService { taken: Arc::clone(&self.taken) };
        let server = Server::builder().tls_config(tls)?.add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(())
    }

    /// Bodies of all requests so far.
    pub fn taken(&self) -> Vec<Vec<u8>> {
        self.taken.lock().unwrap().clone()
    }
}

#[derive(Debug, Clone)]
struct TraceService {
    taken: Taken,
}

impl NamedService for TraceService {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<http::Request<Body>> for TraceService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let export = Export(Arc::clone(&self.taken));
        Box::pin(async move {
            match request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/')) {
                Some((Self::NAME, "Export")) => Ok(Grpc::new(Raw).unary(export, request).await),
                _ => Ok(Status::unimplemented("not a collector's").into_http()),
            }
        })
    }
}

struct Export(Taken);

impl Service<Request<Vec<u8>>> for Export {
    type Response = Response<Vec<u8>>;
    type Error = Status;
    type Future = BoxFuture<Response<Vec<u8>>, Status>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        self.0.lock().unwrap().push(request.into_inner());
        // An empty ExportTraceServiceResponse: all of it was taken.
        Box::pin(async { Ok(Response::new(Vec::new())) })
    }
}

/// Messages as they are on the wire.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}
