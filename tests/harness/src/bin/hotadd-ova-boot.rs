//! Boots the appliance and uses it: properties that are an attack, then, in the same machine, good ones, then the main job, then a
//! power cut, and a restart beside the disk of another appliance. Started by ci/ova --boot with the folder to which the OVA was unpacked. One
//! line a check, then "N passed, N failed, 0 skipped".
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
    Content, Pki, Run, Spec, Stage,
    appliance::Appliance,
    content::same,
    ctl::images,
    guest::HOST,
    scene::{PASSWORD, PROXY, TARGET},
};

const HOSTNAME: &str = "proxy-under-test";
/// What QEMU's network gives by DHCP.
const ADDRESS: &str = "10.0.2.15";
const DISK: u64 = 48 << 20;
/// An external entity: a parser that resolves it would show a file of the appliance.
const ATTACK: &str = r#"<?xml version="1.0"?><!DOCTYPE Environment [<!ENTITY x SYSTEM "file:///etc/shadow">]>
<Environment><PropertySection><Property key="hotadd.hostname" value="&x;"/></PropertySection></Environment>"#;

#[derive(Debug, Parser)]
struct Args {
    /// Folder with the disks of the OVA
    unpacked: PathBuf,
}

/// Counts and prints.
struct Checks {
    start: Instant,
    passed: usize,
    failed: usize,
}

impl Checks {
    fn that(&mut self, what: &str, result: Result<()>) {
        let seconds = self.start.elapsed().as_secs();
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok      [{seconds:>3} s] {what}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED  [{seconds:>3} s] {what}: {error:#}");
            }
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut checks = Checks { start: Instant::now(), passed: 0, failed: 0 };
    let done = boot(&Args::parse(), &mut checks).await;
    checks.that("the appliance is used to its end", done);
    println!("{} passed, {} failed, 0 skipped", checks.passed, checks.failed);
    if checks.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn boot(args: &Args, checks: &mut Checks) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("hotadd-ova-").tempdir()?;
    let mut spec = Spec::new(dir.path(), &[Content::new(DISK, 1), Content::new(DISK, 2)], 4);
    let mut appliance = Appliance::deploy(&args.unpacked, &dir.path().join("appliance"), &mut spec)?;

    appliance.power_on(ATTACK)?;
    let mut stage = Stage::start(dir.path(), spec, &format!("qemu:{PROXY}:{}", appliance.monitor()?.display()))?;
    let console = appliance.console("login:")?;
    checks.that("an attack in the properties leaves it unconfigured, and says why", unconfigured(&console));
    let closed = appliance.certificate()?.is_none();
    checks.that("its port is closed", closed.then_some(()).context("somebody answers"));

    appliance.cut_power()?;
    appliance.power_on(&environment(&stage)?)?;
    reconnect(&stage, &mut appliance).await?;
    let console = appliance.console("the agent serves on port 7443")?;
    checks.that("good properties and a power-on are all that it takes to serve", Ok(()));
    let first = fingerprint(&console)?;
    let address = appliance.console(&format!("Address: {ADDRESS}")).map(drop);
    checks.that("the console shows the address", address);
    let pem = appliance.certificate()?.context("nobody answers")?;
    checks.that("the service shows the certificate of the console", shown(dir.path(), &pem, &first));

    // A controller knows the appliance by this certificate alone.
    let pki = Pki { dir: dir.path().join("controller") };
    fs::create_dir_all(&pki.dir)?;
    for name in ["client.pem", "client.key"] {
        fs::copy(stage.pki.file(name), pki.file(name))?;
    }
    fs::write(pki.file("ca.pem"), pem)?;
    stage.pki = pki;
    stage.url = format!("https://localhost:{}", appliance.port()?);
    let out = dir.path().join("backup");
    checks.that("a backup by hot-added disks is made", backup(&stage, &out));
    checks.that("its images equal the disks, byte for byte", equal(&stage, &out));
    checks.that("nothing is left attached, no snapshot, nothing written", nothing_left(&stage).await);

    appliance.cut_power()?;
    let twin = appliance.attach_a_twin()?;
    appliance.power_on("<Environment/>")?;
    reconnect(&stage, &mut appliance).await?;
    let console = appliance.console("the agent serves on port 7443")?;
    let kept = fingerprint(&console)? == first;
    checks.that(
        "after a power cut, without properties and with the disk of another appliance attached, it serves as before",
        kept.then_some(()).context("another fingerprint"),
    );
    appliance.cut_power()?;
    checks.that("nothing was written to the disk of the other appliance", appliance.unchanged(&twin));
    Ok(())
}

async fn reconnect(stage: &Stage, appliance: &mut Appliance) -> Result<()> {
    let request = serde_json::json!({"cmd": "backend_reconnect", "qmp": appliance.monitor()?});
    stage.control().await?.call(request).await?;
    Ok(())
}

fn unconfigured(console: &str) -> Result<()> {
    for part in ["State: UNCONFIGURED", "HA-APP-002", "document type"] {
        ensure!(console.contains(part), "no {part:?} on the console:\n{console}");
    }
    Ok(())
}

/// The last one that the console shows.
fn fingerprint(console: &str) -> Result<String> {
    let mut lines = console.lines().filter_map(|line| line.split_once("Certificate SHA-256: "));
    Ok(lines.next_back().context("no fingerprint on the console")?.1.trim().to_owned())
}

/// The environment that vCenter would make, with what vSphere's client does to PEM: one line.
fn environment(stage: &Stage) -> Result<String> {
    let pem = |path: &Path| Ok::<_, anyhow::Error>(fs::read_to_string(path)?.replace('\n', " "));
    let vcenter = format!("{HOST}:{}", stage.vcenter.port());
    let (authority, clients) = (pem(&stage.vcenter.ca)?, pem(&stage.pki.file("ca.pem"))?);
    let properties = [
        ("hostname", HOSTNAME),
        ("vcenter_address", &vcenter),
        ("vcenter_ca", &authority),
        ("vcenter_user", "backup@vsphere.local"),
        ("vcenter_password", PASSWORD),
        ("grpc_client_ca", &clients),
        ("limits_parallel_reads", "2"),
        ("network_address", ""),
        ("generation", "1"),
    ];
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    let one =
        |(key, value): (&str, &str)| format!("<Property oe:key=\"hotadd.{key}\" oe:value=\"{}\"/>\n", escaped(value));
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Environment xmlns=\"http://schemas.dmtf.org/ovf/environment/1\" \
         xmlns:oe=\"http://schemas.dmtf.org/ovf/environment/1\"><PropertySection>\n{}</PropertySection></Environment>\n",
        properties.map(one).concat()
    ))
}

fn shown(dir: &Path, pem: &str, fingerprint: &str) -> Result<()> {
    let file = dir.join("shown.pem");
    fs::write(&file, pem)?;
    let told = Run::of(Command::new("openssl").args(["x509", "-noout", "-sha256", "-fingerprint", "-in"]).arg(&file))?;
    ensure!(told.stdout.trim().ends_with(&format!("={fingerprint}")), "{} and {fingerprint}", told.stdout);
    Ok(())
}

fn backup(stage: &Stage, out: &Path) -> Result<()> {
    let out = out.display().to_string();
    let run = stage.ctl(&["--server-name", HOSTNAME, "backup", "--vm", TARGET, "--out", &out])?;
    ensure!(run.code == 0, "hotaddctl ends with {}: {}{}", run.code, run.stdout, run.stderr);
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(Path::new(&out).join("manifest.json"))?)?;
    let ways: Vec<_> =
        manifest["disks"].as_array().into_iter().flatten().map(|disk| disk["transport"].clone()).collect();
    ensure!(ways == ["hotadd", "hotadd"], "the disks came by {ways:?}");
    Ok(())
}

fn equal(stage: &Stage, out: &Path) -> Result<()> {
    let images = images(out)?;
    ensure!(images.len() == 2, "{} images", images.len());
    for (n, (_, image)) in images.iter().enumerate() {
        same(image, &stage.source(n))?;
    }
    Ok(())
}

async fn nothing_left(stage: &Stage) -> Result<()> {
    let (attached, snapshots) = (stage.left_attached().await?, stage.snapshots().await?);
    ensure!(attached.is_empty() && snapshots.is_empty(), "attached {attached:?}, snapshots {snapshots:?}");
    let writes = stage.control().await?.guest_writes().await?;
    ensure!(writes == 0, "the guest wrote {writes} times");
    Ok(())
}
