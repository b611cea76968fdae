//! Events: what the server recorded of an object, by the server's own clock. Reading only; nothing is posted.
//!
//! Source: vSphere API 8.0, EventManager.QueryEvents, EventFilterSpec (eventTypeId matches an event's own type, not its
//! ancestors), ServiceInstance.CurrentTime.

use jiff::Timestamp;

use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::moref::MoRef;
use crate::soap::{Request, returnval};
use crate::xml::{Node, Shape};

/// Most events asked for, and kept, of one answer.
const MOST: usize = 100;

/// One recorded event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventInfo {
    /// VMware's type name, for example `EnteringMaintenanceModeEvent`.
    pub type_name: String,
    /// When it was recorded, by the server's clock.
    pub created: Timestamp,
    /// What it is about: the VM if it names one, else the host.
    pub entity: Option<MoRef>,
}

impl Client {
    /// The server's clock: what `since` of [`Client::events`] has to be taken from.
    pub async fn server_time(&self) -> Result<Timestamp, Error> {
        let op = "CurrentTime";
        let request = Request::read(op, &MoRef::new("ServiceInstance", "ServiceInstance"), |_| {});
        let response = self.session.call(&request, self.session.timeout).await?;
        returnval(op, response)?.time().map_err(|e| Error::shape(op, e))
    }

    /// Events of these types that were recorded of an object itself, not of what is below it, from `since` on; at most a
    /// hundred. Which ones a server leaves out beyond that is not documented.
    ///
    /// # Errors
    /// `Unsupported` when the server has no event manager; `Fault(NoPermission)` when the user may not read the object.
    pub async fn events(&self, entity: &MoRef, since: Timestamp, types: &[&str]) -> Result<Vec<EventInfo>, Error> {
        let all = self.query_events(entity, since, types).await?;
        Ok(all.into_iter().filter(|event| types.contains(&event.type_name.as_str())).collect())
    }

    /// As [`Client::events`], of whatever type. An `EventEx` is told by the id that it carries (EventEx.eventTypeId): its type says nothing.
    ///
    /// # Errors
    /// As [`Client::events`].
    pub async fn all_events(&self, entity: &MoRef, since: Timestamp) -> Result<Vec<EventInfo>, Error> {
        self.query_events(entity, since, &[]).await
    }

    async fn query_events(&self, entity: &MoRef, since: Timestamp, types: &[&str]) -> Result<Vec<EventInfo>, Error> {
        let op = "QueryEvents";
        let manager = self.session.content.event_manager.as_ref();
        let manager =
            manager.ok_or_else(|| Error::new(ErrorKind::Unsupported, op, "the server has no event manager"))?;
        let request = Request::read(op, manager, |w| {
            w.nest("filter", |w| {
                w.nest("entity", |w| {
                    w.moref("entity", entity);
                    w.text("recursion", "self");
                });
                w.nest("time", |w| w.value("beginTime", format_args!("{since:.6}")));
                w.value("disableFullMessage", true);
                types.iter().for_each(|name| w.text("eventTypeId", name));
                w.value("maxCount", MOST);
            });
        });
        let response = self.session.call(&request, self.session.timeout).await?;
        let all = response.all("returnval").take(MOST).map(event).collect::<Result<Vec<_>, Shape>>();
        Ok(all.map_err(|e| Error::shape(op, e))?.into_iter().filter(|event| event.created >= since).collect())
    }
}

fn event(node: &Node) -> Result<EventInfo, Shape> {
    let argument = |name: &str| node.child(name).map(|argument| argument.opt_ref(name)).transpose();
    Ok(EventInfo {
        type_name: node.string("eventTypeId").unwrap_or_else(|| node.type_name().to_owned()),
        created: node.required("createdTime")?.time()?,
        entity: argument("vm")?.flatten().or(argument("host")?.flatten()),
    })
}
