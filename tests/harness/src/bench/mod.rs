//! Figures that anyone can repeat: our engines, the whole way and its parts beside the peers that people use, in interleaved
//! rounds. One file a part; what is compared, and how it is measured, is in `docs/performance.md`. Asserts nothing by itself: verdicts
//! are told, and [`store`] compares with what was kept. Started by ci/bench.
mod areas;
mod ceiling;
mod disk;
mod fast;
mod first;
mod image;
mod jobs;
mod measure;
mod memory;
mod servers;
mod slow;
pub mod store;
mod ways;
mod whole;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use hotadd_bench::{Machine, Record, page::Page};
use serde_json::json;

/// What is measured, in the order of running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Engines on a loop device.
    Fast,
    /// Engines on a device with latency.
    Slow,
    /// From the agent to a client that keeps nothing.
    Whole,
    /// From the agent to an image.
    Image,
    /// A disk with little data.
    Sparse,
    /// A disk of which little changed.
    Incremental,
    /// Time to the first byte.
    First,
    /// Memory of the agent.
    Memory,
}

impl Part {
    pub const ALL: [Self; 8] =
        [Self::Fast, Self::Slow, Self::Whole, Self::Image, Self::Sparse, Self::Incremental, Self::First, Self::Memory];

    /// As in the records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Slow => "slow",
            Self::Whole => "whole",
            Self::Image => "image",
            Self::Sparse => "sparse",
            Self::Incremental => "incremental",
            Self::First => "first",
            Self::Memory => "memory",
        }
    }
}

/// How much is measured, and where.
#[derive(Debug, Clone)]
pub struct Size {
    pub rounds: usize,
    /// Bytes of the disk that is read as a whole.
    pub bytes: u64,
    /// Bytes of the sparse disks.
    pub sparse: u64,
    /// Folder for disks and images.
    pub dir: PathBuf,
}

/// Tells each record at once and keeps it.
#[derive(Debug, Default)]
pub struct Report {
    pub records: Vec<Record>,
}

impl Report {
    fn add(&mut self, record: Record) -> Result<()> {
        println!("{}", serde_json::to_string(&record)?);
        self.records.push(record);
        Ok(())
    }

    /// bench.json and bench.html.
    pub fn write(&self, out: &Path, machine: &Machine) -> Result<()> {
        std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        let json = json!({"format": "hotadd-bench-peers/1", "machine": machine, "records": self.records});
        std::fs::write(out.join("bench.json"), serde_json::to_vec_pretty(&json)?)?;
        let page = Page {
            title: "hotadd-proxy beside its peers",
            machine: Some(machine),
            records: &self.records,
            ..Page::default()
        };
        Ok(std::fs::write(out.join("bench.html"), page.html())?)
    }
}

/// Versions that belong to a figure.
#[must_use]
pub fn machine() -> Machine {
    Machine::here(&["fio", "nbdkit", "nbdcopy", "nbdfuse", "qemu-nbd", "dd"])
}

/// Runs one part.
pub async fn run(part: Part, size: &Size, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir_in(&size.dir)?;
    let (dir, name) = (dir.path(), part.name());
    match part {
        Part::Fast => fast::run(dir, size, report),
        Part::Slow => slow::run(dir, size, report),
        Part::Whole => whole::run(dir, size, report),
        Part::Image => image::run(dir, size, report),
        Part::Sparse => areas::sparse(dir, size, report),
        Part::Incremental => areas::incremental(dir, size, report).await,
        Part::First => first::run(dir, report).await,
        Part::Memory => memory::run(dir, size, report).await,
    }
    .with_context(|| format!("part {name}"))
}
