//! The command line of the daemon, shared with test binaries that bring another platform.
use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    access, app, bench,
    config::{Config, state_dir},
    discover::Platform,
    error::{Error, Result},
    journal::{
        Record,
        file::{read_records, read_state},
    },
    reason, role, selftest, setup, support, telemetry,
};

/// Exit status for what a restart can't heal (EX_CONFIG of sysexits.h): the unit does not restart on it.
const EXIT_CONFIG: u8 = 78;

/// What the man page tells beside the command line.
const PROSE: &str = include_str!("../man/hotadd-agent.roff");

/// Attaches, reads and always detaches the snapshot disks of other VMs.
#[derive(Debug, Parser)]
#[command(name = "hotadd-agent", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent.
    Serve(ConfigArg),
    /// Settles what a killed agent left attached; for ExecStopPost.
    Reap {
        #[command(flatten)]
        config: ConfigArg,
        /// Seconds to try.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
    },
    /// Asks what the agent has to know and writes /etc/hotadd/agent.toml, its certificate included.
    Setup {
        /// Of the appliance: also network, host name and the password of root.
        #[arg(long)]
        appliance: bool,
    },
    /// Tests the configuration and reports every fault.
    CheckConfig(ConfigArg),
    /// Reads the journal; works while the agent runs.
    Journal {
        #[command(subcommand)]
        verb: JournalVerb,
    },
    /// Measures how fast one block device can be read here; read-only, works while the agent runs.
    Bench(bench::Args),
    /// Tests whether this system leaves attached disks alone; exit status 1: it does not, 2: that could not be tested.
    Selftest(selftest::Args),
    /// Asks vCenter what the account of the agent may do.
    Role {
        #[command(subcommand)]
        verb: RoleVerb,
    },
    /// Collects what support needs to know into a new tar.gz, without secrets; works while the agent runs and without vCenter.
    SupportBundle(support::Args),
    /// Explains the code of an error: evidence, causes, fix, who can fix it. Needs nothing but this program.
    ExplainError(hotadd_reasons::Args),
    /// Prints the index of all reasons as Markdown.
    Reasons,
    /// Writes man pages and shell completions into a folder; for packages.
    #[command(hide = true)]
    Manual { dir: PathBuf },
}

#[derive(Debug, Subcommand)]
enum JournalVerb {
    /// Prints it, a record a line.
    Show {
        /// The state directory.
        #[arg(long, default_value = "/var/lib/hotadd")]
        state_dir: PathBuf,
    },
    /// Prints what is owed to vSphere or may still land, a duty a line; exit status 1 if that is anything, or unknown.
    Open {
        /// The state directory.
        #[arg(long, default_value = "/var/lib/hotadd")]
        state_dir: PathBuf,
        /// The configuration that says which one it is; other faults of it do not matter.
        #[arg(long, conflicts_with = "state_dir")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum RoleVerb {
    /// Says what is missing and what is dangerously too much; exit status 1: something is, 2: vCenter could not be asked.
    Check {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        args: role::Args,
    },
}

#[derive(Debug, clap::Args)]
struct ConfigArg {
    #[arg(long, default_value = "/etc/hotadd/agent.toml")]
    config: PathBuf,
}

impl ConfigArg {
    fn load(&self) -> Result<Config> {
        Config::load(&self.config).map_err(|faults| Error::new(&reason::CFG_INVALID, faults.to_string()))
    }

    fn load_to_settle(&self) -> Result<Config> {
        Config::load_to_settle(&self.config).map_err(|faults| Error::new(&reason::CFG_INVALID, faults.to_string()))
    }
}

/// Runs a command; the exit status is derived from its result.
pub fn run(cli: Cli, platform: Arc<dyn Platform>) -> ExitCode {
    match dispatch(cli.command, platform) {
        Ok(status) => status,
        Err(error) => failed(&error, 1),
    }
}

/// Tells an error; the exit status is `otherwise` unless a person has to change something first.
fn failed(error: &Error, otherwise: u8) -> ExitCode {
    let r = error.to_reason();
    tracing::error!(reason = r.code, "{}", r.message);
    eprintln!("error: {0} {1}; next: {2}; more: hotadd-agent explain-error {0}", r.code, r.message, r.next_step);
    let hopeless = [
        &reason::CFG_INVALID,
        &reason::CFG_IDENTITY,
        &reason::VC_LOGIN,
        &reason::VC_TLS,
        &reason::VC_OTHER,
        &reason::QUA_FAILED,
    ];
    ExitCode::from(if hopeless.contains(&error.reason()) { EXIT_CONFIG } else { otherwise })
}

/// Status 1 is the answer that something is wrong with the role; no answer is another status.
fn check_role(config: &ConfigArg, args: &role::Args, platform: &dyn Platform) -> ExitCode {
    let checked = with_runtime(|| Ok(role::check(args, config.load()?, platform)));
    checked.unwrap_or_else(|error| failed(&error, role::UNANSWERED))
}

fn dispatch(command: Command, platform: Arc<dyn Platform>) -> Result<ExitCode> {
    let done = match command {
        Command::Serve(config) => with_runtime(|| Ok(app::serve(config.load()?, platform))),
        Command::Reap { config, seconds } => {
            with_runtime(|| Ok(app::reap(config.load_to_settle()?, platform, Duration::from_secs(seconds))))
        }
        Command::Setup { appliance } => {
            setup::run(appliance).map_err(|error| Error::new(&reason::CFG_SETUP, error.to_string()).with_source(error))
        }
        Command::CheckConfig(config) => check(&config),
        Command::Journal { verb: JournalVerb::Show { state_dir } } => show(&state_dir.join("journal")),
        Command::Journal { verb: JournalVerb::Open { state_dir, config: None } } => open(&state_dir),
        Command::Journal { verb: JournalVerb::Open { config: Some(config), .. } } => state_dir::of(&config)
            .map_err(|why| Error::new(&reason::CFG_INVALID, why))
            .and_then(|state_dir| open(&state_dir)),
        Command::Bench(args) => bench::run(&args),
        Command::Selftest(args) => return selftest::run(&args, &*platform),
        Command::Role { verb: RoleVerb::Check { config, args } } => return Ok(check_role(&config, &args, &*platform)),
        Command::SupportBundle(args) => with_runtime(|| Ok(support::make(&args, platform))),
        Command::ExplainError(args) => say(&args.text()),
        Command::Reasons => say(&hotadd_reasons::index()),
        Command::Manual { dir } => hotadd_manual::write(Cli::command(), PROSE, &dir)
            .map_err(|e| Error::new(&reason::INTERNAL, dir.display().to_string()).with_source(e)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// As the agent would find it at its start; what it would only warn of is told and no fault.
fn check(config: &ConfigArg) -> Result<()> {
    let config = config.load()?;
    let remarks = access::check(&config.tls).map_err(|why| Error::new(&reason::CFG_INVALID, why))?;
    remarks.iter().for_each(|remark| eprintln!("warning: {remark}"));
    println!("ok");
    Ok(())
}

/// A reader that goes away, as `head` does, is no error.
fn say(text: &str) -> Result<()> {
    let _ = io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}

fn show(path: &Path) -> Result<()> {
    let (records, opened) = read_records(path).map_err(|e| Error::new(&reason::DUTY_JOURNAL, "").with_source(e))?;
    records.into_iter().for_each(print_record);
    if opened != crate::journal::Opened::default() {
        eprintln!("warning: {opened:?}");
    }
    Ok(())
}

/// Whoever removes the agent, its state or its VM asks this first. A journal that was damaged, and not compared with vCenter since,
/// may have forgotten something.
fn open(state_dir: &Path) -> Result<()> {
    // A folder that is written otherwise, or on a file system that is not mounted, is no folder in which nothing is owed.
    if !state_dir.is_dir() {
        return Err(Error::new(&reason::DUTY_JOURNAL, format!("{}: no such state directory", state_dir.display())));
    }
    let (state, opened) = read_state(state_dir).map_err(|e| Error::new(&reason::DUTY_JOURNAL, "").with_source(e))?;
    state.duties().cloned().map(Record::Began).for_each(print_record);
    state.late().map(|late| Record::Began(late.duty.clone())).for_each(print_record);
    let (owed, late) = (state.duties().count(), state.late().count());
    if opened.unreconciled {
        return Err(Error::new(&reason::DUTY_OWED, "the journal was damaged and what it forgot is unknown").owing());
    }
    if owed > 0 {
        return Err(Error::new(&reason::DUTY_OWED, format!("{owed} duties are open")).owing());
    }
    if late > 0 {
        let told =
            format!("{late} requests without an answer may still be carried out; a running agent looks for them");
        return Err(Error::new(&reason::DUTY_OWED, told).owing());
    }
    Ok(())
}

fn print_record(record: Record) {
    match record.shown() {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("unprintable record: {error}"),
    }
}

fn with_runtime<T, F: Future<Output = Result<T>>>(start: impl FnOnce() -> Result<F>) -> Result<T> {
    let wrong = |what: &str| {
        let what = what.to_owned();
        move |e: &dyn std::fmt::Display| Error::new(&reason::INTERNAL, format!("{what}: {e}"))
    };
    telemetry::init("info").map_err(|e| wrong("logging")(&e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| wrong("runtime")(&e))?;
    let result = start().and_then(|future| runtime.block_on(future));
    // Threads that a hung device holds must not hold the exit: the journal makes that safe.
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_that_is_not_there_owes_what_nobody_knows() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path()).is_ok());
        assert_eq!(open(&dir.path().join("absent")).unwrap_err().reason(), &reason::DUTY_JOURNAL);
        // By the configuration's word.
        let config = dir.path().join("agent.toml");
        let by = |state_dir: &str| {
            std::fs::write(&config, format!("state_dir\t=\t'{state_dir}'\n")).unwrap();
            let config = config.display().to_string();
            let cli = Cli::try_parse_from(["hotadd-agent", "journal", "open", "--config", &config]).unwrap();
            let Command::Journal { verb: JournalVerb::Open { config: Some(config), .. } } = cli.command else {
                panic!("another command")
            };
            state_dir::of(&config).map(|state_dir| open(&state_dir).is_ok())
        };
        assert_eq!(by(&dir.path().display().to_string()), Ok(true));
        assert_eq!(by("/no/such/folder"), Ok(false));
        assert!(Cli::try_parse_from(["hotadd-agent", "journal", "open", "--config", "a", "--state-dir", "b"]).is_err());
    }
}
