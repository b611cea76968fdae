//! The registry of sessions: what lives and what ended, one session or job per target VM. Opening and closing are in
//! their own files; what one session is, in [`super::live`].
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hotadd_api::v1;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    live::{Session, State},
    opener::Opener,
};
use crate::{
    error::{Error, Result},
    id::{Moref, SessionId},
    reason,
};

/// Ended sessions that ListSessions still shows.
const KEEP_ENDED: usize = 64;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) type Answer = Option<Result<Arc<Session>, Arc<Error>>>;
pub(super) type Requests = HashMap<String, (Vec<u8>, watch::Receiver<Answer>)>;

/// See the module.
#[derive(Debug, Clone)]
pub struct Manager {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) opener: Opener,
    pub(super) sessions: Mutex<Vec<Arc<Session>>>,
    pub(super) requests: Mutex<Requests>,
    claimed: Arc<Mutex<HashSet<Moref>>>,
    pub(super) drain: CancellationToken,
    /// Openings in progress: a drain waits for them.
    pub(super) openings: TaskTracker,
}

/// One session or job per target VM at a time.
#[derive(Debug)]
pub struct VmClaim {
    vm: Moref,
    claimed: Arc<Mutex<HashSet<Moref>>>,
}

impl Drop for VmClaim {
    fn drop(&mut self) {
        lock(&self.claimed).remove(&self.vm);
    }
}

impl Manager {
    /// Starts the lease clock.
    #[must_use]
    pub fn start(opener: Opener) -> Self {
        let shared = Arc::new(Shared {
            opener,
            sessions: Mutex::default(),
            requests: Mutex::default(),
            claimed: Arc::default(),
            drain: CancellationToken::new(),
            openings: TaskTracker::new(),
        });
        let this = Self { shared };
        this.opener().vm.supervise("the clock of leases panicked", this.clone().watch_leases());
        this
    }

    #[must_use]
    pub fn opener(&self) -> &Opener {
        &self.shared.opener
    }

    /// Cancelled when the agent drains.
    #[must_use]
    pub fn draining(&self) -> &CancellationToken {
        &self.shared.drain
    }

    /// One session or job per VM, and none while anything of an earlier one is owed: its snapshot and the new one's disks
    /// would be of one chain.
    ///
    /// # Errors
    /// [`reason::SES_BUSY`], or [`reason::SES_DRAINING`].
    pub fn claim(&self, vm: &Moref, name: &str) -> Result<VmClaim> {
        if self.shared.drain.is_cancelled() {
            return Err(Error::new(&reason::SES_DRAINING, ""));
        }
        if !lock(&self.shared.claimed).insert(vm.clone()) {
            return Err(Error::new(&reason::SES_BUSY, name));
        }
        let claim = VmClaim { vm: vm.clone(), claimed: Arc::clone(&self.shared.claimed) };
        if let Some(duty) = self.shared.opener.vm.journal.state().duties().find(|duty| duty.vm == *vm) {
            let detail = format!("{name}: clean-up of an earlier one is not finished (duty {})", duty.id);
            return Err(Error::new(&reason::SES_BUSY, detail).owing());
        }
        Ok(claim)
    }

    pub(super) fn remember(&self, session: &Arc<Session>) {
        self.refresh();
        let mut sessions = lock(&self.shared.sessions);
        let ended = |s: &Arc<Session>| lock(&s.inner).state == State::Closed;
        if sessions.len() > KEEP_ENDED
            && let Some(oldest) = sessions.iter().position(ended)
        {
            let forgotten = sessions.remove(oldest);
            let of_it = |answer: &Answer| matches!(answer, Some(Ok(s)) if s.id == forgotten.id);
            lock(&self.shared.requests).retain(|_, (_, answer)| !of_it(&answer.borrow()));
        }
        sessions.push(Arc::clone(session));
    }

    /// What was owed and has been settled meanwhile is closed.
    fn refresh(&self) {
        let state = self.shared.opener.vm.journal.state();
        for session in lock(&self.shared.sessions).iter() {
            let mut inner = lock(&session.inner);
            if inner.state == State::Owed && !state.duties().any(|duty| duty.session == session.id) {
                inner.state = State::Closed;
            }
        }
    }

    /// # Errors
    /// [`reason::SES_UNKNOWN`].
    pub fn get(&self, id: &str) -> Result<Arc<Session>> {
        let unknown = || Error::new(&reason::SES_UNKNOWN, format!("{id:?}"));
        let wanted: SessionId = id.parse().map_err(|_| unknown())?;
        lock(&self.shared.sessions).iter().find(|s| s.id == wanted).cloned().ok_or_else(unknown)
    }

    #[must_use]
    pub fn list(&self) -> Vec<v1::Session> {
        self.refresh();
        lock(&self.shared.sessions).iter().map(|session| session.to_api()).collect()
    }
}
