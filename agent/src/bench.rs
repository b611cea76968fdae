//! `hotadd-agent bench`: how fast one device can be read at this site, by every engine, depth and block size. A descriptor that can
//! be written is never opened, and nothing of the service is needed or touched: no vCenter, no port, no journal.
use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hotadd_bench::{Cell, Machine, Sweep, page::Page};
use hotadd_blockio::Device;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::Serialize;

use crate::{
    error::{Error, Result},
    plan::rates::{RateBook, Rates},
    reason,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The block device; it is only ever read.
    #[arg(long)]
    device: PathBuf,
    /// Folder for bench.json and bench.html; without it nothing is written anywhere.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Longest time of one combination of engine, depth and block size.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds_per_cell: u64,
    /// Most MiB that one combination reads.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    max_mib: u64,
    /// Prints the results as JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// The agent's state directory: what attaching costs here.
    #[arg(long, default_value = "/var/lib/hotadd")]
    state_dir: PathBuf,
}

/// What bench.json holds.
#[derive(Debug, Serialize)]
struct Results<'a> {
    format: &'static str,
    agent: &'static str,
    machine: Machine,
    device: &'a Path,
    size_bytes: u64,
    logical_block: u32,
    /// As jobs measured it; null: never measured.
    rates: Rates,
    cells: Vec<Cell>,
}

/// Measures, prints, and writes the files that are wished for.
///
/// # Errors
/// The device can't be read (HA-BEN-001), a file can't be written (HA-BEN-002). A combination that fails is only told.
pub fn run(args: &Args) -> Result<()> {
    let device = Arc::new(open(&args.device)?);
    // Before the work, not after it.
    args.out.as_deref().map(|out| fs::create_dir_all(out).map_err(|error| unwritable(out, error))).transpose()?;
    let mut sweep =
        Sweep { bytes: args.max_mib << 20, seconds: Duration::from_secs(args.seconds_per_cell), ..Sweep::default() };
    sweep.blocks.retain(|block| *block >= device.logical_block());
    if !args.json {
        println!(
            "{:<10} {:>8} {:>5} {:>10} {:>9} {:>9} {:>9} {:>9}",
            "engine", "block", "depth", "MB/s", "p50 us", "p99 us", "CPU s/GB", "cmds/read"
        );
    }
    let cells = sweep.run(&device, &mut |cell| {
        if !args.json {
            println!("{}", line(cell));
        }
    });
    let results = Results {
        format: "hotadd-bench/1",
        agent: env!("CARGO_PKG_VERSION"),
        machine: Machine::here(&[]),
        device: &args.device,
        size_bytes: device.size(),
        logical_block: device.logical_block(),
        rates: RateBook::open(&args.state_dir).now(),
        cells,
    };
    let json = serde_json::to_string_pretty(&results)
        .map_err(|e| Error::new(&reason::INTERNAL, "results as JSON").with_source(e))?;
    if args.json {
        println!("{json}");
    } else {
        println!(
            "attach and discover: {}\ndetach: {}",
            seconds(results.rates.attach_seconds),
            seconds(results.rates.detach_seconds)
        );
    }
    if let Some(out) = &args.out {
        write(out, "bench.json", &json)?;
        write(out, "bench.html", &html(&results))?;
    }
    Ok(())
}

/// Only what is a block device, and only for reading past the cache.
fn open(path: &Path) -> Result<Device> {
    let wrong = |what: &str| Error::new(&reason::BENCH_DEVICE, format!("{}: {what}", path.display()));
    let kind = fs::metadata(path).map_err(|error| wrong(&error.to_string()))?.file_type();
    // Before it is opened: opening a pipe would wait for its writer.
    if !kind.is_block_device() {
        return Err(wrong("not a block device"));
    }
    let device = Device::open(path).map_err(|error| wrong(&error.to_string()))?;
    let still = device.file().metadata().is_ok_and(|meta| meta.file_type().is_block_device());
    let flags = fcntl(device.file(), FcntlArg::F_GETFL).map_or(OFlag::empty(), OFlag::from_bits_retain);
    if !still || flags & OFlag::O_ACCMODE != OFlag::O_RDONLY || !flags.contains(OFlag::O_DIRECT) {
        return Err(wrong("it can't be read past the cache (O_DIRECT)"));
    }
    Ok(device)
}

fn line(cell: &Cell) -> String {
    let start = format!("{:<10} {:>5} KiB {:>4}", cell.engine, cell.block >> 10, cell.depth);
    let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    match &cell.failed {
        Some(why) => format!("{start}  {why}"),
        None => format!(
            "{start} {:>10.1} {:>9} {:>9} {:>9.3} {:>9}",
            cell.mb_per_s,
            number(cell.p50_us),
            number(cell.p99_us),
            cell.cpu_s_per_gb,
            cell.commands_per_read.map_or("-".to_owned(), |n| format!("{n:.2}"))
        ),
    }
}

fn seconds(measured: Option<f64>) -> String {
    measured.map_or("never measured".to_owned(), |seconds| format!("{seconds:.2} s"))
}

fn html(results: &Results<'_>) -> String {
    let facts = [
        ("device", results.device.display().to_string()),
        ("size", format!("{} bytes in sectors of {}", results.size_bytes, results.logical_block)),
        ("agent", results.agent.to_owned()),
        ("attach and discover", seconds(results.rates.attach_seconds)),
        ("detach", seconds(results.rates.detach_seconds)),
    ];
    Page {
        title: "How fast this device can be read here",
        facts: facts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        machine: Some(&results.machine),
        cells: &results.cells,
        records: &[],
    }
    .html()
}

fn write(out: &Path, name: &str, text: &str) -> Result<()> {
    let path = out.join(name);
    // What somebody else laid there may lead anywhere.
    let nofollow = OFlag::O_NOFOLLOW.bits();
    let file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(nofollow).open(&path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| unwritable(&path, error))
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    Error::new(&reason::BENCH_WRITE, path.display().to_string()).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_block_devices_are_opened_and_a_pipe_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let (file, pipe) = (dir.path().join("file"), dir.path().join("pipe"));
        fs::write(&file, [0; 4096]).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [file, pipe, dir.path().to_owned(), dir.path().join("none"), "/dev/null".into()] {
            let error = open(&path).unwrap_err();
            assert_eq!(error.reason(), &reason::BENCH_DEVICE, "{}", path.display());
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn what_was_never_measured_is_said() {
        assert_eq!((seconds(None), seconds(Some(1.5))), ("never measured".into(), "1.50 s".into()));
        let failed = Cell { engine: "io_uring".into(), failed: Some("ENOSYS".into()), ..Cell::default() };
        assert!(line(&failed).ends_with("ENOSYS"));
    }

    #[test]
    fn a_link_that_somebody_laid_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "kept").unwrap();
        std::os::unix::fs::symlink(&precious, dir.path().join("bench.json")).unwrap();
        assert_eq!(write(dir.path(), "bench.json", "other").unwrap_err().reason(), &reason::BENCH_WRITE);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
        write(dir.path(), "bench.html", "new").unwrap();
    }
}
