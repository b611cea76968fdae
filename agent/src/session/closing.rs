//! The ends of a session: CloseDisks, the lease, the drain. Everything that was held goes through the settler.
use std::sync::{Arc, atomic::Ordering};

use hotadd_api::v1::{self, Cleanup};
use tokio::time::{Instant, timeout};

use super::{
    live::{Held, Inner, READS_PER_SESSION, Session, State},
    registry::{Found, Manager, lock},
};
use crate::{
    access::Caller,
    attach::{Settled, now},
    error::{Error, Result},
    id::SessionId,
    journal::{End, Record},
    reason,
    traces::Ended,
};

impl Manager {
    /// Hands every open duty of a session to the settler; tells whether there is one.
    pub fn hand_over_all(&self, session: SessionId) -> bool {
        let opener = &self.shared.opener;
        let open = opener.vm.journal.duties_of(session);
        open.iter().for_each(|duty| opener.settler.hand_over(duty.id));
        // Nothing is left there, unless the session ended by a panic.
        let servers = opener.servers.clone();
        tokio::spawn(async move { servers.end(session).await });
        !open.is_empty()
    }

    /// Settles every disk that the journal knows of this session, those of an attach that went wrong included. The
    /// wait is bounded, the settling is not.
    pub async fn give_back_disks(&self, session: SessionId) -> Settled {
        let opener = &self.shared.opener;
        let open = opener.vm.journal.duties_of(session);
        let disks: Vec<_> = open.iter().filter(|duty| duty.uses_snapshot()).map(|duty| duty.id).collect();
        // Servers of ours that have the snapshot's disks open end before it may go.
        let (settled, ()) =
            tokio::join!(opener.settler.settle(&disks, opener.vm.deadlines.cleanup), opener.servers.end(session));
        settled
    }

    /// Whatever is left of the session: its snapshots, after its disks. Its holder has dropped it.
    pub async fn give_back_rest(&self, session: SessionId) -> Settled {
        let opener = &self.shared.opener;
        let open: Vec<_> = opener.vm.journal.duties_of(session).iter().map(|duty| duty.id).collect();
        opener.settler.settle(&open, opener.vm.deadlines.cleanup).await
    }

    /// What may not wait for a kept snapshot: the methods of its VM.
    pub async fn give_back_guards(&self, session: SessionId) -> Settled {
        let opener = &self.shared.opener;
        let open = opener.vm.journal.duties_of(session);
        let guards: Vec<_> = open.iter().filter(|duty| duty.guard().is_some()).map(|duty| duty.id).collect();
        opener.settler.settle(&guards, opener.vm.deadlines.cleanup).await
    }

    /// Detaches everything of a session; a session that is closing or closed answers with how that ended.
    pub async fn close(&self, session: &Arc<Session>, why: Error) -> v1::CloseDisksResponse {
        self.close_if(session, why, |_| true).await
    }

    /// CloseDisks: also for a session of an earlier run.
    ///
    /// # Errors
    /// [`reason::SES_UNKNOWN`], [`reason::AUT_OWNER`].
    pub async fn close_by_id(&self, id: &str, caller: &Caller) -> Result<v1::CloseDisksResponse> {
        match self.find(id)? {
            Found::Here(session) => {
                session.asked_by(caller)?;
                Ok(self.close(&session, Error::new(&reason::SES_CLOSED, "")).await)
            }
            Found::Past(past) => {
                caller.may_touch(&past.began.owner, &format!("session {}", past.began.session))?;
                let error = self.past_error(&past);
                Ok(v1::CloseDisksResponse { cleanup: error.cleanup().into(), reasons: vec![error.to_reason()] })
            }
        }
    }

    async fn close_if(
        &self,
        session: &Arc<Session>,
        why: Error,
        still: impl Fn(&Inner) -> bool + Send,
    ) -> v1::CloseDisksResponse {
        let held = {
            let mut inner = lock(&session.inner);
            let held = if still(&inner) { inner.held.take() } else { None };
            if held.is_some() {
                inner.state = State::Closing;
                inner.ended = Some(why.copy());
            }
            held
        };
        if let Some(held) = held {
            // In a task of its own: a caller that goes away does not stop it.
            let (this, closed, id) = (self.clone(), Arc::clone(session), session.id);
            let closing = tokio::spawn(async move { this.close_held(&closed, held, &why).await });
            if closing.await.is_err() {
                tracing::error!(session = %id, "closing panicked");
                self.hand_over_all(id);
                self.trace(session, Cleanup::Owed);
            }
        }
        self.after_close(session)
    }

    async fn close_held(&self, session: &Session, held: Held, why: &Error) {
        session.cancel_reads.store(true, Ordering::Relaxed);
        // First: an agent that dies while it detaches still knows what ended the session.
        let end = End::new(now(), why.reason().code, &why.message());
        if let Err(error) = self.shared.opener.vm.record(vec![Record::LeaseEnded { session: session.id, end }]).await {
            tracing::warn!(%error, "the end of a lease could not be journalled");
        }
        // Every reader's descriptor is closed before its device is deleted. A read that hangs in the kernel must not keep
        // the disk attached: vCenter detaches it all the same.
        let vm = &self.shared.opener.vm;
        let patience = vm.deadlines.cleanup;
        if timeout(patience, session.reads.acquire_many(READS_PER_SESSION))
            .await
            .map(|all| all.map(|p| p.forget()))
            .is_err()
        {
            tracing::error!(session = %session.id, "a read does not end; detaching under it");
        }
        session.reads.close();
        let Held { watch, disks, snapshot, actor, _claim } = held;
        drop(watch);
        if *why.reason() != reason::SES_CLOSED {
            vm.traces.stage_broke(session.id, why);
        }
        vm.traces.next_stage(session.id, "detach");
        drop(disks);
        if let Settled::Owed(why) = self.give_back_disks(session.id).await {
            vm.traces.stage_broke(session.id, &why);
        }
        vm.traces.next_stage(session.id, "remove snapshot");
        drop(snapshot);
        let settled = self.give_back_rest(session.id).await;
        drop(actor);
        if let Settled::Owed(why) = &settled {
            vm.traces.stage_broke(session.id, why);
        }
        vm.traces.stage_over(session.id);
        self.trace(session, if matches!(settled, Settled::Done) { Cleanup::Done } else { Cleanup::Owed });
        lock(&session.inner).state = if matches!(settled, Settled::Done) { State::Closed } else { State::Owed };
        tracing::info!(session = %session.id, vm = session.vm_name, %why, ?settled, "session ended");
    }

    fn trace(&self, session: &Session, cleanup: Cleanup) {
        let disk = |opened: &v1::OpenedDisk| {
            let (disk, transport) = (opened.disk.clone(), opened.transport);
            v1::DiskResult { disk, transport, ..v1::DiskResult::default() }
        };
        let (vm_moref, vm_name) = (session.vm_moref.to_string(), session.vm_name.clone());
        let disks = session.opened.iter().filter(|opened| opened.opened).map(disk).collect();
        // As its controller wished.
        let closed = |code: &&str| *code == reason::SES_CLOSED.code;
        let code = session.ended().map(|ended| ended.reason().code).filter(|code| !closed(code));
        let ended = Ended { vm_moref, vm_name, disks, code, cleanup };
        self.shared.opener.vm.traces.end(session.id, &ended);
    }

    fn after_close(&self, session: &Session) -> v1::CloseDisksResponse {
        let open = self.shared.opener.vm.journal.duties_of(session.id);
        if open.is_empty() {
            lock(&session.inner).state = State::Closed;
        }
        // The controller that closed it knows why; every other end is told first.
        let own = |ended: &Error| *ended.reason() == reason::SES_CLOSED;
        let ended = session.ended().filter(|ended| !own(ended)).map(|ended| ended.to_reason());
        let owed = open.iter().map(|duty| {
            let why = self.shared.opener.settler.why(duty.id).unwrap_or_else(|| "being settled".to_owned());
            Error::new(&reason::DUTY_OWED, why).owing().to_reason()
        });
        let cleanup = if open.is_empty() { Cleanup::Done } else { Cleanup::Owed };
        v1::CloseDisksResponse { cleanup: cleanup.into(), reasons: ended.into_iter().chain(owed).collect() }
    }

    /// Sessions whose owner's certificate was revoked or has expired. One who asked with another since goes on.
    fn end_those_put_out(&self) {
        let sessions: Vec<_> = lock(&self.shared.sessions).clone();
        for session in sessions {
            let Some(why) = session.owner_out() else { continue };
            tracing::warn!(session = %session.id, vm = session.vm_name, reason = why.reason().code, %why, "detaching");
            let this = self.clone();
            // Its owner may have come back in between: the same lock decides again.
            let still = |inner: &Inner| inner.peer.is_out();
            tokio::spawn(async move { this.close_if(&session, why, still).await });
        }
    }

    pub(super) async fn watch_leases(self) {
        let mut clock = tokio::time::interval(self.shared.opener.vm.deadlines.lease_tick);
        loop {
            clock.tick().await;
            self.end_those_put_out();
            let over: Vec<_> = lock(&self.shared.sessions).iter().filter(|s| s.is_over()).cloned().collect();
            for session in over {
                tracing::warn!(session = %session.id, vm = session.vm_name, reason = reason::SES_LEASE.code, "lease over; detaching");
                let this = self.clone();
                // A renewal may have come in between: the same lock decides again.
                let over = |inner: &Inner| inner.lease_end <= Instant::now();
                tokio::spawn(async move { this.close_if(&session, Error::new(&reason::SES_LEASE, ""), over).await });
            }
        }
    }

    /// Refuses everything new, ends everything that lives. Returns when every session has ended or been handed over.
    pub async fn drain(&self) {
        {
            let _admitting = lock(&self.shared.requests);
            self.shared.drain.cancel();
        }
        self.shared.openings.close();
        self.shared.openings.wait().await;
        let live: Vec<_> = lock(&self.shared.sessions).clone();
        let why = || Error::new(&reason::SES_DRAINING, "");
        futures_util::future::join_all(live.iter().map(|session| self.close(session, why()))).await;
        self.release_kept().await;
    }

    /// An agent that stops may not come back: what is kept for a job that resumes goes now.
    async fn release_kept(&self) {
        let opener = &self.shared.opener;
        let state = opener.vm.journal.state();
        let kept = state.duties().filter(|duty| duty.snapshot().is_some_and(|s| s.keep_until.is_some()));
        let released: Vec<_> = kept.map(|duty| Record::Kept { duty: duty.id, until: None }).collect();
        // One that was retired or taken over meanwhile must not hold the others.
        for (record, error) in opener.vm.record_each(released).await {
            tracing::warn!(?record, %error, "a kept snapshot stays until its time is over");
        }
    }
}
