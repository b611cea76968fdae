//! The command line of the daemon, shared with test binaries that bring another platform.
use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{Parser, Subcommand};

use crate::{
    app, bench,
    config::Config,
    discover::Platform,
    error::{Error, Result},
    journal::{Record, file::read_records},
    reason, telemetry,
};

/// Exit status for what a restart can't heal (EX_CONFIG of sysexits.h): the unit does not restart on it.
const EXIT_CONFIG: u8 = 78;

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
    /// Tests the configuration and reports every fault.
    CheckConfig(ConfigArg),
    /// Prints the journal, a record a line; works while the agent runs.
    Journal {
        #[command(subcommand)]
        verb: JournalVerb,
    },
    /// Measures how fast one block device can be read here; read-only, works while the agent runs.
    Bench(bench::Args),
    /// Prints the registry of reasons as Markdown.
    Reasons,
}

#[derive(Debug, Subcommand)]
enum JournalVerb {
    Show {
        /// The state directory.
        #[arg(long, default_value = "/var/lib/hotadd")]
        state_dir: PathBuf,
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
}

/// Runs a command; the exit status is derived from its result.
pub fn run(cli: Cli, platform: Arc<dyn Platform>) -> ExitCode {
    match dispatch(cli.command, platform) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let r = error.to_reason();
            tracing::error!(reason = r.code, "{}", r.message);
            eprintln!("error: {} {}; next: {}", r.code, r.message, r.next_step);
            let hopeless =
                [&reason::CFG_INVALID, &reason::CFG_IDENTITY, &reason::VC_LOGIN, &reason::VC_TLS, &reason::VC_OTHER];
            ExitCode::from(if hopeless.contains(&error.reason()) { EXIT_CONFIG } else { 1 })
        }
    }
}

fn dispatch(command: Command, platform: Arc<dyn Platform>) -> Result<()> {
    match command {
        Command::Serve(config) => with_runtime(|| Ok(app::serve(config.load()?, platform))),
        Command::Reap { config, seconds } => {
            with_runtime(|| Ok(app::reap(config.load()?, platform, Duration::from_secs(seconds))))
        }
        Command::CheckConfig(config) => config.load().map(|_| println!("ok")),
        Command::Journal { verb: JournalVerb::Show { state_dir } } => show(&state_dir.join("journal")),
        Command::Bench(args) => bench::run(&args),
        Command::Reasons => {
            print!("{}", reason::markdown());
            Ok(())
        }
    }
}

fn show(path: &std::path::Path) -> Result<()> {
    let (records, opened) = read_records(path).map_err(|e| Error::new(&reason::DUTY_JOURNAL, "").with_source(e))?;
    for mut record in records {
        // A vCenter session's key is nobody's business who reads along.
        if let Record::Began(duty) = &mut record
            && duty.login.is_some()
        {
            duty.login = Some("(hidden)".to_owned());
        }
        match serde_json::to_string(&record) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("unprintable record: {error}"),
        }
    }
    if opened != crate::journal::Opened::default() {
        eprintln!("warning: {opened:?}");
    }
    Ok(())
}

fn with_runtime<F: Future<Output = Result<()>>>(start: impl FnOnce() -> Result<F>) -> Result<()> {
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
