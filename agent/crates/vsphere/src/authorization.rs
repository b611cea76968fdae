//! What the account may do, as the server itself tells it. Reading only.
//!
//! Source: vSphere API 8.0, AuthorizationManager.HasPrivilegeOnEntities (since 5.5; needs System.View, and System.Read on the objects). The
//! newer HasUserPrivilegeOnEntities asks by user name, which several spellings have; a session has one key.

use std::collections::BTreeSet;

use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::moref::MoRef;
use crate::soap::Request;
use crate::xml::{Node, Shape};

impl Client {
    /// The root folder: where what concerns the server itself is allowed.
    pub fn root_folder(&self) -> MoRef {
        self.session.content.root_folder.clone()
    }

    /// Which of these privileges the session in use holds on an object.
    ///
    /// # Errors
    /// `Fault(NoPermission)` when the object may not be read; `Protocol` when the server left a privilege out.
    pub async fn granted(&self, entity: &MoRef, privileges: &[&str]) -> Result<BTreeSet<String>, Error> {
        let op = "HasPrivilegeOnEntities";
        loop {
            let key = self.session_key().ok_or_else(|| Error::protocol(op, "the login told no session key"))?;
            let request = Request::read(op, self.authorization_manager(op)?, |w| {
                w.moref("entity", entity);
                w.text("sessionId", &key);
                privileges.iter().for_each(|privilege| w.text("privId", privilege));
            });
            let answer = self.session.call(&request, self.session.timeout).await?;
            // Of a session that has ended everything is denied: that would be believed of the next one.
            if self.session_key().as_deref() == Some(key.as_str()) {
                return told(&answer, entity, privileges).map_err(|e| Error::shape(op, e))?.ok_or_else(|| {
                    Error::new(ErrorKind::Protocol, op, "the answer is not about all privileges that were asked for")
                });
            }
        }
    }
}

/// `None`: something that was asked for has no answer.
fn told(answer: &Node, entity: &MoRef, privileges: &[&str]) -> Result<Option<BTreeSet<String>>, Shape> {
    let (mut granted, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for object in answer.all("returnval") {
        if object.required("entity")?.moref()? != *entity {
            continue;
        }
        for one in object.all("privAvailability") {
            let id = one.required("privId")?.text.trim().to_owned();
            if one.required("isGranted")?.boolean()? {
                granted.insert(id.clone());
            }
            seen.insert(id);
        }
    }
    Ok(privileges.iter().all(|id| seen.contains(*id)).then_some(granted))
}
