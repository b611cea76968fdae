//! The login and what follows from it: service content, re-login, and who may be sent twice.
//!
//! ```text
//!   fresh ──login──▶ live ──answer NotAuthenticated──▶ ended ──login (one at a time)──▶ live, generation + 1
//!                     └──logout──▶ ended
//! ```
//! A call that got NotAuthenticated was not executed, so it is sent again after the login, mutation or not. A mutation
//! that met a broken transport after it may have been sent is `UnknownOutcome` and is never sent again. After a refused login nothing is
//! sent until the door (`login.rs`) lets one caller try again. A session that was cloned (`ticket.rs`) has no account: it ends
//! once and for good.

use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;

use crate::config::{Call, Config, Observer};
use crate::content::{About, Content, service_content};
use crate::error::{Error, ErrorKind};
use crate::fault::FaultKind;
use crate::guard::Fenced;
use crate::http::{Answer, Cookies, Failure, Http};
use crate::login::{Door, LoginRefused};
use crate::moref::MoRef;
use crate::property;
use crate::soap::{self, Effect, Request};
use crate::version;
use crate::xml::{self, Node};

/// Most session-scoped objects remembered for later removal.
const MAX_LITTER: usize = 256;
/// Longest time spent on removing one of them: nobody needs the answer.
const DISCARD: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Login {
    cookies: Cookies,
    generation: u64,
    /// `UserSession.key`: names the session to other sessions, opens nothing by itself.
    key: Option<String>,
}

/// Who logs in.
struct Account {
    user: String,
    door: Door,
    /// Of logins beside the session in use, which stays as it is when one is refused.
    side_door: Door,
}

/// One vCenter, one user. Shared by all clones of the client.
pub(crate) struct Session {
    pub(crate) http: Http,
    /// `None`: cloned from somebody's session; nothing can log in again.
    account: Option<Account>,
    /// That of a cloned session is told once.
    over: watch::Sender<bool>,
    pub(crate) timeout: Duration,
    observer: Option<Observer>,
    /// See [`Config::poll`].
    pub(crate) poll: Duration,
    action: String,
    pub(crate) about: About,
    pub(crate) content: Content,
    login: RwLock<Login>,
    /// Held across the login call: callers that find the session ended wait for one login instead of starting many.
    gate: tokio::sync::Mutex<()>,
    litter: Mutex<Vec<(u64, MoRef)>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let user = self.account.as_ref().map(|account| &account.user);
        f.debug_struct("Session").field("user", &user).field("about", &self.about).finish_non_exhaustive()
    }
}

impl Session {
    /// Negotiates the version, reads the service content and logs in.
    pub(crate) async fn open(config: Config) -> Result<Session, Error> {
        let http = Http::new(&config)?;
        let timeout = config.request_timeout;
        let versions = read_versions(&http, timeout).await?;
        let negotiated = version::negotiate(&versions)?;
        let action = format!("urn:vim25/{negotiated}");
        let op = "RetrieveServiceContent";
        let request = Request::read(op, &MoRef::new("ServiceInstance", "ServiceInstance"), |_| {});
        let (answer, _) = send(&http, &action, &Cookies::default(), &request, timeout).await?;
        let returned = soap::returnval(op, answer)?;
        let (about, content) = service_content(&returned, negotiated).map_err(|s| Error::shape(op, s))?;
        let (source, first, last) = (config.password_source, config.login_pause, config.login_pause_last);
        // Both doors together stay below what locks an account.
        let side_door = Door::new(config.password.clone(), source.clone(), first * 2, last * 2);
        let door = Door::new(config.password, source, first, last);
        let session = Session {
            http,
            account: Some(Account { user: config.user, door, side_door }),
            over: watch::Sender::new(false),
            timeout,
            observer: config.observer,
            poll: config.poll,
            action,
            about,
            content,
            login: RwLock::default(),
            gate: tokio::sync::Mutex::new(()),
            litter: Mutex::default(),
        };
        session.log_in(timeout).await?;
        Ok(session)
    }

    /// A session of its own over its own connections, which the server has made for a ticket (`ticket.rs`).
    pub(crate) fn cloned(&self, http: Http, cookies: Cookies, key: String) -> Session {
        Session {
            http,
            account: None,
            over: watch::Sender::new(false),
            timeout: self.timeout,
            observer: self.observer.clone(),
            poll: self.poll,
            action: self.action.clone(),
            about: self.about.clone(),
            content: self.content.clone(),
            login: RwLock::new(Login { cookies, generation: 1, key: Some(key) }),
            gate: tokio::sync::Mutex::new(()),
            litter: Mutex::default(),
        }
    }

    /// Turns true when a call finds that a cloned session has ended; that of an account never does.
    pub(crate) fn over(&self) -> watch::Receiver<bool> {
        self.over.subscribe()
    }

    pub(crate) fn is_cloned(&self) -> bool {
        self.account.is_none()
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    fn end_for_good(&self) {
        if self.is_cloned() {
            self.over.send_replace(true);
        }
    }

    pub(crate) fn login_refused(&self) -> watch::Receiver<Option<LoginRefused>> {
        self.account.as_ref().map_or_else(|| watch::channel(None).1, |account| account.door.watch())
    }

    /// Sends a request within `deadline`, with one re-login when the session has ended.
    pub(crate) async fn call(&self, request: &Request, deadline: Duration) -> Result<Node, Error> {
        let begun = Instant::now();
        let answer = self.answer(request, deadline).await;
        self.observe(request.op, begun, &answer);
        answer
    }

    pub(crate) fn observe<T>(&self, method: &'static str, begun: Instant, answer: &Result<T, Error>) {
        if let Some(observer) = &self.observer {
            let error = answer.as_ref().err().map(Error::kind);
            observer(&Call { method, took: begun.elapsed(), error });
        }
    }

    /// One exchange with nothing of this session's, its cookie included.
    pub(crate) async fn bare(&self, http: &Http, request: &Request) -> Result<(Node, Cookies), Error> {
        send(http, &self.action, &Cookies::default(), request, self.timeout).await
    }

    async fn answer(&self, request: &Request, deadline: Duration) -> Result<Node, Error> {
        let end = Instant::now() + deadline;
        let left = || end.saturating_duration_since(Instant::now());
        let mut relogins = 1;
        let mut repeats = if request.effect == Effect::Read { 1 } else { 0 };
        loop {
            if self.account.as_ref().is_some_and(|account| account.door.is_shut()) {
                // The session has ended: with its cookie the answer is known.
                self.renew(self.generation(), left()).await?;
            }
            let (cookies, generation) = self.current();
            if left().is_zero() {
                return Err(Error::new(ErrorKind::Deadline, request.op, "not sent, no time left"));
            }
            match send(&self.http, &self.action, &cookies, request, left()).await {
                Err(e) if e.is_not_authenticated() && self.account.is_none() => {
                    self.end_for_good();
                    return Err(e);
                }
                Err(e) if e.is_not_authenticated() && relogins > 0 => {
                    relogins -= 1;
                    self.renew(generation, left()).await?;
                }
                // A pooled connection that the server had closed; a read may simply go again.
                Err(e) if *e.kind() == ErrorKind::Unreachable && repeats > 0 && !left().is_zero() => repeats -= 1,
                other => return other.map(|(node, _)| node),
            }
        }
    }

    /// Sends a request whose answer is one `returnval`.
    pub(crate) async fn call_value(&self, request: &Request, deadline: Duration) -> Result<Node, Error> {
        soap::returnval(request.op, self.call(request, deadline).await?)
    }

    /// Starts a task: the answer is its reference.
    pub(crate) async fn start_task(&self, request: &Request) -> Result<MoRef, Error> {
        // The change was made when this is reached; an answer that can't be read is an unknown outcome, not a failure.
        let unknown = |e: Error| match e.kind() {
            ErrorKind::Protocol | ErrorKind::TooLarge => {
                Error::new(ErrorKind::UnknownOutcome, request.op, e.to_string()).with_source(e)
            }
            _ => e,
        };
        let node = self.call_value(request, self.timeout).await.map_err(unknown)?;
        node.moref().map_err(|s| unknown(Error::shape(request.op, s)))
    }

    /// Ends the session on the server.
    pub(crate) async fn log_out(&self) -> Result<(), Error> {
        let (cookies, _) = self.current();
        let request = Request::read("Logout", &self.content.session_manager, |_| {});
        match send(&self.http, &self.action, &cookies, &request, self.timeout).await {
            Err(e) if !e.is_not_authenticated() => Err(e),
            _ => Ok(()),
        }
    }

    /// Opens a file that a lease names; `*` as its host stands for the server's own, with its port (as govmomi reads it).
    pub(crate) async fn open_file(
        &self,
        op: &'static str,
        url: &str,
        only: Option<crate::tls::Fingerprint>,
        deadline: Duration,
    ) -> Result<reqwest::Response, Error> {
        let bad = |why: &str| Error::protocol(op, format!("URL of the file: {why}"));
        let mut url = reqwest::Url::parse(url).map_err(|e| bad(&e.to_string()))?;
        if url.scheme() != "https" {
            return Err(bad("not https"));
        }
        if url.host_str() == Some("*") {
            let endpoint = self.http.endpoint();
            url.set_host(endpoint.host_str()).map_err(|e| bad(&e.to_string()))?;
            url.set_port(endpoint.port()).map_err(|()| bad("port"))?;
        }
        self.http.open(op, url, only, &self.current().0, deadline).await
    }

    fn current(&self) -> (Cookies, u64) {
        let login = self.login.read().unwrap_or_else(PoisonError::into_inner);
        (login.cookies.clone(), login.generation)
    }

    /// Generation of the login; session-scoped objects of an older one are gone.
    pub(crate) fn generation(&self) -> u64 {
        self.current().1
    }

    /// Key of the login in use.
    pub(crate) fn key(&self) -> Option<String> {
        self.login.read().unwrap_or_else(PoisonError::into_inner).key.clone()
    }

    /// Ends the session in use and logs in anew, when its key is `key`; `None` when another session is in use.
    ///
    /// The gate is held: no other caller can log in between the look at the key and the new login.
    pub(crate) async fn replace(&self, key: &str) -> Result<Option<Fenced>, Error> {
        let (account, deadline) = (self.account()?, self.timeout);
        let _gate = tokio::time::timeout(deadline, self.gate.lock())
            .await
            .map_err(|_| Error::new(ErrorKind::Deadline, "Logout", "waiting for another login"))?;
        if self.key().as_deref() != Some(key) {
            return Ok(None);
        }
        let (cookies, _) = self.current();
        let request = Request::read("Logout", &self.content.session_manager, |_| {});
        let fenced = match send(&self.http, &self.action, &cookies, &request, deadline).await {
            Ok(_) => Fenced::Ended,
            Err(e) if e.is_not_authenticated() => Fenced::Already,
            Err(e) => return Err(e),
        };
        tracing::info!(user = %account.user, "vCenter session ended on purpose, logging in again");
        self.log_in(deadline).await?;
        Ok(Some(fenced))
    }

    async fn renew(&self, seen: u64, deadline: Duration) -> Result<(), Error> {
        let _gate = tokio::time::timeout(deadline, self.gate.lock())
            .await
            .map_err(|_| Error::new(ErrorKind::Deadline, "Login", "waiting for another login"))?;
        if self.generation() != seen {
            return Ok(());
        }
        tracing::info!(user = %self.account()?.user, "vCenter session ended, logging in again");
        self.log_in(deadline).await
    }

    /// A password that vCenter takes now: one login of its own, which is ended again.
    pub(crate) async fn proven_password(&self) -> Result<SecretString, Error> {
        let account = self.account()?;
        if let Some(refused) = account.door.watch().borrow().clone() {
            return Err(Error::new(ErrorKind::Unauthorized, "Login", refused.why));
        }
        let (password, _, cookies) = self.knock(account, &account.side_door, self.timeout).await?;
        account.side_door.passed();
        let request = Request::read("Logout", &self.content.session_manager, |_| {});
        if let Err(error) = send(&self.http, &self.action, &cookies, &request, self.timeout).await {
            tracing::debug!(%error, "a login that was only a test was not ended");
        }
        Ok(password)
    }

    fn account(&self) -> Result<&Account, Error> {
        let none = || Error::new(ErrorKind::Unsupported, "Login", "a cloned session can't log in again");
        self.account.as_ref().ok_or_else(none)
    }

    /// One try to log in.
    async fn knock(
        &self,
        account: &Account,
        door: &Door,
        deadline: Duration,
    ) -> Result<(SecretString, Node, Cookies), Error> {
        let password = door.knock().await?;
        let request = Request::read("Login", &self.content.session_manager, |w| {
            w.text("userName", &account.user);
            w.text("password", password.expose_secret());
        });
        // A login with the cookie of an ended or live session is refused: start without one.
        let sent = send(&self.http, &self.action, &Cookies::default(), &request, deadline).await.map_err(login_error);
        match &sent {
            Ok(_) => {}
            Err(e) if *e.kind() == ErrorKind::Unauthorized => door.refused(e),
            Err(_) => door.unanswered(),
        }
        sent.map(|(answer, cookies)| (password, answer, cookies))
    }

    /// Under the gate.
    async fn log_in(&self, deadline: Duration) -> Result<(), Error> {
        let account = self.account()?;
        let (_, answer, cookies) = self.knock(account, &account.door, deadline).await?;
        let key = answer.child("returnval").and_then(|user_session| user_session.string("key"));
        let mut login = self.login.write().unwrap_or_else(PoisonError::into_inner);
        login.cookies = cookies;
        login.generation += 1;
        login.key = key;
        drop(login);
        // Last: who finds the door open must find the new session too.
        account.door.passed();
        Ok(())
    }

    /// Remembers a session-scoped object (view, collector) that could not be removed at once.
    pub(crate) fn leave_litter(&self, generation: u64, object: MoRef) {
        let mut litter = self.litter.lock().unwrap_or_else(PoisonError::into_inner);
        if litter.len() < MAX_LITTER {
            litter.push((generation, object));
        }
    }

    /// Removes what was left. Failures don't matter: the server drops these objects with the session.
    pub(crate) async fn sweep(&self) {
        let litter = std::mem::take(&mut *self.litter.lock().unwrap_or_else(PoisonError::into_inner));
        let mut litter = litter.into_iter();
        while let Some((generation, object)) = litter.next() {
            if generation == self.generation() && !self.discard(&object).await {
                // The server does not answer: leave the rest for later instead of waiting for each.
                litter.for_each(|(g, o)| self.leave_litter(g, o));
                return;
            }
        }
    }

    /// Removes a view or a collector of this session, best effort; false when there was no answer at all.
    async fn discard(&self, object: &MoRef) -> bool {
        let op = if object.type_name == "PropertyCollector" { "DestroyPropertyCollector" } else { "DestroyView" };
        let request = Request::read(op, object, |_| {});
        let (cookies, _) = self.current();
        match send(&self.http, &self.action, &cookies, &request, self.timeout.min(DISCARD)).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%object, %error, "session object not removed");
                matches!(error.kind(), ErrorKind::Fault(_))
            }
        }
    }
}

/// A session-scoped object that is removed even when the future that uses it is dropped.
pub(crate) struct Scoped<'a> {
    session: &'a Session,
    generation: u64,
    object: Option<MoRef>,
}

impl<'a> Scoped<'a> {
    pub(crate) fn new(session: &'a Session, object: MoRef) -> Scoped<'a> {
        Scoped { session, generation: session.generation(), object: Some(object) }
    }

    pub(crate) async fn discard(mut self) {
        if let Some(object) = &self.object
            && self.session.discard(object).await
        {
            self.object = None;
        }
    }
}

impl Drop for Scoped<'_> {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.session.leave_litter(self.generation, object);
        }
    }
}

/// One exchange; returns the response element and the cookies after it.
async fn send(
    http: &Http,
    action: &str,
    cookies: &Cookies,
    request: &Request,
    deadline: Duration,
) -> Result<(Node, Cookies), Error> {
    let result = http.post(request.op, action, cookies, request.envelope(), deadline).await;
    let sent = !matches!(&result, Err(Failure { sent: false, .. }));
    let answer: Result<(Node, Cookies), Error> = result.map_err(|f| f.error).and_then(|answer: Answer| {
        let mut cookies = cookies.clone();
        cookies.absorb(&answer.headers);
        let response = soap::response(request.op, &answer)?;
        property::of_a_session(request.op, &response)?;
        Ok((response, cookies))
    });
    answer.map_err(|e| match e.kind() {
        ErrorKind::Fault(_) => e,
        _ if sent && request.effect == Effect::Mutation => {
            Error::new(ErrorKind::UnknownOutcome, request.op, e.to_string()).with_source(e)
        }
        _ => e,
    })
}

async fn read_versions(http: &Http, deadline: Duration) -> Result<Node, Error> {
    let op = "vimServiceVersions.xml";
    let answer = http.get(op, op, deadline).await.map_err(|f| f.error)?;
    if answer.status != reqwest::StatusCode::OK {
        return Err(soap::status_error(op, answer.status));
    }
    xml::parse(&answer.body).map_err(|e| Error::protocol(op, e.to_string()))
}

fn login_error(error: Error) -> Error {
    let refused = matches!(
        error.fault().map(|f| &f.kind),
        Some(FaultKind::InvalidLogin | FaultKind::NoPermission { .. } | FaultKind::NotAuthenticated)
    );
    if refused {
        Error::new(ErrorKind::Unauthorized, "Login", error.kind().to_string()).with_source(error)
    } else {
        error
    }
}
