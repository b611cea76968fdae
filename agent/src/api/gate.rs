//! The one place where a call is let through: the peer's certificate still holds, it has a role, the role suffices for this rpc
//! (`hotadd_api::roles`), and its client is within its limits. Whoever may call finds a [`Caller`] in its request; what belongs to whom is
//! asked where it is looked up.
use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hotadd_api::roles::{Role, gives_back, needed};
use http_body::Body as _;
use tokio::time::timeout;
use tonic::{
    Request, Status,
    body::Body,
    codegen::{Service, http},
    transport::server::Connected,
};
use tower::Layer;

use super::counted;
use crate::{
    access::{Allowed, Caller, Connection, Door, Over, Peer, Rare, Running, Shares},
    audit::{Audit, Entry, Who},
    error::{Error, Result},
    metrics::Meter,
    reason,
};

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        self.peer()
    }
}

/// How much of a refused request is read, and for how long: one message of an honest client.
const REFUSED_BYTES: usize = 64 << 10;
const REFUSED: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    door: Door,
    audit: Audit,
    /// Refusals in the audit log: anybody with a certificate can cause them.
    refused: Arc<Rare>,
    shares: Shares,
    allowed: Allowed,
    /// Refusals for a limit, in the log: apart, so that they keep no other refusal out of it.
    limited: Arc<Rare>,
    meter: Meter,
}

/// Who calls, and its place among the calls of its client; none for what is not counted.
type Admitted = (Caller, Option<Running>);

impl Gate {
    pub(super) fn new(door: Door, audit: Audit, allowed: Allowed, meter: Meter) -> Self {
        let (refused, limited) = (Arc::default(), Arc::default());
        Self { door, audit, refused, shares: Shares::new(allowed), allowed, limited, meter }
    }

    fn admit(&self, request: &http::Request<Body>) -> Result<Admitted> {
        let peer = request.extensions().get::<Arc<Peer>>();
        let peer = peer.ok_or_else(|| Error::new(&reason::INTERNAL, "a call without a peer"))?;
        let path = request.uri().path();
        let admitted = self.judge(peer, path);
        if let Err(error) = &admitted
            && *error.reason() != reason::LIM_CLIENT
            && self.refused.ask().is_some()
        {
            let entry = Entry { what: "refused", about: vec![path.to_owned()], ..Entry::default() };
            self.audit.tell(&Who::from(&**peer), entry.failed(error));
        }
        admitted
    }

    fn judge(&self, peer: &Arc<Peer>, path: &str) -> Result<Admitted> {
        let caller = self.door.caller(peer)?;
        // What nobody has given a role: for admins, who learn that it is not there.
        let needed = needed(path).unwrap_or(Role::Admin);
        caller.may(needed, path.trim_start_matches('/'))?;
        // What gives back, and what keeps a session that is open, is never held up.
        if gives_back(path) {
            return Ok((caller, None));
        }
        let running = self.begin(&caller, path)?;
        if needed > Role::Reader {
            self.audit.can_begin()?;
        }
        Ok((caller, Some(running)))
    }

    /// Takes a place and a token of this client.
    fn begin(&self, caller: &Caller, path: &str) -> Result<Running> {
        self.shares.begin(&caller.name, Instant::now()).map_err(|over| {
            let Allowed { calls, calls_per_second, burst } = self.allowed;
            let (limit, detail) = match over {
                Over::Calls => ("calls", format!("calls = {calls} at the same time")),
                Over::Rate(_) => {
                    ("calls_per_second", format!("calls_per_second = {calls_per_second}, burst = {burst}"))
                }
            };
            self.meter.limited(limit);
            let error = Error::new(&reason::LIM_CLIENT, format!("{}: {detail}", caller.name));
            if let Some(kept_back) = self.limited.ask() {
                tracing::warn!(reason = error.reason().code, kept_back, path, "{error}");
            }
            match over {
                Over::Calls => error,
                Over::Rate(after) => error.retry_in(after),
            }
        })
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

/// What is behind the gate.
#[derive(Debug, Clone)]
pub(super) struct Gated<S> {
    gate: Gate,
    inner: S,
}

type Answer = Result<http::Response<Body>, Infallible>;

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.gate.admit(&request) {
            Ok((caller, running)) => {
                request.extensions_mut().insert(caller);
                let answer = self.inner.call(request);
                // Until then the future holds its place: a client that goes away drops it.
                Box::pin(async move { Ok(answer.await?.map(|body| counted::until_its_end(body, running))) })
            }
            Err(error) => Box::pin(refuse(request.into_body(), error)),
        }
    }
}

/// A request that is dropped half read is cancelled, and its client may never see the answer: it is read first, as far as that is no burden.
async fn refuse(mut body: Body, error: Error) -> Answer {
    let read_out = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = poll_fn(|task| Pin::new(&mut body).poll_frame(task)).await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > REFUSED_BYTES {
                return;
            }
        }
    };
    timeout(REFUSED, read_out).await.ok();
    Ok(Status::from(error).into_http())
}

/// Who called.
///
/// # Errors
/// [`reason::INTERNAL`]: it did not come through the gate.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Error::new(&reason::INTERNAL, "a call that did not come through the gate"))
}
