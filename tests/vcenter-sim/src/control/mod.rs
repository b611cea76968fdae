//! Control API on a Unix socket: JSON lines, one reply a request (CONTROL.md). `Control` is its client.

mod client;
mod command;
mod device;
mod inventory;
mod operator;
mod vddk;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};

use crate::Sim;
pub use client::{AttachedDisk, Control};

pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).ok();
    }
    // A socket left by a simulator that was killed.
    if path.exists() {
        std::fs::remove_file(path).with_context(|| path.display().to_string())?;
    }
    UnixListener::bind(path).with_context(|| path.display().to_string())
}

pub(crate) async fn serve(sim: Arc<Sim>, listener: UnixListener) {
    let mut stop = sim.stopped();
    loop {
        let stream = tokio::select! {
            s = listener.accept() => match s { Ok((s, _)) => s, Err(_) => continue },
            _ = stop.changed() => return,
        };
        tokio::spawn(client_loop(Arc::clone(&sim), stream));
    }
}

async fn client_loop(sim: Arc<Sim>, stream: UnixStream) {
    let (read, mut out) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut writers = command::Writers::default();
    let mut stop = sim.stopped();
    loop {
        let line = tokio::select! {
            l = lines.next_line() => l,
            _ = stop.changed() => break,
        };
        let Ok(Some(line)) = line else { break };
        let reply = match serde_json::from_str::<Value>(&line) {
            Err(e) => Err(format!("bad JSON: {e}")),
            Ok(v) if v["cmd"] == "watch_devices" => {
                if let Err(e) = watch(&sim, &mut out).await {
                    tracing::debug!(error = %e, "watcher gone");
                }
                break;
            }
            Ok(v) => command::run(&sim, &v, &mut writers).await,
        };
        let reply = match reply {
            Ok(mut v) => {
                v["ok"] = json!(true);
                v
            }
            Err(e) => json!({"ok": false, "error": e}),
        };
        if send(&mut out, &reply).await.is_err() {
            break;
        }
    }
    writers.stop_all().await;
}

async fn send(out: &mut OwnedWriteHalf, v: &Value) -> std::io::Result<()> {
    let mut line = v.to_string();
    line.push('\n');
    out.write_all(line.as_bytes()).await
}

async fn watch(sim: &Sim, out: &mut OwnedWriteHalf) -> std::io::Result<()> {
    let Some(mut events) = sim.backend.events() else {
        return send(out, &json!({"ok": false, "error": "the backend has no device events"})).await;
    };
    send(out, &json!({"ok": true})).await?;
    let mut stop = sim.stopped();
    loop {
        tokio::select! {
            e = events.recv() => match e {
                Ok(e) => send(out, &e).await?,
                // Events lost, as a real netlink socket loses them when its buffer overflows.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(_) => return Ok(()),
            },
            _ = stop.changed() => return Ok(()),
        }
    }
}
