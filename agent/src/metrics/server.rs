//! The port of the metrics: HTTP/1.1 in mutual TLS, `GET /metrics`, nothing else. What a client may cost is bounded: connections, their
//! life, and the time for a handshake and for a request's head. Nothing that goes wrong here touches the agent's work.
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use secrecy::ExposeSecret as _;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::source::Source;
use crate::{
    api::server::bind,
    config::Tls,
    error::{Error, Result},
    reason,
};

/// Connections at the same time: a few Prometheus servers and a person.
const CONNECTIONS: usize = 16;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For a request's head, which is also how long a connection may be idle: longer than usual scrape intervals.
const HEAD: Duration = Duration::from_secs(150);
/// Of a connection, whatever it does: a client that takes nothing holds its place no longer.
const LIFE: Duration = Duration::from_secs(1800);
/// After a failed accept, which means that descriptors ran out.
const PAUSE: Duration = Duration::from_secs(1);
/// OpenMetrics 1.0.
const CONTENT: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Opens the port; it is served as long as this process lives.
///
/// # Errors
/// [`reason::CFG_INVALID`] when the address can't be bound or the certificates can't be used.
pub async fn open(listen: SocketAddr, tls: &Tls, source: Source) -> Result<()> {
    let acceptor = acceptor(tls)?;
    let listener = bind(listen).await?;
    let address = listener.local_addr().unwrap_or(listen);
    tracing::info!(%address, "metrics are served");
    tokio::spawn(accept(listener, acceptor, source));
    Ok(())
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor> {
    let failed = |e: &dyn std::fmt::Display| Error::new(&reason::CFG_INVALID, format!("metrics: certificates: {e}"));
    let certificates = |pem: &[u8]| {
        CertificateDer::pem_slice_iter(pem).collect::<std::result::Result<Vec<_>, _>>().map_err(|e| failed(&e))
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(&tls.client_ca)? {
        roots.add(root).map_err(|e| failed(&e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|e| failed(&e))?;
    let key = PrivateKeyDer::from_pem_slice(tls.key.expose_secret().as_bytes()).map_err(|e| failed(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(&tls.certificate)?, key)
        .map_err(|e| failed(&e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, source: Source) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "metrics: no connection can be taken");
                sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, source) = (acceptor.clone(), source.clone());
        tokio::spawn(async move {
            let _place = place;
            if let Ok(Err(why)) = timeout(LIFE, connection(stream, acceptor, source)).await {
                tracing::debug!(%peer, why, "metrics: a connection ended");
            }
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, source: Source) -> std::result::Result<(), String> {
    let handshake = timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let stream = handshake.map_err(|_| "no handshake in time".to_owned())?.map_err(|e| e.to_string())?;
    let service = service_fn(move |request| {
        let answer = answer(&request, &source);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD);
    server.serve_connection(TokioIo::new(stream), service).await.map_err(|e| e.to_string())
}

fn answer<B>(request: &Request<B>, source: &Source) -> Response<Full<Bytes>> {
    let mut answer = Response::default();
    let known = request.uri().path() == "/metrics";
    match (known, request.method()) {
        (true, &Method::GET | &Method::HEAD) => {
            *answer.body_mut() = Full::from(source.text());
            answer.headers_mut().insert(header::CONTENT_TYPE, CONTENT);
        }
        (true, _) => *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED,
        (false, _) => *answer.status_mut() = StatusCode::NOT_FOUND,
    }
    answer
}
