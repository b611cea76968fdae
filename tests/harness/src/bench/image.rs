//! Into a sparse image that is synced, beside nbdcopy over TLS into a file of the same file system.
use std::path::Path;

use anyhow::Result;

use super::{
    Report, Size,
    disk::Linked,
    jobs::backup,
    measure::{About, Contender, Sample, compare},
    servers::{Server, certificates},
};
use crate::{Content, slow::LoopDevice};

pub(super) fn run(dir: &Path, size: &Size, report: &mut Report) -> Result<()> {
    let bytes = size.bytes;
    let linked = Linked::start(dir, Content { bytes, seed: 7, every: 1 }, false)?;
    let device = LoopDevice::of(&linked.file)?;
    let server = Server::nbdkit(dir, &device.node, Some(&certificates(dir, &linked.scene.pki)?))?;
    let (out, copy) = (dir.join("out"), dir.join("copy.raw"));
    let ours = Contender::new("agent, mutual TLS, hotaddctl, image", "hotaddctl backup --vm web01 --out DIR", || {
        let done = backup(&linked.scene, &out, &[])?;
        std::fs::remove_dir_all(&out)?;
        Ok(Sample { stages: done.stages, ..Sample::new(bytes, done.kept, done.cpu) })
    });
    let peer = server.copied_to("nbdkit file, nbdcopy --flush, mutual TLS, file", &copy, bytes).at_least(1.0);
    let note = "Ours: from the opened disk to the proven backup, so with every hash checked here, images, manifest and folder synced, the disk \
        detached and the snapshot removed. Theirs: the run of nbdcopy.";
    compare(report, &About { part: "image", bytes, rounds: size.rounds, note, ..About::default() }, vec![ours, peer])
}
