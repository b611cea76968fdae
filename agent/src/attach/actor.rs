//! With whose rights something is begun. A request without a ticket is carried out by the account of the configuration, as a whole.
//! With one, what needs a job's rights (snapshot, attach, guards, maps, export) is asked for by a session that was cloned from it;
//! what gives back is never asked here: the settler has the account's own session, and nothing else.
//!
//! ```text
//! ticket ──CloneSession──▶ lives ──keep-alive──▶ lives ──last one drops it, or end──▶ logged out
//!    └ refused: HA-VC-013      └── NotAuthenticated ─▶ over: HA-VC-014, and never the account instead
//! ```
use std::{fmt, sync::Arc};

use secrecy::SecretString;
use tokio::{sync::watch, task::AbortHandle, time::interval};

use super::ProxyVm;
use crate::{
    audit::Entry,
    error::{Error, Result},
    hypervisor::{Cloned, Hypervisor},
    id::SessionId,
    reason,
};

/// A session or job, and its rights. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Actor {
    session: SessionId,
    rights: Rights,
}

#[derive(Debug, Clone)]
enum Rights {
    Account(Arc<dyn Hypervisor>),
    Ticket(Arc<Lent>),
}

/// A session that was cloned.
struct Lent {
    cloned: Cloned,
    vm: Arc<ProxyVm>,
    keep_alive: AbortHandle,
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cloned.fmt(f)
    }
}

impl Actor {
    /// `None`: no ticket came with the request.
    ///
    /// # Errors
    /// [`reason::VC_TICKET`], or of a vCenter that does not answer. Nothing was begun then.
    pub async fn new(vm: &Arc<ProxyVm>, session: SessionId, ticket: Option<&SecretString>) -> Result<Self> {
        let Some(ticket) = ticket else {
            return Ok(Self { session, rights: Rights::Account(Arc::clone(&vm.hypervisor)) });
        };
        let cloned = vm.hypervisor.clone_session(ticket).await;
        let about = cloned.iter().map(|cloned| cloned.user.clone()).collect();
        let entry = Entry { what: "clone session", session: session.to_string(), about, ..Entry::default() };
        vm.audit.tell(&vm.client_of(session), entry.ended(&cloned));
        let cloned = cloned?;
        tracing::info!(%session, user = cloned.user, "acting by a session that was cloned from the request's ticket");
        let keep_alive = tokio::spawn(keep_alive(Arc::clone(vm), Arc::clone(&cloned.hypervisor), cloned.over.clone()))
            .abort_handle();
        let lent = Lent { cloned, vm: Arc::clone(vm), keep_alive };
        Ok(Self { session, rights: Rights::Ticket(Arc::new(lent)) })
    }

    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The same rights under another id, for what outlives this one.
    #[must_use]
    pub fn under(&self, session: SessionId) -> Self {
        Self { session, rights: self.rights.clone() }
    }

    /// Asks for what needs a job's rights.
    #[must_use]
    pub fn hypervisor(&self) -> &dyn Hypervisor {
        match &self.rights {
            Rights::Account(hypervisor) => &**hypervisor,
            Rights::Ticket(lent) => &*lent.cloned.hypervisor,
        }
    }

    #[must_use]
    pub fn has_ticket(&self) -> bool {
        matches!(self.rights, Rights::Ticket(_))
    }

    /// Whether both ask by one session, so that one request can carry what both want.
    #[must_use]
    pub fn asks_as(&self, other: &Self) -> bool {
        match (&self.rights, &other.rights) {
            (Rights::Account(_), Rights::Account(_)) => true,
            (Rights::Ticket(one), Rights::Ticket(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    fn over(&self) -> Option<watch::Receiver<bool>> {
        match &self.rights {
            Rights::Account(_) => None,
            Rights::Ticket(lent) => Some(lent.cloned.over.clone()),
        }
    }

    /// Why nothing more can be done with these rights.
    #[must_use]
    pub fn ended(&self) -> Option<Error> {
        let over = self.over().is_some_and(|over| *over.borrow());
        over.then(|| Error::new(&reason::VC_TICKET_OVER, self.user()))
    }

    /// Whose session was cloned, as vCenter calls him; empty without a ticket.
    #[must_use]
    pub fn user(&self) -> &str {
        match &self.rights {
            Rights::Account(_) => "",
            Rights::Ticket(lent) => &lent.cloned.user,
        }
    }

    /// # Errors
    /// [`reason::VC_TICKET_OVER`].
    pub fn go_on(&self) -> Result<()> {
        self.ended().map_or(Ok(()), Err)
    }

    /// Returns when the session has ended; never where there is none that could.
    pub async fn wait_ended(&self) {
        if let Some(mut over) = self.over()
            && over.wait_for(|over| *over).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// What a failure is told as: when the session has ended, that is the cause, whatever the step made of it.
    #[must_use]
    pub fn explain(&self, error: Error) -> Error {
        let other = [&reason::VC_TICKET_OVER, &reason::SES_DRAINING, &reason::JOB_STREAM];
        let Some(over) = self.ended().filter(|_| !other.contains(&error.reason())) else { return error };
        let owes = error.cleanup() == hotadd_api::v1::Cleanup::Owed;
        let told = Error::new(over.reason(), format!("{}: {}", self.user(), error.message()));
        if owes { told.owing() } else { told }
    }
}

async fn keep_alive(vm: Arc<ProxyVm>, hypervisor: Arc<dyn Hypervisor>, over: watch::Receiver<bool>) {
    let mut clock = interval(vm.deadlines.keep_alive);
    while !*over.borrow() {
        clock.tick().await;
        if let Err(error) = hypervisor.keep_alive().await {
            tracing::warn!(%error, "keep-alive of a cloned vCenter session failed");
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.keep_alive.abort();
        let Some(key) = self.cloned.hypervisor.login() else { return };
        let vm = Arc::clone(&self.vm);
        // Without a runtime everything ends, and the session by its idleness.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        vm.farewells.spawn_on(farewell(Arc::clone(&vm), key), &runtime);
    }
}

/// Ends the session, however long vCenter does not answer: it is known to live until then. At the latest it has ended by its idleness.
async fn farewell(vm: Arc<ProxyVm>, key: String) {
    let mut pause = vm.deadlines.retry_first;
    while let Err(error) = vm.hypervisor.fence(&key).await {
        tracing::warn!(%error, "a cloned vCenter session could not be ended; trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(vm.deadlines.retry_last);
    }
}
