//! agent-sim: the agent's library on a simulated host, whose disks are loop devices that vcenter-sim attaches. For
//! tests, benchmarks and campaigns on machines without SCSI. The shipped daemon knows nothing of it.
#![forbid(unsafe_code)]
mod host;

use std::{process::ExitCode, sync::Arc};

use clap::Parser as _;
use hotadd_agent::cli;

/// Names the control socket of the simulator whose loop backend is this host.
const CONTROL: &str = "AGENT_SIM_CONTROL";

fn main() -> ExitCode {
    let Some(control) = std::env::var_os(CONTROL) else {
        eprintln!("{CONTROL} is not set: agent-sim needs the control socket of a vcenter-sim with a loop backend");
        return ExitCode::from(2);
    };
    cli::run(cli::Cli::parse(), Arc::new(host::SimHost::new(control.into())))
}
