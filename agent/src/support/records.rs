//! The journal of duties, as `journal show` and `journal open` print it: read without a lock, sessions' keys hidden.
use std::{error::Error as _, path::Path};

use super::Got;
use crate::journal::{
    JournalError, Record,
    file::{read_records, read_state},
};

/// Every record, a line each.
pub(super) fn all(state_dir: &Path) -> Got {
    let (records, opened) = read_records(&state_dir.join("journal")).map_err(why)?;
    let mut text = lines(records)?;
    if opened != crate::journal::Opened::default() {
        text.push_str(&format!("# {opened:?}\n"));
    }
    Ok(text)
}

/// What is owed or may still land.
pub(super) fn open(state_dir: &Path) -> Got {
    let (state, opened) = read_state(state_dir).map_err(why)?;
    let late = state.late().map(|late| late.duty.clone());
    let mut text = lines(state.duties().cloned().chain(late).map(Record::Began))?;
    text.push_str(&format!("# owed: {}, late: {}\n", state.duties().count(), state.late().count()));
    if opened.unreconciled {
        text.push_str("# the journal was damaged and what it forgot is unknown\n");
    }
    Ok(text)
}

/// The sessions' keys that it holds: for the scrubber.
pub(super) fn logins(state_dir: &Path) -> Vec<String> {
    let (records, _) = read_records(&state_dir.join("journal")).unwrap_or_default();
    let login = |record| if let Record::Began(duty) = record { duty.login } else { None };
    records.into_iter().filter_map(login).collect()
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
