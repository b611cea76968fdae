//! The examples of the documentation as their reader runs them: other people's gRPC against the agent.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use hotadd_harness::{Run, Scene, content::same, scene::TARGET};

use crate::support::{MIB, dense, nothing_is_left, scene, skip};

const KEYS: [i32; 2] = [2000, 2001];

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples")
}

/// A Python that has what the client needs; `$HOTADD_PYTHON` names it.
fn python() -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var_os("HOTADD_PYTHON").unwrap_or_else(|| "python3".into()));
    let imports = Command::new(&python).args(["-c", "import grpc, grpc_status, grpc_tools, blake3"]).output();
    if imports.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skip("the Python example: no Python with grpcio, grpcio-status, grpcio-tools and blake3 (HOTADD_PYTHON)");
    None
}

/// The package with its stubs, in a folder of the test's own.
fn package(python: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("hotadd"))?;
    for file in ["hotadd/__init__.py", "hotadd/client.py", "read_disks.py", "backup_vm.py"] {
        fs::copy(examples().join("python").join(file), folder.join(file))?;
    }
    let made = Run::of(Command::new(examples().join("python/generate")).arg(python).arg(folder))?;
    ensure!(made.code == 0, "{made:#?}");
    Ok(())
}

fn read(mut program: Command, scene: &Scene, vm: &str, out: &Path) -> Result<Run> {
    fs::create_dir_all(out)?;
    let agent = scene.url.strip_prefix("https://").context("a URL")?;
    Run::of(program.arg(agent).arg(&scene.pki.dir).arg(vm).arg(out))
}

/// Every image is its disk, and the hash that was printed is the image's.
fn is_the_backup(scene: &Scene, run: &Run, out: &Path) -> Result<()> {
    ensure!(run.code == 0, "{run:#?}");
    for (n, key) in KEYS.into_iter().enumerate() {
        let image = out.join(format!("{key}.raw"));
        same(&image, &scene.source(n))?;
        let line = run.stdout.lines().find(|line| line.ends_with(&format!("{key}.raw"))).context("no line")?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&fs::read(&image)?);
        ensure!(line.starts_with(&hasher.finalize().to_hex().to_string()), "{line}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_reads_verifies_and_closes() -> Result<()> {
    let Some(python) = python() else { return Ok(()) };
    let (dir, scene) = scene(&[dense(5 * MIB, 1), hotadd_harness::Content::new(8 * MIB, 2)], |_| {})?;
    let (code, out) = (dir.path().join("code"), dir.path().join("out"));
    package(&python, &code)?;
    let program = || {
        let mut command = Command::new(&python);
        command.arg(code.join("read_disks.py"));
        command
    };
    is_the_backup(&scene, &read(program(), &scene, TARGET, &out)?, &out)?;
    nothing_is_left(&scene).await?;
    // A refusal comes as its code, what to do, and what is owed.
    let unknown = read(program(), &scene, "nobody", &out)?;
    ensure!(unknown.code == 1 && unknown.stderr.starts_with("HA-VM-001 "), "{unknown:#?}");
    ensure!(unknown.stderr.contains("; next: ") && unknown.stderr.contains("cleanup: done"), "{unknown:#?}");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_job_is_a_backup() -> Result<()> {
    let Some(python) = python() else { return Ok(()) };
    let (dir, scene) = scene(&[dense(5 * MIB, 1), hotadd_harness::Content::new(8 * MIB, 2)], |_| {})?;
    let (code, out) = (dir.path().join("code"), dir.path().join("out"));
    package(&python, &code)?;
    let program = || {
        let mut command = Command::new(&python);
        command.arg(code.join("backup_vm.py"));
        command
    };
    let run = read(program(), &scene, TARGET, &out)?;
    ensure!(run.code == 0 && run.stdout.contains(": 2 disks"), "{run:#?}");
    for (n, key) in KEYS.into_iter().enumerate() {
        same(&out.join(format!("{key}.raw")), &scene.source(n))?;
    }
    nothing_is_left(&scene).await?;
    let unknown = read(program(), &scene, "nobody", &out)?;
    ensure!(unknown.code == 1 && unknown.stderr.starts_with("HA-VM-001 "), "{unknown:#?}");
    nothing_is_left(&scene).await
}

/// A program that `go/build` has made; `$HOTADD_GO_EXAMPLES` is their folder. Compiling gRPC takes longer than a test may.
fn go(name: &str) -> Option<Command> {
    let Some(folder) = std::env::var_os("HOTADD_GO_EXAMPLES") else {
        skip("the Go example: nobody compiled it (HOTADD_GO_EXAMPLES)");
        return None;
    };
    Some(Command::new(Path::new(&folder).join(name)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_controller_reads_verifies_and_closes() -> Result<()> {
    let (Some(program), Some(again)) = (go("read_disks"), go("read_disks")) else { return Ok(()) };
    let (dir, scene) = scene(&[dense(5 * MIB, 1), hotadd_harness::Content::new(8 * MIB, 2)], |_| {})?;
    let out = dir.path().join("out");
    is_the_backup(&scene, &read(program, &scene, TARGET, &out)?, &out)?;
    nothing_is_left(&scene).await?;
    let unknown = read(again, &scene, "nobody", &out)?;
    ensure!(unknown.code == 1 && unknown.stderr.contains("HA-VM-001"), "{unknown:#?}");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_job_is_a_backup() -> Result<()> {
    let Some(program) = go("backup_vm") else { return Ok(()) };
    let (dir, scene) = scene(&[dense(5 * MIB, 1), hotadd_harness::Content::new(8 * MIB, 2)], |_| {})?;
    let out = dir.path().join("out");
    let run = read(program, &scene, TARGET, &out)?;
    ensure!(run.code == 0, "{run:#?}");
    for (n, key) in KEYS.into_iter().enumerate() {
        same(&out.join(format!("{key}.raw")), &scene.source(n))?;
    }
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_example_reads_verifies_and_closes() -> Result<()> {
    let missing = ["grpcurl", "jq", "b3sum"]
        .into_iter()
        .find(|tool| !Command::new("which").arg(tool).output().is_ok_and(|output| output.status.success()));
    if let Some(tool) = missing {
        skip(&format!("the shell example: no {tool}"));
        return Ok(());
    }
    let (dir, scene) = scene(&[dense(3 * MIB, 1), hotadd_harness::Content::new(8 * MIB, 2)], |_| {})?;
    let out = dir.path().join("out");
    let run = read(Command::new(examples().join("shell/read_disks")), &scene, TARGET, &out)?;
    is_the_backup(&scene, &run, &out)?;
    nothing_is_left(&scene).await
}
