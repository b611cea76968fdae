//! `hotadd-agent support-bundle`: complete while a job runs and when hardly anything can be had, and no secret in any byte of it.
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use hotadd_agent::journal::{Record, file::read_records};
use hotadd_harness::{
    Content, Scene,
    scene::{PASSWORD, TARGET},
};
use serde_json::json;

use crate::support::{MIB, control, dense, nothing_stays, reading, request, scene};

const TOKEN: &str = "canary-of-the-environment";
const COMMENT: &str = "canary-of-a-comment";
const UNKNOWN: &str = "canary-of-an-unknown-key";

/// What a bundle holds: its bytes without gzip, and its members.
struct Bundle {
    bytes: Vec<u8>,
    members: BTreeMap<String, String>,
}

impl Bundle {
    fn member(&self, name: &str) -> Result<&str> {
        self.members.get(name).map(String::as_str).with_context(|| format!("no {name} in {:?}", self.members.keys()))
    }
}

fn made(scene: &Scene, name: &str) -> Result<Bundle> {
    let (out, folder) = (scene.dir.join(name), scene.dir.join(format!("{name}.d")));
    let path = format!("{}:{}", scene.dir.join("bin").display(), std::env::var("PATH")?);
    let run = scene.support_bundle(&out, &[("PATH", &path), ("SITE_TOKEN", TOKEN)])?;
    ensure!(run.code == 0, "{run:#?}");
    ensure!(fs::metadata(&out)?.permissions().mode() & 0o7777 == 0o600);
    let bytes = Command::new("gzip").arg("-dc").arg(&out).output()?;
    fs::create_dir(&folder)?;
    let tar = Command::new("tar").arg("-xzf").arg(&out).arg("-C").arg(&folder).output()?;
    ensure!(bytes.status.success() && tar.status.success(), "{tar:?}");
    let mut members = BTreeMap::new();
    for entry in fs::read_dir(folder.join("hotadd-support"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("name")?.to_owned();
        members.insert(name, fs::read_to_string(&path)?);
    }
    Ok(Bundle { bytes: bytes.stdout, members })
}

/// Everything secret that there is, each with a name for the failure.
fn canaries(scene: &Scene) -> Result<Vec<(String, String)>> {
    let mut all: Vec<(String, String)> =
        [PASSWORD, TOKEN, COMMENT, UNKNOWN].map(|canary| (canary.to_owned(), canary.to_owned())).to_vec();
    let key = fs::read_to_string(scene.pki.file("server.key"))?;
    all.extend(key.lines().filter(|line| !line.contains("-----")).map(|line| ("the key".to_owned(), line.to_owned())));
    let (records, _) = read_records(&scene.dir.join("state/journal"))?;
    let logins = records.into_iter().filter_map(|record| match record {
        Record::Began(duty) => duty.login,
        _ => None,
    });
    all.extend(logins.map(|login| ("the session's key".to_owned(), login)));
    Ok(all)
}

/// In each of these forms a canary is the canary.
fn forms(canary: &str) -> Vec<String> {
    let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = canary
        .bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    let mut all =
        vec![canary.to_owned(), hex.to_uppercase(), hex, percent, format!("{canary:?}").trim_matches('"').to_owned()];
    all.push(serde_json::to_string(canary).unwrap_or_default().trim_matches('"').to_owned());
    // At each of the three places where it may stand; the characters that its neighbours change are left off.
    for shift in 0..3 {
        let bytes = [vec![0; shift], canary.as_bytes().to_vec()].concat();
        let whole = (shift * 8).div_ceil(6)..bytes.len() * 8 / 6;
        all.push(STANDARD_NO_PAD.encode(bytes)[whole].to_owned());
    }
    all
}

fn is_clean(scene: &Scene, bundle: &Bundle) -> Result<()> {
    for (name, canary) in canaries(scene)? {
        for form in forms(&canary) {
            let found = bundle.bytes.windows(form.len()).any(|window| window == form.as_bytes());
            let place = bundle.members.iter().find(|(_, text)| text.contains(&form)).map(|(name, _)| name);
            ensure!(!found, "{name} is in the bundle as {form}, in {place:?}");
        }
    }
    Ok(())
}

/// A journald of a host whose log holds what should never have been logged.
fn leaky_log(scene: &Scene) -> Result<()> {
    let (bin, log) = (scene.dir.join("bin"), scene.dir.join("leaks"));
    fs::create_dir(&bin)?;
    let mut text = String::from("a good line\n");
    for (_, canary) in canaries(scene)?.iter().filter(|(name, _)| ![COMMENT, UNKNOWN].contains(&name.as_str())) {
        forms(canary).iter().for_each(|form| text.push_str(&format!("before {form} behind\n")));
    }
    text.push_str(&fs::read_to_string(scene.pki.file("server.key"))?);
    text.push_str("Authorization: Basic canary-of-a-header\nlast line\n");
    fs::write(&log, text)?;
    script(&bin.join("journalctl"), &format!("#!/bin/sh\nexec cat '{}'\n", log.display()))
}

fn script(path: &PathBuf, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn append(path: &Path, text: &str) -> Result<()> {
    Ok(fs::write(path, fs::read_to_string(path)? + text)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_complete_while_a_job_runs_and_holds_no_secret() -> Result<()> {
    let (dir, scene) = scene(&[dense(64 * MIB, 1)], |_| {})?;
    append(&scene.config(), &format!("\n# {COMMENT}\n"))?;
    let run = reading(&scene, &dir, request(TARGET)).await?;
    ensure!(canaries(&scene)?.iter().any(|(name, _)| name == "the session's key"), "no canary in the journal");
    leaky_log(&scene)?;
    let bundle = made(&scene, "bundle.tar.gz")?;
    is_clean(&scene, &bundle)?;
    let attached = scene.left_attached().await?;
    let [file] = &attached[..] else { anyhow::bail!("attached: {attached:?}") };
    for (name, expected) in [
        ("duties.jsonl", file.as_str()),
        ("journal.jsonl", "(hidden)"),
        ("vcenter.txt", "independent_nonpersistent"),
        ("vcenter.txt", file),
        ("agent.toml", "backup@vsphere.local"),
        ("files.txt", "tls.key_file /"),
        ("files.txt", "mode 600"),
        ("files.txt", "names DNSName(localhost)"),
        ("versions.txt", env!("CARGO_PKG_VERSION")),
        ("versions.txt", "VMware vCenter"),
        ("kernel.txt", "Linux"),
        ("disks.txt", "DeviceFacts"),
        ("findings.txt", "nothing is wrong"),
        ("log.txt", "a good line"),
        ("log.txt", "last line"),
    ] {
        let text = bundle.member(name)?;
        ensure!(text.contains(expected), "{expected} is not in {name}: {text}");
    }
    let log = bundle.member("log.txt")?;
    ensure!(!log.contains("canary") && !log.contains("behind"), "{log}");
    drop(run);
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_had_is_told_and_nothing_is_overwritten() -> Result<()> {
    let (_dir, scene) = scene(&[Content::new(MIB, 1)], |_| {})?;
    control(&scene, json!({"cmd": "vc_down", "ms": 60_000})).await?;
    let down = made(&scene, "down.tar.gz")?;
    control(&scene, json!({"cmd": "vc_down", "ms": 0})).await?;
    let missing = down.member("MISSING.txt")?;
    ensure!(missing.contains("vcenter.txt: ") && missing.contains("vCenter"), "{missing}");
    ensure!(down.member("versions.txt")?.contains("vCenter unknown") && down.member("duties.jsonl").is_ok());
    // A configuration that the agent would refuse, secrets where none belong.
    append(&scene.config(), &format!("\n[wrong]\n'{UNKNOWN}' = '{UNKNOWN}'\n# {COMMENT}\n"))?;
    let wrong = made(&scene, "wrong.tar.gz")?;
    is_clean(&scene, &wrong)?;
    ensure!(wrong.member("agent.toml")?.starts_with("# left out: 1 "), "{:?}", wrong.members);
    ensure!(wrong.member("MISSING.txt")?.contains("vcenter.txt: the configuration has faults"), "{:?}", wrong.members);
    append(&scene.config(), UNKNOWN)?;
    let broken = made(&scene, "broken.tar.gz")?;
    is_clean(&scene, &broken)?;
    ensure!(broken.member("MISSING.txt")?.contains("agent.toml: "), "{:?}", broken.members);
    let out = scene.dir.join("down.tar.gz");
    let before = fs::read(&out)?;
    let again = scene.support_bundle(&out, &[])?;
    ensure!(again.code == 1 && again.stderr.contains("error: HA-SUP-001"), "{again:#?}");
    ensure!(fs::read(&out)? == before, "it was overwritten");
    nothing_stays(&scene).await
}
