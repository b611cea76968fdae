//! Client of the control API, for tests and tools.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

const REPLY_DEADLINE: Duration = Duration::from_secs(120);

/// A disk on a VM as vCenter tells it.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
pub struct AttachedDisk {
    pub key: i32,
    pub path: String,
    pub bus: Option<u32>,
    pub unit: Option<i32>,
    pub mode: String,
    /// `own`, `attached` (by a client) or `actor` (by attach_foreign).
    pub origin: String,
    pub uuid: Option<String>,
    pub capacity: Option<u64>,
    pub chain: Vec<String>,
}

/// One connection. Writers that were started over it end with it.
#[derive(Debug)]
pub struct Control {
    lines: Lines<BufReader<OwnedReadHalf>>,
    out: OwnedWriteHalf,
}

impl Control {
    pub async fn connect(path: impl AsRef<Path>) -> io::Result<Control> {
        let (read, out) = UnixStream::connect(path).await?.into_split();
        Ok(Control { lines: BufReader::new(read).lines(), out })
    }

    /// Sends a command; `{"ok":false}` is an error with the simulator's text.
    pub async fn call(&mut self, request: Value) -> io::Result<Value> {
        let mut line = request.to_string();
        line.push('\n');
        self.out.write_all(line.as_bytes()).await?;
        let reply = self.next_line().await?;
        if reply["ok"] == true {
            Ok(reply)
        } else {
            Err(io::Error::other(reply["error"].as_str().unwrap_or("refused").to_owned()))
        }
    }

    /// The next line of a `watch_devices` stream.
    pub async fn next_line(&mut self) -> io::Result<Value> {
        let line = timeout(REPLY_DEADLINE, self.lines.next_line()).await.map_err(io::Error::other)??;
        serde_json::from_str(&line.ok_or(io::ErrorKind::UnexpectedEof)?).map_err(io::Error::other)
    }

    async fn list<T: serde::de::DeserializeOwned>(&mut self, request: Value, field: &str) -> io::Result<T> {
        let mut reply = self.call(request).await?;
        serde_json::from_value(reply[field].take()).map_err(io::Error::other)
    }

    pub async fn attached(&mut self, vm: &str) -> io::Result<Vec<AttachedDisk>> {
        self.list(json!({"cmd": "attached", "vm": vm}), "disks").await
    }

    /// Ids of the VM's snapshots.
    pub async fn snapshots(&mut self, vm: &str) -> io::Result<Vec<String>> {
        let all: Vec<Value> = self.list(json!({"cmd": "snapshots", "vm": vm}), "snapshots").await?;
        Ok(all.iter().filter_map(|s| s["id"].as_str().map(str::to_owned)).collect())
    }

    /// The raw file below a disk.
    pub async fn disk_file(&mut self, vm: &str, disk: &str) -> io::Result<std::path::PathBuf> {
        self.list(json!({"cmd": "disk_file", "vm": vm, "disk": disk}), "file").await
    }

    pub async fn vm_write(&mut self, vm: &str, disk: &str, offset: u64, pattern: u8, length: u64) -> io::Result<()> {
        let request =
            json!({"cmd": "vm_write", "vm": vm, "disk": disk, "offset": offset, "pattern": pattern, "length": length});
        self.call(request).await.map(drop)
    }

    pub async fn set_write_through(&mut self, on: bool) -> io::Result<()> {
        self.call(json!({"cmd": "set_write_through", "on": on})).await.map(drop)
    }

    pub async fn power(&mut self, vm: &str, on: bool) -> io::Result<()> {
        self.call(json!({"cmd": "power", "vm": vm, "on": on})).await.map(drop)
    }

    pub async fn locked(&mut self, path: &str, on: bool) -> io::Result<()> {
        self.call(json!({"cmd": "locked", "path": path, "on": on})).await.map(drop)
    }

    /// `spec` holds kind, fault, ms, nth, count as CONTROL.md says.
    pub async fn fault(&mut self, method: &str, mut spec: Value) -> io::Result<()> {
        spec["cmd"] = json!("fault");
        spec["method"] = json!(method);
        self.call(spec).await.map(drop)
    }

    pub async fn end_sessions(&mut self) -> io::Result<()> {
        self.call(json!({"cmd": "end_sessions"})).await.map(drop)
    }

    pub async fn restart(&mut self) -> io::Result<()> {
        self.call(json!({"cmd": "restart"})).await.map(drop)
    }

    pub async fn counters(&mut self) -> io::Result<Value> {
        self.call(json!({"cmd": "counters"})).await
    }

    pub async fn guest_writes(&mut self) -> io::Result<u64> {
        self.list(json!({"cmd": "guest_writes"}), "guest_writes").await
    }

    pub async fn devices(&mut self) -> io::Result<Vec<Value>> {
        self.list(json!({"cmd": "devices"}), "devices").await
    }
}
