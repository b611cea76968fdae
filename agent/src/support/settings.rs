//! `agent.toml` by an allow list: known keys with values of the expected shape, nothing else, no comment. It is read even if the agent would
//! refuse it. Names of unknown keys are not told either: somebody may have written a secret there.
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{Got, bound};
use crate::config::Faults;

/// Most bytes that are read of it.
const MOST: u64 = 1 << 20;

/// Keys by table; `*` is any name. A key of `_file`, `_dir` and the like is kept if it is an absolute path.
const KEPT: &[(&str, &str)] = &[
    ("", "listen state_dir engines guards own_disks"),
    ("tls", "certificate_file key_file client_ca_file crl_file reload_seconds"),
    ("client", "san san_wildcard role"),
    ("audit", "file required"),
    ("vcenter", "url user password_file ca_file pin_sha256"),
    (
        "limits",
        "attach_batch add_controllers parallel_reads reads snapshots_per_datastore depth memory_mib lease_min_seconds lease_max_seconds \
         lease_default_seconds resume_max_seconds snapshot_max_age_seconds delta_max_bytes datastore_min_free_bytes",
    ),
    ("limits.client", "connections calls calls_per_second burst"),
    (
        "deadlines",
        "call_seconds reconfigure_seconds snapshot_seconds poll_seconds discover_seconds rescan_seconds areas_seconds export_unknown_seconds \
         export_stall_seconds settle_seconds late_seconds sweep_seconds retry_first_seconds retry_last_seconds stall_seconds cleanup_seconds \
         delete_seconds guest_seconds holder_seconds consolidate_seconds doubt_seconds event_seconds lease_tick_seconds drain_seconds \
         ping_seconds ping_timeout_seconds watch_seconds hold_seconds turn_seconds reconnect_seconds login_seconds login_last_seconds \
         keep_alive_seconds",
    ),
    ("plan", "profile no_slot slot_wait_seconds sata_nvme try cost_model max_chain redo_min_free_mib fcd_allowed"),
    ("pace.agent", RATE),
    ("pace.disk", RATE),
    ("pace.datastores.*", RATE),
    ("reading", "sqpoll cpus workers"),
    (
        "nbd",
        "allow ca_file certificate_file key_file server_name connections connect_seconds idle_seconds reply_seconds",
    ),
    (
        "vddk",
        "libdir nbdkit_program compression nfc_buffer_64k nfc_buffers extents tmp_dir connections_per_host queue_seconds nfc_port \
         start_seconds stop_seconds restarts",
    ),
    ("export", "max_hours port"),
    ("quarantine", "on_failure"),
    ("metrics", "listen"),
    ("traces", "endpoint ca_file timeout_seconds"),
];
const RATE: &str = "bytes_per_second reads_per_second latency_ms";
/// Files that hold a secret.
const SECRET: [&str; 3] = ["tls.key_file", "vcenter.password_file", "nbd.key_file"];
/// Where they are unless somebody moved them: what setup and the first boot write, in a folder of each configuration, or beside agent.toml.
const USUAL: &str = "/etc/hotadd";
const USUAL_NAMES: [&str; 2] = ["server.key", "vcenter-password"];
/// Tables of numbers and switches: a text there is a mistake, and nobody knows which.
const NUMBERS: [&str; 3] = ["limits", "deadlines", "pace"];
/// Files that hold certificates.
const CERTIFICATES: [&str; 6] = [
    "tls.certificate_file",
    "tls.client_ca_file",
    "vcenter.ca_file",
    "nbd.ca_file",
    "nbd.certificate_file",
    "traces.ca_file",
];

/// See the module.
pub(super) struct Settings(Table);

pub(super) fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/hotadd")
}

/// Where the faults are, without what was written there.
pub(super) fn keys(faults: &Faults) -> String {
    let known = |fault: &String| {
        let key = fault.split(": ").next().unwrap_or_default();
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        if kept(table).is_some_and(|names| has(names, name)) { key.to_owned() } else { "another".to_owned() }
    };
    faults.0.iter().map(known).collect::<Vec<_>>().join(", ")
}

impl Settings {
    /// It, or why it can't be read, without a word of it; and the files with secrets, which a fault elsewhere in the text does not hide.
    pub(super) fn read(path: &Path) -> (Result<Self, String>, Vec<PathBuf>) {
        let text = match bound::text(path, MOST) {
            Ok(text) => text,
            Err(error) => return (Err(format!("{}: {error}", path.display())), usual_secrets()),
        };
        match text.parse().map(Self) {
            Ok(settings) => {
                let files = settings.secret_files(path);
                (Ok(settings), files)
            }
            Err(error) => (Err(not_toml(path, &text, &error)), secrets_in(path, &text)),
        }
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.path("state_dir").unwrap_or_else(default_state_dir)
    }

    /// Every file that is named: key, path, whether certificates are in it.
    pub(super) fn files(&self) -> Vec<(&'static str, PathBuf, bool)> {
        let named = |key: &'static str| Some((key, self.path(key)?, CERTIFICATES.contains(&key)));
        let others = ["tls.crl_file", "audit.file", "vddk.libdir"];
        SECRET.into_iter().chain(CERTIFICATES).chain(others).filter_map(named).collect()
    }

    fn secret_files(&self, config: &Path) -> Vec<PathBuf> {
        SECRET.iter().filter_map(|key| self.text(key)).flat_map(|named| places(config, named)).collect()
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    fn text(&self, key: &str) -> Option<&str> {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        let table = if table.is_empty() { &self.0 } else { self.0.get(table)?.as_table()? };
        table.get(name)?.as_str()
    }

    /// What is kept of it, as TOML.
    ///
    /// # Errors
    /// Of TOML.
    pub(super) fn shown(&self) -> Got {
        let mut left_out = 0;
        let kept = keep(&self.0, "", &mut left_out);
        let text = toml::to_string(&kept).map_err(|_| "it can't be written as TOML".to_owned())?;
        Ok(format!("# left out: {left_out} values of unknown keys or of an unexpected shape\n{text}"))
    }
}

/// Where the file may be: a relative path is the agent's, whose folder nobody knows when it does not run. One that is nowhere stays in the
/// list, so that it is told as unknown.
fn places(config: &Path, named: &str) -> Vec<PathBuf> {
    if Path::new(named).is_absolute() {
        return vec![PathBuf::from(named)];
    }
    let folders = [config.parent(), Some(Path::new("/"))].into_iter().flatten();
    let all: Vec<PathBuf> = folders.map(|folder| folder.join(named)).collect();
    let there: Vec<PathBuf> = all.iter().filter(|path| path.exists()).cloned().collect();
    if there.is_empty() { all.into_iter().take(1).collect() } else { there }
}

/// Those in [`USUAL`] that are there.
pub(super) fn usual_secrets() -> Vec<PathBuf> {
    secrets_below(Path::new(USUAL))
}

fn secrets_below(etc: &Path) -> Vec<PathBuf> {
    let below = std::fs::read_dir(etc).into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = std::iter::once(etc.to_owned()).chain(below);
    let files = folders.flat_map(|folder| USUAL_NAMES.map(|name| folder.join(name)));
    files.filter(|path| path.exists()).collect()
}

fn not_toml(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or(1, |before| before.matches('\n').count() + 1);
    format!("{} line {line}: not TOML", path.display())
}

/// The files with secrets that a broken text names, wherever in it, and the usual ones.
fn secrets_in(config: &Path, text: &str) -> Vec<PathBuf> {
    let names = SECRET.iter().filter_map(|key| key.rsplit('.').next()).collect::<BTreeSet<_>>();
    let value = |after: &str| {
        let after = after.trim_start_matches(['"', '\'', ' ', '\t']).strip_prefix('=')?.trim_start();
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        after[1..].split([quote, '\n']).next().map(str::to_owned)
    };
    let named = names.iter().flat_map(|name| text.match_indices(name).map(|(at, name)| &text[at + name.len()..]));
    let mut found: Vec<PathBuf> = named.filter_map(value).flat_map(|named| places(config, &named)).collect();
    found.extend(usual_secrets());
    found
}

fn keep(table: &Table, at: &str, left_out: &mut usize) -> Table {
    let mut kept_here = Table::new();
    for (name, value) in table {
        let below = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let shown = match value {
            Value::Table(inner) if leads(&below) => Some(Value::Table(keep(inner, &below, left_out))),
            Value::Array(all) if below == "client" => {
                let tables = all.iter().filter_map(Value::as_table);
                Some(Value::Array(tables.map(|one| Value::Table(keep(one, &below, left_out))).collect()))
            }
            _ if kept(at).is_some_and(|names| has(names, name)) => plain(at, name, value),
            _ => None,
        };
        match shown {
            Some(value) => drop(kept_here.insert(name.clone(), value)),
            None => *left_out += 1,
        }
    }
    kept_here
}

/// Values and lists of values; tables are not, and no path that is none.
fn plain(at: &str, name: &str, value: &Value) -> Option<Value> {
    let is_path = name.ends_with("file") || name.ends_with("dir");
    let is_number = NUMBERS.iter().any(|table| at.split('.').next() == Some(table));
    match value {
        Value::String(_) | Value::Array(_) if is_number => None,
        Value::String(text) if is_path && !text.starts_with('/') => None,
        Value::String(text) if name == "url" => Some(Value::String(without_login(text))),
        Value::String(text) if name == "endpoint" => Some(Value::String(host_only(text))),
        Value::String(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Some(value.clone()),
        Value::Array(all) => {
            Some(Value::Array(all.iter().filter(|one| one.is_str() || one.is_integer()).cloned().collect()))
        }
        Value::Table(_) | Value::Datetime(_) => None,
    }
}

/// `https://user:password@host` is no good idea, but somebody may have had it. Queries go for the same reason.
fn without_login(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let scheme = if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) { scheme } else { "" };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}://{rest}")
}

/// Some collectors have a token in the path. The agent refuses a path, but this is read all the same.
fn host_only(url: &str) -> String {
    let url = without_login(url);
    let end = url.find("://").and_then(|at| Some(at + 3 + url.get(at + 3..)?.find('/')?));
    url[..end.unwrap_or(url.len())].to_owned()
}

fn has(names: &str, name: &str) -> bool {
    names.split_whitespace().any(|known| known == name)
}

/// The keys of a table.
fn kept(table: &str) -> Option<&'static str> {
    let fits = |pattern: &str| {
        pattern == table
            || pattern
                .strip_suffix(".*")
                .is_some_and(|head| table.strip_prefix(head).is_some_and(|rest| rest.starts_with('.')))
    };
    KEPT.iter().find(|(pattern, _)| fits(pattern)).map(|(_, names)| *names)
}

/// Whether it is a table that is kept, or is above one.
fn leads(table: &str) -> bool {
    let above = |pattern: &str| pattern.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
    kept(table).is_some() || KEPT.iter().any(|(pattern, _)| above(pattern))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
