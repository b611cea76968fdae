//! Who gets in and what for: certificates, their revocation, and the roles that the configuration gives them. Knows TLS and nothing of
//! what is served behind it: gRPC's part is `api/gate.rs`.
//!
//! ```text
//! files ─read at start, at SIGHUP and when they change─▶ Material ─checked─▶ in force      (bad ones: what was in force stays, told)
//! socket ─▶ handshake with what is in force ─▶ Connection + Peer ─request─▶ Caller {name, role} │ refused
//!                                                  └── revoked │ expired │ CA gone ─▶ the connection breaks, sessions and jobs end
//! ```
//! [`name`] has the rules, [`peer`] what a certificate proves, [`material`] what the files must be, [`door`] what is in force, [`incoming`]
//! handshakes and connections, [`places`] how many of them, [`share`] what one client may call.
mod door;
mod incoming;
mod material;
mod name;
mod peer;
mod places;
mod rare;
mod share;

use std::{fmt, sync::Arc};

use hotadd_api::roles::Role;

pub use self::{
    door::Door,
    incoming::Connection,
    material::check,
    name::{Rule, Rules},
    peer::Peer,
    rare::Rare,
    share::{Allowed, Over, Running, Shares},
};
use crate::{
    error::{Error, Result},
    reason,
};

/// A peer that has a role.
#[derive(Clone)]
pub struct Caller {
    /// The name that gave it the role; what it begins is under this name.
    pub name: Arc<str>,
    pub role: Role,
    pub peer: Arc<Peer>,
}

impl Caller {
    /// Whether it may do this call.
    ///
    /// # Errors
    /// [`reason::AUT_ROLE`].
    pub fn may(&self, needed: Role, what: &str) -> Result<()> {
        if self.role >= needed {
            return Ok(());
        }
        let detail = format!("{what} needs {needed}; {} is {}", self.name, self.role);
        Err(Error::new(&reason::AUT_ROLE, detail))
    }

    /// Whether it may touch what this client began. Any name that its certificate proves counts, so that one that was renewed with more
    /// names goes on. Of an unknown owner (an older agent's record): admins only.
    ///
    /// # Errors
    /// [`reason::AUT_OWNER`].
    pub fn may_touch(&self, owner: &str, what: &str) -> Result<()> {
        let own = !owner.is_empty()
            && (*self.name == *owner || self.peer.names().iter().any(|name| name.to_string() == owner));
        if own || self.role == Role::Admin {
            return Ok(());
        }
        let owner = if owner.is_empty() { "an unknown client" } else { owner };
        Err(Error::new(&reason::AUT_OWNER, format!("{what} belongs to {owner}; this is {}", self.name)))
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.role)
    }
}
