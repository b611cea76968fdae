//! On what it was measured. Nothing here names the machine: a page may be passed on.
use std::{collections::BTreeMap, fs, process::Command};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    /// Of the programs that were asked for, where they are.
    pub versions: BTreeMap<String, String>,
    /// RFC 3339.
    pub date: String,
}

impl Machine {
    /// `tools`: programs that tell their version by `--version`.
    #[must_use]
    pub fn here(tools: &[&str]) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let versions = tools.iter().filter_map(|tool| Some(((*tool).to_owned(), version(tool)?)));
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kibibytes(&read("/proc/meminfo"), "MemTotal").unwrap_or(0),
            versions: versions.collect(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

/// First line of what it prints.
fn version(tool: &str) -> Option<String> {
    let output = Command::new(tool).arg("--version").output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
}

/// Value of `name : value` in a file of /proc.
#[must_use]
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name))
        .map(|(_, value)| value.trim())
}

/// Bytes of `name: N kB`, as /proc/meminfo and /proc/PID/status have it.
#[must_use]
pub fn kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc() {
        let text = "MemTotal:       16 kB\nmodel name\t: Some CPU: fast\n";
        assert_eq!(kibibytes(text, "MemTotal"), Some(16 << 10));
        assert_eq!(field(text, "model name"), Some("Some CPU: fast"));
        assert_eq!(kibibytes(text, "MemFree"), None);
    }

    #[test]
    fn a_program_that_is_not_there_has_no_version() {
        let here = Machine::here(&["no-such-program-at-all"]);
        assert!(here.versions.is_empty() && here.cores > 0 && here.memory_bytes > 0 && !here.kernel.is_empty());
        assert!(here.date.parse::<jiff::Timestamp>().is_ok(), "{}", here.date);
    }
}
