//! Transport: TLS, HTTP, cookies, faults on cue that concern the connection, the record of requests, and dumps.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, COOKIE, HeaderMap, SET_COOKIE, USER_AGENT};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::{call, envelope, versions};
use crate::Sim;
use crate::cue::{self, CueKind};
use crate::export::serve::{self, Content};
use crate::fault::Fault;
use crate::ops::task::cued_fault;
use crate::outage::{self, Port};
use crate::render::Ctx;
use crate::schema::Ver;
use crate::state::{Landing, Recorded};
use crate::value::{MoRef, Val};
use crate::xml::Node;

const MAX_BODY: usize = 16 << 20;
const MAX_RECORDED: usize = 20_000;
const HANG: Duration = Duration::from_secs(600);
/// Between two tries to listen again after an outage.
const REBIND: Duration = Duration::from_millis(20);

type Answer = Result<Response<Content>, io::Error>;

/// Serves until the simulator stops; while an outage is on nobody listens, so that connections are refused.
pub(crate) async fn serve(sim: Arc<Sim>, port: Port, listener: TcpListener, tls: TlsAcceptor) {
    let mut listener = listener;
    while accept(&sim, &listener, &tls).await {
        drop(listener);
        sim.outage.closed();
        if !outage::over(&sim).await {
            return;
        }
        listener = loop {
            match port.listen() {
                Ok(l) => break l,
                Err(e) => tracing::warn!(error = %e, "listening again"),
            }
            sleep(REBIND).await;
        };
        sim.outage.opened();
    }
}

/// Takes connections until an outage begins (true) or the simulator stops (false).
async fn accept(sim: &Arc<Sim>, listener: &TcpListener, tls: &TlsAcceptor) -> bool {
    let (mut stop, mut outage) = (sim.stopped(), sim.outage.watch());
    loop {
        if *stop.borrow() {
            return false;
        }
        tokio::select! {
            () = outage::begins(&mut outage) => return true,
            s = listener.accept() => if let Ok((stream, _)) = s {
                tokio::spawn(connection(Arc::clone(sim), stream, tls.clone()));
            },
            _ = stop.changed() => {}
        }
    }
}

async fn connection(sim: Arc<Sim>, stream: TcpStream, tls: TlsAcceptor) {
    stream.set_nodelay(true).ok();
    let Ok(stream) = tls.accept(stream).await else { return };
    let (mut stop, mut outage) = (sim.stopped(), sim.outage.watch());
    let service = service_fn(move |req| handle(Arc::clone(&sim), req));
    let conn = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        done = conn => if let Err(e) = done { tracing::debug!(error = %e, "connection") },
        _ = stop.changed() => {}
        () = outage::begins(&mut outage) => {}
    }
}

fn respond(status: StatusCode, kind: &str, body: impl Into<Bytes>) -> Response<Content> {
    let mut r = Response::new(Content::Whole(Full::new(body.into())));
    *r.status_mut() = status;
    if let Ok(v) = kind.parse() {
        r.headers_mut().insert(CONTENT_TYPE, v);
    }
    r
}

async fn handle(sim: Arc<Sim>, req: Request<Incoming>) -> Answer {
    let path = req.uri().path().to_owned();
    match (req.method(), path.as_str()) {
        (&Method::GET, "/sdk/vimServiceVersions.xml") => {
            let doc = versions::document(&sim.lock());
            Ok(respond(StatusCode::OK, "text/xml", doc))
        }
        (&Method::POST, "/sdk" | "/sdk/" | "/sdk/vimService") => soap(sim, req).await,
        (&Method::GET, file) if file.starts_with("/nfc/") => Ok(match serve::open(&sim, file) {
            Some(content) => Response::new(content),
            None => respond(StatusCode::NOT_FOUND, "text/plain", "not found"),
        }),
        _ => Ok(respond(StatusCode::NOT_FOUND, "text/plain", "not found")),
    }
}

/// Lenient: pyvmomi returns the whole Set-Cookie line, with quotes and attributes.
fn cookie(headers: &HeaderMap) -> Option<String> {
    let all: Vec<&str> = headers.get_all(COOKIE).iter().filter_map(|v| v.to_str().ok()).collect();
    let text = all.join(";");
    let at = text.find("vmware_soap_session=")? + "vmware_soap_session=".len();
    let rest = text[at..].trim_start_matches('"');
    Some(rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect())
}

async fn soap(sim: Arc<Sim>, req: Request<Incoming>) -> Answer {
    let headers = req.headers().clone();
    let header = |n: &str| headers.get(n).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let bytes = Limited::new(req.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|e| io::Error::other(e.to_string()))?
        .to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let session = cookie(&headers).filter(|c| sim.lock().sessions.contains_key(c));
    let asked = versions::of_action(&sim.lock(), &header("soapaction"));
    let body = match (envelope::request_body(&text), &asked) {
        (Ok(b), Ok(_)) => b,
        (Err(e), _) => return Ok(fault_answer(&sim, "unparsable", &Fault::bad_request(e), Ver::default())),
        (_, Err(e)) => return Ok(fault_answer(&sim, "version", &Fault::bad_request(e.clone()), Ver::default())),
    };
    let user = session.as_ref().and_then(|c| Some(sim.lock().sessions.get(c)?.user.clone())).unwrap_or_default();
    let ctx = Ctx { session, user, ver: asked.unwrap_or_default(), host: header("host") };
    record(&sim, &body, &text, &ctx);
    let cues = cue::take(&mut sim.lock().cues, &body.name, &ctx.user);
    let ctx = if cues.contains(&CueKind::EndSession) { ended(&sim, ctx) } else { ctx };
    if let Some(answer) = connection_cue(&sim, &body, &ctx, &cues).await {
        return answer;
    }
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let reply = call::call(&sim, &body, &ctx, &agent, &cues).await;
    if cues.contains(&CueKind::DropReply) {
        return Err(io::Error::other("reply dropped on cue"));
    }
    match reply {
        Err(f) => {
            let this = body.kid("_this").and_then(crate::collector::moref);
            let f = sim.lock().profile.told(&body, this.as_ref(), f);
            Ok(fault_answer(&sim, &body.name, &f, ctx.ver))
        }
        Ok(reply) => {
            let (xml, problems) = envelope::answer(&body.name, &reply, ctx.ver);
            note_problems(&sim, problems);
            sim.dump(&body.name, ctx.ver, "resp", &xml);
            let mut r = respond(StatusCode::OK, "text/xml; charset=utf-8", xml);
            if let Some(c) = &reply.cookie
                && let Ok(v) = format!("vmware_soap_session=\"{c}\"; Path=/; HttpOnly; Secure; ").parse()
            {
                r.headers_mut().insert(SET_COOKIE, v);
            }
            Ok(r)
        }
    }
}

fn note_problems(sim: &Sim, problems: Vec<String>) {
    if !problems.is_empty() {
        tracing::warn!(?problems, "answer disagrees with the type table");
        sim.lock().problems.extend(problems);
    }
}

fn fault_answer(sim: &Sim, method: &str, f: &Fault, ver: Ver) -> Response<Content> {
    let (xml, problems) = envelope::fault(f, ver);
    note_problems(sim, problems);
    sim.dump(method, ver, "fault", &xml);
    respond(StatusCode::INTERNAL_SERVER_ERROR, "text/xml; charset=utf-8", xml)
}

fn ended(sim: &Sim, ctx: Ctx) -> Ctx {
    if let Some(cookie) = &ctx.session {
        super::session::end(&mut sim.lock(), cookie);
    }
    sim.touch();
    Ctx { session: None, user: String::new(), ..ctx }
}

fn mask(text: String, name: &str) -> String {
    match (text.find(&format!("<{name}")), text.find(&format!("</{name}>"))) {
        (Some(a), Some(b)) if a < b => {
            let open = text[a..].find('>').map(|i| a + i + 1).unwrap_or(a);
            format!("{}[masked]{}", &text[..open.min(b)], &text[b..])
        }
        _ => text,
    }
}

/// Notes the call for tests; a password or a ticket never is.
fn record(sim: &Sim, body: &Node, text: &str, ctx: &Ctx) {
    let masked = mask(mask(text.to_owned(), "password"), "cloneTicket");
    sim.dump(&body.name, ctx.ver, "req", &masked);
    let mut s = sim.lock();
    *s.counters.calls.entry(body.name.clone()).or_default() += 1;
    if let Some(x) = ctx.session.as_ref().and_then(|k| s.sessions.get_mut(k)) {
        x.calls += 1;
    }
    if s.requests.len() < MAX_RECORDED {
        s.requests.push(Recorded { method: body.name.clone(), user: ctx.user.clone(), body: masked });
    }
}

/// Cues that replace the answer. None: go on as usual.
async fn connection_cue(sim: &Arc<Sim>, body: &Node, ctx: &Ctx, cues: &[CueKind]) -> Option<Answer> {
    for c in cues {
        match c {
            CueKind::Fault(name, fields) => {
                let this = body
                    .kid("_this")
                    .and_then(crate::collector::moref)
                    .unwrap_or_else(|| MoRef::new("Folder", crate::state::ROOT));
                let f = cued_fault(name, fields, &this);
                return Some(Ok(fault_answer(sim, &body.name, &f, ctx.ver)));
            }
            CueKind::Http500 => {
                return Some(Ok(respond(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "503 Service Unavailable")));
            }
            CueKind::BadXml => {
                return Some(Ok(respond(
                    StatusCode::OK,
                    "text/xml",
                    "<?xml version=\"1.0\"?><soapenv:Envelope><soapenv:Bo",
                )));
            }
            CueKind::Huge(n) => return Some(Ok(huge(*n))),
            CueKind::Hang => {
                let mut stop = sim.stopped();
                let _ = tokio::time::timeout(HANG, stop.changed()).await;
                return Some(Err(io::Error::other("hung on cue")));
            }
            CueKind::LateLand(ms, fenced) => {
                let (sim, body, ctx, fenced) = (Arc::clone(sim), body.clone(), ctx.clone(), *fenced);
                let wait = Duration::from_millis(*ms);
                sim.lock().landing += 1;
                tokio::spawn(async move {
                    sleep(wait).await;
                    land(&sim, &body, &ctx, fenced).await;
                });
                return Some(Err(io::Error::other("reply dropped on cue, lands late")));
            }
            _ => {}
        }
    }
    None
}

/// A request that was on its way for long arrives. Fenced: an ended session refuses it; else it is executed whatever became
/// of its session, as when it had been accepted before.
async fn land(sim: &Arc<Sim>, body: &Node, ctx: &Ctx, fenced: Option<bool>) {
    let refused = {
        let s = sim.lock();
        let live = ctx.session.as_ref().is_some_and(|k| s.sessions.contains_key(k));
        fenced.unwrap_or(s.knobs.fence) && !live
    };
    let done = match refused {
        true => Err(Fault::not_authenticated()),
        false => call::call(sim, body, ctx, "", &[CueKind::LateLand(0, fenced)]).await,
    };
    let task = match &done {
        Ok(reply) => match &reply.val {
            Some(Val::Ref(r)) => Some(r.id.clone()),
            _ => None,
        },
        Err(_) => None,
    };
    let landing = Landing { method: body.name.clone(), fault: done.err().map(|f| f.ty().to_owned()), task };
    tracing::info!(?landing, "late landing");
    let mut s = sim.lock();
    s.landing -= 1;
    s.landings.push(landing);
    drop(s);
    sim.touch();
}

/// Well-formed, and longer than any honest answer.
fn huge(bytes: u64) -> Response<Content> {
    let mut body = b"<?xml version=\"1.0\"?><Envelope><Body><X><returnval>".to_vec();
    body.resize(usize::try_from(bytes).unwrap_or(usize::MAX >> 8), b'A');
    body.extend_from_slice(b"</returnval></X></Body></Envelope>");
    respond(StatusCode::OK, "text/xml", body)
}
