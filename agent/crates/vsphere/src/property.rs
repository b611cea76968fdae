//! The property collector: reading named properties of objects, with paging and with what could not be read.
//!
//! Source: vSphere API 8.0, PropertyCollector.RetrievePropertiesEx and ContinueRetrievePropertiesEx.

use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::fault::{Fault, FaultKind};
use crate::moref::MoRef;
use crate::soap::Request;
use crate::xml::{Node, Shape, Writer};

/// Objects asked for in one page.
const PAGE: u32 = 250;
/// Objects named in one request.
const MANY: usize = 1000;
/// Most objects taken from one query: beyond any inventory that vCenter supports (40 000 VMs).
const MAX_OBJECTS: usize = 100_000;

/// A property that the server has but did not give, and why: most often `NoPermission`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingProperty {
    /// Property path, for example `config.keyId`.
    pub path: String,
    /// The reason.
    pub fault: Fault,
}

/// Properties of one object.
#[derive(Debug)]
pub(crate) struct Properties {
    pub(crate) object: MoRef,
    values: Vec<(String, Node)>,
    pub(crate) missing: Vec<MissingProperty>,
}

impl Properties {
    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.values.iter().find(|(p, _)| p == path).map(|(_, v)| v)
    }

    pub(crate) fn string(&self, path: &str) -> Option<String> {
        self.get(path).map(|n| n.text.clone()).filter(|t| !t.is_empty())
    }

    pub(crate) fn flag(&self, path: &str) -> Result<Option<bool>, Shape> {
        self.get(path).map(Node::boolean).transpose()
    }

    pub(crate) fn moref(&self, path: &str) -> Result<Option<MoRef>, Shape> {
        self.get(path).map(Node::moref).transpose()
    }

    pub(crate) fn morefs(&self, path: &str) -> Result<Vec<MoRef>, Shape> {
        self.get(path).map_or_else(|| Ok(Vec::new()), Node::morefs)
    }

    pub(crate) fn parse(node: Node) -> Result<Properties, Shape> {
        let object = node.required("obj")?.moref()?;
        let mut values = Vec::new();
        let mut missing = Vec::new();
        for mut child in node.children {
            match &*child.name {
                "propSet" => {
                    let name = child.need::<String>("name")?;
                    if let Some(at) = child.children.iter().position(|c| &*c.name == "val") {
                        values.push((name, child.children.swap_remove(at)));
                    }
                }
                "missingSet" => {
                    let fault = Fault::from_localized(child.required("fault")?);
                    missing.push(MissingProperty { path: child.need("path")?, fault });
                }
                _ => {}
            }
        }
        Ok(Properties { object, values, missing })
    }
}

/// Writes a `PropertySpec`.
pub(crate) fn prop_set(w: &mut Writer, type_name: &str, paths: &[&str]) {
    w.nest("propSet", |w| {
        w.text("type", type_name);
        paths.iter().for_each(|p| w.text("pathSet", p));
    });
}

/// Writes the fields of a `PropertyFilterSpec` for one object.
pub(crate) fn object_spec(w: &mut Writer, object: &MoRef, paths: &[&str]) {
    prop_set(w, &object.type_name, paths);
    w.nest("objectSet", |w| w.moref("obj", object));
}

/// Writes the fields of a `PropertyFilterSpec` for all objects of a container view.
fn view_spec(w: &mut Writer, view: &MoRef, type_name: &str, paths: &[&str]) {
    prop_set(w, type_name, paths);
    w.nest("objectSet", |w| {
        w.moref("obj", view);
        w.value("skip", true);
        w.typed("selectSet", "TraversalSpec", |w| {
            w.text("type", "ContainerView");
            w.text("path", "view");
        });
    });
}

impl Client {
    /// Reads properties of one object; a property that is unset or not permitted is absent.
    pub(crate) async fn properties(&self, object: &MoRef, paths: &[&str]) -> Result<Properties, Error> {
        let mut all = self.collect(|w| object_spec(w, object, paths)).await?;
        match all.pop() {
            Some(p) if all.is_empty() && p.object == *object => Ok(p),
            _ => Err(Error::protocol("RetrievePropertiesEx", format!("no single answer for {object}"))),
        }
    }

    /// Reads properties of many objects of one type. Objects that are gone are left out.
    ///
    /// One object that is gone makes the server refuse the whole read; the fault names it, so it is left out and the rest
    /// is asked for again.
    pub(crate) async fn properties_of(&self, objects: &[MoRef], paths: &[&str]) -> Result<Vec<Properties>, Error> {
        let mut found = Vec::new();
        let mut open: Vec<Vec<MoRef>> = objects.chunks(MANY).rev().map(<[MoRef]>::to_vec).collect();
        while let Some(mut some) = open.pop() {
            let Some(first) = some.first() else { continue };
            let type_name = first.type_name.clone();
            let read = self.collect(|w| {
                prop_set(w, &type_name, paths);
                some.iter().for_each(|o| w.nest("objectSet", |w| w.moref("obj", o)));
            });
            match read.await {
                Ok(all) => found.extend(all),
                Err(e) => match e.fault().map(|f| &f.kind) {
                    Some(FaultKind::ManagedObjectNotFound { object: Some(gone) })
                        if some.iter().any(|o| o.value == gone.value) =>
                    {
                        some.retain(|o| o.value != gone.value);
                        open.push(some);
                    }
                    // Not told which one: halves find it.
                    Some(FaultKind::ManagedObjectNotFound { object: None }) => {
                        if some.len() > 1 {
                            let rest = some.split_off(some.len() / 2);
                            open.extend([rest, some]);
                        }
                    }
                    _ => return Err(e),
                },
            }
        }
        Ok(found)
    }

    /// Reads properties of every object in a view.
    pub(crate) async fn view_properties(
        &self,
        view: &MoRef,
        type_name: &str,
        paths: &[&str],
    ) -> Result<Vec<Properties>, Error> {
        self.collect(|w| view_spec(w, view, type_name, paths)).await
    }

    /// Reads what a `PropertyFilterSpec` selects, all pages.
    pub(crate) async fn collect(&self, spec: impl FnOnce(&mut Writer)) -> Result<Vec<Properties>, Error> {
        let s = &self.session;
        let collector = &s.content.property_collector;
        let mut request = Request::read("RetrievePropertiesEx", collector, |w| {
            w.nest("specSet", spec);
            w.nest("options", |w| w.value("maxObjects", PAGE));
        });
        let mut found = Vec::new();
        loop {
            let response = s.call(&request, s.timeout).await?;
            // No object at all is an answer without returnval.
            let Some(page) = response.children.into_iter().find(|c| &*c.name == "returnval") else { break };
            let token = page.string("token");
            let before = found.len();
            for object in page.children.into_iter().filter(|c| &*c.name == "objects") {
                found.push(Properties::parse(object).map_err(|e| Error::shape(request.op, e))?);
            }
            let Some(token) = token else { break };
            if found.len() > MAX_OBJECTS {
                return Err(Error::new(ErrorKind::TooLarge, request.op, format!("more than {MAX_OBJECTS} objects")));
            }
            if found.len() == before {
                return Err(Error::protocol(request.op, "an empty page that is not the last"));
            }
            request = Request::read("ContinueRetrievePropertiesEx", collector, |w| w.text("token", &token));
        }
        Ok(found)
    }
}

/// Without a session vCenter answers a read of properties all the same: with no value, and NotAuthenticated for each path (so
/// govmomi's `simulator`, which models it). It is told as the fault that it is, or the end of a session would not be seen.
///
/// # Errors
/// That fault.
pub(crate) fn of_a_session(op: &'static str, response: &Node) -> Result<(), Error> {
    if !matches!(op, "RetrieveProperties" | "RetrievePropertiesEx" | "ContinueRetrievePropertiesEx") {
        return Ok(());
    }
    fn named<'a>(node: &'a Node, name: &'static str) -> impl Iterator<Item = &'a Node> {
        node.children.iter().filter(move |child| &*child.name == name)
    }
    let objects = named(response, "returnval").flat_map(|value| match op {
        "RetrieveProperties" => vec![value],
        _ => named(value, "objects").collect(),
    });
    let objects: Vec<&Node> = objects.collect();
    // One path alone says nothing of the session: somebody was answered.
    if objects.iter().any(|object| named(object, "propSet").next().is_some()) {
        return Ok(());
    }
    let missing = objects.iter().flat_map(|object| named(object, "missingSet"));
    let faults: Vec<Fault> = missing.filter_map(|missing| missing.child("fault")).map(Fault::from_localized).collect();
    if faults.iter().any(|fault| fault.kind != FaultKind::NotAuthenticated) {
        return Ok(());
    }
    faults.into_iter().next().map_or(Ok(()), |fault| Err(Error::fault_of(op, fault)))
}
