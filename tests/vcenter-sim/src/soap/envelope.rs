//! SOAP 1.1 envelopes: answers and faults out, method and `_this` in.

use super::Reply;
use crate::fault::Fault;
use crate::schema::Ver;
use crate::value::{Val, Writer};
use crate::xml::{Node, escape};

const HEAD: &str = concat!(
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
    "<soapenv:Envelope xmlns:soapenc=\"http://schemas.xmlsoap.org/soap/encoding/\" ",
    "xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" ",
    "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n<soapenv:Body>\n"
);
const TAIL: &str = "\n</soapenv:Body>\n</soapenv:Envelope>";

/// The element in the Body of a request.
pub(crate) fn request_body(text: &str) -> Result<Node, String> {
    let root = Node::parse(text)?;
    if root.name != "Envelope" {
        return Err("no SOAP envelope".into());
    }
    let body = root.kids.into_iter().find(|k| k.name == "Body").ok_or("no SOAP body")?;
    body.kids.into_iter().next().ok_or_else(|| "empty SOAP body".into())
}

/// The answer's text, and what the code built against the table.
pub(crate) fn answer(method: &str, reply: &Reply, ver: Ver) -> (String, Vec<String>) {
    let mut w = Writer::new(ver);
    w.out.push_str(HEAD);
    w.out.push_str(&format!("<{method}Response xmlns=\"urn:vim25\">"));
    match (&reply.val, reply.declared) {
        (Some(v), "anyType") => w.write("returnval", "anyType", v),
        (Some(Val::List(l)), d) if !d.ends_with("[]") => {
            w.problems.push(format!("{method}: a list of {} where {d} is declared", l.len()));
        }
        (Some(v), d) => w.write("returnval", d, v),
        (None, _) => {}
    }
    w.out.push_str(&format!("</{method}Response>"));
    w.out.push_str(TAIL);
    (w.out, w.problems)
}

pub(crate) fn fault(f: &Fault, ver: Ver) -> (String, Vec<String>) {
    let mut w = Writer::new(ver);
    w.out.push_str(HEAD);
    w.out.push_str("<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>");
    escape(&f.text, &mut w.out);
    w.out.push_str("</faultstring><detail>");
    let ty = f.ty();
    w.out.push_str(&format!("<{ty}Fault xmlns=\"urn:vim25\" xsi:type=\"{ty}\">"));
    w.fields(&f.obj);
    w.out.push_str(&format!("</{ty}Fault></detail></soapenv:Fault>"));
    w.out.push_str(TAIL);
    (w.out, w.problems)
}
