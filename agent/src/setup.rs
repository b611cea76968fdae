//! `hotadd-agent setup` on a real terminal. The dialogue itself is hotadd-appliance's.
use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::Path,
};

use crate::journal::file::read_state;
use hotadd_appliance::{apply::Host, identity, setup, source::Source};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

struct Stdio;

/// The terminal without echo, until this goes out of scope.
struct Silent(Termios);

impl Silent {
    /// `None`: standard input is no terminal, and nothing is shown anyway.
    fn begin() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // The terminal may be gone; then nobody types on it.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
        println!();
    }
}

impl setup::Terminal for Stdio {
    fn say(&mut self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn line(&mut self, secret: bool) -> io::Result<Option<String>> {
        let _silent = if secret { Silent::begin()? } else { None };
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line)?;
        Ok((read > 0).then(|| line.trim_end_matches(['\n', '\r']).to_owned()))
    }
}

const STATE: &str = "/var/lib/hotadd";

/// A new configuration must not make the agent forget what it owes, nor what a person wrote.
fn nothing_is_lost(host: &Host) -> io::Result<()> {
    if !host.has_settings() {
        return Ok(());
    }
    // A configuration that says more is a person's, and stays.
    let more = host.not_asked_for()?;
    if !more.is_empty() {
        let told = format!("agent.toml has what setup does not ask for ({}); change it by an editor", more.join(", "));
        return Err(io::Error::other(told));
    }
    let (state, opened) = read_state(Path::new(STATE)).map_err(io::Error::other)?;
    if opened.unreconciled || !state.nothing_is_pending() {
        let told = "the agent owes something to vSphere: `hotadd-agent journal open`; start it, and run setup when nothing is owed";
        return Err(io::Error::other(told));
    }
    Ok(())
}

/// Whether an agent may have begun with the configuration before; also where nobody can tell.
fn agent_runs() -> bool {
    let asked = std::process::Command::new("systemctl")
        .args(["show", "--property", "ActiveState", "--value", "hotadd-agent"])
        .stdin(std::process::Stdio::null())
        .output();
    !asked.is_ok_and(|told| matches!(told.stdout.trim_ascii(), b"inactive" | b"failed"))
}

/// Asks and configures this system; files lie in /etc/hotadd. `appliance`: also network, host name and password of root.
///
/// # Errors
/// See [`setup::run`].
pub fn run(appliance: bool) -> io::Result<()> {
    let host = Host {
        root: "/".into(),
        source: Source::File(std::path::PathBuf::new()),
        machine: identity::of(Path::new("/sys")),
        agent: std::env::current_exe()?,
        chpasswd: "/usr/sbin/chpasswd".into(),
    };
    nothing_is_lost(&host)?;
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    setup::run(&mut Stdio, &host, name.trim(), appliance)?;
    if let Some(fingerprint) = host.fingerprint() {
        println!("Certificate SHA-256: {fingerprint}");
    }
    if !agent_runs() {
        // What can't be removed now is found by the next one.
        let _ = host.tidy();
    }
    println!("Start the agent: systemctl enable hotadd-agent && systemctl restart hotadd-agent");
    Ok(())
}
