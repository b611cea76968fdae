//! Disks of benchmarks, and scenes on them.
use std::{
    fs::File,
    os::unix::fs::{FileExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{Content, Scene, Spec};

const MIB: u64 = 1 << 20;

/// A scene whose target's first disk is a link, so that other devices can take its place.
#[derive(Debug)]
pub(super) struct Linked {
    pub scene: Scene,
    /// The file with the content.
    pub file: PathBuf,
    link: PathBuf,
}

impl Linked {
    /// The agent has its defaults, and reads past this machine's page cache as the peers do.
    pub(super) fn start(dir: &Path, content: Content, tracked: bool) -> Result<Self> {
        let file = dense(dir, content)?;
        Self::with(dir, file, content, tracked, "")
    }

    /// On a file that is there; `toml`: more of agent.toml.
    pub(super) fn with(dir: &Path, file: PathBuf, content: Content, tracked: bool, toml: &str) -> Result<Self> {
        let mut spec = quiet(dir, &[content]);
        spec.agent_toml.push_str(toml);
        spec.target().change_tracking = tracked;
        let link = dir.join("source-0.raw");
        symlink(&file, &link)?;
        Ok(Self { scene: Scene::start(dir, spec)?, file, link })
    }

    /// From now on the disk is `file`, which shows the same bytes.
    pub(super) fn becomes(&self, file: &Path) -> Result<()> {
        std::fs::remove_file(&self.link)?;
        Ok(symlink(file, &self.link)?)
    }
}

/// As a site has it: no deadlines of tests, no log of every step.
pub(super) fn quiet(dir: &Path, disks: &[Content]) -> Spec {
    let mut spec = Spec::new(dir, disks, 2);
    spec.agent_toml.clear();
    spec.log = "warn".into();
    spec.direct = true;
    spec
}

/// The file of a disk with this content.
pub(super) fn dense(dir: &Path, content: Content) -> Result<PathBuf> {
    let file = dir.join("disk.raw");
    content.write(&file)?;
    Ok(file)
}

/// 1 MiB of data in every `every` MiB, as files of a guest lie together.
pub(super) fn scattered(path: &Path, bytes: u64, every: u64) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(bytes)?;
    let mut data = vec![0; 1 << 20];
    for n in (0..bytes / MIB).filter(|n| n % every == 0) {
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut data);
        file.write_all_at(&data, n * MIB)?;
    }
    Ok(file.sync_all()?)
}
