//! The journal of duties, as `journal show` and `journal open` print it: read without a lock, sessions' keys hidden.
use std::{error::Error as _, fs, io, path::Path};

use super::Got;
use crate::journal::{
    JournalError, Opened, Record,
    file::{read_records, read_state},
};

/// A journal is rewritten above 4 MiB and what is open is kilobytes: what is larger is no journal.
const MOST: u64 = 64 << 20;

/// Every record, a line each.
pub(super) fn all(state_dir: &Path) -> Got {
    sane(state_dir)?;
    let (records, opened) = read_records(&state_dir.join("journal")).map_err(why)?;
    let mut text = lines(records)?;
    if opened != Opened::default() {
        text.push_str(&format!("# {opened:?}\n"));
    }
    Ok(text)
}

/// What is owed or may still land.
pub(super) fn open(state_dir: &Path) -> Got {
    sane(state_dir)?;
    let (state, opened) = read_state(state_dir).map_err(why)?;
    let late = state.late().map(|late| late.duty.clone());
    let mut text = lines(state.duties().cloned().chain(late).map(Record::Began))?;
    text.push_str(&format!("# owed: {}, late: {}\n", state.duties().count(), state.late().count()));
    if opened.unreconciled {
        text.push_str("# the journal was damaged and what it forgot is unknown\n");
    }
    Ok(text)
}

/// The sessions' keys that it holds, for the scrubber. No journal holds none.
pub(super) fn logins(state_dir: &Path) -> Result<Vec<String>, String> {
    if fs::metadata(state_dir.join("journal")).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        return Ok(Vec::new());
    }
    sane(state_dir)?;
    let (records, _) = read_records(&state_dir.join("journal")).map_err(why)?;
    let login = |record| if let Record::Began(duty) = record { duty.login } else { None };
    Ok(records.into_iter().filter_map(login).collect())
}

/// It is read whole: a pipe would be waited for, and memory has an end.
fn sane(state_dir: &Path) -> Result<(), String> {
    match fs::metadata(state_dir.join("journal")) {
        Ok(of) if !of.is_file() => Err("the journal is not a file".to_owned()),
        Ok(of) if of.len() > MOST => Err(format!("the journal has {} bytes", of.len())),
        // What is wrong is told by whoever reads it.
        _ => Ok(()),
    }
}

fn why(error: JournalError) -> String {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

fn lines(records: impl IntoIterator<Item = Record>) -> Got {
    let mut text = String::new();
    for record in records {
        text.push_str(&record.shown().map_err(|e| e.to_string())?);
        text.push('\n');
    }
    Ok(text)
}
