//! Sessions that are cloned: whoever is logged in acquires a ticket, and another program turns it into a session of the same user,
//! without his password.
//!
//! Sources: vSphere API 8.0, SessionManager.AcquireCloneTicket and CloneSession. That a ticket serves once and not for long is the
//! reference's word; for how long is not told there.

use std::sync::Arc;
use std::time::Instant;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;

use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::fault::FaultKind;
use crate::soap::{Effect, Request};

/// What a ticket became.
#[derive(Debug)]
pub struct Cloned {
    /// Acts by that session alone. It never logs in: when the session has ended, every call fails NotAuthenticated.
    pub client: Client,
    /// Whose session it is, as the server told it.
    pub user: String,
}

impl Client {
    /// A ticket for one clone of the session in use.
    ///
    /// # Errors
    /// Those of any call; `Protocol` when the answer is no ticket.
    pub async fn clone_ticket(&self) -> Result<SecretString, Error> {
        let op = "AcquireCloneTicket";
        let s = &self.session;
        let request = Request::read(op, &s.content.session_manager, |_| {});
        Ok(s.call_value(&request, s.timeout).await?.text.trim().to_owned().into())
    }

    /// Turns a ticket into a session, over connections of its own. It is sent once: a lost answer is `UnknownOutcome`, and the
    /// session that it may have made is nobody's until it ends by itself.
    ///
    /// # Errors
    /// `Unauthorized` when the server refuses it: used, expired, or none at all. No error holds the ticket, whatever the server says.
    pub async fn clone_session(&self, ticket: &SecretString) -> Result<Cloned, Error> {
        let op = "CloneSession";
        let s = &self.session;
        let http = s.http.sibling()?;
        let request = Request::new(op, Effect::Mutation, &s.content.session_manager, |w| {
            w.text("cloneTicket", ticket.expose_secret());
        });
        let begun = Instant::now();
        let answer = s.bare(&http, &request).await.map_err(mute);
        s.observe(op, begun, &answer);
        let (answer, cookies) = answer?;
        let told = answer.child("returnval");
        let text = |name| told.and_then(|told| told.string(name)).filter(|text| !text.is_empty());
        // Without its key nobody could end it after a crash.
        let Some(key) = text("key") else {
            s.cloned(http, cookies, String::new()).log_out().await.ok();
            return Err(Error::protocol(op, "the answer names no session"));
        };
        let client = Client { session: Arc::new(s.cloned(http, cookies, key)) };
        match text("userName") {
            Some(user) => Ok(Cloned { client, user }),
            // Whoever reads that nobody acts would think that the account does.
            None => {
                client.logout().await.ok();
                Err(Error::protocol(op, "the answer names no user"))
            }
        }
    }

    /// Turns true when this session was cloned and a call finds that it has ended; the session of an account never does.
    pub fn over(&self) -> watch::Receiver<bool> {
        self.session.over()
    }
}

/// The server's own words might repeat the ticket: they are left out.
fn mute(error: Error) -> Error {
    let (kind, why) = match error.kind() {
        ErrorKind::Fault(fault) if fault.kind == FaultKind::InvalidLogin => (ErrorKind::Unauthorized, "InvalidLogin"),
        ErrorKind::Fault(_) => (ErrorKind::Unauthorized, "another fault than InvalidLogin"),
        kind => (kind.clone(), ""),
    };
    Error::new(kind, "CloneSession", why)
}
