//! A backup and everything that it builds on: reading manifests, walking from an incremental to its root, and what each
//! disk comes to. No image is opened by this file, and nothing is written by any of this module.
//!
//! ```text
//! MANIFEST ─ base: path, id ─▶ read ─ id equal? ─▶ links fit? ─▶ … ─▶ no base: root
//!     a disk goes down only as far as it is `changed`: a disk that came back whole or allocated stands alone
//! effective: per disk, which bytes come from which image;  compose: those bytes, proven;  draw: samples of them
//! ```
pub mod compose;
pub mod draw;
pub mod effective;
mod links;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use hotadd_api::manifest::{BaseRecord, Digest, DiskRecord, Manifest, Scope};

use crate::{error::Failure, exit::Exit, reasons};

/// More incrementals than a year has hours are no chain that anybody made.
const LONGEST: usize = 8784;

/// A manifest as it lies in its file.
#[derive(Debug)]
pub struct Stored {
    /// Absolute, without links.
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// One backup of a chain.
#[derive(Debug)]
pub struct Layer {
    pub path: PathBuf,
    pub id: Digest,
    pub manifest: Manifest,
}

/// A backup and its bases, itself first, the root last.
#[derive(Debug)]
pub struct Chain {
    layers: Vec<Layer>,
}

/// One disk of the backup, its own record first, the one that stands alone last.
#[derive(Debug)]
pub struct ChainDisk<'a> {
    pub layers: Vec<(&'a Layer, &'a DiskRecord)>,
}

impl Stored {
    /// # Errors
    /// Exit 2.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Self::read(path).map_err(|error| bad(path, error))
    }

    fn read(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        // Asked before opening: opening a pipe would wait for its writer.
        if !fs::metadata(&path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(Self { bytes: fs::read(&path)?, path })
    }

    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// # Errors
    /// Exit 2.
    pub fn manifest(&self) -> Result<Manifest, Failure> {
        let manifest: Manifest = serde_json::from_slice(&self.bytes).map_err(|error| bad(&self.path, error))?;
        manifest.check().map_err(|flaw| bad(&self.path, flaw))?;
        if manifest.disks.is_empty() {
            return Err(bad(&self.path, "names no disk, so it proves nothing"));
        }
        Ok(manifest)
    }

    fn layer(self) -> Result<Layer, Failure> {
        Ok(Layer { id: self.id(), manifest: self.manifest()?, path: self.path })
    }
}

impl Layer {
    #[must_use]
    pub fn image(&self, disk: &DiskRecord) -> PathBuf {
        self.path.with_file_name(&disk.file)
    }
}

impl Chain {
    /// Walks from a backup to its root. `exit`: how a base that fails is called.
    ///
    /// # Errors
    /// Exit 2 for the backup itself; `exit` for a base that is missing, changed, in a circle or does not fit.
    pub fn load(top: Stored, exit: Exit) -> Result<Self, Failure> {
        let mut seen = BTreeSet::from([top.path.clone()]);
        let mut layers = vec![top.layer()?];
        while let Some(child) = layers.last()
            && let Some(record) = &child.manifest.base
        {
            let base = base_of(child, record, &mut seen).map_err(|failure| Failure { exit, ..failure })?;
            if layers.len() == LONGEST {
                let what = format!("more than {LONGEST} backups stand on each other");
                return Err(Failure::new(exit, reasons::CHAIN_CIRCLE, what));
            }
            layers.push(base);
        }
        Ok(Self { layers })
    }

    /// One backup without a look at what it builds on.
    #[must_use]
    pub fn alone(layer: Layer) -> Self {
        Self { layers: vec![layer] }
    }

    #[must_use]
    pub fn top(&self) -> &Layer {
        &self.layers[0]
    }

    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Every disk of the backup, in the order of its manifest.
    pub fn disks(&self) -> impl Iterator<Item = ChainDisk<'_>> {
        self.top().manifest.disks.iter().map(|disk| self.down(disk.device_key))
    }

    fn down(&self, key: i32) -> ChainDisk<'_> {
        let mut layers = Vec::new();
        for layer in &self.layers {
            let Some(disk) = layer.manifest.disk(key) else { break };
            layers.push((layer, disk));
            if disk.scope != Scope::Changed {
                break;
            }
        }
        ChainDisk { layers }
    }
}

impl<'a> ChainDisk<'a> {
    /// The record of the backup itself.
    #[must_use]
    pub fn top(&self) -> &'a DiskRecord {
        self.layers[0].1
    }

    /// The record that stands alone.
    #[must_use]
    pub fn root(&self) -> &'a DiskRecord {
        self.layers[self.layers.len() - 1].1
    }
}

fn base_of(child: &Layer, record: &BaseRecord, seen: &mut BTreeSet<PathBuf>) -> Result<Layer, Failure> {
    let path = child.path.with_file_name(&record.file);
    let of = format!("the base of {}", child.path.display());
    let fail = |code, what: String| Failure::new(Exit::VerifyFailed, code, format!("{of}, {what}"));
    let stored =
        Stored::read(&path).map_err(|error| fail(reasons::CHAIN_MISSING, format!("{}: {error}", path.display())))?;
    if !seen.insert(stored.path.clone()) {
        return Err(fail(reasons::CHAIN_CIRCLE, format!("{}, builds on it", stored.path.display())));
    }
    let (found, wanted) = (stored.id(), record.id);
    if found != wanted {
        let what = format!("{}, has the id {found}; wanted {wanted}", stored.path.display());
        return Err(fail(reasons::CHAIN_CHANGED, what));
    }
    let base = stored.layer()?;
    let misfit = |why: String| fail(reasons::CHAIN_MISFIT, format!("{}: {why}", base.path.display()));
    links::check(&child.manifest, record, &base.manifest).map_err(misfit)?;
    Ok(base)
}

fn bad(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, reasons::MANIFEST, format!("{}: {why}", path.display()))
}
