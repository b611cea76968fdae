//! Virtual disk files: base disks are raw files, deltas are sparse raw files plus the set of extents written to them.
//! Chains, merges and flattening live here; who has what open does not (see state).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Whence, lseek};

use crate::inventory::BackingKind;
use crate::tracking::Track;

/// Disjoint, sorted byte ranges [start, end).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Extents(BTreeMap<u64, u64>);

impl Extents {
    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) {
        let touching: Vec<u64> = self.0.range(..=end).filter(|(_, e)| **e >= start).map(|(s, _)| *s).collect();
        for s in touching {
            if let Some(e) = self.0.remove(&s) {
                start = start.min(s);
                end = end.max(e);
            }
        }
        if start < end {
            self.0.insert(start, end);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(s, e)| (*s, *e))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Vmdk {
    pub path: String,
    /// Data on this machine: the flat file of a base, the sparse file of a delta.
    pub host: PathBuf,
    pub capacity: u64,
    pub uuid: String,
    pub content_id: u32,
    pub change_id: Option<String>,
    pub track: Option<Track>,
    pub backing: BackingKind,
    pub parent: Option<String>,
    pub extents: Extents,
    /// Bytes that a test let it grow by without data.
    pub grown: u64,
    /// `source` files belong to the test and are not deleted by Destroy.
    pub borrowed: bool,
    /// Stands on another VM's disk as a linked clone; never merged into it.
    pub clone: bool,
    pub key_id: Option<String>,
    pub fcd: Option<String>,
    pub io_filters: Vec<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub files: BTreeMap<String, Vmdk>,
}

impl Vmdk {
    /// Bytes that it takes on its datastore; a base counts in full.
    pub(crate) fn size(&self) -> u64 {
        match self.parent {
            None => self.capacity,
            Some(_) => self.extents.iter().map(|(start, end)| end - start).sum::<u64>() + self.grown,
        }
    }
}

/// `[ds] a/b.vmdk` → (`ds`, `a/b.vmdk`).
pub(crate) fn split_path(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix('[')?;
    let at = rest.find("] ")?;
    Some((&rest[..at], &rest[at + 2..]))
}

/// Host file of a vmdk: `<dir>/a/b-flat.vmdk`, deltas `b-000001-delta.vmdk`.
pub(crate) fn host_file(dir: &Path, rel: &str, suffix: &str) -> PathBuf {
    let stem = rel.strip_suffix(".vmdk").unwrap_or(rel);
    dir.join(format!("{stem}-{suffix}.vmdk"))
}

pub(crate) fn create_sparse(path: &Path, size: u64) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let f = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    if f.metadata()?.len() < size {
        f.set_len(size)?;
    }
    Ok(())
}

impl Store {
    /// The chain from `path` down to its base.
    pub(crate) fn chain(&self, path: &str) -> Vec<String> {
        let mut out = Vec::new();
        let mut at = Some(path.to_owned());
        while let Some(p) = at {
            at = self.files.get(&p).and_then(|f| f.parent.clone());
            out.push(p);
        }
        out
    }

    pub(crate) fn children(&self, path: &str) -> Vec<String> {
        self.files.values().filter(|f| f.parent.as_deref() == Some(path)).map(|f| f.path.clone()).collect()
    }

    pub(crate) fn write(&mut self, path: &str, offset: u64, data: &[u8]) -> io::Result<()> {
        let f = self.files.get_mut(path).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, path.to_owned()))?;
        let end = offset + data.len() as u64;
        if end > f.capacity {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "write past the end"));
        }
        OpenOptions::new().write(true).open(&f.host)?.write_all_at(data, offset)?;
        if f.parent.is_some() {
            f.extents.insert(offset, end);
        }
        if let Some(track) = &mut f.track {
            track.note(offset, end);
        }
        Ok(())
    }

    /// A new delta on top of `parent`.
    pub(crate) fn create_delta(&mut self, parent: &str, path: &str, dir: &Path, content_id: u32) -> io::Result<()> {
        let p =
            self.files.get(parent).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, parent.to_owned()))?.clone();
        let rel = split_path(path).map(|(_, rel)| rel).unwrap_or(path);
        let host = host_file(dir, rel, "delta");
        if host.exists() {
            std::fs::remove_file(&host)?;
        }
        create_sparse(&host, p.capacity)?;
        let delta = Vmdk {
            path: path.into(),
            host,
            content_id,
            change_id: None,
            track: p.track.as_ref().map(Track::next),
            parent: Some(parent.into()),
            extents: Extents::default(),
            grown: 0,
            borrowed: false,
            clone: false,
            ..p
        };
        self.files.insert(path.into(), delta);
        Ok(())
    }

    /// Copies the delta's extents into its parent and removes the delta. Its children get the parent.
    pub(crate) fn merge_into_parent(&mut self, path: &str) -> io::Result<()> {
        let gone = |p: &str| io::Error::new(io::ErrorKind::NotFound, p.to_owned());
        let delta = self.files.get(path).ok_or_else(|| gone(path))?.clone();
        let parent_path = delta.parent.clone().ok_or_else(|| gone("parent"))?;
        let parent = self.files.get_mut(&parent_path).ok_or_else(|| gone(&parent_path))?;
        let (from, to) = (File::open(&delta.host)?, OpenOptions::new().write(true).open(&parent.host)?);
        for (start, end) in delta.extents.iter() {
            copy_range(&from, &to, start, end)?;
            if parent.parent.is_some() {
                parent.extents.insert(start, end);
            }
        }
        parent.change_id = delta.change_id.clone();
        parent.track = delta.track.clone();
        for child in self.children(path) {
            if let Some(c) = self.files.get_mut(&child) {
                c.parent = Some(parent_path.clone());
            }
        }
        self.files.remove(path);
        std::fs::remove_file(&delta.host)
    }

    /// Host files from top to base, with the extents of each delta: enough to flatten without the store.
    pub(crate) fn layers(&self, path: &str) -> Vec<(PathBuf, Option<Extents>)> {
        self.chain(path)
            .iter()
            .filter_map(|p| self.files.get(p))
            .map(|f| (f.host.clone(), f.parent.is_some().then(|| f.extents.clone())))
            .collect()
    }

    pub(crate) fn delete(&mut self, path: &str) -> io::Result<()> {
        match self.files.remove(path) {
            Some(f) if !f.borrowed => std::fs::remove_file(&f.host),
            _ => Ok(()),
        }
    }
}

/// Writes the view of a chain (top first) into one raw file.
pub(crate) fn flatten(layers: &[(PathBuf, Option<Extents>)], out: &Path) -> io::Result<()> {
    let base = layers.last().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "empty chain"))?;
    let from = File::open(&base.0)?;
    let size = from.metadata()?.len();
    create_sparse(out, size)?;
    let to = OpenOptions::new().write(true).open(out)?;
    let mut at = 0i64;
    // Only the data of a sparse base is copied.
    while let Ok(start) = lseek(&from, at, Whence::SeekData) {
        let end = lseek(&from, start, Whence::SeekHole).map_err(io::Error::from)?;
        copy_range(&from, &to, start.unsigned_abs(), end.unsigned_abs())?;
        at = end;
    }
    for (path, extents) in layers.iter().rev().skip(1) {
        let from = File::open(path)?;
        for (start, end) in extents.iter().flat_map(Extents::iter) {
            copy_range(&from, &to, start, end)?;
        }
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buf = vec![0u8; 1 << 20];
    let mut at = start;
    while at < end {
        let n = usize::try_from((end - at).min(buf.len() as u64)).unwrap_or(buf.len());
        from.read_exact_at(&mut buf[..n], at)?;
        to.write_all_at(&buf[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Extents;

    #[test]
    fn extents_join_and_stay_sorted() {
        let mut e = Extents::default();
        e.insert(10, 20);
        e.insert(30, 40);
        e.insert(20, 30);
        e.insert(0, 5);
        assert_eq!(e.iter().collect::<Vec<_>>(), vec![(0, 5), (10, 40)]);
        e.insert(12, 13);
        assert_eq!(e.iter().count(), 2);
    }
}
