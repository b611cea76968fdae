//! What systemd knows: the unit's state by named properties (never its environment), and the end of its log. Both are bounded in time and bytes.
use std::{io, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::timeout,
};

use super::{Got, bundle::MOST};

/// A hung journald must not hold the bundle; a large one on a slow disk takes its seconds.
const PATIENCE: Duration = Duration::from_secs(30);
const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,Result,ExecMainStatus,ExecMainCode,ExecMainStartTimestamp,ExecMainExitTimestamp,\
    NRestarts,StatusText,UnitFileState,FragmentPath,DropInPaths,MemoryCurrent,MemoryPeak,TasksCurrent,WatchdogUSec";

pub(super) async fn unit() -> Got {
    let args = ["show", "hotadd-agent.service", "hotadd-reap.service", "--no-pager", "--property", PROPERTIES];
    run("systemctl", &args, PATIENCE).await
}

pub(super) async fn log() -> Got {
    let units =
        ["--unit", "hotadd-agent", "--unit", "hotadd-reap", "--no-pager", "--output", "short-iso", "--lines", "5000"];
    run("journalctl", &units, PATIENCE).await
}

/// The end of what it prints, and how it ended if not well: a damaged log is told as far as it goes.
async fn run(program: &str, args: &[&str], patience: Duration) -> Got {
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().map_err(|e| format!("{program}: {e}"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut text, mut said) = (Vec::new(), Vec::new());
    let work = async {
        let (out, err) = tokio::join!(keep_end(out, &mut text), keep_end(err, &mut said));
        out.and(err)?;
        child.wait().await
    };
    let end = match timeout(patience, work).await {
        Ok(Ok(status)) if status.success() => None,
        Ok(Ok(status)) => Some(status.to_string()),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no end within {} s", patience.as_secs())),
    };
    let (text, said) = (String::from_utf8_lossy(&text), String::from_utf8_lossy(&said));
    let last = said.trim().lines().next_back().unwrap_or_default();
    match end {
        None if text.is_empty() => Err(format!("{program}: nothing printed; {last}")),
        Some(why) if text.is_empty() => Err(format!("{program}: {why}; {last}")),
        None => Ok(text.into_owned()),
        Some(why) => Ok(format!("{text}\n# {program}: {why}; {last}\n")),
    }
}

/// Reads to the end and keeps as much of it as a part may have.
async fn keep_end(from: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    while from.read_buf(kept).await? > 0 {
        if kept.len() > 2 * MOST {
            kept.drain(..kept.len() - MOST);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, patience: Duration) -> Got {
        run("sh", &["-c", script], patience).await
    }

    #[tokio::test]
    async fn what_was_printed_stays_whatever_the_end() {
        assert_eq!(sh("echo a; echo b >&2", PATIENCE).await.unwrap(), "a\n");
        assert_eq!(sh("echo a; echo b >&2; exit 3", PATIENCE).await.unwrap(), "a\n\n# sh: exit status: 3; b\n");
        assert_eq!(sh("echo b >&2; exit 3", PATIENCE).await.unwrap_err(), "sh: exit status: 3; b");
        assert!(sh("exit 0", PATIENCE).await.unwrap_err().contains("nothing printed"));
        assert!(run("no-such-program", &[], PATIENCE).await.is_err());
    }

    /// It never ends by itself: nobody writes into that pipe.
    #[tokio::test]
    async fn what_does_not_end_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let why = sh(&format!("exec cat '{}'", pipe.display()), Duration::from_millis(1)).await.unwrap_err();
        assert!(why.contains("no end within"), "{why}");
    }

    #[tokio::test]
    async fn of_too_much_the_end_is_kept() {
        let (mut kept, whole) = (Vec::new(), [vec![b'a'; 3 * MOST], b"end".to_vec()].concat());
        keep_end(Some(&whole[..]), &mut kept).await.unwrap();
        assert!(kept.len() >= MOST && kept.len() < whole.len() && kept.ends_with(b"end"));
    }
}
