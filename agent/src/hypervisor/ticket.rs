//! Sessions that are cloned from a job's ticket. The session ends once and for good: nothing logs in for it, and what it could not
//! do is never done by the account of the configuration instead.
//!
//! Keys of those that live are kept here, so that whoever fences one ends it by itself, which needs no privilege. A later run has
//! the key from the journal only, and ends it by `SessionManager.TerminateSession`.
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hotadd_vsphere as vim;
use secrecy::SecretString;
use tokio::sync::watch;

use super::{Hypervisor, convert::error, vsphere::Vsphere};
use crate::{
    error::{Error, Result},
    reason,
};

/// Sessions remembered; of older ones only the key can end them.
const MOST: usize = 1024;

/// By key.
pub(super) type Clones = Arc<Mutex<BTreeMap<String, State>>>;

#[derive(Debug, Clone)]
pub(super) enum State {
    Lives(vim::Client),
    /// By its own logout.
    Ended,
}

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
            let mut clones = self.clones();
            if clones.len() >= MOST {
                clones.pop_first();
            }
            clones.insert(key, State::Lives(acting.clone()));
        }
        let hypervisor = Self { acting, ..self.clone() };
        Ok(Cloned { hypervisor: Arc::new(hypervisor), user, over })
    }

    /// Ends a session that this run cloned, by its own logout; `false`: it is none of them, or vCenter did not take it.
    pub(super) async fn end_clone(&self, key: &str) -> bool {
        let known = self.clones().get(key).cloned();
        let client = match known {
            None => return false,
            Some(State::Ended) => return true,
            Some(State::Lives(client)) => client,
        };
        match client.logout().await {
            Ok(()) => {
                self.clones().insert(key.to_owned(), State::Ended);
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the logout of a cloned session had no answer");
                false
            }
        }
    }

    fn clones(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
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
