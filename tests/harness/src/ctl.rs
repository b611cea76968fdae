//! hotaddctl as a user runs it.
use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{Pki, binary};

/// What a run printed and how it ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// The command, with agent address and certificates; the caller adds the verb.
    pub fn command(agent: &str, pki: &Pki, identity: &str) -> Result<Command> {
        let mut command = Command::new(binary("hotaddctl")?);
        command
            .arg("--agent")
            .arg(agent)
            .arg("--ca")
            .arg(pki.file("ca.pem"))
            .arg("--cert")
            .arg(pki.file(&format!("{identity}.pem")))
            .arg("--key")
            .arg(pki.file(&format!("{identity}.key")));
        Ok(command)
    }

    pub fn of(command: &mut Command) -> Result<Self> {
        let Output { status, stdout, stderr } = command.output()?;
        Ok(Self {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }

    /// As [`Run::of`], with the moment of each JSON line that it printed.
    pub fn stamped(command: &mut Command) -> Result<(Self, Vec<(Instant, Value)>)> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (stdout, stderr) = (child.stdout.take().context("no stdout")?, child.stderr.take().context("no stderr")?);
        let told = thread::spawn(move || {
            let mut text = String::new();
            BufReader::new(stderr).read_to_string(&mut text).map(|_| text)
        });
        let (mut stdout_text, mut events) = (String::new(), Vec::new());
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if let Ok(event) = serde_json::from_str(&line) {
                events.push((Instant::now(), event));
            }
            stdout_text += &(line + "\n");
        }
        let code = child.wait()?.code().unwrap_or(-1);
        let stderr = told.join().ok().and_then(Result::ok).unwrap_or_default();
        Ok((Self { code, stdout: stdout_text, stderr }, events))
    }

    /// JSON lines of `--json`.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        self.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// Files of a finished backup: image by device key.
pub fn images(out: &Path) -> Result<Vec<(i32, std::path::PathBuf)>> {
    let manifest: Value = serde_json::from_slice(&std::fs::read(out.join("manifest.json"))?)?;
    let disks = manifest["disks"].as_array().cloned().unwrap_or_default();
    let image = |disk: &Value| {
        let key = i32::try_from(disk["device_key"].as_i64()?).ok()?;
        Some((key, out.join(disk["file"].as_str()?)))
    };
    Ok(disks.iter().filter_map(image).collect())
}
