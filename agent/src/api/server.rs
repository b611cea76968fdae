//! The listener: mutual TLS only, health and reflection on.
use std::{future::Future, net::SocketAddr, time::Duration};

use futures_util::{Stream, StreamExt as _};
use hotadd_api::v1::{
    disk_service_server::DiskServiceServer, job_service_server::JobServiceServer,
    proxy_service_server::ProxyServiceServer,
};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use secrecy::ExposeSecret as _;
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming};

use super::{Context, bulk::Bulk};
use crate::{
    config::{Deadlines, Tls},
    error::{Error, Result},
    reason,
};

/// How long a connection may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Unanswered keep-alive probes after which the kernel gives a silent connection up.
const PROBES: u32 = 4;
/// HTTP/2 streams of one connection at the same time.
const STREAMS: u32 = 256;

/// Binds, so that readiness can be told before serving begins.
///
/// # Errors
/// [`reason::CFG_INVALID`] when the address can't be bound.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener> {
    let failed = |e| Error::new(&reason::CFG_INVALID, format!("listen: {listen}")).with_source(e);
    TcpListener::bind(listen).await.map_err(failed)
}

/// Serves until `stop` ends, then lets the running calls finish.
///
/// # Errors
/// [`reason::CFG_INVALID`] for certificates that can't be used, [`reason::INTERNAL`] when serving fails.
pub async fn serve(
    listener: TcpListener,
    tls: &Tls,
    context: Context,
    stop: impl Future<Output = ()> + Send,
) -> Result<()> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: tonic::transport::Error| Error::new(&reason::CFG_INVALID, what).with_source(e)
    };
    let identity = Identity::from_pem(&tls.certificate, tls.key.expose_secret());
    let config = ServerTlsConfig::new()
        .identity(identity)
        .client_ca_root(Certificate::from_pem(&tls.client_ca))
        .client_auth_optional(false)
        .timeout(HANDSHAKE);
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<ProxyServiceServer<Context>>().await;
    health_reporter.set_serving::<DiskServiceServer<Context>>().await;
    health_reporter.set_serving::<JobServiceServer<Context>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(hotadd_api::DESCRIPTOR)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|e| Error::new(&reason::INTERNAL, "reflection").with_source(e))?;
    let Deadlines { ping, ping_timeout, .. } = context.manager.opener().vm.deadlines;
    Server::builder()
        .tls_config(config)
        .map_err(failed("tls"))?
        .http2_keepalive_interval(Some(ping))
        .http2_keepalive_timeout(Some(ping_timeout))
        .max_concurrent_streams(STREAMS)
        .add_service(health)
        .add_service(reflection)
        .add_service(ProxyServiceServer::new(context.clone()))
        .add_service(Bulk::new(DiskServiceServer::new(context.clone()), context.clone()))
        .add_service(Bulk::new(JobServiceServer::new(context.clone()), context))
        .serve_with_incoming_shutdown(incoming(listener, ping, ping_timeout), stop)
        .await
        .map_err(failed("serving"))
}

/// A peer that vanished without a FIN is noticed by HTTP/2's pings. They end its streams; the socket itself, when its
/// buffer is full and nobody acknowledges, ends by TCP_USER_TIMEOUT. tonic sets no option on a listener that is not its own.
fn incoming(
    listener: TcpListener,
    ping: Duration,
    ping_timeout: Duration,
) -> impl Stream<Item = std::io::Result<TcpStream>> {
    // The kernel counts these in whole seconds.
    let second = Duration::from_secs(1);
    let patience = u32::try_from((ping + ping_timeout).as_millis()).unwrap_or(u32::MAX);
    TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(ping.max(second)))
        .with_keepalive_interval(Some((ping_timeout / PROBES).max(second)))
        .with_keepalive_retries(Some(PROBES))
        .inspect(move |stream| {
            let Ok(stream) = stream else { return };
            if let Err(error) = setsockopt(stream, TcpUserTimeout, &patience) {
                tracing::warn!(%error, "TCP_USER_TIMEOUT can't be set");
            }
        })
}
