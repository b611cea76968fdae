//! Content of test disks: a function of seed and offset, so that order, completeness and identity are checkable.
use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::Path,
};

use anyhow::{Result, ensure};

const STEP: u64 = 64 << 10;

/// A sparse raw disk: of every `every` steps of 64 KiB one holds data. 0: all zero.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    pub bytes: u64,
    pub seed: u64,
    pub every: u64,
}

impl Content {
    #[must_use]
    pub fn new(bytes: u64, seed: u64) -> Self {
        Self { bytes, seed, every: 3 }
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let file = File::create(path)?;
        file.set_len(self.bytes)?;
        for step in (0..self.bytes.div_ceil(STEP)).filter(|step| self.every > 0 && step % self.every == 0) {
            let offset = step * STEP;
            let length = usize::try_from(STEP.min(self.bytes - offset))?;
            let mut data = vec![0; length];
            blake3::Hasher::new()
                .update(&self.seed.to_le_bytes())
                .update(&step.to_le_bytes())
                .finalize_xof()
                .fill(&mut data);
            file.write_all_at(&data, offset)?;
        }
        file.sync_all()?;
        Ok(())
    }
}

/// BLAKE3 of a whole file.
pub fn hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Fails at the first byte that differs, or when the lengths do.
pub fn same(a: &Path, b: &Path) -> Result<()> {
    let (mut a_file, mut b_file) = (File::open(a)?, File::open(b)?);
    let (a_len, b_len) = (a_file.metadata()?.len(), b_file.seek(SeekFrom::End(0))?);
    b_file.rewind()?;
    ensure!(a_len == b_len, "{} has {a_len} bytes, {} has {b_len}", a.display(), b.display());
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < a_len {
        let length = usize::try_from((a_len - at).min(1 << 20))?;
        a_file.read_exact(&mut x[..length])?;
        b_file.read_exact(&mut y[..length])?;
        if x[..length] != y[..length] {
            let differs = x.iter().zip(&y).position(|(p, q)| p != q).unwrap_or(0) as u64;
            anyhow::bail!("{} and {} differ at byte {}", a.display(), b.display(), at + differs);
        }
        at += length as u64;
    }
    Ok(())
}
