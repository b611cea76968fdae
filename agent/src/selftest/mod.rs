//! `hotadd-agent selftest`: whether this system leaves attached disks alone. The command and what it prints. Without a trap it looks as
//! the agent does at each start ([`crate::quarantine`]); with one ([`trap`]) it shows the system a tempting disk ([`image`], [`debug`]) and watches
//! who opens it ([`watch`], [`judge`]). The trap needs root with its capabilities, so it is for a person, not for the unit.
mod command;
mod debug;
pub mod image;
mod judge;
mod provoke;
mod trap;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::ValueEnum;
use serde::Serialize;

use self::trap::Trapped;
use crate::{
    discover::Platform,
    error::{Error, Result},
    quarantine::Finding,
    reason,
};

/// Exit status for a test that could not be made.
const UNTESTED: u8 = 2;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sets up a trap disk, watches it and takes it away; as root, best while no job runs.
    #[arg(long, value_enum, conflicts_with = "disk")]
    trap: Option<Trap>,
    /// A disk that is attached and in quarantine, to be watched in place of a trap; it is neither written nor removed.
    #[arg(long)]
    disk: Option<PathBuf>,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Trap {
    /// A disk in memory, of the kernel module of that name.
    ScsiDebug,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    format: &'static str,
    passed: bool,
    findings: Vec<Finding>,
    /// null: not asked for.
    trap: Option<Trapped>,
}

/// Tests and prints. The exit status is 0 only without findings, 1 with some, 2 when it could not be tested.
///
/// # Errors
/// When the result can't be printed.
pub fn run(args: &Args, platform: &dyn Platform) -> Result<ExitCode> {
    let trapped = match (args.trap, &args.disk) {
        (Some(Trap::ScsiDebug), _) => trap::scsi_debug().map(Some),
        (None, Some(path)) => trap::attached(path).map(Some),
        (None, None) => Ok(None),
    };
    let mut trap = match trapped {
        Ok(trap) => trap,
        Err(error) => {
            let told = Error::new(&reason::QUA_TRAP, "").with_source(error).to_reason();
            eprintln!("error: {} {}; next: {}", told.code, told.message, told.next_step);
            return Ok(ExitCode::from(UNTESTED));
        }
    };
    let mut findings = platform.quarantine();
    findings.extend(trap.iter_mut().flat_map(|trap| trap.findings.drain(..)));
    findings.sort_by_key(|finding| finding.code);
    let report = Report { format: "hotadd-selftest/1", passed: findings.is_empty(), findings, trap };
    print(&report, args.json)?;
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report, json: bool) -> Result<()> {
    if json {
        let text = serde_json::to_string_pretty(report)
            .map_err(|e| Error::new(&reason::INTERNAL, "the result as JSON").with_source(e))?;
        println!("{text}");
        return Ok(());
    }
    if let Some(trap) = &report.trap {
        println!("trap: {}; run by hand: {}", trap.disk, trap.ran.join(", "));
        if !trap.missing.is_empty() {
            println!("not installed, so not tested: {}", trap.missing.join(", "));
        }
    }
    let mut advised = "";
    for finding in &report.findings {
        println!("{finding}");
    }
    for finding in &report.findings {
        if finding.code != advised {
            println!("next, {}: {}", finding.code, finding.next_step);
            advised = finding.code;
        }
    }
    println!("selftest: {}", if report.passed { "passed" } else { "FAILED" });
    Ok(())
}
