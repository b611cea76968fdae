//! Guards of a change: ending a session so that a late request of it can only fail, and disabling methods of an object.
//!
//! Sources: vSphere API 8.0, SessionManager.TerminateSession and Logout; AuthorizationManager.DisableMethods and
//! EnableMethods of `urn:internalvim25`, which the public WSDL does not have (element order as in govmomi).

use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::fault::FaultKind;
use crate::moref::MoRef;
use crate::soap::{Effect, Request};

/// What became of a session that was to be fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// It was ended by this call.
    Ended,
    /// It had ended before.
    Already,
}

impl Client {
    /// Ends the vCenter session with this key, so that a request of it that arrives late can only fail NotAuthenticated.
    ///
    /// The key of the session in use: logs out and logs in anew; calls that run meanwhile log in again by the ordinary way.
    /// Another one needs the privilege `Sessions.TerminateSession` on the root folder. Asking again is safe.
    /// That vCenter looks at the session when a queued request starts is UNVERIFIED: it is a fence on top of a wait.
    ///
    /// # Errors
    /// `Fault(NoPermission)` names the privilege; the errors of a login when the own session was replaced.
    pub async fn fence(&self, key: &str) -> Result<Fenced, Error> {
        let s = &self.session;
        if let Some(fenced) = s.replace(key).await? {
            return Ok(fenced);
        }
        // A read as far as repeating goes: a session that is ended twice has ended.
        let request = Request::read("TerminateSession", &s.content.session_manager, |w| w.text("sessionId", key));
        match s.call(&request, s.timeout).await {
            Ok(_) => Ok(Fenced::Ended),
            Err(e) if e.fault().is_some_and(|f| f.kind == FaultKind::NotFound) => Ok(Fenced::Already),
            Err(e) => Err(e),
        }
    }

    /// Disables methods of an object, for example `RelocateVM_Task` of a VM, until the same source enables them.
    ///
    /// vCenter remembers it beyond the session and beyond its own restart: journal it before the call.
    /// `source_id` is at most 50 characters in VMware's own use of the call.
    ///
    /// # Errors
    /// `Fault(MethodAlreadyDisabledFault)` when one of them is disabled already, by whomever. A user without
    /// `Global.DisableMethods` at vCenter level gets a fault that talks of a licence. `UnknownOutcome`: read the object's
    /// `disabledMethod`.
    pub async fn disable_methods(
        &self,
        entity: &MoRef,
        methods: &[&str],
        reason_id: &str,
        source_id: &str,
    ) -> Result<(), Error> {
        let op = "DisableMethods";
        let request = Request::internal(op, Effect::Mutation, self.authorization_manager(op)?, |w| {
            w.moref("entity", entity);
            for method in methods {
                w.nest("method", |w| {
                    w.text("method", method);
                    w.text("reasonId", reason_id);
                });
            }
            w.text("sourceId", source_id);
        });
        self.session.call(&request, self.session.timeout).await.map(drop)
    }

    /// Enables methods that this source had disabled; no error when it had not.
    ///
    /// # Errors
    /// As [`Client::disable_methods`], with the privilege `Global.EnableMethods`.
    pub async fn enable_methods(&self, entity: &MoRef, methods: &[&str], source_id: &str) -> Result<(), Error> {
        let op = "EnableMethods";
        let request = Request::internal(op, Effect::Mutation, self.authorization_manager(op)?, |w| {
            w.moref("entity", entity);
            methods.iter().for_each(|method| w.text("method", method));
            w.text("sourceId", source_id);
        });
        self.session.call(&request, self.session.timeout).await.map(drop)
    }

    pub(crate) fn authorization_manager(&self, op: &'static str) -> Result<&MoRef, Error> {
        let manager = self.session.content.authorization_manager.as_ref();
        manager.ok_or_else(|| Error::new(ErrorKind::Unsupported, op, "the server has no authorization manager"))
    }
}
