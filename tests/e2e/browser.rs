//! A headless Chromium before the status page. It has no client certificate, so a forwarder on this host has it for the browser: plain HTTP on
//! 127.0.0.1, mutual TLS to the agent.
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinHandle,
};

/// Clocks of the page, not of this machine: the browser does not count while an answer is on its way.
const BUDGET: Duration = Duration::from_secs(16);
/// For one start of a browser on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);
/// Two looks that are this far apart, by the agent's clock, draw a line.
const APART_MS: u64 = 700;

/// The program, if this machine has one: `$HOTADD_CHROMIUM`, or Debian's package.
pub fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("HOTADD_CHROMIUM").map(PathBuf::from);
    named.into_iter().chain([PathBuf::from("/usr/bin/chromium")]).find(|path| path.is_file())
}

/// See the module. Ends when it is dropped.
pub struct Forwarder {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    client: reqwest::Client,
    /// Host and port of the agent.
    agent: String,
    asked: Mutex<BTreeSet<String>>,
    /// Snapshots that are still answered.
    left: AtomicUsize,
    /// When the last one was made.
    up_ms: tokio::sync::Mutex<u64>,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwarder {
    /// `answers`: so many snapshots are handed on, then the agent seems to be gone.
    pub async fn start(client: reqwest::Client, agent: String, answers: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            client,
            agent,
            asked: Mutex::default(),
            left: AtomicUsize::new(answers),
            up_ms: tokio::sync::Mutex::default(),
        });
        let of_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&of_task);
                tokio::spawn(async move {
                    if let Err(error) = shared.one(stream).await {
                        eprintln!("forwarder: {error:#}");
                    }
                });
            }
        });
        Ok(Self { address, shared, task })
    }

    /// Every path that was asked for.
    pub fn asked(&self) -> BTreeSet<String> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    /// One request, then the connection ends.
    async fn one(&self, stream: TcpStream) -> Result<()> {
        let mut stream = BufReader::new(stream);
        let mut first = String::new();
        if stream.read_line(&mut first).await? == 0 {
            // A browser opens connections in advance.
            return Ok(());
        }
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 2 {
            line.clear();
        }
        let path = first.split(' ').nth(1).context("no path")?.to_owned();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        let (head, body) = if path == "/status.json" { self.next().await? } else { self.get(&path).await? };
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
        Ok(stream.shutdown().await?)
    }

    async fn get(&self, path: &str) -> Result<(String, Vec<u8>)> {
        let answer = self.client.get(format!("https://{}{path}", self.agent)).send().await?;
        let mut head = format!("HTTP/1.1 {}\r\nconnection: close\r\n", answer.status());
        for (name, value) in answer.headers() {
            head += &format!("{name}: {}\r\n", value.to_str()?);
        }
        head += "\r\n";
        Ok((head, answer.bytes().await?.to_vec()))
    }

    /// A snapshot that is later than the last one: the browser's clock runs ahead of the agent's.
    async fn next(&self) -> Result<(String, Vec<u8>)> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            return Ok(("HTTP/1.1 503 gone\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".into(), Vec::new()));
        }
        let mut last = self.up_ms.lock().await;
        loop {
            let (head, body) = self.get("/status.json").await?;
            let told: Value = serde_json::from_slice(&body)?;
            let up_ms = told["agent"]["up_ms"].as_u64().context("no clock")?;
            if up_ms >= *last + APART_MS || *last == 0 {
                *last = up_ms;
                return Ok((head, body));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Runs it before this page; what it prints.
async fn run(program: &Path, profile: &Path, url: &str, more: &[String]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]);
    // Nothing is found but this host: neither by the page nor by the browser itself.
    command.arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1");
    command.arg(format!("--user-data-dir={}", profile.display()));
    command.arg(format!("--virtual-time-budget={}", BUDGET.as_millis()));
    command.args(more).arg(url).kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await.context("the browser does not end")??;
    let words = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{}: {words}", ended.status);
    Ok(String::from_utf8(ended.stdout)?)
}

/// The page's elements after a while, as markup.
pub async fn dom(program: &Path, profile: &Path, at: SocketAddr) -> Result<String> {
    run(program, profile, &format!("http://{at}/"), &["--window-size=390,844".into(), "--dump-dom".into()]).await
}

/// A picture of it, as PNG.
pub async fn picture(
    program: &Path,
    profile: &Path,
    at: SocketAddr,
    size: (u32, u32),
    dark: bool,
    to: &Path,
) -> Result<()> {
    let mut more = vec![format!("--window-size={},{}", size.0, size.1), format!("--screenshot={}", to.display())];
    if dark {
        more.push("--blink-settings=preferredColorScheme=0".into());
    }
    run(program, profile, &format!("http://{at}/"), &more).await?;
    let png = std::fs::read(to)?;
    ensure!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "no PNG");
    // IHDR: width and height.
    let number = |at: usize| png.get(at..at + 4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]));
    ensure!((number(16), number(20)) == (Some(size.0), Some(size.1)), "{:?}x{:?}", number(16), number(20));
    Ok(())
}
