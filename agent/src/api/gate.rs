//! The one place where a call is let through: the peer's certificate still holds, it has a role, and the role suffices for this rpc
//! (`hotadd_api::roles`). Whoever may call finds a [`Caller`] in its request; what belongs to whom is asked where it is looked up.
use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hotadd_api::roles::{Role, needed};
use http_body::Body as _;
use tokio::time::timeout;
use tonic::{
    Request, Status,
    body::Body,
    codegen::{Service, http},
    transport::server::Connected,
};
use tower::Layer;

use crate::{
    access::{Caller, Connection, Door, Peer, Rare},
    audit::{Audit, Entry, Who},
    error::{Error, Result},
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

/// What goes on while the audit log can't be written.
const GIVES_BACK: [&str; 3] =
    ["/hotadd.v1.DiskService/CloseDisks", "/hotadd.v1.DiskService/KeepAlive", "/hotadd.v1.ProxyService/Drain"];

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    door: Door,
    audit: Audit,
    /// Refusals in the audit log: anybody with a certificate can cause them.
    refused: Arc<Rare>,
}

impl Gate {
    pub(super) fn new(door: Door, audit: Audit) -> Self {
        Self { door, audit, refused: Arc::default() }
    }

    fn admit(&self, request: &http::Request<Body>) -> Result<Caller> {
        let peer = request.extensions().get::<Arc<Peer>>();
        let peer = peer.ok_or_else(|| Error::new(&reason::INTERNAL, "a call without a peer"))?;
        let path = request.uri().path();
        let caller = self.judge(peer, path);
        if let Err(error) = &caller
            && self.refused.ask().is_some()
        {
            let entry = Entry { what: "refused", about: vec![path.to_owned()], ..Entry::default() };
            self.audit.tell(&Who::from(&**peer), entry.failed(error));
        }
        caller
    }

    fn judge(&self, peer: &Arc<Peer>, path: &str) -> Result<Caller> {
        let caller = self.door.caller(peer)?;
        // What nobody has given a role: for admins, who learn that it is not there.
        let needed = needed(path).unwrap_or(Role::Admin);
        caller.may(needed, path.trim_start_matches('/'))?;
        // What gives back, and what keeps a session that is open, is never held up.
        if needed > Role::Reader && !GIVES_BACK.contains(&path) {
            self.audit.can_begin()?;
        }
        Ok(caller)
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
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Box::pin(self.inner.call(request))
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
