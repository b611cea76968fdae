//! `hotadd-firstboot`: makes a configured proxy of a deployed OVA, keeps the console's text, and tells udev which disk is the system's.
#![forbid(unsafe_code)]

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{self, ExitCode},
};

use clap::{Parser, Subcommand, ValueEnum};
use hotadd_appliance::{
    apply::{Host, OWN_DISKS, STATE},
    config,
    console::{self, Agent, Service},
    identity, own_disks,
    source::Source,
    state::{Configured, State},
};

#[derive(Debug, Parser)]
#[command(version, about = "First boot of the proxy appliance")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take the OVF properties and configure what they say
    Apply {
        /// Asked for guestinfo.ovfEnv
        #[arg(long, default_value = "/usr/bin/vmware-rpctool")]
        rpctool: PathBuf,
        /// Instead of guestinfo, where it exists (QEMU's fw_cfg)
        #[arg(long, default_value = "/sys/firmware/qemu_fw_cfg/by_name/opt/ovfenv/raw")]
        file: PathBuf,
    },
    /// Fail on a copy of another machine that still has that one's configuration
    Own,
    /// Write the console's text
    Console {
        #[arg(long, value_enum)]
        agent: Told,
    },
    /// Write the udev rule that names the system disk
    OwnDisks {
        #[arg(long, default_value_os_t = Path::new("/").join(OWN_DISKS))]
        out: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Told {
    Serving,
    Starting,
    Stopped,
}

impl From<Told> for Agent {
    fn from(told: Told) -> Self {
        match told {
            Told::Serving => Self::Serving,
            Told::Starting => Self::Starting,
            Told::Stopped => Self::Stopped,
        }
    }
}

const ISSUE: &str = "/etc/issue.d/hotadd.issue";

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Apply { rpctool, file } => apply(Source::choose(&file, &rpctool)),
        Command::Own => own(),
        Command::Console { agent } => show(&State::load(&Path::new("/").join(STATE)), agent.into()),
        Command::OwnDisks { out } => {
            own_disks::root(Path::new("/proc"), Path::new("/sys")).and_then(|device| own_disks::write(&device, &out))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hotadd-firstboot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn host(source: Source) -> Host {
    Host {
        root: "/".into(),
        source,
        machine: identity::of(Path::new("/sys")),
        agent: "/usr/bin/hotadd-agent".into(),
        chpasswd: "/usr/sbin/chpasswd".into(),
    }
}

fn apply(source: Source) -> io::Result<()> {
    let host = host(source);
    let state = host.apply();
    for fault in &state.faults {
        eprintln!("{} {}; {}", fault.code, fault.message, fault.next);
    }
    show(&state, if host.configured().0 == Configured::No { Agent::Stopped } else { Agent::Starting })?;
    // The kernel's name is what agetty and the log show before anything else reads the file.
    fs::write("/proc/sys/kernel/hostname", &state.hostname)
}

fn own() -> io::Result<()> {
    if host(Source::File(PathBuf::new())).is_its_own() {
        return Ok(());
    }
    Err(io::Error::other(
        "HA-APP-009 this machine is a copy, and the original's configuration could not be removed; the agent does not start",
    ))
}

fn service() -> Service {
    let host = host(Source::File(PathBuf::new()));
    let (configured, text) = host.configured();
    Service { configured, port: config::port(&text), fingerprint: host.fingerprint() }
}

/// For agetty, and at once on every console: who deploys looks at the one that is there.
fn show(state: &State, agent: Agent) -> io::Result<()> {
    let text = console::issue(state, &service(), agent);
    if let Some(folder) = Path::new(ISSUE).parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(ISSUE, &text)?;
    // Consoles that already show the old text show it anew; without one there is nothing to tell.
    let _ = process::Command::new("/sbin/agetty").arg("--reload").status();
    // Addresses are put in by agetty; here is none yet.
    let now = text.lines().filter(|line| !line.contains('\\')).collect::<Vec<_>>().join("\r\n");
    for console in fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default().split_whitespace() {
        // tty0 is whichever terminal is in front. A console without a device behind it fails, and that is all.
        if let Ok(mut terminal) = OpenOptions::new().write(true).open(Path::new("/dev").join(console)) {
            let _ = write!(terminal, "{now}\r\n");
        }
    }
    Ok(())
}
