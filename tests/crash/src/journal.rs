//! The agent's journal read by somebody else: the frames of the file, and the lines of `agent-sim journal show`, folded
//! without any code of the agent. What is open here must be what vCenter shows.
use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

const MAGIC: &[u8] = b"HAJ1";
const HEADER: usize = 9;

/// Whole records of the file from a byte on; a torn tail ends it. Also gives the length of the file.
pub fn records_from(path: &Path, from: u64) -> Result<(Vec<Value>, u64)> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        other => other?,
    };
    let length = bytes.len() as u64;
    // A file that became shorter was compacted: all of it is new.
    let start = if from > length { 0 } else { usize::try_from(from)? };
    let mut at = start.max(MAGIC.len());
    let mut records = Vec::new();
    while let Some((record, next)) = frame(&bytes, at) {
        records.push(record);
        at = next;
    }
    Ok((records, length))
}

fn frame(bytes: &[u8], at: usize) -> Option<(Value, usize)> {
    let header = bytes.get(at..at + HEADER)?;
    let length = usize::try_from(u32::from_le_bytes(header[..4].try_into().ok()?)).ok()?;
    let crc = u32::from_le_bytes(header[4..8].try_into().ok()?);
    let end = at.checked_add(HEADER)?.checked_add(length)?;
    let checked = bytes.get(at + HEADER - 1..end)?;
    (crc32c::crc32c(checked) == crc).then_some(())?;
    Some((serde_json::from_slice(&checked[1..]).ok()?, end))
}

/// The beginning of a record as a crash in the middle of an append leaves it.
#[must_use]
pub fn torn_frame() -> Vec<u8> {
    let payload = br#"{"record":"started","at":"2026-01-01T00:00:00Z","version":"0"}"#;
    let checked = [&[1_u8][..], payload].concat();
    let length = u32::try_from(payload.len()).unwrap_or(0);
    let whole = [&length.to_le_bytes()[..], &crc32c::crc32c(&checked).to_le_bytes(), &checked].concat();
    whole[..whole.len() - 5].to_vec()
}

/// Duties that are begun and not retired, by id. Kinds of records that nobody here knows are history.
#[must_use]
pub fn fold(records: &[Value]) -> BTreeMap<String, Value> {
    let (mut open, mut late) = (BTreeMap::new(), BTreeMap::new());
    for record in records {
        match record["record"].as_str() {
            Some("began") => {
                open.insert(record["id"].as_str().unwrap_or_default().to_owned(), record.clone());
            }
            Some("confirmed") => {
                if let Some(duty) = record["duty"].as_str().and_then(|id| open.get_mut(id)) {
                    duty["phase"] = "held".into();
                }
            }
            Some("retired") => {
                if let Some((id, duty)) = open.remove_entry(record["duty"].as_str().unwrap_or_default()) {
                    late.insert(id, duty);
                }
            }
            Some("reopened") => open.extend(late.remove_entry(record["duty"].as_str().unwrap_or_default())),
            _ => {}
        }
    }
    open
}

/// What is open in the file now.
pub fn open_in(path: &Path) -> Result<BTreeMap<String, Value>> {
    Ok(fold(&records_from(path, 0)?.0))
}

/// What `agent-sim journal show` tells is open.
pub fn shown(agent: &Path, control: &Path, state: &Path) -> Result<BTreeMap<String, Value>> {
    let mut command = Command::new(agent);
    command.args(["journal", "show", "--state-dir"]).arg(state).env("AGENT_SIM_CONTROL", control);
    let output = command.output()?;
    ensure!(output.status.success(), "journal show: {}", String::from_utf8_lossy(&output.stderr));
    fold_lines(&String::from_utf8_lossy(&output.stdout))
}

/// What is open by the lines that `journal show` printed.
pub fn fold_lines(text: &str) -> Result<BTreeMap<String, Value>> {
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    Ok(fold(&lines.context("journal show printed something else than records")?))
}

/// One line for people.
#[must_use]
pub fn told(open: &BTreeMap<String, Value>) -> String {
    let one = |(id, duty): (&String, &Value)| {
        let kind = duty["kind"].as_object().and_then(|kind| kind.keys().next().cloned()).unwrap_or_default();
        format!("{kind} {id} ({})", duty["phase"].as_str().unwrap_or("?"))
    };
    open.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_begun_and_not_retired_is_open() {
        let began = |id: &str| json!({"record": "began", "id": id, "kind": {"attach": {}}, "phase": "intended"});
        let records = [
            began("a"),
            json!({"record": "confirmed", "duty": "a", "device_key": 2000}),
            began("b"),
            json!({"record": "retired", "duty": "b"}),
            json!({"record": "something new"}),
        ];
        assert_eq!(told(&fold(&records)), "attach a (held)");
    }
}
