//! QEMU's monitor (QMP) for a test: one command and its answer. vcenter-sim has a monitor of its own.
use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

const ANSWER: Duration = Duration::from_secs(30);

/// Sends one command; its answer.
pub(crate) fn command(socket: &Path, name: &str, arguments: &Value) -> Result<Value> {
    let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut ask = |name: &str, arguments: &Value| -> Result<Value> {
        writeln!(&stream, "{}", json!({"execute": name, "arguments": arguments}))?;
        loop {
            let mut answer: Value = serde_json::from_str(&lines.next().context("QEMU closed its monitor")??)?;
            if let Some(error) = answer.get("error") {
                bail!("{name}: {error}");
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    };
    ask("qmp_capabilities", &json!({}))?;
    ask(name, arguments)
}
