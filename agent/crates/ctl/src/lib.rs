//! hotaddctl, the reference controller of hotadd-proxy: everything that a product would do with the agent's API, as a
//! command line. No knowledge of vSphere lives here; what it knows about disks it was told by the agent (`doctor` is hotadd-doctor's,
//! `survey` hotadd-survey's, which ask vCenter).
//!
//! ```text
//! cli ─▶ connect ─▶ backup (collector → one writer thread a disk → staging → manifest)
//!                 ├ verify, synthesize, export (no agent) ─▶ chain (a backup and what it builds on) ─▶ sign
//!                 ├ show   (info, ls, job)
//!                 ├ explain (how each disk would be read), explain_error, role (no agent)
//!                 ├ operator (duties, watch)
//!                 ├ doctor (vCenter instead of an agent)
//!                 └ survey (the same; a VM that is given for it)
//! doctor and survey alone may change something in vCenter, when told to
//! every end is an exit::Exit; every failure is an error::Failure with code, next step and clean-up state
//! ```
#![forbid(unsafe_code)]

pub mod backup;
mod capacity;
pub mod chain;
pub mod cli;
pub mod connect;
mod doctor;
pub mod error;
pub mod exit;
mod explain;
mod explain_error;
pub mod export;
mod interrupt;
mod memory;
mod operator;
pub mod output;
pub mod reasons;
mod role;
mod show;
pub mod sign;
mod survey;
pub mod synthesize;
pub mod verify;
mod watch;

use std::{ffi::OsString, process::ExitCode};

use cli::{Cli, Command};
use error::Failure;
use exit::Exit;
use interrupt::{Interrupt, Stop, interrupted};
use output::Output;
use tokio::task::JoinError;

/// What the man page tells beside the command line.
const PROSE: &str = include_str!("../man/hotaddctl.roff");

/// Runs the command line and says with which code to leave. Prints every failure itself.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match cli::parse(args) {
        Ok(cli) => cli,
        Err(cli::Refused::Shown(text)) => {
            Output::new(false, false).always(&text);
            return Exit::Ok.into();
        }
        Err(cli::Refused::Usage { failure, json }) => {
            Output::new(json, false).failure(&failure);
            return failure.exit.into();
        }
    };
    let out = Output::new(cli.global.json, cli.global.quiet);
    memory::keep();
    let ended = runtime().and_then(|runtime| {
        let ended = runtime.block_on(dispatch(&cli, &out));
        // A writer thread that hangs on a dead NFS server must not keep the program from telling its result.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            out.failure(&failure);
            failure.exit.into()
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
        .map_err(|error| Failure::internal(format!("the runtime did not start: {error}")))
}

async fn dispatch(cli: &Cli, out: &Output) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Backup(args) => backup::run(args, &cli.global.agent, out).await,
        Command::Verify(args) => blocking(args, out, verify::run).await,
        Command::Synthesize(args) => stoppable(args, out, synthesize::run).await,
        Command::Export(args) => stoppable(args, out, export::run).await,
        Command::Explain(args) => explain::run(args, &cli.global.agent, out).await,
        Command::Ls => show::ls(&cli.global.agent, out).await,
        Command::Duties => operator::duties(&cli.global.agent, out).await,
        Command::Watch(args) => watch::run(args, &cli.global.agent, out).await,
        Command::Drain(args) => operator::drain(*args, &cli.global.agent, out).await,
        Command::Limits(args) => operator::limits(args, &cli.global.agent, out).await,
        Command::Info => show::info(&cli.global.agent, out).await,
        Command::Job(args) => show::job(args, &cli.global.agent, out).await,
        Command::Doctor(args) => doctor::run(args, &cli.global.agent, out).await,
        Command::Survey(args) => survey::run(args, out).await,
        Command::ExplainError(args) => {
            explain_error::run(args, out);
            Ok(Exit::Ok)
        }
        Command::Role { verb: cli::RoleVerb::Print(args) } => {
            role::print(args, out);
            Ok(Exit::Ok)
        }
        Command::Manual { dir } => hotadd_manual::write(cli::command(), PROSE, dir)
            .map(|()| Exit::Ok)
            .map_err(|error| Failure::internal(format!("{}: {error}", dir.display()))),
    }
}

/// Runs a command that writes files and that a signal stops between two blocks, so that it leaves none of them. A second
/// signal does not wait for a file system that hangs.
async fn stoppable<A: Clone + Send + 'static>(
    args: &A,
    out: &Output,
    run: fn(&A, &Output, &Stop) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let mut interrupt = Interrupt::install()?;
    let stop = Stop::default();
    let (args, out, told) = (args.clone(), out.clone(), stop.clone());
    let mut command = tokio::task::spawn_blocking(move || run(&args, &out, &told));
    let ended = tokio::select! {
        ended = &mut command => ended,
        signal = interrupt.wait() => {
            stop.tell(signal);
            tokio::select! {
                ended = command => ended,
                signal = interrupt.wait() => return Err(interrupted(signal)),
            }
        }
    };
    ended.map_err(|error| badly(&error))?
}

/// Runs a command that only reads files.
async fn blocking<A: Clone + Send + 'static>(
    args: &A,
    out: &Output,
    run: fn(&A, &Output) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let (args, out) = (args.clone(), out.clone());
    tokio::task::spawn_blocking(move || run(&args, &out)).await.map_err(|error| badly(&error))?
}

fn badly(error: &JoinError) -> Failure {
    Failure::internal(format!("the command ended badly: {error}"))
}
