//! The port of the metrics: HTTP/1.1 behind the [`Door`], for readers, `GET /metrics`, nothing else. What a client may cost is bounded: connections, their
//! life, and the time for a request's head. Nothing that goes wrong here touches the agent's work.
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use hotadd_api::roles::Role;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Semaphore, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};

use super::source::Source;
use crate::{
    access::{Connection, Door},
    api::server::bind,
    error::{Error, Result},
};

const PROTOCOLS: &[&[u8]] = &[b"http/1.1"];
/// Connections at the same time: a few Prometheus servers and a person.
const CONNECTIONS: usize = 16;
/// For a request's head, which is also how long a connection may be idle: longer than usual scrape intervals.
const HEAD: Duration = Duration::from_secs(150);
/// Of a connection, whatever it does: a client that takes nothing holds its place no longer.
const LIFE: Duration = Duration::from_secs(1800);
/// OpenMetrics 1.0.
const CONTENT: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Opens the port; it is served as long as this process lives.
///
/// # Errors
/// [`crate::reason::CFG_INVALID`] when the address can't be bound.
pub async fn open(listen: SocketAddr, door: &Door, source: Source) -> Result<()> {
    let listener = bind(listen).await?;
    let address = listener.local_addr().unwrap_or(listen);
    tracing::info!(%address, "metrics are served");
    let connections = door.incoming(TcpListenerStream::new(listener), PROTOCOLS);
    tokio::spawn(accept(connections, door.clone(), source));
    Ok(())
}

async fn accept(mut connections: ReceiverStream<io::Result<Connection>>, door: Door, source: Source) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Some(connection) = connections.next().await {
        // The door told of those that were not let in.
        let Ok(connection) = connection else { continue };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!(peer = ?connection.peer(), "metrics: too many connections");
            continue;
        };
        let (door, source) = (door.clone(), source.clone());
        tokio::spawn(async move {
            let _place = place;
            drop(timeout(LIFE, serve(connection, door, source)).await);
        });
    }
}

async fn serve(connection: Connection, door: Door, source: Source) {
    let peer = connection.peer();
    let service = service_fn(move |request| {
        // Asked for each request: a role can end with its certificate.
        let caller = door.caller(&peer).and_then(|caller| caller.may(Role::Reader, "metrics"));
        let answer = caller.map_or_else(|error| refused(&error), |()| answer(&request, &source));
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD);
    if let Err(error) = server.serve_connection(TokioIo::new(connection), service).await {
        tracing::debug!(%error, "metrics: a connection ended");
    }
}

fn refused(error: &Error) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(format!("{error}\n")));
    *answer.status_mut() = StatusCode::FORBIDDEN;
    answer
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
