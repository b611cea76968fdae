//! HTTP: one request, one bounded answer, one deadline; transport failures sorted by whether the request may have arrived.

use std::error::Error as StdError;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use reqwest::{Method, StatusCode, Url, redirect};

use crate::config::{Config, Trust};
use crate::error::{Error, ErrorKind};
use crate::tls::{self, Accept};

/// Most cookies kept of one server.
const MAX_COOKIES: usize = 16;
/// Shorter than vCenter's own idle limit, so that a request seldom meets a connection that the server is closing.
const POOL_IDLE: Duration = Duration::from_secs(15);

/// Cookies of one session: name and value, no attributes. The session cookie is a secret and is never printed.
#[derive(Clone, Default)]
pub(crate) struct Cookies(Vec<(String, String)>);

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Cookies {
    fn header(&self) -> Option<HeaderValue> {
        let text = self.0.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("; ");
        let mut value = HeaderValue::from_str(&text).ok().filter(|_| !text.is_empty())?;
        value.set_sensitive(true);
        Some(value)
    }

    pub(crate) fn absorb(&mut self, headers: &HeaderMap) {
        for line in headers.get_all(SET_COOKIE) {
            let pair = line.to_str().ok().and_then(|l| l.split(';').next()).and_then(|p| p.split_once('='));
            let Some((name, value)) = pair.map(|(n, v)| (n.trim(), v.trim())) else { continue };
            self.0.retain(|(n, _)| n != name);
            if self.0.len() < MAX_COOKIES && !name.is_empty() {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
    }
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// A failure below SOAP. `sent` is false only when the request certainly never reached the server.
pub(crate) struct Failure {
    pub(crate) sent: bool,
    pub(crate) error: Error,
}

#[derive(Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
    endpoint: Url,
    max_bytes: usize,
    trust: Trust,
    connect_timeout: Duration,
    /// DER of the certificate that was believed last.
    certificate: Mutex<Option<Vec<u8>>>,
}

fn client(accept: &Accept, connect_timeout: Duration) -> Result<reqwest::Client, Error> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client_config(accept)?)
        .https_only(true)
        .http1_only()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(POOL_IDLE)
        .tcp_keepalive(Duration::from_secs(30))
        .tls_info(true)
        .user_agent(concat!("hotadd-vsphere/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| Error::new(ErrorKind::Tls, "connect", chain(&e)))
}

impl Http {
    pub(crate) fn new(config: &Config) -> Result<Http, Error> {
        let (trust, connect_timeout) = (config.trust.clone(), config.connect_timeout);
        let client = client(&Accept::Trust(trust.clone()), connect_timeout)?;
        let max_bytes = config.max_response_bytes;
        Ok(Http {
            client,
            endpoint: config.endpoint()?,
            max_bytes,
            trust,
            connect_timeout,
            certificate: Mutex::default(),
        })
    }

    /// The same server by connections of its own.
    pub(crate) fn sibling(&self) -> Result<Http, Error> {
        let client = client(&Accept::Trust(self.trust.clone()), self.connect_timeout)?;
        Ok(Http {
            client,
            endpoint: self.endpoint.clone(),
            max_bytes: self.max_bytes,
            trust: self.trust.clone(),
            connect_timeout: self.connect_timeout,
            certificate: Mutex::new(self.certificate()),
        })
    }

    pub(crate) fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// DER of the server's certificate, as it was believed for the last answer.
    pub(crate) fn certificate(&self) -> Option<Vec<u8>> {
        self.certificate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_certificate(&self, response: &reqwest::Response) {
        let info = response.extensions().get::<reqwest::tls::TlsInfo>();
        let Some(der) = info.and_then(reqwest::tls::TlsInfo::peer_certificate) else { return };
        let mut known = self.certificate.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != Some(der) {
            *known = Some(der.to_vec());
        }
    }

    /// Asks for a file of any size, at another host too; the body is the caller's to read. The session's cookie goes to
    /// the vCenter only.
    pub(crate) async fn open(
        &self,
        op: &'static str,
        url: Url,
        only: Option<tls::Fingerprint>,
        cookies: &Cookies,
        deadline: Duration,
    ) -> Result<reqwest::Response, Error> {
        let accept = only.map_or_else(|| Accept::Trust(self.trust.clone()), Accept::Only);
        let ours =
            url.host() == self.endpoint.host() && url.port_or_known_default() == self.endpoint.port_or_known_default();
        let mut request = client(&accept, self.connect_timeout)?.get(url);
        if let Some(value) = cookies.header().filter(|_| ours) {
            request = request.header(COOKIE, value);
        }
        match tokio::time::timeout(deadline, request.send()).await {
            Ok(answer) => answer.map_err(|e| classify(op, e).error),
            Err(_) => Err(Error::new(ErrorKind::Deadline, op, format!("no answer in {deadline:?}"))),
        }
    }

    /// Reads a document below the endpoint.
    pub(crate) async fn get(&self, op: &'static str, below: &str, deadline: Duration) -> Result<Answer, Failure> {
        let mut url = self.endpoint.clone();
        url.set_path(&format!("{}/{below}", self.endpoint.path()));
        self.exchange(op, self.client.request(Method::GET, url), deadline).await
    }

    /// Sends a SOAP envelope.
    pub(crate) async fn post(
        &self,
        op: &'static str,
        action: &str,
        cookies: &Cookies,
        body: String,
        deadline: Duration,
    ) -> Result<Answer, Failure> {
        let mut request = self
            .client
            .request(Method::POST, self.endpoint.clone())
            .header(CONTENT_TYPE, "text/xml; charset=utf-8")
            .header("SOAPAction", format!("\"{action}\""))
            .body(body);
        if let Some(value) = cookies.header() {
            request = request.header(COOKIE, value);
        }
        self.exchange(op, request, deadline).await
    }

    async fn exchange(
        &self,
        op: &'static str,
        request: reqwest::RequestBuilder,
        deadline: Duration,
    ) -> Result<Answer, Failure> {
        match tokio::time::timeout(deadline, self.unbounded(op, request)).await {
            Ok(result) => result,
            Err(_) => Err(Failure {
                sent: true,
                error: Error::new(ErrorKind::Deadline, op, format!("no answer in {deadline:?}")),
            }),
        }
    }

    async fn unbounded(&self, op: &'static str, request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
        let mut response = request.send().await.map_err(|e| classify(op, e))?;
        self.note_certificate(&response);
        let late = |error| Failure { sent: true, error };
        let too_large = || late(Error::new(ErrorKind::TooLarge, op, format!("more than {} bytes", self.max_bytes)));
        if response.content_length().is_some_and(|n| n > self.max_bytes as u64) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| late(classify(op, e).error))? {
            if chunk.len() > self.max_bytes - body.len() {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        let body = String::from_utf8(body).map_err(|_| late(Error::protocol(op, "the answer is not UTF-8")))?;
        Ok(Answer { status: response.status(), headers: std::mem::take(response.headers_mut()), body })
    }
}

pub(crate) fn classify(op: &'static str, error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let sent = !(error.is_connect() || error.is_builder());
    let kind = match tls_error(&error) {
        Some(_) if !sent => ErrorKind::Tls,
        _ if error.is_timeout() && sent => ErrorKind::Deadline,
        _ => ErrorKind::Unreachable,
    };
    let context = match (&kind, tls_error(&error)) {
        (ErrorKind::Tls, Some(e)) => explain(e),
        _ => chain(&error),
    };
    Failure { sent, error: Error::new(kind, op, context).with_source(error) }
}

fn explain(error: &rustls::Error) -> String {
    use rustls::CertificateError as C;
    match error {
        rustls::Error::InvalidCertificate(C::ApplicationVerificationFailure) => {
            "the server's certificate is not the pinned one".to_owned()
        }
        rustls::Error::InvalidCertificate(C::UnknownIssuer) => {
            "the server's certificate is not signed by a trusted authority".to_owned()
        }
        other => other.to_string(),
    }
}

/// Finds the TLS error below reqwest, hyper and io.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inner = e.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        next = match inner {
            Some(i) => Some(i as &(dyn StdError + 'static)),
            None => e.source(),
        };
    }
    None
}

/// The innermost message is the telling one; reqwest's own says only "error sending request".
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
