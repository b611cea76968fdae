//! Our figures beside peers'; see `hotadd_harness::bench` and docs/performance.md. Started by ci/bench.
#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::Parser;
use hotadd_harness::bench::{Part, Report, Size, machine, run, store::Kept};

#[derive(Debug, Parser)]
struct Args {
    /// Rounds of each side.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// MiB of the disk that is read as a whole.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(64..))]
    mib: u64,
    /// GiB of the sparse disks.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    gib: u64,
    /// Only these parts.
    #[arg(long, value_enum, num_args = 1..)]
    only: Vec<Part>,
    /// Folder for disks and images, on the file system that is to be measured.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Folder for bench.json and bench.html.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Fails when a ratio is over a tenth worse than the one that docs/performance.json holds.
    #[arg(long)]
    check: bool,
    /// Keeps the figures in docs/performance.json and docs/performance.md; all parts.
    #[arg(long, conflicts_with_all = ["only", "check"])]
    store: bool,
    /// The folder docs/ of the repository.
    #[arg(long, default_value = "docs")]
    docs: PathBuf,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let kept = args.check.then(|| Kept::load(&args.docs)).transpose()?;
    let size = Size { rounds: args.rounds.into(), bytes: args.mib << 20, sparse: args.gib << 30, dir: args.dir };
    let parts = if args.only.is_empty() { Part::ALL.to_vec() } else { args.only };
    let (mut report, mut failed) = (Report::default(), Vec::new());
    for part in &parts {
        // The other parts' figures are worth having.
        if let Err(error) = run(*part, &size, &mut report).await {
            eprintln!("error: {error:#}");
            failed.push(part.name());
        }
    }
    let machine = machine();
    if let Some(out) = &args.out {
        report.write(out, &machine)?;
    }
    ensure!(failed.is_empty(), "could not be measured: {}", failed.join(", "));
    if args.store {
        Kept { machine, records: report.records }.store(&args.docs)?;
    } else if let Some(kept) = kept {
        let names: Vec<&str> = parts.iter().map(|part| part.name()).collect();
        let worse = kept.worse(&report.records, &names);
        worse.iter().for_each(|line| eprintln!("worse: {line}"));
        if !worse.is_empty() {
            eprintln!("{} of {} kept ratios are worse", worse.len(), kept.records.len());
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
