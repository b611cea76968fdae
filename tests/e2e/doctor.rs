//! The doctor: `hotadd-doctor` and `hotaddctl doctor` against a simulated vCenter in which backups left something, with and without an agent.
use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::JobState;
use hotadd_harness::{
    Content, Run, Scene, Spec, binary,
    scene::{PROXY, TARGET, Vcenter, secret, vm},
};
use serde_json::{Value, json};
use vcenter_sim::inventory::{ControllerSpec, DiskSpec};

use crate::support::{
    MIB, Running, Seen, calls, control, dense, images_equal_sources, nothing_is_left, only_these_are_left, reading,
    request, scene,
};

const WEB: &str = "[ds1] web01/web01.vmdk";
const THEIRS: &str = "[ds1] db01/db01.vmdk";

/// Options that name the simulated vCenter.
fn way(command: &mut Command, vcenter: &Vcenter, password: &Path) {
    command.args(["--vcenter", &vcenter.url, "--user", "backup@vsphere.local"]);
    command.arg("--password-file").arg(password).arg("--vcenter-ca").arg(&vcenter.ca);
}

/// A vCenter without loop devices and without an agent.
struct Estate {
    dir: tempfile::TempDir,
    vcenter: Vcenter,
}

impl Estate {
    /// The scene's target and proxy, and what `change` adds.
    fn start(change: impl FnOnce(&mut Spec)) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut spec = Spec::new(dir.path(), &[Content::new(MIB, 1)], 2);
        change(&mut spec);
        let vcenter = Vcenter::start(dir.path(), &spec.inventory, "none", &spec.api_version)?;
        Ok(Self { dir, vcenter })
    }

    async fn control(&self, command: Value) -> Result<Value> {
        Ok(self.vcenter.control().await?.call(command).await?)
    }

    fn password(&self) -> PathBuf {
        self.dir.path().join("vc-password")
    }

    fn doctor(&self, more: &[&str]) -> Result<Run> {
        let mut command = Command::new(binary("hotadd-doctor")?);
        way(&mut command, &self.vcenter, &self.password());
        Run::of(command.args(more))
    }

    /// Exit code and document.
    fn look(&self) -> Result<(i32, Value)> {
        let run = self.doctor(&["--json"])?;
        let document = serde_json::from_str(&run.stdout).with_context(|| format!("{run:?}"))?;
        Ok((run.code, document))
    }

    async fn snapshot(&self, vm: &str, name: &str, hours: i64) -> Result<()> {
        let made = self.control(json!({"cmd": "operator", "call": "CreateSnapshot", "vm": vm, "name": name})).await?;
        ensure!(made["fault"].is_null(), "{made}");
        self.control(json!({"cmd": "age_snapshot", "snapshot": made["result"], "hours": hours})).await?;
        Ok(())
    }

    async fn attach(&self, vm: &str, path: &str, size: Option<u64>) -> Result<()> {
        attach(&mut self.vcenter.control().await?, vm, path, size).await
    }

    /// One of each: whatever a backup leaves.
    async fn with_everything() -> Result<Self> {
        let this = Self::start(|spec| {
            let scsi = |bus: u32| ControllerSpec { bus, ..ControllerSpec::default() };
            spec.proxy().controllers = Some(vec![scsi(0), scsi(2)]);
            spec.proxy().disks.truncate(1);
            spec.proxy().product = Some(["hotadd-proxy".into(), "0.1.0".into()]);
            for name in ["db01", "app01", "second"] {
                spec.inventory.vms.push(vm(name, vec![DiskSpec { capacity: Some(MIB), ..DiskSpec::default() }]));
            }
            let twin = spec.inventory.vms[1].uuid.clone();
            if let Some(second) = spec.inventory.vms.last_mut() {
                (second.uuid, second.product) = (twin, Some(["hotadd-proxy".into(), "0.2.0".into()]));
            }
        })?;
        this.snapshot(TARGET, "VEEAM BACKUP TEMPORARY SNAPSHOT", 48).await?;
        this.attach(PROXY, WEB, None).await?;
        this.attach("second", "[ds1] deleted/deleted.vmdk", Some(MIB)).await?;
        this.control(json!({"cmd": "disable_method", "vm": "db01", "method": "RelocateVM_Task"})).await?;
        this.control(json!({"cmd": "consolidation", "vm": "db01", "needed": true})).await?;
        for number in 0..4 {
            this.snapshot("app01", &format!("update {number}"), 3).await?;
        }
        let redo = "[ds1] app01/app01-REDO_0007d0.vmdk";
        this.control(json!({"cmd": "stray_file", "vm": "app01", "path": redo, "size": 4096})).await?;
        Ok(this)
    }
}

async fn attach(control: &mut vcenter_sim::control::Control, vm: &str, path: &str, size: Option<u64>) -> Result<()> {
    let mut command = json!({"cmd": "attach_foreign", "vm": vm, "path": path});
    command["size"] = json!(size);
    let done = control.call(command).await?;
    ensure!(done["fault"].is_null(), "{done}");
    Ok(())
}

fn codes(document: &Value) -> Vec<&str> {
    let findings = document["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut codes: Vec<&str> = findings.iter().filter_map(|finding| finding["code"].as_str()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

const ALL: [&str; 10] = [
    "HA-DOC-001",
    "HA-DOC-002",
    "HA-DOC-003",
    "HA-DOC-004",
    "HA-DOC-005",
    "HA-DOC-006",
    "HA-DOC-007",
    "HA-DOC-008",
    "HA-DOC-009",
    "HA-DOC-010",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_vcenter_is_clean() -> Result<()> {
    let estate = Estate::start(|_| {})?;
    estate.snapshot(TARGET, "before the update", 2).await?;
    let (code, document) = estate.look()?;
    assert_eq!((code, codes(&document)), (0, vec![]), "{document}");
    assert_eq!(document["looked_at"]["vms"], 2);
    assert_eq!(document["not_looked_at"], json!([]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_left_is_found_with_evidence_and_fix() -> Result<()> {
    let estate = Estate::with_everything().await?;
    let (code, document) = estate.look()?;
    assert_eq!((code, codes(&document)), (1, ALL.to_vec()), "{document:#}");
    for finding in document["findings"].as_array().context("findings")? {
        let told = |field: &str| finding[field].as_array().is_some_and(|list| !list.is_empty());
        ensure!(
            told("evidence") && told("fix") && finding["risk"] != "" && finding["object"]["moref"] != "",
            "{finding}"
        );
        ensure!(finding["ours"].is_null(), "nothing here is provably ours: {finding}");
    }
    let text = estate.doctor(&[])?;
    ensure!(text.code == 1 && ALL.iter().all(|code| text.stdout.contains(code)), "{text:?}");
    Ok(())
}

/// `System.Read` suffices, and nothing but reads is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_account_sees_the_same_and_nothing_else_is_asked() -> Result<()> {
    let estate = Estate::with_everything().await?;
    estate
        .control(json!({"cmd": "set_privileges", "privileges": ["System.Anonymous", "System.View", "System.Read"]}))
        .await?;
    estate.control(json!({"cmd": "set_page_max", "objects": 2})).await?;
    estate.control(json!({"cmd": "requests", "clear": true})).await?;
    let (code, document) = estate.look()?;
    assert_eq!((code, codes(&document)), (1, ALL.to_vec()), "{document:#}");
    let asked = estate.control(json!({"cmd": "requests"})).await?;
    let reads = [
        "RetrieveServiceContent",
        "Login",
        "CurrentTime",
        "CreateContainerView",
        "RetrievePropertiesEx",
        "ContinueRetrievePropertiesEx",
        "DestroyView",
        "Logout",
    ];
    for request in asked["requests"].as_array().context("requests")? {
        let method = request["method"].as_str().context("method")?;
        ensure!(reads.contains(&method), "{method} was asked");
    }
    let counters = estate.vcenter.control().await?.counters().await?;
    assert_eq!(counters["problems"], json!([]));
    assert_eq!(counters["sessions"], 0, "it logs out");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_is_never_called_clean() -> Result<()> {
    let estate = Estate::start(|_| {})?;
    for path in [
        "config.hardware.device",
        "snapshot",
        "disabledMethod",
        "layoutEx.file",
        "config.uuid",
        "recentTask",
        "summary",
    ] {
        estate.control(json!({"cmd": "deny_properties", "paths": [path]})).await?;
        let (code, document) = estate.look()?;
        // Free space is of datastores: it is told by no line of a VM, and only a rate needs it.
        let expected = if path == "summary" { 0 } else { 3 };
        assert_eq!(code, expected, "{path}: {document}");
        let unseen = document["not_looked_at"].as_array().context("not_looked_at")?;
        ensure!(
            path == "summary" || unseen.iter().any(|u| u["why"].as_str().is_some_and(|w| w.contains("NoPermission"))),
            "{unseen:?}"
        );
    }
    let host = json!({"cmd": "host", "name": "esx1.lab", "connection": "disconnected"});
    estate.control(json!({"cmd": "deny_properties", "paths": []})).await?;
    estate.control(host).await?;
    assert_eq!(estate.look()?.0, 3, "what is told of a disconnected host is old");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_or_absent_vcenter_is_told_and_not_believed() -> Result<()> {
    let estate = Estate::with_everything().await?;
    let fail = async |kind: Value, nth: usize| {
        let mut control = estate.vcenter.control().await?;
        control.call(json!({"cmd": "clear_faults"})).await?;
        let mut spec = kind;
        (spec["nth"], spec["count"]) = (json!(nth), json!(1000));
        control.fault("RetrievePropertiesEx", spec).await?;
        anyhow::Ok(estate.look()?)
    };
    for (kind, told) in [
        (json!({"kind": "bad_xml"}), "HA-DOC-023"),
        (json!({"kind": "http_500"}), "HA-DOC-021"),
        (json!({"kind": "drop_reply"}), "HA-DOC-021"),
        (json!({"kind": "fault", "fault": "NotAuthenticated"}), "HA-DOC-023"),
    ] {
        for nth in [1, 2] {
            let (code, document) = fail(kind.clone(), nth).await?;
            assert_eq!((code, document["error"]["code"].as_str()), (3, Some(told)), "{kind} {nth}: {document}");
        }
    }
    // Too large an answer costs the VMs that it is about, one by one.
    let (code, document) = fail(json!({"kind": "huge", "bytes": 40 << 20}), 2).await?;
    ensure!(code == 3, "{code}: {document}");
    estate.control(json!({"cmd": "clear_faults"})).await?;

    let mut other = Command::new(binary("hotadd-doctor")?);
    other.args(["--json", "--user", "x", "--vcenter", &estate.vcenter.url, "--vcenter-pin", &"ab".repeat(32)]);
    let run = Run::of(other.arg("--password-file").arg(estate.password()))?;
    ensure!(run.code == 3 && run.stdout.contains("HA-DOC-021"), "{run:?}");

    let logins = |counters: Value| counters["calls"]["Login"].as_u64().unwrap_or(0);
    let before = logins(estate.vcenter.control().await?.counters().await?);
    secret(&estate.password(), "correct-horse")?;
    let run = estate.doctor(&["--json"])?;
    ensure!(
        run.code == 3 && run.stdout.contains("HA-DOC-022") && !format!("{run:?}").contains("correct-horse"),
        "{run:?}"
    );
    assert_eq!(
        logins(estate.vcenter.control().await?.counters().await?),
        before + 1,
        "an account is not locked by trying"
    );
    let usage = Run::of(Command::new(binary("hotadd-doctor")?).args(["--json", "--vcenter", &estate.vcenter.url]))?;
    ensure!(usage.code == 2 && usage.stdout.contains("HA-DOC-020"), "{usage:?}");
    Ok(())
}

/// The words of every change that the client can ask for are not in the program.
#[test]
fn the_program_alone_has_no_word_for_a_change() -> Result<()> {
    let program = std::fs::read(binary("hotadd-doctor")?)?;
    let fixer = std::fs::read(binary("hotaddctl")?)?;
    let holds = |bytes: &[u8], word: &str| bytes.windows(word.len()).any(|part| part == word.as_bytes());
    for word in ["ReconfigVM_Task", "RemoveSnapshot_Task", "CreateSnapshot_Task", "EnableMethods", "fileOperation"] {
        ensure!(!holds(&program, word), "hotadd-doctor holds {word}");
    }
    ensure!(holds(&fixer, "ReconfigVM_Task"), "the look is blind: hotaddctl holds it");
    ensure!(!holds(&fixer, "fileOperation"), "hotaddctl holds fileOperation");
    Ok(())
}

/// An agent that was killed while it read, with another product's disk on its proxy.
async fn killed() -> Result<(tempfile::TempDir, Scene)> {
    let (dir, mut scene) = scene(&[dense(48 * MIB, 1)], |spec| {
        spec.inventory.vms.push(vm("db01", vec![DiskSpec { capacity: Some(MIB), ..DiskSpec::default() }]));
    })?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Frame).await?;
    scene.take_agent()?.kill()?;
    control(&scene, json!({"cmd": "operator", "call": "CreateSnapshot", "vm": "db01", "name": "theirs"})).await?;
    attach(&mut scene.control().await?, PROXY, THEIRS, None).await?;
    assert_eq!(scene.left_attached().await?, [WEB, THEIRS]);
    Ok((dir, scene))
}

/// hotaddctl doctor, with JSON.
fn ctl(scene: &Scene, agent: bool, more: &[&str]) -> Result<Run> {
    let mut command = Command::new(binary("hotaddctl")?);
    command.args(["--json", "doctor"]);
    if agent {
        command.args(["--agent", &scene.url]);
    }
    way(&mut command, &scene.vcenter, &scene.pki.file("vc-password"));
    Run::of(command.args(more))
}

fn event<'a>(events: &'a [Value], name: &str) -> Result<&'a Value> {
    events.iter().find(|event| event["event"] == name).with_context(|| format!("no {name} in {events:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_left_is_found_and_only_that_is_taken_off() -> Result<()> {
    let (_dir, mut scene) = killed().await?;
    control(&scene, json!({"cmd": "requests", "clear": true})).await?;
    let run = ctl(&scene, false, &[])?;
    assert_eq!(run.code, 0, "a moment after the kill a backup may run: {run:?}");
    let events = run.events();
    let findings = event(&events, "doctor")?["findings"].as_array().context("findings")?;
    let attached: Vec<&Value> = findings.iter().filter(|finding| finding["code"] == "HA-DOC-001").collect();
    let ours: Vec<&Value> = attached.iter().map(|f| &f["ours"]["file"]).filter(|file| !file.is_null()).collect();
    assert_eq!((attached.len(), ours), (2, vec![&json!(WEB)]), "{findings:#?}");

    // Its port refuses, and so does that of an agent that settles.
    let doubt = ctl(&scene, true, &["--fix", "--yes", "--quiet-minutes", "0"])?;
    ensure!(doubt.code == 4 && doubt.stderr.contains("--agent-stopped"), "{doubt:?}");
    assert_eq!(scene.left_attached().await?, [WEB, THEIRS]);
    let stopped = ["--fix", "--quiet-minutes", "0", "--agent-stopped"];
    let plan = ctl(&scene, true, &stopped)?;
    let events = plan.events();
    let told = event(&events, "doctor_fix")?;
    assert_eq!(told["planned"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(calls(&scene, "ReconfigVM_Task").await?.len(), 0, "a plan changes nothing");
    assert_eq!(scene.left_attached().await?, [WEB, THEIRS]);

    let fixed = ctl(&scene, true, &[&stopped[..], &["--yes"]].concat())?;
    ensure!(fixed.code == 0, "{fixed:?}");
    assert_eq!(scene.left_attached().await?, [THEIRS], "the other product's disk survives");
    let asked = calls(&scene, "ReconfigVM_Task").await?;
    ensure!(
        asked.len() == 1 && asked[0].contains("<operation>remove</operation>") && asked[0].contains("<changeVersion>"),
        "{asked:?}"
    );
    // The journal finds its disk gone, and the agent removes its snapshot.
    scene.start_agent()?;
    only_these_are_left(&scene, &[THEIRS], &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_off_while_it_is_young_or_an_agent_may_live() -> Result<()> {
    let (_dir, scene) = killed().await?;
    for (more, told) in
        [(&["--agent-stopped"][..], "--quiet-minutes"), (&["--quiet-minutes", "0"][..], "--agent-stopped")]
    {
        let run = ctl(&scene, false, &[&["--fix", "--yes"][..], more].concat())?;
        ensure!(run.code == 4 && run.stderr.contains("HA-DOC-024") && run.stderr.contains(told), "{told}: {run:?}");
        assert_eq!(scene.left_attached().await?, [WEB, THEIRS]);
    }
    control(&scene, json!({"cmd": "deny_properties", "paths": ["config.files.vmPathName"]})).await?;
    let blind = ctl(&scene, false, &["--fix", "--yes", "--quiet-minutes", "0", "--agent-stopped"])?;
    assert_eq!(scene.left_attached().await?, [WEB, THEIRS], "{blind:?}");
    control(&scene, json!({"cmd": "deny_properties", "paths": []})).await?;
    control(&scene, json!({"cmd": "operator", "call": "CreateSnapshot", "vm": TARGET, "ms": 60_000, "wait": false}))
        .await?;
    let busy = ctl(&scene, false, &["--fix", "--yes", "--quiet-minutes", "0", "--agent-stopped"])?;
    ensure!(busy.code == 4 && busy.stderr.contains("a task runs on web01"), "{busy:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_is_left_alone() -> Result<()> {
    let (dir, scene) = scene(&[dense(48 * MIB, 1)], |_| {})?;
    let job = reading(&scene, &dir, request(TARGET)).await?;
    let run = ctl(&scene, true, &["--fix", "--yes", "--quiet-minutes", "0", "--agent-stopped"])?;
    ensure!(run.code == 4 && run.stderr.contains("an agent answers"), "{run:?}");
    let delivered = job.finish().await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok);
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_off_is_critical_and_is_freed() -> Result<()> {
    let (_dir, scene) = killed().await?;
    control(&scene, json!({"cmd": "power", "vm": PROXY, "on": false})).await?;
    assert_eq!(ctl(&scene, false, &[])?.code, 11, "nothing on it will detach");
    let fixed = ctl(&scene, false, &["--fix", "--yes", "--quiet-minutes", "0"])?;
    ensure!(fixed.code == 11, "the other product's disk is still a finding: {fixed:?}");
    assert_eq!(scene.left_attached().await?, [THEIRS]);
    assert_eq!(scene.control().await?.counters().await?["file_operation_count"], 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_can_not_power_on_is_freed_of_the_lost_file_and_starts() -> Result<()> {
    let (_dir, scene) = killed().await?;
    control(&scene, json!({"cmd": "detach_foreign", "vm": PROXY, "path": THEIRS})).await?;
    control(&scene, json!({"cmd": "power", "vm": PROXY, "on": false})).await?;
    control(&scene, json!({"cmd": "delete_file", "path": WEB})).await?;
    let power_on = json!({"cmd": "operator", "call": "PowerOn", "vm": PROXY});
    assert_eq!(control(&scene, power_on.clone()).await?["fault"], "FileNotFound");
    let run = ctl(&scene, false, &[])?;
    ensure!(run.code == 11 && run.stdout.contains("it may be gone"), "{run:?}");
    let fixed = ctl(&scene, false, &["--fix", "--yes", "--quiet-minutes", "0"])?;
    ensure!(event(&fixed.events(), "doctor_fix")?["removed"].as_array().map(Vec::len) == Some(1), "{fixed:?}");
    assert_eq!(control(&scene, power_on).await?["fault"], Value::Null);
    assert_eq!(scene.control().await?.counters().await?["file_operation_count"], 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_of_the_removal_is_neither_done_nor_failed() -> Result<()> {
    let (_dir, scene) = killed().await?;
    control(&scene, json!({"cmd": "power", "vm": PROXY, "on": false})).await?;
    scene.control().await?.fault("ReconfigVM_Task", json!({"kind": "drop_reply"})).await?;
    let run = ctl(&scene, false, &["--fix", "--yes", "--quiet-minutes", "0"])?;
    ensure!(run.code == 6 && run.stderr.contains("HA-DOC-025"), "{run:?}");
    Ok(())
}
