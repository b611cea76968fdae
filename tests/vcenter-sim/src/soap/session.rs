//! Login, logout, who is logged in, and tickets that clone a session.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Reply;
use crate::fault::{Fault, Res};
use crate::render::{self, Ctx};
use crate::state::{Session, State, Ticket, now};
use crate::xml::Node;

pub(crate) fn call(s: &mut State, method: &str, body: &Node, ctx: &Ctx, user_agent: &str) -> Res<Reply> {
    match method {
        "Login" => login(s, body, ctx, user_agent),
        "Logout" => {
            end(s, ctx.session.as_deref().unwrap_or(""));
            Ok(Reply::none())
        }
        "TerminateSession" => terminate(s, body, ctx),
        "AcquireCloneTicket" => Ok(Reply::of("string", acquire(s, ctx))),
        "CloneSession" => clone(s, body, ctx, user_agent),
        "SessionIsActive" => {
            let id = body.str("sessionID").unwrap_or("").trim();
            Ok(Reply::of("boolean", s.sessions.values().any(|x| x.key == id)))
        }
        _ => Err(Fault::new("NotSupported", "The operation is not supported on the object.")),
    }
}

fn login(s: &mut State, body: &Node, ctx: &Ctx, user_agent: &str) -> Res<Reply> {
    // A second login in one session is refused (vSphere API 8.0, SessionManager.Login: InvalidLogin).
    let user = body.str("userName").unwrap_or("").to_owned();
    let password = if user == s.user { Some(&s.password) } else { s.accounts.get(&user).map(|a| &a.password) };
    if ctx.session.is_some() || password.map(String::as_str) != Some(body.str("password").unwrap_or("")) {
        return Err(Fault::new("InvalidLogin", "Cannot complete login due to an incorrect user name or password."));
    }
    s.counters.logins += 1;
    Ok(begin(s, user, user_agent))
}

fn begin(s: &mut State, user: String, user_agent: &str) -> Reply {
    let cookie = Uuid::new_v4().simple().to_string();
    let session =
        Session { key: Uuid::new_v4().to_string(), user, login: now(), user_agent: user_agent.to_owned(), calls: 1 };
    let info = render::session_info(&session);
    s.sessions.insert(cookie.clone(), session);
    Reply { cookie: Some(cookie), ..Reply::of("UserSession", info) }
}

/// The form is no promise of vCenter's.
fn acquire(s: &mut State, ctx: &Ctx) -> String {
    let ticket = format!("cst-VCT-{}--tp-{}", Uuid::new_v4(), Uuid::new_v4().simple());
    let until = Instant::now() + Duration::from_millis(s.knobs.ticket_ms);
    s.tickets.insert(ticket.clone(), Ticket { cookie: ctx.session.clone().unwrap_or_default(), until });
    ticket
}

/// Another session of the user who acquired the ticket; once, in time, and only while his own session lives (vSphere API 8.0,
/// SessionManager.CloneSession: InvalidLogin for a ticket that is not valid).
fn clone(s: &mut State, body: &Node, ctx: &Ctx, user_agent: &str) -> Res<Reply> {
    let ticket = s.tickets.remove(body.str("cloneTicket").unwrap_or("").trim());
    let valid = ticket.filter(|t| ctx.session.is_none() && Instant::now() <= t.until);
    let user = valid.and_then(|t| s.sessions.get(&t.cookie)).map(|of| of.user.clone());
    let user = user.ok_or_else(|| Fault::new("InvalidLogin", "The session ticket is not valid."))?;
    s.counters.clones += 1;
    Ok(begin(s, user, user_agent))
}

/// In the order of the list; stops at the first that is not there (vSphere API 8.0, SessionManager.TerminateSession).
fn terminate(s: &mut State, body: &Node, ctx: &Ctx) -> Res<Reply> {
    for id in body.all("sessionId") {
        let cookie = by_key(s, id.text.trim());
        let cookie =
            cookie.ok_or_else(|| Fault::new("NotFound", "The object or item referred to could not be found."))?;
        if ctx.session.as_ref() == Some(&cookie) {
            return Err(Fault::argument("sessionId"));
        }
        end(s, &cookie);
    }
    Ok(Reply::none())
}

/// The cookie of the session with this key.
pub(crate) fn by_key(s: &State, key: &str) -> Option<String> {
    s.sessions.iter().find(|(_, x)| x.key == key).map(|(cookie, _)| cookie.clone())
}

/// A session's end takes its filters, views and collectors along, and what it had disabled for itself only.
pub(crate) fn end(s: &mut State, cookie: &str) {
    s.sessions.remove(cookie);
    for vm in s.vms.values_mut() {
        vm.disabled.retain(|d| d.session.as_deref() != Some(cookie));
    }
    s.pcs.retain(|_, p| p.session != cookie);
    s.views.retain(|_, v| v.2.trim_start_matches('r') != cookie);
}

pub(crate) fn end_all(s: &mut State) -> usize {
    let all: Vec<String> = s.sessions.keys().cloned().collect();
    for cookie in &all {
        end(s, cookie);
    }
    s.tokens.clear();
    all.len()
}
