//! hotaddctl as a user runs it.
use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::Result;
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
