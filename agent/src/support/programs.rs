//! What systemd knows: the unit's state by named properties (never its environment), and the end of its log. Both are bounded in time and bytes.
use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncReadExt as _, process::Command, time::timeout};

use super::Got;

/// A hung journald must not hold the bundle.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of what a program prints.
const MOST: u64 = 16 << 20;
const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,Result,ExecMainStatus,ExecMainCode,ExecMainStartTimestamp,ExecMainExitTimestamp,\
    NRestarts,StatusText,UnitFileState,FragmentPath,DropInPaths,MemoryCurrent,MemoryPeak,TasksCurrent,WatchdogUSec";

pub(super) async fn unit() -> Got {
    run("systemctl", &["show", "hotadd-agent.service", "hotadd-reap.service", "--no-pager", "--property", PROPERTIES])
        .await
}

pub(super) async fn log() -> Got {
    run("journalctl", &["--unit", "hotadd-agent", "--no-pager", "--output", "short-iso", "--lines", "5000"]).await
}

async fn run(program: &str, args: &[&str]) -> Got {
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.kill_on_drop(true).spawn().map_err(|e| format!("{program}: {e}"))?;
    let mut out = child.stdout.take().ok_or_else(|| format!("{program}: no output"))?.take(MOST);
    let read = async {
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes).await?;
        // Who has more to say would wait for a reader.
        drop(out);
        Ok((bytes, child.wait().await?))
    };
    let done: Result<std::io::Result<_>, _> = timeout(PATIENCE, read).await;
    let told = done.map_err(|_| format!("{program}: no end within {} s", PATIENCE.as_secs()))?;
    let (bytes, status) = told.map_err(|e| format!("{program}: {e}"))?;
    if bytes.is_empty() {
        return Err(format!("{program}: nothing printed, {status}"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
