//! The shipped daemon: the library on the Linux platform, nothing else.
#![forbid(unsafe_code)]
use std::{process::ExitCode, sync::Arc};

use clap::Parser as _;
use hotadd_agent::{cli, discover::linux::Linux};

fn main() -> ExitCode {
    cli::run(cli::Cli::parse(), Arc::new(Linux))
}
