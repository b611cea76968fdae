//! The registry of sessions: what lives and what ended, one session or job per target VM. Opening and closing are in
//! their own files; what one session is, in [`super::live`].
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use hotadd_api::v1::{self, Cleanup, EventKind};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    live::{Session, State},
    opener::Opener,
};
use crate::{
    access::Caller,
    error::{Error, Result},
    id::{Moref, SessionId},
    journal::{Duty, End, history::SessionPast},
    reason::{self, ReasonCode},
};

/// Ended sessions that ListSessions still shows.
const KEEP_ENDED: usize = 64;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) type Answer = Option<Result<Arc<Session>, Arc<Error>>>;
pub(super) type Requests = HashMap<String, (String, watch::Receiver<Answer>)>;

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
    /// Asked for by Drain: new work is refused, what runs goes on.
    closed_to_new: AtomicBool,
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
            closed_to_new: AtomicBool::new(false),
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

    /// Takes no new work from now on, or takes it again.
    pub fn close_to_new(&self, closed: bool) {
        if self.shared.closed_to_new.swap(closed, Ordering::Relaxed) == closed {
            return;
        }
        tracing::info!(closed, "drain");
        let why = closed.then(|| Error::new(&reason::SES_DRAIN, ""));
        self.opener().vm.events.send(EventKind::Drain, "", "", why.as_ref());
    }

    /// Whether new work is refused, for whatever reason.
    #[must_use]
    pub fn is_closed_to_new(&self) -> bool {
        self.takes_new().is_err()
    }

    /// # Errors
    /// [`reason::SES_DRAINING`], [`reason::SES_DRAIN`].
    pub fn takes_new(&self) -> Result<()> {
        if self.shared.drain.is_cancelled() {
            return Err(Error::new(&reason::SES_DRAINING, ""));
        }
        let closed = self.shared.closed_to_new.load(Ordering::Relaxed);
        if closed { Err(Error::new(&reason::SES_DRAIN, "")) } else { Ok(()) }
    }

    /// Sessions that hold disks, are being opened, or closed.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        let live = |s: &&Arc<Session>| matches!(lock(&s.inner).state, State::Open | State::Closing);
        // Openings first: one that ends meanwhile is counted twice rather than not at all.
        let opening = self.shared.openings.len();
        opening + lock(&self.shared.sessions).iter().filter(live).count()
    }

    /// One session or job per VM, and none while anything of an earlier one is owed: its snapshot and the new one's disks
    /// would be of one chain. `resume`: the session whose kept snapshot this one will take over.
    ///
    /// # Errors
    /// [`reason::SES_BUSY`], or [`reason::SES_DRAINING`].
    pub fn claim(&self, vm: &Moref, name: &str, resume: Option<SessionId>) -> Result<VmClaim> {
        if self.shared.drain.is_cancelled() {
            return Err(Error::new(&reason::SES_DRAINING, ""));
        }
        if !lock(&self.shared.claimed).insert(vm.clone()) {
            return Err(Error::new(&reason::SES_BUSY, name));
        }
        let claim = VmClaim { vm: vm.clone(), claimed: Arc::clone(&self.shared.claimed) };
        let kept = |duty: &Duty| duty.snapshot().and_then(|s| s.keep_until.clone());
        let taken_over = |duty: &&Duty| resume == Some(duty.session) && kept(duty).is_some();
        let state = self.shared.opener.vm.journal.state();
        let Some(duty) = state.duties().filter(|duty| duty.vm == *vm).find(|duty| !taken_over(duty)) else {
            return Ok(claim);
        };
        let detail = match kept(duty) {
            Some(until) => {
                format!("{name}: a snapshot is kept until {until} for a job that resumes (duty {})", duty.id)
            }
            None => format!("{name}: clean-up of an earlier one is not finished (duty {})", duty.id),
        };
        Err(Error::new(&reason::SES_BUSY, detail).owing())
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
    pub(super) fn refresh(&self) {
        let state = self.shared.opener.vm.journal.state();
        for session in lock(&self.shared.sessions).iter() {
            let mut inner = lock(&session.inner);
            if inner.state == State::Owed && !state.duties().any(|duty| duty.session == session.id) {
                inner.state = State::Closed;
            }
        }
    }

    /// A session that lives or lived under this run, for a client that may touch it.
    ///
    /// # Errors
    /// [`reason::SES_UNKNOWN`], [`reason::AUT_OWNER`], or what ended it under an earlier run.
    pub fn get(&self, id: &str, caller: &Caller) -> Result<Arc<Session>> {
        match self.find(id)? {
            Found::Here(session) => session.asked_by(caller).map(|()| session),
            Found::Past(past) => Err(self.past_error(&past)),
        }
    }

    pub(super) fn find(&self, id: &str) -> Result<Found> {
        let unknown = || Error::new(&reason::SES_UNKNOWN, format!("{id:?}"));
        let wanted: SessionId = id.parse().map_err(|_| unknown())?;
        if let Some(session) = lock(&self.shared.sessions).iter().find(|s| s.id == wanted) {
            return Ok(Found::Here(Arc::clone(session)));
        }
        let state = self.shared.opener.vm.journal.state();
        let past = state.history().sessions().find(|past| past.began.session == wanted);
        past.cloned().map(|past| Found::Past(Box::new(past))).ok_or_else(unknown)
    }

    /// What ended a session that is only remembered.
    pub(super) fn past_error(&self, past: &SessionPast) -> Error {
        let Some(end) = &past.end else { return Error::new(&reason::SES_STATE, past.began.session.to_string()) };
        let error = recorded(end, &reason::SES_STATE);
        let owed = !self.shared.opener.vm.journal.duties_of(past.began.session).is_empty();
        if owed { error.owing() } else { error }
    }

    /// What lives, and what ended, that of earlier runs first.
    #[must_use]
    pub fn list(&self) -> Vec<v1::Session> {
        self.refresh();
        let here: Vec<_> = lock(&self.shared.sessions).clone();
        let state = self.shared.opener.vm.journal.state();
        let of_before = |past: &&SessionPast| past.end.is_some() && !here.iter().any(|s| s.id == past.began.session);
        let past = state.history().sessions().filter(of_before).map(|past| {
            let error = self.past_error(past);
            v1::Session {
                session_id: past.began.session.to_string(),
                vm: past.began.vm.clone(),
                state: if error.cleanup() == Cleanup::Owed { State::Owed } else { State::Closed }.name().to_owned(),
                closed_reason: error.message(),
                ended: Some(error.to_reason()),
                ..v1::Session::default()
            }
        });
        past.chain(here.iter().map(|session| session.to_api())).collect()
    }
}

/// A session that was asked for by its id.
pub(super) enum Found {
    Here(Arc<Session>),
    /// Of an earlier run, or ended so long ago that only its end is known.
    Past(Box<SessionPast>),
}

/// A recorded end as an error. `unknown`: for a code that this version does not have.
pub(super) fn recorded(end: &End, unknown: &'static ReasonCode) -> Error {
    let known = reason::by_code(&end.code).unwrap_or(unknown);
    // The recorded text begins with the summary, which the error adds by itself.
    let facts = end.reason.strip_prefix(known.summary).unwrap_or(&end.reason);
    Error::new(known, facts.trim_start_matches(": "))
}
