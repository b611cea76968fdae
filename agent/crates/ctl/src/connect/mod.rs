//! The way to the agent: mutual TLS, HTTP/2 windows and keep-alive, and which code a transport error has (its words are in `cause`).
//! Nothing of jobs.
//!
//! TLS 1.3 lets the client believe that it is connected before the server has looked at its certificate, so a refused
//! client certificate shows as a transport error of the first call. The module `probe` then asks TLS itself.
mod cause;
mod probe;

use std::{env, error::Error as StdError, fs, path::PathBuf, time::Duration};

use hotadd_api::{
    MAX_MESSAGE_BYTES, status,
    v1::{
        GetInfoRequest, GetInfoResponse, disk_service_client::DiskServiceClient, job_service_client::JobServiceClient,
        proxy_service_client::ProxyServiceClient,
    },
};
use tonic::{
    Code, Response, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

use self::cause::Cause;
pub(crate) use self::cause::broken;
use crate::{cli::AgentArgs, error::Failure, exit::Exit, reasons};

/// TCP and TLS together; a proxy in the same building answers in milliseconds.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// One question with one answer; GetCapacity waits for vCenter.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// A silent agent is pinged after this time …
const PING_AFTER: Duration = Duration::from_secs(15);
/// … and given up after this one.
const PING_LIMIT: Duration = Duration::from_secs(20);
/// Room for two of the largest frames in flight on one stream.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Fewer frames of HTTP/2, each with its share of TLS and of the scheduler, for one of the contract; what else has to be said on
/// the connection still waits for no more than this.
const HTTP2_FRAME: u32 = 256 << 10;

/// PEM of both sides and the names that TLS checks.
#[derive(Clone)]
struct Credentials {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
    server_name: Option<String>,
}

/// A connected agent.
#[derive(Clone)]
pub struct Agent {
    channel: Channel,
    uri: Uri,
    credentials: Credentials,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of every log.
        f.debug_struct("Agent").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Agent {
    /// Connects and asks the agent who it is, which also proves that it accepts our certificate.
    ///
    /// # Errors
    /// Exit 2 for bad options or files, 3 when there is no trusted way to the agent, 4 when it refuses to answer.
    pub async fn connect(args: &AgentArgs) -> Result<(Self, GetInfoResponse), Failure> {
        let uri = agent_uri(args)?;
        let credentials = Credentials::load(args)?;
        let endpoint = endpoint(&uri, &credentials)?;
        let connected = tokio::time::timeout(CONNECT_LIMIT * 2, endpoint.connect()).await;
        let channel = match connected {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(transport(&uri, &error)),
            Err(_) => return Err(unreachable(&uri, "no connection in time")),
        };
        let agent = Self { channel, uri, credentials };
        let info = agent.info().await?;
        Ok((agent, info))
    }

    /// Who answers now: after a broken connection another may.
    ///
    /// # Errors
    /// As [`Self::explain`].
    pub async fn info(&self) -> Result<GetInfoResponse, Failure> {
        self.call(self.proxy().get_info(GetInfoRequest {})).await
    }

    #[must_use]
    pub fn proxy(&self) -> ProxyServiceClient<Channel> {
        ProxyServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    #[must_use]
    pub fn disks(&self) -> DiskServiceClient<Channel> {
        DiskServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    #[must_use]
    pub fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// One question, one answer, with a deadline.
    ///
    /// # Errors
    /// As [`Self::explain`].
    pub async fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
        // The generated client borrows itself for the call; every caller hands in a fresh one.
        match tokio::time::timeout(CALL_LIMIT, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.explain(&status).await),
            Err(_) => Err(unreachable(&self.uri, "no answer in time")),
        }
    }

    /// What a status means for the command: the agent's reason, a TLS refusal, or a lost connection.
    pub async fn explain(&self, status: &Status) -> Failure {
        if let Some(reason) = status::from_status(status) {
            // A question attaches nothing; what the agent owes anyway must not look like our doing.
            return Failure { exit: Exit::Refused, ..Failure::from_reason(Exit::Refused, &reason) };
        }
        if !is_transport(status) {
            let what = format!("the agent answered {:?}: {}", status.code(), status.message());
            return Failure::new(Exit::Refused, reasons::STATUS, what);
        }
        if let Some(failure) = find_tls(status).and_then(|error| tls_failure(&self.uri, &error)) {
            return failure;
        }
        match probe::run(&self.uri, &self.credentials).await {
            Some(error) => tls_failure(&self.uri, &error).unwrap_or_else(|| lost(&self.uri, status)),
            None => lost(&self.uri, status),
        }
    }
}

/// True when the status was made by this side, or by something between, because the connection failed.
pub(crate) fn is_transport(status: &Status) -> bool {
    status.source().is_some() || status.code() == Code::Unavailable
}

pub(crate) fn agent_uri(args: &AgentArgs) -> Result<Uri, Failure> {
    let usage = |what: String| Failure::new(Exit::Usage, reasons::USAGE, what);
    let text = args.agent.clone().or_else(|| env::var("HOTADD_AGENT").ok());
    let text = text.ok_or_else(|| usage("--agent (or HOTADD_AGENT) is missing".into()))?;
    let uri: Uri = text.parse().map_err(|error| usage(format!("--agent {text:?}: {error}")))?;
    if uri.scheme_str() != Some("https") || uri.host().is_none() || uri.port_u16().is_none() {
        return Err(usage(format!("--agent {text:?} is not https://HOST:PORT")));
    }
    Ok(uri)
}

impl Credentials {
    fn load(args: &AgentArgs) -> Result<Self, Failure> {
        Ok(Self {
            ca: pem(args.ca.as_ref(), "--ca", "HOTADD_CA")?,
            cert: pem(args.cert.as_ref(), "--cert", "HOTADD_CERT")?,
            key: pem(args.key.as_ref(), "--key", "HOTADD_KEY")?,
            server_name: args.server_name.clone(),
        })
    }
}

fn pem(given: Option<&PathBuf>, option: &str, variable: &str) -> Result<Vec<u8>, Failure> {
    let path = given.cloned().or_else(|| env::var_os(variable).map(PathBuf::from));
    let path = path.ok_or_else(|| bad_credentials(format!("{option} (or {variable}) is missing")))?;
    fs::read(&path).map_err(|error| bad_credentials(format!("{option} {}: {error}", path.display())))
}

fn bad_credentials(what: String) -> Failure {
    Failure::new(Exit::Usage, reasons::CREDENTIALS, what)
}

fn endpoint(uri: &Uri, credentials: &Credentials) -> Result<Endpoint, Failure> {
    // Checked here because the messages of a failed connect do not tell which file is at fault.
    probe::config(credentials).map_err(bad_credentials)?;
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&credentials.ca))
        .identity(Identity::from_pem(&credentials.cert, &credentials.key));
    if let Some(name) = &credentials.server_name {
        tls = tls.domain_name(name);
    }
    let endpoint = Endpoint::from(uri.clone())
        .tls_config(tls)
        .map_err(|error| bad_credentials(chain(&error)))?
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(HTTP2_FRAME)
        .http2_keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_LIMIT)
        .keep_alive_while_idle(true);
    Ok(endpoint)
}

fn transport(uri: &Uri, error: &(dyn StdError + 'static)) -> Failure {
    find_tls(error).and_then(|tls| tls_failure(uri, &tls)).unwrap_or_else(|| not_connected(uri, error))
}

/// What is rare keeps its own text: a guess would say less.
fn not_connected(uri: &Uri, error: &(dyn StdError + 'static)) -> Failure {
    let raw = chain(error);
    let Some(cause) = Cause::of(error) else { return unreachable(uri, &raw) };
    Failure { next: cause.next().to_owned(), ..unreachable(uri, cause.words()).detail(raw) }
}

/// A call on a connection that was there.
fn lost(uri: &Uri, status: &Status) -> Failure {
    // Without a cause of this side its words are those of what answers there.
    let words = match (status.source(), status.message()) {
        (Some(_), _) => broken(status),
        (None, "") => "what answers there is unavailable",
        (None, told) => told,
    };
    unreachable(uri, words).detail(chain(status))
}

fn unreachable(uri: &Uri, why: &str) -> Failure {
    Failure::new(Exit::Unreachable, reasons::UNREACHABLE, format!("no agent at {uri}: {why}"))
}

/// `None`: not a matter of trust.
fn tls_failure(uri: &Uri, error: &rustls::Error) -> Option<Failure> {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage, NoCertificatesPresented};
    let (code, what) = match error {
        InvalidCertificate(why) => {
            (reasons::SERVER_CERT, format!("the certificate of {uri} is refused: {}", cause::of_server(why)))
        }
        NoCertificatesPresented => (reasons::SERVER_CERT, format!("{uri} shows no certificate")),
        AlertReceived(alert) => {
            (reasons::CLIENT_CERT, format!("{uri} refused our certificate: {}", cause::of_client(*alert)))
        }
        InvalidMessage(_) => (reasons::SERVER_CERT, format!("what answers at {uri} does not speak TLS")),
        _ => (reasons::SERVER_CERT, format!("no TLS with {uri}: {error}")),
    };
    Some(Failure::new(Exit::Unreachable, code, what).detail(error.to_string()))
}

fn find_tls(error: &(dyn StdError + 'static)) -> Option<rustls::Error> {
    cause::find(error, &|error| error.downcast_ref::<rustls::Error>().cloned())
}

/// A chain of causes in one line, without the repetitions that wrappers make.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text
}
