//! OpenDisks: from a request to a session, once per request id, and the way back when a step fails.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use hotadd_api::v1::{self, EventKind};
use secrecy::SecretString;
use tokio::{
    sync::{Semaphore, watch as channel},
    time::Instant,
};

use super::{
    live::{Held, Inner, READS_PER_SESSION, Session, State},
    opener::{Opened, Opener, Source, Ways},
    registry::{Answer, Manager, lock},
    snapshot::HeldSnapshot,
    watch::{self, Trouble, Watch},
};
use crate::{
    access::Caller,
    attach::{Actor, now},
    error::{Error, Result},
    id::SessionId,
    journal::{LeaseBegan, Record, history::SessionPast},
    plan::facts_to_api,
    reason,
    traces::{Ended, Of, Parent},
    transport::Disk,
};

/// What OpenDisks asks.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    /// Who asks; the session is his.
    pub caller: Caller,
    pub request_id: String,
    /// Fingerprint of everything else of the request, to tell a repetition from a conflict.
    pub asked: String,
    pub vm: String,
    pub source: Source,
    pub keys: Vec<i32>,
    pub lease: Option<Duration>,
    pub ways: Ways,
    pub ticket: Option<SecretString>,
    /// The span of who asks.
    pub parent: Option<Parent>,
}

impl Manager {
    /// Opens a session, or gives the one that this request opened before, while it lives. Runs to its end without its
    /// caller.
    ///
    /// # Errors
    /// Whatever the opening met; everything is given back or owed then. What ended the session that this request opened.
    pub async fn open(&self, request: OpenRequest) -> Result<v1::OpenDisksResponse> {
        let caller = request.caller.clone();
        let mut answer = self.admit(request)?;
        let session = loop {
            if let Some(result) = answer.borrow_and_update().clone() {
                break result.map_err(|error| error.copy())?;
            }
            if answer.changed().await.is_err() {
                return Err(Error::new(&reason::INTERNAL, "the opening ended without an answer").owing());
            }
        };
        session.asked_by(&caller)?;
        match session.ended() {
            None => Ok(session.to_response()),
            Some(ended) => Err(ended.about(format!("session {}", session.id))),
        }
    }

    fn admit(&self, request: OpenRequest) -> Result<channel::Receiver<Answer>> {
        // Under this lock: what passes here is among the openings that a drain waits for.
        let mut requests = lock(&self.shared.requests);
        self.go_on()?;
        if !request.request_id.is_empty()
            && let Some((asked, answer)) = requests.get(&request.request_id)
        {
            if *asked != request.asked {
                return Err(Error::new(&reason::SES_CONFLICT, request.request_id));
            }
            return Ok(answer.clone());
        }
        self.not_ended_before(&request)?;
        self.takes_new()?;
        let (tell, answer) = channel::channel(None);
        if !request.request_id.is_empty() {
            requests.insert(request.request_id.clone(), (request.asked.clone(), answer.clone()));
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

    /// A request of an earlier run, or of a session that only the journal remembers.
    fn not_ended_before(&self, request: &OpenRequest) -> Result<()> {
        let state = self.shared.opener.vm.journal.state();
        let same = |past: &&SessionPast| !request.request_id.is_empty() && past.began.request_id == request.request_id;
        let Some(past) = state.history().sessions().filter(same).last() else { return Ok(()) };
        request.caller.may_touch(&past.began.owner, &format!("session {}", past.began.session))?;
        if past.began.asked != request.asked {
            return Err(Error::new(&reason::SES_CONFLICT, &request.request_id));
        }
        match past.end {
            Some(_) => Err(self.past_error(past).about(format!("session {}", past.began.session))),
            None => Ok(()),
        }
    }

    fn go_on(&self) -> Result<()> {
        if self.shared.drain.is_cancelled() { Err(Error::new(&reason::SES_DRAINING, "")) } else { Ok(()) }
    }

    /// Whatever way an opening fails, a panic included: what the journal still has of it is handed over and told. The
    /// error alone never decides what is owed.
    async fn open_whole(&self, request: OpenRequest) -> Result<Arc<Session>> {
        let id = SessionId::new();
        let (this, traces) = (self.clone(), &self.shared.opener.vm.traces);
        traces.begin(Of::Session, id, request.parent);
        let opening = tokio::spawn(async move { this.open_new(id, request).await });
        let result = opening.await.unwrap_or_else(|panic| Err(panic.into()));
        result.map_err(|error| {
            let error = if self.hand_over_all(id) { error.owing() } else { error };
            let (code, cleanup) = (Some(error.reason().code), error.cleanup());
            traces.end(id, &Ended { code, cleanup, ..Ended::default() });
            error
        })
    }

    async fn open_new(&self, id: SessionId, request: OpenRequest) -> Result<Arc<Session>> {
        let vm = &self.shared.opener.vm;
        vm.audit.remember(id, &request.caller);
        // At once: a ticket does not keep.
        let actor = Actor::new(vm, id, request.ticket.as_ref()).await?;
        self.open_as(&actor, request).await.map_err(|error| actor.explain(error))
    }

    async fn open_as(&self, actor: &Actor, request: OpenRequest) -> Result<Arc<Session>> {
        let (opener, id) = (&self.shared.opener, actor.session());
        let go_on = || self.go_on().and_then(|()| actor.go_on());
        let traces = &opener.vm.traces;
        traces.stage(id, "preflight");
        let mut preflight = opener.preflight(actor, &request.vm, &request.keys, &request.ways).await?;
        let target = preflight.target.clone();
        traces.about(id, target.moref.as_str(), &target.name);
        let claim = self.claim(&target.moref, &target.name, None)?;
        Opener::able(&preflight, true)?;
        let name = target.name.as_str();
        let told = |why: Error| async move {
            tracing::warn!(session = %id, %why, "waiting before the snapshot");
            traces.waits(id, &why);
            opener.vm.events.send(EventKind::Hold, id, name, Some(&why));
        };
        // A turn is not held while a host or a slot is waited for: others could have it.
        opener.admit(&preflight, true).await?;
        let mut host = watch::hold(&opener.vm, &target.moref, told, go_on).await?;
        let patience = opener.vm.deadlines.hold;
        let turn = opener.turn(id, &preflight, &request.source, patience, told, go_on).await?;
        if turn.as_ref().is_some_and(|turn| turn.waited) {
            preflight = opener.preflight(actor, target.moref.as_str(), &request.keys, &request.ways).await?;
            opener.admit(&preflight, true).await?;
            host = watch::hold(&opener.vm, &target.moref, told, go_on).await?;
        }
        let target = &preflight.target;
        opener.can_give_back(actor, target, &request.source).await?;
        traces.next_stage(id, "snapshot");
        let snapshot = opener.snapshot(actor, &preflight, &request.source).await?;
        drop(turn);
        let mut watch = Watch::start(&opener.vm, target, &snapshot, host);
        let trouble = watch.trouble();
        traces.next_stage(id, "attach");
        let attached = match go_on() {
            Ok(()) => opener.attach(actor, target, &snapshot.moref, &request.keys, &request.ways).await,
            Err(error) => Err(error),
        };
        let attached = attached.and_then(|disks| trouble.now().or_else(|| actor.ended()).map_or(Ok(disks), Err));
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
        if !held.values().any(Disk::is_attached) {
            watch = watch.without_proxy();
        }
        let trouble = watch.trouble();
        let limits = &opener.vm.limits;
        let lease = request.lease.unwrap_or(limits.lease_default).clamp(limits.lease_min, limits.lease_max);
        let began = LeaseBegan {
            session: id,
            at: now(),
            seconds: lease.as_secs(),
            vm: target.name.clone(),
            request_id: request.request_id.clone(),
            asked: request.asked.clone(),
            owner: request.caller.name.to_string(),
        };
        if let Err(error) = opener.vm.record(vec![Record::LeaseBegan(began)]).await {
            drop(held);
            return Err(self.abandon(error, id, snapshot).await);
        }
        let session = Arc::new(Session {
            id,
            owner: Arc::clone(&request.caller.name),
            vm_moref: target.moref.clone(),
            vm_name: target.name.clone(),
            acting_user: actor.user().to_owned(),
            opened,
            snapshot: snapshot.to_api(),
            lease,
            inner: Mutex::new(Inner {
                state: State::Open,
                lease_end: Instant::now() + lease,
                peer: Arc::clone(&request.caller.peer),
                ended: None,
                held: Some(Held { watch: Arc::new(watch), disks: held, snapshot, actor: actor.clone(), _claim: claim }),
            }),
            reads: Arc::new(Semaphore::new(READS_PER_SESSION as usize)),
            cancel_reads: Arc::default(),
        });
        tracing::info!(session = %id, vm = target.name, "session open");
        traces.next_stage(id, "open");
        self.remember(&session);
        self.close_on(trouble, actor.clone(), &session);
        if self.shared.drain.is_cancelled() {
            self.close(&session, Error::new(&reason::SES_DRAINING, "")).await;
            return Err(Error::new(&reason::SES_DRAINING, ""));
        }
        Ok(session)
    }

    /// Ends the session when what it reads from is in trouble.
    fn close_on(&self, trouble: Trouble, actor: Actor, session: &Arc<Session>) {
        let (this, session) = (self.clone(), Arc::downgrade(session));
        tokio::spawn(async move {
            // Ends without trouble when the session does: its watch is dropped then.
            let error = tokio::select! {
                error = trouble.wait() => error,
                () = actor.wait_ended() => actor.ended(),
            };
            drop(actor);
            let Some(error) = error else { return };
            let Some(session) = session.upgrade() else { return };
            tracing::error!(session = %session.id, vm = session.vm_name, reason = error.reason().code, %error, "detaching");
            this.close(&session, error).await;
        });
    }

    /// Gives everything back after a failure; [`Self::open_whole`] tells what is still owed.
    async fn abandon(&self, error: Error, session: SessionId, snapshot: HeldSnapshot) -> Error {
        let traces = &self.shared.opener.vm.traces;
        traces.stage(session, "detach");
        self.give_back_disks(session).await;
        traces.next_stage(session, "remove snapshot");
        drop(snapshot);
        self.give_back_rest(session).await;
        traces.stage_over(session);
        error
    }
}

fn split(disks: Vec<Opened>) -> (BTreeMap<i32, Disk>, Vec<Error>) {
    let mut held = BTreeMap::new();
    let mut errors = Vec::new();
    for disk in disks {
        match disk.disk {
            Ok(open) => drop(held.insert(disk.decision.disk.device_key, open)),
            Err(why) => errors.extend(why),
        }
    }
    (held, errors)
}

fn opened_to_api(opened: &Opened) -> v1::OpenedDisk {
    let why = opened.disk.as_ref().err().unwrap_or(&opened.remarks);
    v1::OpenedDisk {
        disk: Some(facts_to_api(&opened.decision.disk)),
        opened: opened.disk.is_ok(),
        reasons: why.iter().map(Error::to_reason).collect(),
        transport: opened.disk.as_ref().map_or(v1::Transport::Unspecified, Disk::transport).into(),
    }
}
