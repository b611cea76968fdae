//! That the scene's power cut is one: what was flushed is there after it, what was only written is not.
use anyhow::{Result, bail, ensure};

use super::scene::Scene;

/// The kernel flushes by itself every few seconds: a cut may come just after that.
const TRIES: u32 = 3;
const FILE: &str = "/var/lib/hotadd/power-cut";

/// Cuts the power after a write that bypassed the guest's page cache and was not flushed, and looks. Ends with a running agent.
pub async fn a_cut_loses_what_was_not_flushed(scene: &mut Scene) -> Result<()> {
    scene.guest(&format!("head -c 8192 /dev/zero > {FILE} && sync {FILE} && sync"))?;
    for _ in 0..TRIES {
        scene.guest(&write(0, "flushed", ",fsync"))?;
        scene.guest(&write(1, "written", ""))?;
        let there = scene.guest(&format!("dd if={FILE} bs=4096 skip=1 iflag=direct 2>/dev/null | head -c 7"))?;
        ensure!(there == "written", "the write did not reach the disk: {there:?}");
        scene.cut_power()?;
        scene.power_on().await?;
        let text = scene
            .guest(&format!("head -c 7 {FILE}; dd if={FILE} bs=4096 skip=1 2>/dev/null | head -c 7 | tr '\\0' 0"))?;
        match text.as_str() {
            "flushed0000000" => {
                println!("power cut: a flushed write is kept, an unflushed one is lost");
                scene.guest(&format!("rm {FILE}"))?;
                return scene.agent_ready();
            }
            "flushedwritten" => {
                scene.guest(&format!("dd if=/dev/zero of={FILE} bs=4096 count=2 conv=notrunc,fsync"))?
            }
            other => bail!("a flushed write did not survive the power cut: {other:?}"),
        };
    }
    bail!("{TRIES} power cuts lost nothing: they are none")
}

/// Writes one block past the page cache.
fn write(block: u32, text: &str, flush: &str) -> String {
    format!(
        "(printf {text}; head -c 4089 /dev/zero) | dd of={FILE} bs=4096 count=1 seek={block} iflag=fullblock oflag=direct conv=notrunc{flush} 2>/dev/null"
    )
}
