//! Versions, kernel and what the quarantine finds.
use std::{env::consts, fs, thread};

use nix::sys::utsname::uname;

use super::{Got, scrub::names_a_secret};
use crate::discover::Platform;

pub(super) fn versions(vcenter: &str) -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!(
        "hotadd-agent {}\ntarget {}-{}-{libc}\nvCenter {vcenter}\nmade {}\n",
        env!("CARGO_PKG_VERSION"),
        consts::ARCH,
        consts::OS,
        jiff::Timestamp::now()
    )
}

pub(super) fn findings(platform: &dyn Platform) -> String {
    let found = platform.quarantine();
    let lines: String = found.iter().map(|finding| format!("{finding}\n")).collect();
    if lines.is_empty() { "nothing is wrong\n".to_owned() } else { lines }
}

pub(super) fn kernel() -> Got {
    let name = uname().map_err(|e| format!("uname: {e}"))?;
    let [system, release, version, machine] =
        [name.sysname(), name.release(), name.version(), name.machine()].map(|text| text.to_string_lossy());
    let mut text = format!("{system} {release} {version} {machine}\n");
    let processors = thread::available_parallelism().map_or(0, usize::from);
    text.push_str(&format!("processors {processors}\n"));
    text.push_str(&format!(
        "command line: {}\n",
        command_line(&fs::read_to_string("/proc/cmdline").unwrap_or_default())
    ));
    for path in [
        "/sys/module/vmw_pvscsi/version",
        "/sys/module/vmw_pvscsi/parameters/cmd_per_lun",
        "/proc/sys/kernel/io_uring_disabled",
        "/proc/sys/fs/aio-max-nr",
        "/proc/sys/fs/aio-nr",
        "/proc/sys/vm/nr_hugepages",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/kernel/security/lockdown",
    ] {
        let value = fs::read_to_string(path).map_or_else(|e| format!("({e})"), |value| value.trim().to_owned());
        text.push_str(&format!("{path}: {value}\n"));
    }
    Ok(text)
}

/// Values of what speaks of secrets are hidden.
fn command_line(text: &str) -> String {
    let shown = |word: &str| match word.split_once('=') {
        Some((name, _)) if names_a_secret(name) => format!("{name}=(hidden)"),
        _ => word.to_owned(),
    };
    text.split_whitespace().map(shown).collect::<Vec<_>>().join(" ")
}

pub(super) fn file(path: &str) -> Got {
    fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_the_command_line_are_hidden() {
        let shown = command_line("root=/dev/sda1 quiet rootpassword=hunter2 api.token=abc\n");
        assert_eq!(shown, "root=/dev/sda1 quiet rootpassword=(hidden) api.token=(hidden)");
    }
}
