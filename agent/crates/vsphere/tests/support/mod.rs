//! A scriptable HTTPS server that speaks raw HTTP/1.1, so that tests can say exactly what goes over the wire, well-formed
//! or not. Knows no vSphere semantics: a test's script decides every answer. `vim` holds the usual happy answers.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod vim;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hotadd_vsphere::{Config, Trust};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub const PASSWORD: &str = "s3cret <&> \"pass\"";

/// One request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub action: String,
    pub cookie: String,
    /// Name of the SOAP method; empty for a GET.
    pub op: String,
    pub body: String,
}

/// What the script answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A whole XML answer with this status.
    Xml(u16, String),
    /// The same with one more header line.
    XmlWith(u16, String, String),
    /// These bytes, then the connection is closed.
    Raw(Vec<u8>),
    /// A chunked answer of this prefix and then this piece so many times (the client should give up long before).
    Flood(String, String, usize),
    /// An answer without length, one byte at a time.
    Drip(Duration),
    /// Closes the connection without an answer.
    Hangup,
    /// Never answers.
    Silence,
}

pub type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A running server; stops when dropped.
pub struct Server {
    pub addr: SocketAddr,
    pub cert_pem: String,
    pub pin: [u8; 32],
    pub seen: Arc<Mutex<Vec<Seen>>>,
    accept: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl Server {
    pub async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
        Server::start_as("localhost", script).await
    }

    /// A server whose certificate names `host`.
    pub async fn start_as(host: &str, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        let der = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der.clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let script: Arc<Script> = Arc::new(script);
        let log = seen.clone();
        let accept = tokio::spawn(async move {
            // Connections end with the server: a dropped set aborts its tasks.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, script, log) = (acceptor.clone(), script.clone(), log.clone());
                let _ = socket.set_nodelay(true);
                connections.spawn(async move {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        serve(stream, &*script, &log).await;
                    }
                });
            }
        });
        Server { addr, cert_pem: made.cert.pem(), pin: Sha256::digest(der.as_ref()).into(), seen, accept }
    }

    pub fn config(&self) -> Config {
        let trust = Trust::Pin(self.pin);
        let mut config = Config::new(self.url(), "backup@vsphere.local", SecretString::from(PASSWORD), trust);
        // Generous: a loaded machine must not turn a passing test into a failing one.
        config.connect_timeout = Duration::from_secs(20);
        config
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.addr.port())
    }

    pub fn ops(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|s| s.op.clone()).collect()
    }

    pub fn count(&self, op: &str) -> usize {
        self.ops().iter().filter(|o| *o == op).count()
    }

    pub fn last(&self, op: &str) -> Seen {
        self.seen.lock().unwrap().iter().rev().find(|s| s.op == op).cloned().unwrap_or_else(|| panic!("no {op}"))
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, script: &Script, log: &Mutex<Vec<Seen>>) {
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer).await {
        log.lock().unwrap().push(seen.clone());
        let go_on = match script(&seen) {
            Reply::Xml(status, body) => send(&mut stream, status, "", &body).await,
            Reply::XmlWith(status, header, body) => send(&mut stream, status, &header, &body).await,
            Reply::Raw(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.flush().await;
                false
            }
            Reply::Flood(prefix, piece, times) => flood(&mut stream, &prefix, &piece, times).await,
            Reply::Drip(pause) => drip(&mut stream, pause).await,
            Reply::Hangup => false,
            Reply::Silence => std::future::pending().await,
        };
        if !go_on {
            break;
        }
    }
    let _ = stream.shutdown().await;
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), status: u16, header: &str, body: &str) -> bool {
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Type: text/xml\r\n{header}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.is_ok()
        && stream.write_all(body.as_bytes()).await.is_ok()
        && stream.flush().await.is_ok()
}

async fn flood(stream: &mut (impl AsyncWrite + Unpin), prefix: &str, piece: &str, times: usize) -> bool {
    let chunk = |s: &str| format!("{:x}\r\n{s}\r\n", s.len());
    let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk(prefix));
    if stream.write_all(head.as_bytes()).await.is_err() {
        return false;
    }
    let piece = chunk(piece);
    for _ in 0..times {
        if stream.write_all(piece.as_bytes()).await.is_err() {
            return false;
        }
    }
    let _ = stream.write_all(b"0\r\n\r\n").await;
    true
}

async fn drip(stream: &mut (impl AsyncWrite + Unpin), pause: Duration) -> bool {
    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").await.is_err() {
        return false;
    }
    loop {
        if stream.write_all(b"<").await.is_err() || stream.flush().await.is_err() {
            return false;
        }
        tokio::time::sleep(pause).await;
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<Seen> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|l| l.split_once(':'));
        lines.find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned()).unwrap_or_default()
    };
    let length: usize = header("content-length").parse().unwrap_or(0);
    while buffer.len() < head_end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(buffer[head_end..head_end + length].to_vec()).unwrap();
    buffer.drain(..head_end + length);
    let mut first = head.split_whitespace();
    let op = body.split("<soapenv:Body><").nth(1).and_then(|t| t.split([' ', '>']).next()).unwrap_or_default();
    Some(Seen {
        method: first.next()?.to_owned(),
        path: first.next()?.to_owned(),
        action: header("soapaction"),
        cookie: header("cookie"),
        op: op.to_owned(),
        body,
    })
}
