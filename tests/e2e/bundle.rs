//! `hotadd-agent support-bundle`: complete while a job runs and when hardly anything can be had, no secret in any byte of it, nothing changed.
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context as _, Result, ensure};
use hotadd_agent::journal::{Record, file::read_records};
use hotadd_harness::{
    Content, Run, Scene, binary,
    scene::{PASSWORD, TARGET},
};
use serde_json::json;

use crate::{
    canary::{Canary, forms, none_in},
    support::{MIB, calls, control, dense, fault, nothing_stays, reading, request, scene},
};

const TOKEN: &str = "canary-of-the-environment";
const COMMENT: &str = "canary-of-a-comment";
const UNKNOWN: &str = "canary-of-an-unknown-key";

/// What a bundle holds, and what the command said of it.
struct Bundle {
    path: PathBuf,
    members: BTreeMap<String, String>,
    told: String,
}

impl Bundle {
    fn member(&self, name: &str) -> Result<&str> {
        self.members.get(name).map(String::as_str).with_context(|| format!("no {name} in {:?}", self.members.keys()))
    }

    fn holds(&self, name: &str, expected: &str) -> Result<()> {
        let text = self.member(name)?;
        ensure!(text.contains(expected), "{expected} is not in {name}: {text}");
        Ok(())
    }

    /// Not there, for this cause, and said so at the end.
    fn misses(&self, name: &str, why: &str) -> Result<()> {
        ensure!(!self.members.contains_key(name), "{name} is there: {}", self.members[name]);
        let (parts, missing) = self.told.split_once("; not to be had: ").with_context(|| self.told.clone())?;
        ensure!(missing.contains(name) && !parts.contains(name), "{}", self.told);
        let mut lines = self.member("MISSING.txt")?.lines();
        ensure!(lines.any(|line| line.starts_with(&format!("{name}: ")) && line.contains(why)), "{:?}", self.members);
        Ok(())
    }
}

fn made(scene: &Scene, name: &str) -> Result<Bundle> {
    let (out, folder) = (scene.dir.join(name), scene.dir.join(format!("{name}.d")));
    let path = format!("{}:{}", scene.dir.join("bin").display(), std::env::var("PATH")?);
    let run = scene.support_bundle(&out, &[("PATH", &path), ("SITE_TOKEN", TOKEN)])?;
    ensure!(run.code == 0, "{run:#?}");
    ensure!(fs::metadata(&out)?.permissions().mode() & 0o7777 == 0o600);
    ensure!(run.stdout.lines().count() == 1 && run.stdout.starts_with(&format!("{}: ", out.display())), "{run:#?}");
    fs::create_dir(&folder)?;
    let tar = Command::new("tar").arg("-xpzf").arg(&out).arg("-C").arg(&folder).output()?;
    ensure!(tar.status.success(), "{tar:?}");
    let mut members = BTreeMap::new();
    for entry in fs::read_dir(folder.join("hotadd-support"))? {
        let path = entry?.path();
        ensure!(fs::metadata(&path)?.permissions().mode() & 0o7777 == 0o600, "{}", path.display());
        let name = path.file_name().and_then(|name| name.to_str()).context("name")?.to_owned();
        ensure!(run.stdout.contains(&name), "{name} is not told of: {}", run.stdout);
        members.insert(name, fs::read_to_string(&path)?);
    }
    Ok(Bundle { path: out, members, told: run.stdout })
}

/// Everything secret that there is, each with a name for the failure.
fn canaries(scene: &Scene) -> Result<Vec<Canary>> {
    let mut all: Vec<Canary> =
        [PASSWORD, TOKEN, COMMENT, UNKNOWN].map(|canary| (canary.to_owned(), canary.to_owned())).to_vec();
    let key = fs::read_to_string(scene.pki.file("server.key"))?;
    all.extend(key.lines().filter(|line| !line.contains("-----")).map(|line| ("the key".to_owned(), line.to_owned())));
    let (records, _) = read_records(&journal(scene))?;
    let logins = records.into_iter().filter_map(|record| match record {
        Record::Began(duty) => duty.login,
        _ => None,
    });
    all.extend(logins.map(|login| ("the session's key".to_owned(), login)));
    Ok(all)
}

fn journal(scene: &Scene) -> PathBuf {
    scene.dir.join("state/journal")
}

/// A journald of a host whose log holds what should never have been logged.
fn leaky_log(scene: &Scene) -> Result<()> {
    let log = scene.dir.join("leaks");
    let mut text = String::from("a good line\n");
    for (_, canary) in canaries(scene)?.iter().filter(|(name, _)| ![COMMENT, UNKNOWN].contains(&name.as_str())) {
        forms(canary).iter().for_each(|form| text.push_str(&format!("before {form} behind\n")));
    }
    text.push_str(&fs::read_to_string(scene.pki.file("server.key"))?);
    text.push_str("Authorization: Basic canary-of-a-header\nlast line\n");
    fs::write(&log, text)?;
    journalctl(scene, &format!("exec cat '{}'", log.display()))
}

fn journalctl(scene: &Scene, script: &str) -> Result<()> {
    let bin = scene.dir.join("bin");
    fs::create_dir_all(&bin)?;
    let path = bin.join("journalctl");
    fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?)
}

fn append(path: &Path, text: &str) -> Result<()> {
    Ok(fs::write(path, fs::read_to_string(path)? + text)?)
}

/// Names, bytes and times of the state directory.
fn state(scene: &Scene) -> Result<BTreeMap<PathBuf, (Vec<u8>, SystemTime)>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(scene.dir.join("state"))? {
        let path = entry?.path();
        all.insert(path.clone(), (fs::read(&path)?, fs::metadata(&path)?.modified()?));
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_complete_while_a_job_runs_and_holds_no_secret() -> Result<()> {
    let (dir, scene) = scene(&[dense(64 * MIB, 1)], |_| {})?;
    append(&scene.config(), &format!("\n# {COMMENT}\n"))?;
    let run = reading(&scene, &dir, request(TARGET)).await?;
    ensure!(canaries(&scene)?.iter().any(|(name, _)| name == "the session's key"), "no canary in the journal");
    leaky_log(&scene)?;
    let bundle = made(&scene, "bundle.tar.gz")?;
    none_in(&bundle.path, &canaries(&scene)?)?;
    let attached = scene.left_attached().await?;
    let [file] = &attached[..] else { anyhow::bail!("attached: {attached:?}") };
    for (name, expected) in [
        ("duties.jsonl", file.as_str()),
        ("journal.jsonl", "(hidden)"),
        ("vcenter.txt", "independent_nonpersistent"),
        ("vcenter.txt", file),
        ("agent.toml", "backup@vsphere.local"),
        ("check-config.txt", "faults: none"),
        ("files.txt", "tls.key_file /"),
        ("files.txt", "mode 600"),
        ("files.txt", "names DNSName(localhost)"),
        ("files.txt", "  \"journal\": file"),
        ("versions.txt", env!("CARGO_PKG_VERSION")),
        ("versions.txt", "VMware vCenter"),
        ("kernel.txt", "Linux"),
        ("disks.txt", "DeviceFacts"),
        ("findings.txt", "nothing is wrong"),
        ("log.txt", "a good line"),
        ("log.txt", "last line"),
    ] {
        bundle.holds(name, expected)?;
    }
    let log = bundle.member("log.txt")?;
    ensure!(!log.contains("canary") && !log.contains("behind"), "{log}");
    drop(run);
    nothing_stays(&scene).await
}

/// vCenter may say anything, also what was said to it; files may have any name.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_or_a_cause_that_repeats_a_secret_is_withheld() -> Result<()> {
    let anchor = format!("[ds1] proxy01/{PASSWORD}.vmdk");
    let (_dir, scene) = scene(&[Content::new(MIB, 1)], |spec| spec.proxy().disks[0].path = Some(anchor.clone()))?;
    let bundle = made(&scene, "named.tar.gz")?;
    bundle.misses("vcenter.txt", "withheld, since it held a secret of this host")?;
    none_in(&bundle.path, &canaries(&scene)?)?;
    fault(&scene, "FindAllByUuid", json!({"kind": "fault", "fault": "InvalidState", "fields": {"message": PASSWORD}}))
        .await?;
    let bundle = made(&scene, "faulty.tar.gz")?;
    bundle.misses("vcenter.txt", "the cause holds a secret")?;
    none_in(&bundle.path, &canaries(&scene)?)?;
    nothing_stays(&scene).await
}

/// The worst moment: the agent was killed while it read, records of its journal are lost, vCenter does not answer, the log ends in damage.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_made_without_agent_vcenter_or_a_whole_journal_and_changes_nothing() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(48 * MIB, 1)], |spec| spec.set("deadlines", "doubt_seconds", 1))?;
    let run = reading(&scene, &dir, request(TARGET)).await?;
    scene.take_agent()?.kill()?;
    drop(run);
    leaky_log(&scene)?;
    let all = canaries(&scene)?;
    journalctl(&scene, "echo 'a good line'; echo 'Journal file is truncated' >&2; exit 1")?;
    let whole = fs::read(journal(&scene))?;
    let mut bytes = whole.clone();
    let needle = b"\"slot\"";
    let at = bytes.windows(needle.len()).position(|w| w == needle).context("no attach in the journal")?;
    bytes[at + 2] ^= 0x20;
    fs::write(journal(&scene), &bytes)?;
    let (before, attached) = (state(&scene)?, scene.left_attached().await?);
    control(&scene, json!({"cmd": "vc_down", "ms": 600_000})).await?;
    let bundle = made(&scene, "down.tar.gz")?;
    none_in(&bundle.path, &all)?;
    bundle.misses("vcenter.txt", "vCenter")?;
    bundle.holds("versions.txt", "vCenter unknown")?;
    bundle.holds("journal.jsonl", "damage: Some(")?;
    bundle.holds("duties.jsonl", "the journal was damaged")?;
    bundle.holds("log.txt", "a good line\n\n# journalctl: exit status: 1; Journal file is truncated")?;
    fs::write(journal(&scene), "no journal at all")?;
    let foreign = made(&scene, "foreign.tar.gz")?;
    foreign.misses("journal.jsonl", "is not a journal of this program")?;
    foreign.misses("duties.jsonl", "is not a journal of this program")?;
    fs::write(journal(&scene), &bytes)?;
    control(&scene, json!({"cmd": "vc_down", "ms": 0})).await?;
    made(&scene, "up.tar.gz")?.holds("vcenter.txt", "independent_nonpersistent")?;
    let after = state(&scene)?;
    ensure!(after.keys().eq(before.keys()), "{:?} became {:?}", before.keys(), after.keys());
    ensure!(before.iter().all(|(path, (bytes, _))| after[path].0 == *bytes), "bytes of the state were changed");
    ensure!(scene.left_attached().await? == attached, "what is attached was changed");
    fs::write(journal(&scene), &whole)?;
    scene.start_agent()?;
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configuration_costs_little_and_its_secrets_stay_known() -> Result<()> {
    let (_dir, scene) = scene(&[Content::new(MIB, 1)], |_| {})?;
    leaky_log(&scene)?;
    let untouched = state(&scene)?;
    // A configuration that the agent would refuse, secrets where none belong. vCenter can be asked all the same.
    let good = fs::read_to_string(scene.config())?;
    append(&scene.config(), &format!("\n[metrics]\nlisten = '{UNKNOWN}'\n# {COMMENT}\n"))?;
    let faulty = made(&scene, "faulty.tar.gz")?;
    faulty.holds("check-config.txt", "faults: metrics.listen")?;
    faulty.holds("vcenter.txt", "a task is queued or runs")?;
    fs::write(scene.config(), format!("{good}\n[wrong]\n'{UNKNOWN}' = '{UNKNOWN}'\n# {COMMENT}\n"))?;
    let wrong = made(&scene, "wrong.tar.gz")?;
    none_in(&wrong.path, &canaries(&scene)?)?;
    ensure!(wrong.member("agent.toml")?.starts_with("# left out: 1 "), "{:?}", wrong.members);
    wrong.misses("vcenter.txt", "the configuration has faults")?;
    append(&scene.config(), UNKNOWN)?;
    let broken = made(&scene, "broken.tar.gz")?;
    none_in(&broken.path, &canaries(&scene)?)?;
    broken.misses("agent.toml", "not TOML")?;
    broken.misses("vcenter.txt", "not TOML")?;
    broken.holds("log.txt", "last line")?;
    ensure!(state(&scene)? == untouched, "the state was changed");
    // What can't be searched for is said.
    fs::write(scene.config(), &good)?;
    fs::rename(scene.pki.file("vc-password"), scene.pki.file("moved"))?;
    let blind = made(&scene, "blind.tar.gz")?;
    blind.misses("search for secrets", "No such file")?;
    fs::rename(scene.pki.file("moved"), scene.pki.file("vc-password"))?;
    nothing_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_overwritten_no_link_followed_and_no_half_bundle_left() -> Result<()> {
    let (_dir, scene) = scene(&[Content::new(MIB, 1)], |_| {})?;
    let (taken, link, half) = (scene.dir.join("taken"), scene.dir.join("link"), scene.dir.join("half"));
    fs::write(&taken, "mine")?;
    std::os::unix::fs::symlink(scene.dir.join("nowhere"), &link)?;
    let logins = calls(&scene, "Login").await?.len();
    for out in [&taken, &link, &scene.dir.join("no/folder")] {
        let run = scene.support_bundle(out, &[])?;
        ensure!(run.code == 1 && run.stderr.contains("error: HA-SUP-001") && run.stdout.is_empty(), "{run:#?}");
    }
    ensure!(calls(&scene, "Login").await?.len() == logins, "a name that is taken cost a login");
    ensure!(fs::read_to_string(&taken)? == "mine" && !scene.dir.join("nowhere").exists());
    // The disk is full in the middle: no file may be longer than 512 bytes.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh"]).arg(binary("agent-sim")?);
    command.arg("support-bundle").arg("--no-vcenter").arg("--config").arg(scene.config()).arg("--out").arg(&half);
    let run = Run::of(command.env("AGENT_SIM_CONTROL", &scene.vcenter.control))?;
    ensure!(run.code == 1 && run.stderr.contains("error: HA-SUP-001"), "{run:#?}");
    ensure!(!half.exists(), "half a bundle is left");
    ensure!(calls(&scene, "Login").await?.len() == logins, "--no-vcenter logged in");
    nothing_stays(&scene).await
}
