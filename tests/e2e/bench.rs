//! `hotadd-agent bench` as somebody at a site runs it: figures of a loop device, files that need nothing else, nothing written to
//! the device, and one clear refusal of what is none.
use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use hotadd_harness::{Content, Run, binary, content::hash, slow::LoopDevice};
use serde_json::Value;

use crate::support::{MIB, dense, skip};

fn bench(args: &[&str]) -> Result<Run> {
    Run::of(
        Command::new(binary("hotadd-agent")?)
            .arg("bench")
            .args(["--max-mib", "1", "--seconds-per-cell", "5"])
            .args(args),
    )
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A loop device that could be written: that it is not must be the benchmark's doing. `None`: there is none here, which is told.
fn writable_loop(file: &Path) -> Option<LoopDevice> {
    LoopDevice::writable(file).map_err(|error| skip(&format!("bench e2e: no loop device: {error:#}"))).ok()
}

/// Write commands that a block device has completed (field 5 of its stat).
fn writes(node: &Path) -> Result<u64> {
    let name = node.file_name().context("no name")?.to_string_lossy().into_owned();
    let stat = fs::read_to_string(format!("/sys/block/{name}/stat"))?;
    Ok(stat.split_whitespace().nth(4).context("no writes")?.parse()?)
}

#[test]
fn a_device_is_measured_and_not_changed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (file, out) = (dir.path().join("disk.raw"), dir.path().join("out"));
    let content: Content = dense(4 * MIB, 3);
    content.write(&file)?;
    let before = hash(&file)?;
    let Some(disk) = writable_loop(&file) else { return Ok(()) };
    let written = writes(&disk.node)?;
    let state = dir.path().join("state");
    fs::create_dir(&state)?;
    fs::write(state.join("rates.json"), r#"{"attach_seconds": 7.25}"#)?;

    let run = bench(&["--device", text(&disk.node), "--out", text(&out), "--state-dir", text(&state)])?;
    ensure!(run.code == 0, "{run:#?}");
    ensure!(run.stdout.contains("attach and discover: 7.25 s\ndetach: never measured"), "{run:#?}");
    let results: Value = serde_json::from_slice(&fs::read(out.join("bench.json"))?)?;
    let cells = results["cells"].as_array().context("no cells")?;
    ensure!(cells.len() == 45, "3 engines, 3 block sizes, 5 depths: {}", cells.len());
    for cell in cells.iter().filter(|cell| cell["failed"].is_null()) {
        ensure!(cell["bytes"] == MIB && cell["mb_per_s"].as_f64() > Some(0.0), "{cell}");
        ensure!(cell["p99_us"].as_u64() >= cell["p50_us"].as_u64() && cell["p50_us"].is_u64(), "{cell}");
        ensure!(cell["commands_per_read"].as_f64() > Some(0.0), "the kernel counts a loop device's commands: {cell}");
    }
    ensure!(cells.iter().any(|cell| cell["engine"] == "preadv" && cell["failed"].is_null()), "preadv works everywhere");
    assert_eq!(results["size_bytes"], 4 * MIB);
    let page = fs::read_to_string(out.join("bench.html"))?;
    ensure!(page.contains("<svg") && !page.contains("<script") && !page.contains("src="), "not self-contained");
    // Every line of the table is a cell.
    ensure!(run.stdout.lines().count() == 1 + cells.len() + 2, "{run:#?}");

    assert_eq!((hash(&file)?, writes(&disk.node)?), (before, written), "the device was written");
    Ok(())
}

#[test]
fn json_is_all_that_is_printed_and_no_file_is_made_unasked() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("disk.raw");
    dense(2 * MIB, 4).write(&file)?;
    let Some(disk) = writable_loop(&file) else { return Ok(()) };
    let mut command = Command::new(binary("hotadd-agent")?);
    command.current_dir(dir.path()).args(["bench", "--json", "--max-mib", "1", "--device", text(&disk.node)]);
    let run = Run::of(command.args(["--state-dir", text(dir.path())]))?;
    ensure!(run.code == 0, "{run:#?}");
    let results: Value = serde_json::from_str(&run.stdout)?;
    assert_eq!((&results["format"], &results["rates"]["attach_seconds"]), (&"hotadd-bench/1".into(), &Value::Null));
    assert_eq!(fs::read_dir(dir.path())?.count(), 1, "only the disk's own file is there");
    Ok(())
}

#[test]
fn what_is_no_block_device_is_refused_in_one_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (file, out) = (dir.path().join("disk.raw"), dir.path().join("out"));
    dense(MIB, 5).write(&file)?;
    for path in [&file, &dir.path().join("none")] {
        let run = bench(&["--device", text(path), "--out", text(&out)])?;
        let lines: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        ensure!(run.code == 1 && lines.len() == 1 && lines[0].starts_with("error: HA-BEN-001 "), "{run:#?}");
        ensure!(lines[0].contains(text(path)) && lines[0].contains("; next: "), "{run:#?}");
        ensure!(run.stdout.is_empty() && !out.exists(), "{run:#?}");
    }
    Ok(())
}
