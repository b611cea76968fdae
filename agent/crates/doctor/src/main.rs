//! The program `hotadd-doctor`: one look, a report, an exit code. It reads; what changes anything is not in it.
#![forbid(unsafe_code)]
use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ErrorKind};
use hotadd_doctor::{
    args::Args,
    codes,
    connect::Trouble,
    finding::{EXITS, Exit},
};

/// Sections of the man page.
const PROSE: &str = include_str!("../man/hotadd-doctor.roff");

/// Finds what backups leave behind in a vCenter: attached disks, snapshots, disabled methods, deltas. Reads only.
#[derive(Debug, Parser)]
#[command(name = "hotadd-doctor", version, disable_help_subcommand = true, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    args: Args,
    /// One JSON document on stdout (docs/doctor.md)
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write man page and shell completions into a folder; for packages
    #[command(hide = true)]
    Manual { dir: PathBuf },
}

fn command() -> clap::Command {
    let codes: String = EXITS.iter().map(|(exit, meaning)| format!("  {}  {meaning}\n", *exit as u8)).collect();
    Cli::command().after_help(format!("Exit codes:\n{codes}"))
}

fn main() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let shown = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = error.print();
            return if shown { ExitCode::SUCCESS } else { ExitCode::from(Exit::Usage as u8) };
        }
    };
    if let Some(Command::Manual { dir }) = &cli.command {
        return match hotadd_manual::write(command(), PROSE, dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}: {error}", dir.display());
                ExitCode::from(Exit::Usage as u8)
            }
        };
    }
    ExitCode::from(run(&cli) as u8)
}

fn run(cli: &Cli) -> Exit {
    match runtime().and_then(|runtime| runtime.block_on(hotadd_doctor::look(&cli.args))) {
        Ok(report) => {
            if cli.json {
                say(&report.json().to_string())
            } else {
                say(&report.text())
            }
            report.exit()
        }
        Err(trouble) => {
            let exit = if trouble.code == codes::USAGE { Exit::Usage } else { Exit::CouldNotLook };
            if cli.json {
                say(&trouble.json(exit as u8).to_string());
            }
            eprintln!("{}", trouble.line());
            exit
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Trouble> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Trouble { code: codes::USAGE, message: format!("the runtime did not start: {error}") })
}

fn say(text: &str) {
    // A closed pipe is the reader's decision.
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
}
