//! The port of the metrics: HTTP/1.1 behind the [`Door`], for readers: `GET /metrics` and the status page ([`page`]), nothing else. What a client
//! may cost is bounded: connections, their life, the time for a request's head, and how often the page's numbers are made. Nothing that goes wrong here touches the agent's work.
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use hotadd_api::roles::Role;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
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
    status::page,
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
    let service = service_fn(move |request: Request<Incoming>| {
        // Asked for each request: a role can end with its certificate.
        let asked = Asked::of(request.uri().path());
        let (role, what) = asked.needs();
        let caller = door.caller(&peer).and_then(|caller| caller.may(role, what));
        let mut answer = caller.map_or_else(|error| refused(&error), |()| answer(request.method(), asked, &source));
        if asked != Asked::Metrics {
            page::protect(answer.headers_mut());
        }
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

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Metrics,
    Page(page::Path),
    Nothing,
}

impl Asked {
    fn of(path: &str) -> Self {
        match path {
            "/metrics" => Self::Metrics,
            other => page::Path::of(other).map_or(Self::Nothing, Self::Page),
        }
    }

    /// The role, and what for.
    fn needs(self) -> (Role, &'static str) {
        match self {
            Self::Page(_) => (page::role(), "the status page"),
            Self::Metrics | Self::Nothing => (Role::Reader, "metrics"),
        }
    }
}

fn answer(method: &Method, asked: Asked, source: &Source) -> Response<Full<Bytes>> {
    let mut answer = Response::default();
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let (content, body) = match asked {
        Asked::Nothing => {
            *answer.status_mut() = StatusCode::NOT_FOUND;
            return answer;
        }
        _ if !reads => {
            *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        Asked::Metrics => (CONTENT, Bytes::from(source.text())),
        Asked::Page(path) => (path.content_type(), source.page(path)),
    };
    *answer.body_mut() = Full::from(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, content);
    answer
}
