//! OpenDisks: from a request to a session, once per request id, and the way back when a step fails.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use hotadd_api::v1;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{
    live::{Held, Inner, READS_PER_SESSION, Session, State},
    opener::{Opened, Source},
    registry::{Answer, Manager, lock},
    snapshot::HeldSnapshot,
};
use crate::{
    attach::{Attached, now},
    error::{Error, Result},
    id::SessionId,
    journal::Record,
    plan::facts_to_api,
    reason,
};

/// What OpenDisks asks.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    pub request_id: String,
    /// Everything else of the request, to tell a repetition from a conflict.
    pub fingerprint: Vec<u8>,
    pub vm: String,
    pub source: Source,
    pub keys: Vec<i32>,
    pub lease: Option<Duration>,
}

impl Manager {
    /// Opens a session, or gives the one that this request opened before. Runs to its end without its caller.
    ///
    /// # Errors
    /// Whatever the opening met; everything is given back or owed then.
    pub async fn open(&self, request: OpenRequest) -> Result<v1::OpenDisksResponse> {
        let mut answer = self.admit(request)?;
        let session = loop {
            if let Some(result) = answer.borrow_and_update().clone() {
                break result.map_err(|error| error.copy())?;
            }
            if answer.changed().await.is_err() {
                return Err(Error::new(&reason::INTERNAL, "the opening ended without an answer").owing());
            }
        };
        Ok(session.to_response())
    }

    fn admit(&self, request: OpenRequest) -> Result<watch::Receiver<Answer>> {
        // Under this lock: what passes here is among the openings that a drain waits for.
        let mut requests = lock(&self.shared.requests);
        self.go_on()?;
        if !request.request_id.is_empty()
            && let Some((fingerprint, answer)) = requests.get(&request.request_id)
        {
            if *fingerprint != request.fingerprint {
                return Err(Error::new(&reason::SES_CONFLICT, request.request_id));
            }
            return Ok(answer.clone());
        }
        let (tell, answer) = watch::channel(None);
        if !request.request_id.is_empty() {
            requests.insert(request.request_id.clone(), (request.fingerprint.clone(), answer.clone()));
        }
        let this = self.clone();
        self.shared.openings.spawn(async move {
            let id = request.request_id.clone();
            let result = this.open_whole(request).await.map_err(Arc::new);
            if result.is_err() {
                // A failed request may be tried again under the same id.
                lock(&this.shared.requests).remove(&id);
            }
            tell.send_replace(Some(result));
        });
        drop(requests);
        Ok(answer)
    }

    fn go_on(&self) -> Result<()> {
        if self.shared.drain.is_cancelled() { Err(Error::new(&reason::SES_DRAINING, "")) } else { Ok(()) }
    }

    /// Whatever way an opening fails, a panic included: what the journal still has of it is handed over and told. The
    /// error alone never decides what is owed.
    async fn open_whole(&self, request: OpenRequest) -> Result<Arc<Session>> {
        let id = SessionId::new();
        let this = self.clone();
        let opening = tokio::spawn(async move { this.open_new(id, request).await });
        let result = opening.await.unwrap_or_else(|panic| Err(panic.into()));
        result.map_err(|error| if self.hand_over_all(id) { error.owing() } else { error })
    }

    async fn open_new(&self, id: SessionId, request: OpenRequest) -> Result<Arc<Session>> {
        let opener = &self.shared.opener;
        let preflight = opener.preflight(&request.vm, &request.keys).await?;
        let target = &preflight.target;
        let claim = self.claim(&target.moref, &target.name)?;
        opener.admit(&preflight, true).await?;
        self.go_on()?;
        let snapshot = opener.snapshot(id, target, &request.source).await?;
        let attached = match self.go_on() {
            Ok(()) => opener.attach(id, target, &snapshot.moref, &request.keys).await,
            Err(error) => Err(error),
        };
        let disks = match attached {
            Ok(disks) => disks,
            Err(error) => return Err(self.abandon(error, id, snapshot).await),
        };
        let opened: Vec<_> = disks.iter().map(opened_to_api).collect();
        let (held, errors) = split(disks);
        if held.is_empty() {
            let error = errors.into_iter().next().unwrap_or_else(|| Error::new(&reason::VM_NO_DISKS, &target.name));
            return Err(self.abandon(error, id, snapshot).await);
        }
        let limits = &opener.vm.limits;
        let lease = request.lease.unwrap_or(limits.lease_default).clamp(limits.lease_min, limits.lease_max);
        let began = Record::LeaseBegan { session: id, at: now(), seconds: lease.as_secs() };
        if let Err(error) = opener.vm.record(vec![began]).await {
            drop(held);
            return Err(self.abandon(error, id, snapshot).await);
        }
        let session = Arc::new(Session {
            id,
            vm_name: target.name.clone(),
            opened,
            snapshot: snapshot.to_api(),
            lease,
            inner: Mutex::new(Inner {
                state: State::Open,
                lease_end: Instant::now() + lease,
                reason: String::new(),
                held: Some(Held { disks: held, snapshot, _claim: claim }),
            }),
            reads: Arc::new(Semaphore::new(READS_PER_SESSION as usize)),
            cancel_reads: Arc::default(),
        });
        tracing::info!(session = %id, vm = target.name, "session open");
        self.remember(&session);
        if self.shared.drain.is_cancelled() {
            self.close(&session, "the agent is shutting down").await;
            return Err(Error::new(&reason::SES_DRAINING, ""));
        }
        Ok(session)
    }

    /// Gives everything back after a failure; [`Self::open_whole`] tells what is still owed.
    async fn abandon(&self, error: Error, session: SessionId, snapshot: HeldSnapshot) -> Error {
        self.give_back_disks(session).await;
        self.give_back_snapshot(session, snapshot).await;
        error
    }
}

fn split(disks: Vec<Opened>) -> (BTreeMap<i32, Arc<Attached>>, Vec<Error>) {
    let mut held = BTreeMap::new();
    let mut errors = Vec::new();
    for disk in disks {
        match disk.attached {
            Ok(attached) => drop(held.insert(disk.decision.disk.device_key, attached)),
            Err(why) => errors.extend(why),
        }
    }
    (held, errors)
}

fn opened_to_api(opened: &Opened) -> v1::OpenedDisk {
    let ok = opened.attached.is_ok();
    v1::OpenedDisk {
        disk: Some(facts_to_api(&opened.decision.disk)),
        opened: ok,
        reasons: opened.attached.as_ref().err().into_iter().flatten().map(Error::to_reason).collect(),
        transport: if ok { v1::Transport::Hotadd } else { v1::Transport::Unspecified }.into(),
    }
}
