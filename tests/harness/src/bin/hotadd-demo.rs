//! The main job as a user sees it: a simulated vCenter, a proxy guest with the agent as its service, a target VM with
//! two disks, one `hotaddctl backup`, and the proof. `--mixed`: three disks, of which two are on datastores that forbid
//! HotAdd and come by NBD. Started by ci/demo. Exit status 0 only if everything holds.
#![forbid(unsafe_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use hotadd_harness::{
    Content, Exports, Lab, Run, Spec,
    content::same,
    ctl::images,
    guest::HOST,
    scene::{FIRST_KEY, PROXY, TARGET},
};

/// Real files on the system disk, bytes.
const SYSTEM_FILES: u64 = 210 << 20;
const SYSTEM_DISK: u64 = 512 << 20;
const DATA_DISK: u64 = 2 << 30;
/// Of the two disks that come by NBD: the emulated network is slow.
const MIXED_DISK: u64 = 96 << 20;

#[derive(Debug, Parser)]
struct Args {
    /// Leaves the lab running and tells how to look around; Ctrl-C ends it.
    #[arg(long)]
    keep: bool,
    /// Three disks: on VMFS, on vSAN with the proxy elsewhere, a linked clone on vVol. One by HotAdd, two by NBD.
    #[arg(long)]
    mixed: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match demo(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(args: &Args) -> Result<()> {
    let start = Instant::now();
    let say = |text: &str| println!("[{:>5.1} s] {text}", start.elapsed().as_secs_f64());
    let dir = tempfile::Builder::new().prefix("hotadd-demo-").tempdir()?;
    say("making the target's disks: a system disk with real files, a mostly empty data disk");
    let mut spec = target(dir.path(), args.mixed)?;
    let mut servers = args.mixed.then(|| Exports::bind(dir.path())).transpose()?;
    if let Some(servers) = &servers {
        spec.three_kinds(dir.path())?;
        spec.nbd_servers(servers)?;
    }
    say("starting the simulated vCenter and booting the proxy guest (4 x pvscsi, vmxnet3, systemd, udev)");
    let lab = Lab::start(dir.path(), spec, &[])?;
    say(&format!("hotadd-agent serves in the guest at {}; vCenter is {}", lab.url, lab.vcenter.url));

    let mut ways = Vec::new();
    if let Some(servers) = &mut servers {
        let keys = [FIRST_KEY + 1, FIRST_KEY + 2];
        servers.serve(&lab.vcenter.control, &lab.pki, &keys)?;
        ways = keys
            .map(|key| Ok(format!("--nbd={key}={}/{key}", servers.uri(HOST)?)))
            .into_iter()
            .collect::<Result<_>>()?;
        say(&format!("hotaddctl explain --vm {TARGET} {}", ways.join(" ")));
        let explained = ctl(&lab)?.args(["explain", "--vm", TARGET]).args(&ways).status()?;
        ensure!(explained.success(), "hotaddctl explain: {explained}");
    }
    let out = dir.path().join("backup");
    say(&format!("hotaddctl backup --vm {TARGET} --out {} {}", out.display(), ways.join(" ")));
    let status = ctl(&lab)?.args(["backup", "--vm", TARGET, "--out"]).arg(&out).args(&ways).status()?;
    let mut proven =
        if status.success() { prove(&lab, &out).await } else { Err(anyhow::anyhow!("hotaddctl: {status}")) };
    if args.mixed && proven.is_ok() {
        proven = came_by(&out, &["hotadd", "nbd", "nbd"]);
    }
    if proven.is_err() {
        eprintln!("---- the agent's journal ----\n{}", lab.journal().unwrap_or_default());
    }
    let left = lab.left_attached().await?;
    println!("disks left attached: {}", left.len());
    if args.keep {
        keep(&lab, &out).await?;
    }
    proven?;
    ensure!(left.is_empty(), "still attached: {left:?}");
    say("done");
    Ok(())
}

fn ctl(lab: &Lab) -> Result<Command> {
    Run::command(&lab.url, &lab.pki, "client").context("hotaddctl")
}

/// The transports that the manifest tells, in the order of the disks.
fn came_by(out: &Path, expected: &[&str]) -> Result<()> {
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(out.join("manifest.json"))?)?;
    let mut disks: Vec<_> = manifest["disks"].as_array().into_iter().flatten().collect();
    disks.sort_by_key(|disk| disk["device_key"].as_i64());
    let told: Vec<&str> = disks.iter().map(|disk| disk["transport"].as_str().unwrap_or("?")).collect();
    ensure!(told == expected, "the disks came by {told:?}, expected was {expected:?}");
    for (disk, way) in disks.iter().zip(&told) {
        println!("  disk {} of {} came by {way}", disk["device_key"], disk["backing"]);
    }
    Ok(())
}

/// Images equal their sources, file systems are whole, nothing was written, no snapshot is left.
async fn prove(lab: &Lab, out: &Path) -> Result<()> {
    println!("\nproof");
    for (n, (key, image)) in images(out)?.iter().enumerate() {
        let source = lab.source(n);
        same(image, &source)?;
        println!("  disk {key}: image equals {} byte for byte", file_name(&source));
        let fsck = Run::of(Command::new("e2fsck").args(["-f", "-n"]).arg(image))?;
        ensure!(fsck.code == 0, "e2fsck of {}: {}{}", image.display(), fsck.stdout, fsck.stderr);
        println!("  disk {key}: {}", fsck.stdout.lines().last().unwrap_or("e2fsck ok"));
    }
    let verify = lab.ctl(&["verify", &out.join("manifest.json").display().to_string()])?;
    ensure!(verify.code == 0, "hotaddctl verify: {}", verify.stderr);
    println!("  hotaddctl verify: every block matches the manifest");
    let mut control = lab.control().await?;
    let writes = control.guest_writes().await?;
    ensure!(writes == 0, "the guest wrote {writes} times to attached disks");
    println!("  writes of the guest to attached disks: 0");
    let snapshots = control.snapshots(TARGET).await?.len();
    ensure!(snapshots == 0, "{snapshots} snapshots left on {TARGET}");
    println!("  snapshots left on {TARGET}: 0");
    Ok(())
}

async fn keep(lab: &Lab, out: &Path) -> Result<()> {
    let guest = lab.guest.dir().display();
    let pki = lab.pki.dir.display();
    let address = lab.url.trim_start_matches("https://");
    println!(
        "\nthe lab stays up; look around:\n  log in           tests/lab/guest/ssh {guest}\n  \
         journal          tests/lab/guest/ssh {guest} journalctl -u hotadd-agent -f\n  \
         duties           tests/lab/guest/ssh {guest} hotadd-agent journal show\n  \
         grpcurl          grpcurl -cacert {pki}/ca.pem -cert {pki}/client.pem -key {pki}/client.key {address} list\n  \
         hotaddctl        target/ci/hotaddctl --agent {} --ca {pki}/ca.pem --cert {pki}/client.pem --key {pki}/client.key info\n  \
         images           {}\n  vCenter control  {}\nCtrl-C ends it",
        lab.url,
        out.display(),
        lab.vcenter.control.display(),
    );
    Ok(tokio::signal::ctrl_c().await?)
}

fn target(dir: &Path, mixed: bool) -> Result<Spec> {
    let data_bytes = if mixed { MIXED_DISK } else { DATA_DISK };
    let mut sizes = vec![SYSTEM_DISK, data_bytes];
    sizes.extend(mixed.then_some(MIXED_DISK));
    let contents: Vec<Content> = sizes.into_iter().map(|bytes| Content::new(bytes, 0)).collect();
    let mut spec = Spec::new(dir, &contents, 4);
    // The agent runs with its own defaults here, not with the short deadlines of tests.
    spec.agent_toml.clear();
    let sources: Vec<PathBuf> = spec.target().disks.iter().filter_map(|disk| disk.source.clone()).collect();
    let [system, data, more @ ..] = &sources[..] else { anyhow::bail!("{TARGET} has two disks at least") };
    let files = dir.join("files");
    let copied = copy_real_files(Path::new("/usr"), &files, SYSTEM_FILES)?;
    ensure!(copied >= SYSTEM_FILES, "only {copied} bytes of files found below /usr");
    make_ext4(system, SYSTEM_DISK, &files)?;
    fs::remove_dir_all(&files)?;
    fs::create_dir_all(files.join("mostly-empty"))?;
    fs::write(files.join("mostly-empty/readme"), format!("data disk of {TARGET}, backed up by {PROXY}\n"))?;
    make_ext4(data, data_bytes, &files)?;
    more.iter().try_for_each(|disk| make_ext4(disk, MIXED_DISK, &files))?;
    Ok(spec)
}

fn make_ext4(image: &Path, bytes: u64, files: &Path) -> Result<()> {
    let size = format!("{}k", bytes / 1024);
    let made = Run::of(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(files).arg(image).arg(size))?;
    ensure!(made.code == 0, "mke2fs: {}", made.stderr);
    let length = fs::metadata(image)?.len();
    ensure!(length == bytes, "mke2fs made {length} bytes");
    Ok(())
}

/// Copies regular files until `enough` bytes are there; tells how many.
fn copy_real_files(from: &Path, to: &Path, enough: u64) -> Result<u64> {
    fs::create_dir_all(to)?;
    let mut open = vec![from.join("bin"), from.join("lib"), from.join("share")];
    open.reverse();
    let (mut total, mut count) = (0, 0);
    while let Some(path) = open.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            let mut entries: Vec<PathBuf> = fs::read_dir(&path)?.filter_map(|e| Some(e.ok()?.path())).collect();
            entries.sort();
            open.extend(entries.into_iter().rev());
        } else if meta.is_file() && meta.len() < enough / 4 {
            fs::copy(&path, to.join(format!("{count:05}-{}", file_name(&path))))?;
            total += meta.len();
            count += 1;
        }
        if total >= enough {
            break;
        }
    }
    Ok(total)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
