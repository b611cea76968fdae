//! What the lab tests share.
use anyhow::{Result, ensure};
use hotadd_harness::{Content, Lab, Spec};

pub(crate) const MIB: u64 = 1 << 20;

/// A guest with four controllers and the agent serving, or `None` where the lab is not set up (told as a skip).
pub(crate) fn lab(
    disks: &[Content],
    change: impl FnOnce(&mut Spec),
    options: &[&str],
) -> Result<Option<(tempfile::TempDir, Lab)>> {
    if std::env::var_os("HOTADD_GUEST").is_none() {
        skip("HOTADD_GUEST is not set: run ci/part-lab");
        return Ok(None);
    }
    let dir = tempfile::tempdir()?;
    let mut spec = Spec::new(dir.path(), disks, 4);
    change(&mut spec);
    let lab = Lab::start(dir.path(), spec, options)?;
    Ok(Some((dir, lab)))
}

fn skip(why: &str) {
    eprintln!("skipped: {why}");
    if let Some(path) = std::env::var_os("HOTADD_SKIPS") {
        use std::io::Write as _;
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "lab: {why}")).ok();
    }
}

/// Nothing of ours is left, as vCenter and the guest's kernel tell it; the source was never written.
pub(crate) async fn nothing_is_left(lab: &Lab) -> Result<()> {
    let attached = lab.left_attached().await?;
    ensure!(attached.is_empty(), "left attached: {attached:?}");
    ensure!(lab.snapshots().await?.is_empty(), "a snapshot is left");
    let counters = lab.control().await?.counters().await?;
    ensure!(counters["file_operation_count"] == 0, "a file operation was asked for: {counters}");
    let anchors = lab.spec.inventory.vms[0].disks.len();
    let seen = lab.guest.sh("ls -d /sys/block/sd* | wc -l")?;
    ensure!(seen.trim() == anchors.to_string(), "the guest shows {seen} disks, {anchors} are its own");
    let writes = lab.control().await?.guest_writes().await?;
    ensure!(writes == 0, "the guest wrote {writes} times");
    Ok(())
}
