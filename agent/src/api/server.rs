//! The listener: what the door lets in, through the gate to the services; health and reflection on.
use std::{future::Future, io, net::SocketAddr, time::Duration};

use futures_util::{Stream, StreamExt as _};
use hotadd_api::{
    MAX_REQUEST_BYTES,
    v1::{
        disk_service_server::DiskServiceServer, job_service_server::JobServiceServer,
        proxy_service_server::ProxyServiceServer,
    },
};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Server, server::TcpIncoming};

use super::{Context, bulk::Bulk, gate::Gate};
use crate::{
    access::Door,
    config::Deadlines,
    error::{Error, Result},
    reason,
};

/// gRPC is HTTP/2.
const PROTOCOLS: &[&[u8]] = &[b"h2"];
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
/// [`reason::INTERNAL`] when serving fails.
pub async fn serve(
    listener: TcpListener,
    door: &Door,
    context: Context,
    stop: impl Future<Output = ()> + Send,
) -> Result<()> {
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<ProxyServiceServer<Context>>().await;
    health_reporter.set_serving::<DiskServiceServer<Context>>().await;
    health_reporter.set_serving::<JobServiceServer<Context>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(hotadd_api::DESCRIPTOR)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|e| Error::new(&reason::INTERNAL, "reflection").with_source(e))?;
    let proxy = ProxyServiceServer::new(context.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
    let disks = DiskServiceServer::new(context.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
    let jobs = JobServiceServer::new(context.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
    let vm = &context.manager.opener().vm;
    let Deadlines { ping, ping_timeout, .. } = vm.deadlines;
    Server::builder()
        .layer(Gate::new(door.clone(), vm.audit.clone(), vm.limits.client.calls, vm.meter.clone()))
        .http2_keepalive_interval(Some(ping))
        .http2_keepalive_timeout(Some(ping_timeout))
        .max_concurrent_streams(STREAMS)
        .add_service(health.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(reflection.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(proxy)
        .add_service(Bulk::new(disks, context.clone()))
        .add_service(Bulk::new(jobs, context.clone()))
        .serve_with_incoming_shutdown(door.incoming(sockets(listener, ping, ping_timeout), PROTOCOLS), stop)
        .await
        .map_err(|e| Error::new(&reason::INTERNAL, "serving").with_source(e))
}

/// A peer that vanished without a FIN is noticed by HTTP/2's pings. They end its streams; the socket itself, when its
/// buffer is full and nobody acknowledges, ends by TCP_USER_TIMEOUT. tonic sets no option on a listener that is not its own.
fn sockets(
    listener: TcpListener,
    ping: Duration,
    ping_timeout: Duration,
) -> impl Stream<Item = io::Result<TcpStream>> + Send + 'static {
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
