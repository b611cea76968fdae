//! A small client of QEMU's machine protocol: commands, and events kept until somebody asks.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout_at};

const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Qmp {
    lines: Lines<BufReader<OwnedReadHalf>>,
    out: OwnedWriteHalf,
    events: Vec<Value>,
}

impl Qmp {
    pub(crate) async fn connect(path: &Path) -> Result<Qmp, String> {
        let stream = UnixStream::connect(path).await.map_err(|e| format!("{}: {e}", path.display()))?;
        let (read, out) = stream.into_split();
        let mut q = Qmp { lines: BufReader::new(read).lines(), out, events: Vec::new() };
        q.receive(Instant::now() + COMMAND_DEADLINE).await?;
        q.command("qmp_capabilities", json!({})).await?;
        Ok(q)
    }

    async fn receive(&mut self, until: Instant) -> Result<Value, String> {
        let line = timeout_at(until, self.lines.next_line()).await.map_err(|_| "no answer from QEMU".to_owned())?;
        let line = line.map_err(|e| e.to_string())?.ok_or("QEMU closed its monitor")?;
        serde_json::from_str(&line).map_err(|e| e.to_string())
    }

    /// Err is QEMU's own text.
    pub(crate) async fn command(&mut self, name: &str, arguments: Value) -> Result<Value, String> {
        let mut line = json!({"execute": name, "arguments": arguments}).to_string();
        line.push('\n');
        self.out.write_all(line.as_bytes()).await.map_err(|e| e.to_string())?;
        let until = Instant::now() + COMMAND_DEADLINE;
        loop {
            let mut m = self.receive(until).await?;
            if m.get("event").is_some() {
                self.events.push(m);
            } else if let Some(e) = m.get("error") {
                return Err(format!("{name}: {}", e["desc"].as_str().unwrap_or("error")));
            } else {
                return Ok(m["return"].take());
            }
        }
    }

    /// Waits for an event about a device.
    pub(crate) async fn device_event(&mut self, name: &str, device: &str, limit: Duration) -> Result<(), String> {
        let until = Instant::now() + limit;
        loop {
            let hit = |e: &Value| e["event"] == name && e["data"]["device"] == device;
            if let Some(i) = self.events.iter().position(hit) {
                self.events.remove(i);
                return Ok(());
            }
            let m = self.receive(until).await?;
            if m.get("event").is_some() {
                self.events.push(m);
            }
        }
    }
}
