//! SOAP 1.1: the envelope of a request, and a response as a tree or a fault.

use reqwest::StatusCode;

use crate::error::{Error, ErrorKind};
use crate::fault::Fault;
use crate::http::Answer;
use crate::moref::MoRef;
use crate::xml::{self, Node, Writer};

/// Whether a call may be sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Reads, or makes something that lives and dies with the session: may be repeated.
    Read,
    /// Changes the inventory: never repeated once it may have arrived.
    Mutation,
}

/// A request ready for any session.
pub(crate) struct Request {
    pub(crate) op: &'static str,
    pub(crate) effect: Effect,
    namespace: &'static str,
    body: String,
}

impl Request {
    /// A call of method `op` on `this`; `body` writes the arguments in schema order.
    pub(crate) fn new(op: &'static str, effect: Effect, this: &MoRef, body: impl FnOnce(&mut Writer)) -> Request {
        let mut w = Writer::new();
        w.moref("_this", this);
        body(&mut w);
        Request { op, effect, namespace: "urn:vim25", body: w.finish() }
    }

    /// A call of VMware's internal interface: the public WSDL does not have it, the answer comes in `urn:vim25`, and the
    /// SOAPAction stays the public one (as govmomi's authorization manager sends it).
    pub(crate) fn internal(op: &'static str, effect: Effect, this: &MoRef, body: impl FnOnce(&mut Writer)) -> Request {
        Request { namespace: "urn:internalvim25", ..Request::new(op, effect, this, body) }
    }

    pub(crate) fn read(op: &'static str, this: &MoRef, body: impl FnOnce(&mut Writer)) -> Request {
        Request::new(op, Effect::Read, this, body)
    }

    pub(crate) fn envelope(&self) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\
             <soapenv:Body><{op} xmlns=\"{namespace}\">{body}</{op}></soapenv:Body></soapenv:Envelope>",
            op = self.op,
            namespace = self.namespace,
            body = self.body
        )
    }
}

/// Takes the response element out of an answer, or the fault.
pub(crate) fn response(op: &'static str, answer: &Answer) -> Result<Node, Error> {
    // vCenter sends faults with status 500; any other status than these two is not from its SOAP layer.
    match answer.status {
        StatusCode::OK | StatusCode::INTERNAL_SERVER_ERROR => {}
        s => return Err(status_error(op, s)),
    }
    let root = match xml::parse(&answer.body) {
        Ok(root) => root,
        Err(_) if answer.status != StatusCode::OK => return Err(status_error(op, answer.status)),
        Err(e @ (xml::ParseError::TooDeep | xml::ParseError::TooMany)) => {
            return Err(Error::new(ErrorKind::TooLarge, op, e.to_string()));
        }
        Err(e) => return Err(Error::protocol(op, e.to_string())),
    };
    let body = (&*root.name == "Envelope").then(|| root.children.into_iter().find(|c| &*c.name == "Body")).flatten();
    let first = body.and_then(|b| b.children.into_iter().next());
    let Some(node) = first else { return Err(Error::protocol(op, "no SOAP body")) };
    if &*node.name == "Fault" {
        return Err(Error::fault_of(op, Fault::from_soap(&node)));
    }
    if node.name.strip_suffix("Response") != Some(op) {
        let shown: String = node.name.chars().take(60).collect();
        return Err(Error::protocol(op, format!("answer to another call: {shown}")));
    }
    Ok(node)
}

/// The error of an HTTP status that is no SOAP answer.
pub(crate) fn status_error(op: &'static str, status: StatusCode) -> Error {
    let kind = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Unauthorized,
        s if s.is_redirection() || s.is_success() => ErrorKind::Protocol,
        _ => ErrorKind::Unreachable,
    };
    let what = if status.is_redirection() { "redirect refused, " } else { "" };
    Error::new(kind, op, format!("{what}HTTP status {status}"))
}

/// The single `returnval` of a response.
pub(crate) fn returnval(op: &'static str, response: Node) -> Result<Node, Error> {
    response
        .children
        .into_iter()
        .find(|c| &*c.name == "returnval")
        .ok_or_else(|| Error::protocol(op, "the answer has no returnval"))
}
