//! Sessions that are cloned from a job's ticket. The session ends once and for good: nothing logs in for it, and what it could not
//! do is never done by the account of the configuration instead.
//!
//! Those that live are kept in [`super::clones`], so that whoever fences one ends it by itself, which needs no privilege. A later run has
//! the key from the journal only, and ends it by `SessionManager.TerminateSession`.
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hotadd_vsphere as vim;
use secrecy::SecretString;
use tokio::sync::watch;

use super::{
    Hypervisor,
    clones::{Known, State},
    convert::{error, fault_error, vm_ref},
    vsphere::{DEVICES, Vsphere},
};
use crate::{
    error::{Error, Result},
    id::Moref,
    reason,
};

/// Shared by all that were cloned.
pub(super) type Clones = Arc<Mutex<Known<vim::Client>>>;

/// What a ticket became.
pub struct Cloned {
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Whose session it is.
    pub user: String,
    /// Turns true when it has ended.
    pub over: watch::Receiver<bool>,
}

impl fmt::Debug for Cloned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloned").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Vsphere {
    pub(super) async fn cloned(&self, ticket: &SecretString) -> Result<Cloned> {
        let vim::Cloned { client: acting, user } = self.client.clone_session(ticket).await.map_err(refused)?;
        let over = acting.over();
        if let Some(key) = acting.session_key() {
            self.clones().insert(key, acting.clone(), |client| *client.over().borrow());
        }
        let hypervisor = Self { acting, ..self.clone() };
        Ok(Cloned { hypervisor: Arc::new(hypervisor), user, over })
    }

    /// Ends a session by its key: one that this run cloned by its own logout, if vCenter takes that.
    pub(super) async fn end_session(&self, key: &str) -> Result<()> {
        let logout = match self.end_clone(key).await {
            Some(Ok(())) => return Ok(()),
            Some(Err(failed)) => Some(failed),
            None => None,
        };
        match (self.client.fence(key).await, logout) {
            (Ok(_), Some(_)) => self.clones().end(key),
            (Ok(_), None) => {}
            // It lives, and its next logout may be taken: that the account may not end it is not the last word.
            (Err(_), Some(failed)) => return Err(failed),
            (Err(e), None) => return Err(error(e)),
        }
        Ok(())
    }

    /// `None`: it is none that this run cloned.
    async fn end_clone(&self, key: &str) -> Option<Result<()>> {
        let known = self.clones().state(key);
        let client = match known? {
            State::Ended => return Some(Ok(())),
            State::Lives(client) => client,
        };
        let ended = client.logout().await;
        if ended.is_ok() {
            self.clones().end(key);
        }
        Some(ended.map_err(error))
    }

    /// By the session that acts, whoever reads the rest.
    pub(super) async fn shows(&self, vm: &Moref) -> Result<()> {
        let info = self.acting.vm(&vm_ref(vm)).await.map_err(error)?;
        // A refusal may name a parent of the path that was asked for.
        let hides =
            |path: &str| DEVICES.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        match info.missing.iter().find(|missing| hides(&missing.path)) {
            Some(refused) => Err(fault_error(&refused.fault, &reason::VC_STALE)),
            None => Ok(()),
        }
    }

    pub(super) fn clone_has_ended(&self, key: &str) -> bool {
        self.clones().has_ended(key)
    }

    fn clones(&self) -> MutexGuard<'_, Known<vim::Client>> {
        self.clones.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That nothing was sent, or no answer came, is not the ticket's fault; it may be used up all the same.
fn refused(e: vim::Error) -> Error {
    match e.kind() {
        vim::ErrorKind::Unauthorized => Error::new(&reason::VC_TICKET, "").with_source(e),
        vim::ErrorKind::UnknownOutcome => {
            Error::new(&reason::VC_TICKET, "no answer came; the ticket may be used up").with_source(e)
        }
        _ => error(e),
    }
}
