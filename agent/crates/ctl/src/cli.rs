//! The command line: what can be asked, where the defaults come from. Parsing only; nothing is opened or called here.
use std::{ffi::OsString, path::PathBuf};

use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum, error::ErrorKind,
};
use hotadd_api::{
    DEFAULT_BLOCK_BYTES, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES,
    v1::{Compression, Consistency, NbdServer, Transport},
};

use hotadd_blockio::sink::WriterKind;

use crate::{error::Failure, exit, exit::Exit, reasons};

/// Backs up the disks of a running VM through a hotadd-agent, and proves the images.
#[derive(Debug, Clone, Parser)]
#[command(name = "hotaddctl", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Without a flag no new work is taken from now on.
#[derive(Debug, Clone, Copy, Args)]
pub struct DrainArgs {
    /// Take new work again
    #[arg(long, conflicts_with = "show")]
    pub off: bool,
    /// Change nothing
    #[arg(long)]
    pub show: bool,
}

/// Without a place to begin, what happens from now on.
#[derive(Debug, Clone, Default, Args)]
pub struct WatchArgs {
    /// Begin after this event: the number in front of the last line that was seen; 0: all that the agent still keeps
    #[arg(long, value_name = "SEQUENCE")]
    pub since: Option<u64>,
    /// The run of the agent that gave the number (in the line `watching`): another run is told as missed events [default: the
    /// run that the agent is in now]
    #[arg(long, value_name = "UUID", requires = "since")]
    pub run: Option<String>,
}

/// Without a limit to change, all that hold are shown.
#[derive(Debug, Clone, Args)]
pub struct LimitsArgs {
    /// Of what
    #[command(flatten)]
    pub of: LimitsOf,
    #[arg(long, default_value_t = 0, requires = "of")]
    pub bytes_per_second: u64,
    #[arg(long, default_value_t = 0, requires = "of")]
    pub reads_per_second: u64,
    /// Mean latency of a disk's reads, above which fewer are in flight
    #[arg(long, default_value_t = 0, requires = "of")]
    pub latency_us: u32,
    /// For so many seconds; without it until the agent ends
    #[arg(long = "for", value_name = "S", default_value_t = 0, requires = "of")]
    pub seconds: u32,
    /// As configured again
    #[arg(long, requires = "of", conflicts_with_all = ["bytes_per_second", "reads_per_second", "latency_us"])]
    pub reset: bool,
}

#[derive(Debug, Clone, Args)]
#[group(id = "of", multiple = false)]
pub struct LimitsOf {
    /// All reads together
    #[arg(long)]
    pub all: bool,
    /// All reads from this datastore together
    #[arg(long, value_name = "NAME")]
    pub datastore: Option<String>,
    /// Each disk by itself
    #[arg(long)]
    pub disk: bool,
}

#[derive(Debug, Clone, Args)]
pub struct Global {
    #[command(flatten)]
    pub agent: AgentArgs,
    /// JSON lines on stdout, one object an event, each with a stable "event" field
    #[arg(long, global = true)]
    pub json: bool,
    /// Nothing but errors (and what ls, info and job were asked to show)
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// Where the agent is and who we are. Mutual TLS is the only way in.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// https://HOST:PORT of the agent [env: HOTADD_AGENT]
    #[arg(long, global = true, value_name = "URL")]
    pub agent: Option<String>,
    /// CA that signed the agent's certificate, PEM [env: HOTADD_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Our certificate (chain), PEM [env: HOTADD_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Key of our certificate, PEM [env: HOTADD_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Name in the agent's certificate when it is not the host of --agent
    #[arg(long, global = true, value_name = "NAME")]
    pub server_name: Option<String>,
}

#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Back up one VM into a folder: sparse raw images and a manifest
    Backup(BackupArgs),
    /// Prove images against their manifest
    Verify(VerifyArgs),
    /// Compose a full backup from an incremental and everything that it builds on
    Synthesize(SynthesizeArgs),
    /// Write a backup as an OVA that vSphere can import
    Export(ExportArgs),
    /// Show how each disk of a VM would be read, and why; touches nothing
    Explain(ExplainArgs),
    /// List sessions, jobs and duties of the agent
    Ls,
    /// List what the agent owes vSphere now; exit code 9 if that is anything
    Duties,
    /// Print what happens (duties, sessions, jobs) until interrupted
    Watch(WatchArgs),
    /// Show, or change for a while, how fast the agent reads
    Limits(LimitsArgs),
    /// Let the agent take no new work (HA-SES-010), show what still runs; exit code 9 until nothing does
    Drain(DrainArgs),
    /// Show the agent, the free slots of its proxy, the datastores that it reaches, and what attaching cost here
    Info,
    /// Show one job
    Job(JobArgs),
    /// The vSphere privileges of the agent's account; asks no agent
    Role {
        #[command(subcommand)]
        verb: RoleVerb,
    },
    /// Look for what backups left in a vCenter, of any product; read-only without --fix; exit code 11 if there is anything
    Doctor(DoctorArgs),
    /// Ask a vCenter what no document tells, on a VM given for it, into a file without names; reads only without --go
    Survey(hotadd_survey::args::Args),
    /// Explain the code of an error: evidence, causes, fix, who can fix it; asks no agent
    ExplainError(hotadd_reasons::Args),
    /// Write man pages and shell completions into a folder; for packages
    #[command(hide = true)]
    Manual { dir: PathBuf },
}

#[derive(Debug, Clone, Subcommand)]
pub enum RoleVerb {
    /// Print them: which feature needs which on what, as a table or as a script
    Print(hotadd_privileges::Args),
}

#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub look: hotadd_doctor::args::Args,
    #[command(flatten)]
    pub fix: hotadd_doctor::fix::FixArgs,
}

#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// VM by moref (vm-42), UUID or exact name
    #[arg(long)]
    pub vm: String,
    /// Folder for images and manifest; created when missing
    #[arg(long, value_name = "DIR", required_unless_present = "discard")]
    pub out: Option<PathBuf>,
    /// Read and check everything and keep nothing: a test of speed and integrity
    #[arg(long, conflicts_with_all = ["out", "incremental", "base", "sign", "force", "resume_for"])]
    pub discard: bool,
    /// Only these disks, by key (2000 …); repeat or list
    #[arg(long = "disk", value_name = "KEY", num_args = 1.., action = ArgAction::Append, allow_negative_numbers = true)]
    pub disks: Vec<i32>,
    /// How consistent the snapshot has to be
    #[arg(long, value_enum, default_value = "crash")]
    pub consistency: Level,
    /// Bound on quiescing in seconds; 0: the agent's default
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub quiesce_timeout: u32,
    /// Id of this request; the same id never starts a second job [default: random]
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub request_id: Option<String>,
    /// Back up what can be attached even if a disk can't; exit code 10 then
    #[arg(long)]
    pub allow_partial: bool,
    /// Bytes of a block: a power of two from 65536 to 4194304 [default: 1048576, of an incremental 65536]
    #[arg(long, value_name = "N", value_parser = block_size)]
    pub block_size: Option<u32>,
    /// Read what changed since the backup given by --base; where that can't be told, more is read
    #[arg(long, requires = "base", conflicts_with = "allocated")]
    pub incremental: bool,
    /// Manifest of the backup that an incremental builds on; neither it nor its images are written
    #[arg(long, value_name = "MANIFEST", requires = "incremental")]
    pub base: Option<PathBuf>,
    /// Seed of the samples that test vSphere's maps [default: random, and told]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub seed: Option<u64>,
    /// Read what vSphere calls allocated; the rest is recorded as zero
    #[arg(long)]
    pub allocated: bool,
    /// Turn changed block tracking on before the snapshot, where it is off; refused for a VM that has snapshots
    #[arg(long)]
    pub enable_change_tracking: bool,
    /// Sign the manifest with this Ed25519 key (PKCS#8 or a seed of 32 bytes; for nobody else to read)
    #[arg(long, value_name = "KEYFILE")]
    pub sign: Option<PathBuf>,
    /// Replace the backup that the folder holds, once the new one is proven
    #[arg(long)]
    pub force: bool,
    /// If the job breaks (network, host maintenance, a restart of the agent), ask the agent to keep its snapshot and resume
    /// where the images end, for so many seconds without progress [without a value: 900]
    #[arg(long, value_name = "S", default_value_t = 0, num_args = 0..=1, default_missing_value = "900")]
    pub resume_for: u32,
    /// Server of a disk that can't be hot-added, as KEY=nbd://… (or nbds://…, nbd+unix://…); the agent must allow it; repeat
    #[arg(long = "nbd", value_name = "KEY=URI", action = ArgAction::Append, value_parser = nbd_server)]
    pub nbd: Vec<NbdServer>,
    /// Attach a disk again that went on by its server, when that is possible
    #[arg(long)]
    pub back_to_hotadd: bool,
    /// One transport for all disks [default: the agent's planner decides for each]
    #[arg(long, value_enum)]
    pub transport: Option<Way>,
    /// Compress what travels; blocks that do not get smaller travel as they are, and images are never compressed
    #[arg(long, value_enum, value_name = "METHOD")]
    pub compress: Option<Packing>,
    /// File with a ticket of vCenter's AcquireCloneTicket: the rights for this job; read anew for each job that resumes
    #[arg(long, value_name = "FILE", conflicts_with = "clone_ticket_fd")]
    pub clone_ticket_file: Option<PathBuf>,
    /// The same from an open descriptor, e.g. 0; it serves once
    #[arg(long, value_name = "FD", conflicts_with = "resume_for")]
    pub clone_ticket_fd: Option<u32>,
    /// How images are written [default: io_uring, or pwritev where the kernel refuses it]
    #[arg(long, value_enum)]
    pub writer: Option<Pen>,
    /// How long to ask for the clean-up state after a failure or an interrupt, in seconds
    #[arg(long, value_name = "S", default_value_t = 120)]
    pub settle_timeout: u64,
}

impl BackupArgs {
    /// Changes are small and scattered; a full backup is neither.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        self.block_size.unwrap_or(if self.incremental { MIN_BLOCK_BYTES } else { DEFAULT_BLOCK_BYTES })
    }

    #[must_use]
    pub fn compression(&self) -> Compression {
        match self.compress {
            None => Compression::Unspecified,
            Some(Packing::Zstd) => Compression::Zstd,
            Some(Packing::Lz4) => Compression::Lz4,
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// VM by moref (vm-42), UUID or exact name
    #[arg(long)]
    pub vm: String,
    /// Explain the disks of this snapshot instead of the VM as it is now
    #[arg(long, value_name = "MOREF")]
    pub snapshot: Option<String>,
    /// Only these disks, by key (2000 …); repeat or list
    #[arg(long = "disk", value_name = "KEY", num_args = 1.., action = ArgAction::Append, allow_negative_numbers = true)]
    pub disks: Vec<i32>,
    /// Bytes that would be read of each disk; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub bytes: u64,
    /// Server of a disk, as for backup
    #[arg(long = "nbd", value_name = "KEY=URI", action = ArgAction::Append, value_parser = nbd_server)]
    pub nbd: Vec<NbdServer>,
    /// As if SAN transport were asked for
    #[arg(long)]
    pub san: bool,
}

#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// manifest.json beside the images
    pub manifest: PathBuf,
    /// Prove everything that the backup builds on, too
    #[arg(long)]
    pub chain: bool,
    /// Check the signature of the manifest against this Ed25519 key (PEM, DER or 32 bytes)
    #[arg(long, value_name = "PUB")]
    pub public_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct SynthesizeArgs {
    /// manifest.json of the backup; what it builds on is found from there
    pub manifest: PathBuf,
    /// Folder for images and manifest; created when missing
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Replace the backup that the folder holds, once the new one is proven
    #[arg(long)]
    pub force: bool,
    /// Check the signature of the manifest against this Ed25519 key before it is believed
    #[arg(long, value_name = "PUB")]
    pub public_key: Option<PathBuf>,
    /// Sign the new manifest with this Ed25519 key
    #[arg(long, value_name = "KEYFILE")]
    pub sign: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// manifest.json of the backup; what it builds on is found from there
    pub manifest: PathBuf,
    /// The file to write; must not exist
    #[arg(long, value_name = "FILE")]
    pub ova: PathBuf,
    /// Check the signature of the manifest against this Ed25519 key before it is believed
    #[arg(long, value_name = "PUB")]
    pub public_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct JobArgs {
    /// Id that the agent gave the job
    pub id: Option<String>,
    /// Id that the caller gave the request
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
}

/// Consistency as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Level {
    /// Application-quiesced or fail
    RequiredApp,
    /// Application-quiesced, else crash-consistent
    PreferApp,
    /// File-system-quiesced or fail
    Filesystem,
    /// No quiescing
    Crash,
}

impl From<Level> for Consistency {
    fn from(level: Level) -> Self {
        match level {
            Level::RequiredApp => Self::RequiredApp,
            Level::PreferApp => Self::PreferApp,
            Level::Filesystem => Self::Filesystem,
            Level::Crash => Self::Crash,
        }
    }
}

/// Transport as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    Hotadd,
    Nbd,
    Export,
}

impl From<Way> for Transport {
    fn from(way: Way) -> Self {
        match way {
            Way::Hotadd => Self::Hotadd,
            Way::Nbd => Self::Nbd,
            Way::Export => Self::Export,
        }
    }
}

/// Compression as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Packing {
    /// Smaller
    Zstd,
    /// Cheaper for the processors of both ends
    Lz4,
}

/// Way of writing as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Pen {
    /// One block after the other
    Pwritev,
    /// Several blocks in flight; pwritev, with a warning, where the kernel refuses
    IoUring,
}

impl From<Pen> for WriterKind {
    fn from(pen: Pen) -> Self {
        match pen {
            Pen::Pwritev => Self::Pwritev,
            Pen::IoUring => Self::IoUring,
        }
    }
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Refused {
    /// Help or version was asked.
    Shown(String),
    Usage {
        failure: Failure,
        json: bool,
    },
}

/// # Errors
/// Help, version, or wrong usage.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Refused> {
    let args: Vec<OsString> = args.into_iter().collect();
    let parsed = command().try_get_matches_from(&args).and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    parsed.map_err(|error| {
        if !error.use_stderr() {
            return Refused::Shown(error.to_string());
        }
        let json = args.iter().any(|arg| arg == "--json");
        let cause = match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing".to_owned(),
            _ => one_line(&error.to_string()),
        };
        Refused::Usage { failure: Failure::new(Exit::Usage, reasons::USAGE, cause), json }
    })
}

/// With the exit codes, which the derived one lacks.
pub fn command() -> clap::Command {
    Cli::command().after_help(exit::help())
}

/// Clap explains in paragraphs; the first one holds the cause.
fn one_line(text: &str) -> String {
    let cause = text.split("\n\nUsage").next().unwrap_or(text).trim_start_matches("error: ");
    cause.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the URI may be is the agent's to say.
fn nbd_server(text: &str) -> Result<NbdServer, String> {
    let (key, uri) = text.split_once('=').ok_or("not KEY=URI")?;
    let device_key = key.parse().map_err(|error| format!("the key {key:?}: {error}"))?;
    Ok(NbdServer { device_key, uri: uri.to_owned() })
}

fn block_size(text: &str) -> Result<u32, String> {
    let size: u32 = text.parse().map_err(|error| format!("{error}"))?;
    if size.is_power_of_two() && (MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&size) {
        return Ok(size);
    }
    Err(format!("not a power of two from {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(words: &str) -> Result<Cli, Refused> {
        parse(words.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn disks_can_be_listed_or_repeated() {
        let cli = cli("hotaddctl backup --vm a --out b --disk 2000 2001 --disk 3000 --json").unwrap();
        assert!(cli.global.json);
        let Command::Backup(args) = cli.command else { panic!("backup") };
        assert_eq!((args.block_bytes(), args.disks), (DEFAULT_BLOCK_BYTES, vec![2000, 2001, 3000]));
    }

    #[test]
    fn an_incremental_has_a_base_and_small_blocks() {
        let args = |more: &str| match cli(&format!("hotaddctl backup --vm a --out b {more}")).map(|cli| cli.command) {
            Ok(Command::Backup(args)) => Some(args),
            _ => None,
        };
        assert_eq!(args("--incremental --base m").unwrap().block_bytes(), MIN_BLOCK_BYTES);
        assert_eq!(args("--incremental --base m --block-size 1048576").unwrap().block_bytes(), 1 << 20);
        for bad in ["--incremental", "--base m", "--incremental --base m --allocated", "--allocated --seed 0"] {
            assert!(args(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_is_discarded_has_no_folder_and_nothing_that_needs_one() {
        let args = |more: &str| match cli(&format!("hotaddctl backup --vm a {more}")).map(|cli| cli.command) {
            Ok(Command::Backup(args)) => Some(args),
            _ => None,
        };
        assert_eq!(args("--discard --allocated --allow-partial").unwrap().out, None);
        for bad in ["", "--out b", "--incremental --base m", "--sign k", "--force", "--resume-for"] {
            assert!(args(&format!("--discard {bad}")).is_some() == bad.is_empty(), "{bad}");
        }
    }

    #[test]
    fn resuming_is_off_unless_it_is_asked_for_and_has_a_time_then() {
        for (more, seconds) in [("", 0), ("--resume-for", 900), ("--resume-for 60", 60), ("--resume-for --force", 900)]
        {
            let cli = cli(&format!("hotaddctl backup --vm a --out b {more}")).unwrap();
            let Command::Backup(args) = cli.command else { panic!("backup") };
            assert_eq!(args.resume_for, seconds, "{more}");
        }
    }

    #[test]
    fn wrong_usage_is_one_line() {
        for (words, hint) in [
            ("hotaddctl backup --vm a", "--out"),
            ("hotaddctl backup --vm a --out b --block-size 5", "power of two"),
            ("hotaddctl backup --vm a --out b --consistency best", "prefer_app"),
            ("hotaddctl backup --vm a --out b --nbd nbd://host", "KEY"),
            ("hotaddctl backup --vm a --out b --transport san", "nbd"),
            ("hotaddctl job", "--request-id"),
            ("hotaddctl explain-error HA-CTL-0002", "HA-CTL-002"),
            ("hotaddctl", "command"),
        ] {
            let Err(Refused::Usage { failure, .. }) = cli(words) else { panic!("{words}") };
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.line().contains(hint), "{}", failure.line());
            assert!(!failure.message.contains('\n'));
        }
    }

    #[test]
    fn help_lists_the_exit_codes() {
        let Err(Refused::Shown(text)) = cli("hotaddctl --help") else { panic!("help") };
        assert!(text.contains("130  interrupted"), "{text}");
    }
}
