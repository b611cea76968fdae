//! `hotaddctl survey` against a simulated vCenter: what it reads, that it names nobody, what it changes and that nothing of it stays, and that
//! what it found makes another simulator answer in the same way.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hotadd_harness::{
    Content, Process, Run, Spec, binary,
    scene::{PROXY, TARGET, Vcenter, vm},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use vcenter_sim::{
    Inventory,
    inventory::{ControllerSpec, DiskSpec, HostSpec},
};

use crate::support::MIB;

/// The VM that is given for it; the canaries are what no document may hold.
const LAB: &str = "Nightingale payroll";
const CANARIES: [&str; 8] =
    ["nightingale", "payroll", "falcon", "goldfinch", "albatross", "backup@vsphere.local", "heron", "kestrel"];
const WAIT: Duration = Duration::from_secs(60);

/// A site whose names are birds.
fn inventory(dir: &Path) -> Inventory {
    let mut spec = Spec::new(dir, &[Content::new(MIB, 1)], 1);
    let disk = |bus: u32| DiskSpec { bus, capacity: Some(MIB), ..DiskSpec::default() };
    let mut lab = vm(LAB, vec![disk(0), disk(1)]);
    lab.power = "off".into();
    lab.change_tracking = true;
    spec.inventory.vms.push(lab);
    spec.inventory.vms.push(vm("Falcon", vec![disk(0)]));
    for vm in &mut spec.inventory.vms {
        vm.datastore = Some("Goldfinch [1]".into());
    }
    spec.inventory.datastores[0].name = "Goldfinch [1]".into();
    spec.inventory
}

/// As [`inventory`], with what a default simulator does not show.
fn odd(dir: &Path) -> Inventory {
    let mut inventory = inventory(dir);
    let host = |name: &str| HostSpec {
        name: name.into(),
        datastores: None,
        version: Some("7.0.3".into()),
        build: Some("20328353".into()),
        drs: None,
    };
    inventory.hosts = vec![host("albatross.heron.example")];
    let slot = |bus: u32, slot: u32| ControllerSpec { bus, pci_slot: Some(slot), ..ControllerSpec::default() };
    inventory.vms[2].controllers = Some(vec![slot(0, 161), slot(1, 1193)]);
    inventory
}

struct Site {
    dir: tempfile::TempDir,
    vcenter: Vcenter,
}

impl Site {
    fn start(of: impl FnOnce(&Path) -> Inventory, api: &str, profile: Option<&Path>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let inventory = of(dir.path());
        let vcenter = Vcenter::replaying(dir.path(), &inventory, "none", api, profile)?;
        Ok(Self { dir, vcenter })
    }

    async fn control(&self, command: Value) -> Result<Value> {
        Ok(self.vcenter.control().await?.call(command).await?)
    }

    async fn moref(&self, name: &str) -> Result<String> {
        let state = self.control(json!({"cmd": "state"})).await?;
        let vms = state["vms"].as_array().context("vms")?;
        let vm = vms.iter().find(|vm| vm["name"] == name).context("no such vm")?;
        Ok(vm["id"].as_str().context("id")?.to_owned())
    }

    fn command(&self, more: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("hotaddctl")?);
        command.args(["--json", "survey", "--vcenter", &self.vcenter.url, "--user", "backup@vsphere.local"]);
        command.arg("--password-file").arg(self.dir.path().join("vc-password"));
        command.arg("--vcenter-ca").arg(&self.vcenter.ca).args(more);
        Ok(command)
    }

    fn survey(&self, more: &[&str]) -> Result<Run> {
        Run::of(&mut self.command(more)?)
    }

    /// All the way, on the VM that is given.
    async fn go(&self, more: &[&str]) -> Result<Run> {
        let moref = self.moref(LAB).await?;
        self.survey(&[&["--vm", &moref, "--sacrificial", LAB, "--go"][..], more].concat())
    }

    async fn calls(&self, method: &str) -> Result<u64> {
        let counters = self.vcenter.control().await?.counters().await?;
        Ok(counters["calls"][method].as_u64().unwrap_or(0))
    }

    async fn snapshots(&self) -> Result<Vec<String>> {
        Ok(self.vcenter.control().await?.snapshots(LAB).await?)
    }

    async fn unchanged(&self) -> Result<()> {
        assert_eq!(self.snapshots().await?, Vec::<String>::new());
        for method in ["CreateSnapshot_Task", "RemoveSnapshot_Task", "ReconfigVM_Task"] {
            assert_eq!(self.calls(method).await?, 0, "{method}");
        }
        Ok(())
    }

    async fn clean(&self) -> Result<()> {
        assert_eq!(self.snapshots().await?, Vec::<String>::new());
        let disks = self.vcenter.control().await?.attached(LAB).await?;
        ensure!(disks.iter().all(|disk| disk.chain.len() == 1), "{disks:?}");
        assert_eq!(self.vcenter.control().await?.counters().await?["problems"], json!([]));
        Ok(())
    }
}

fn document(run: &Run) -> Result<Value> {
    let events = run.events();
    let told = events.iter().find(|event| event["event"] == "survey").with_context(|| format!("{run:?}"))?;
    Ok(told["document"].clone())
}

fn without_times(mut document: Value) -> Value {
    for step in document["steps"].as_array_mut().into_iter().flatten() {
        for time in ["ms", "queue_ms", "run_ms"] {
            step[time] = Value::Null;
        }
    }
    document
}

fn tame(value: &Value) -> Result<()> {
    let text = value.to_string().to_lowercase();
    let sung = CANARIES.iter().find(|canary| text.contains(&canary.to_lowercase()));
    ensure!(sung.is_none(), "{sung:?} in {value:#}");
    for shape in ["127.0.0.1", "6000c29a", "00:50:56", "vm-1"] {
        ensure!(!text.contains(shape), "{shape} in {value:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_go_it_reads_and_shows_its_plan() -> Result<()> {
    let site = Site::start(odd, "7.0.3.0", None)?;
    site.control(json!({"cmd": "requests", "clear": true})).await?;
    let moref = site.moref(LAB).await?;
    let file = site.dir.path().join("survey.json");
    let out = file.display().to_string();
    let run = site.survey(&["--vm", &moref, "--sacrificial", LAB, "--out", &out])?;
    ensure!(run.code == 0, "{run:?}");
    let told = document(&run)?;
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(&file)?)?, told, "the file is the document");
    assert_eq!(told["ran"], false);
    assert_eq!(told["vcenter"]["api_version"], "7.0.3.0");
    assert_eq!(told["host"]["build"], "20328353");
    assert_eq!(told["vm"]["controllers"][1]["pci_slot"], 1193);
    assert_eq!(told["vm"]["disks"][0]["chain"], json!(["[ds-1] folder-1/name-1.vmdk"]));
    assert_eq!(told["faults"].as_array().map(Vec::len), Some(4));
    ensure!(run.stdout.contains("take a snapshot of the VM"), "{run:?}");
    tame(&told)?;
    site.unchanged().await?;
    let reads = [
        "RetrieveServiceContent",
        "Login",
        "CreateContainerView",
        "RetrievePropertiesEx",
        "ContinueRetrievePropertiesEx",
        "DestroyView",
        "Logout",
    ];
    let asked = site.control(json!({"cmd": "requests"})).await?;
    for request in asked["requests"].as_array().context("requests")? {
        let method = request["method"].as_str().context("method")?;
        ensure!(reads.contains(&method), "{method} was asked");
    }
    // A file that is there stays.
    let again = site.survey(&["--out", &out])?;
    ensure!(again.code == 7 && fs::read(&file)?.starts_with(b"{"), "{again:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_not_plainly_given_is_refused_and_untouched() -> Result<()> {
    let site = Site::start(inventory, "8.0.2.0", None)?;
    let moref = site.moref(LAB).await?;
    let refused = |run: &Run, why: &str| -> Result<()> {
        ensure!(run.code == 4 && run.stderr.contains("HA-SVY-001") && run.stderr.contains(why), "{why}: {run:?}");
        Ok(())
    };
    refused(&site.survey(&["--vm", &moref, "--sacrificial", "nightingale payroll", "--go"])?, "its name is not")?;
    let web = site.moref(TARGET).await?;
    refused(&site.survey(&["--vm", &web, "--sacrificial", TARGET, "--go"])?, "--powered-on-ok")?;
    for path in ["snapshot", "recentTask", "runtime.powerState", "runtime.consolidationNeeded", "disabledMethod"] {
        site.control(json!({"cmd": "deny_properties", "paths": [path]})).await?;
        refused(&site.go(&[]).await?, "not told")?;
    }
    site.control(json!({"cmd": "deny_properties", "paths": []})).await?;
    let few = ["System.Anonymous", "System.View", "System.Read", "VirtualMachine.State.CreateSnapshot"];
    site.control(json!({"cmd": "set_privileges", "privileges": few})).await?;
    refused(&site.go(&[]).await?, "lacks VirtualMachine.State.RemoveSnapshot")?;
    site.control(json!({"cmd": "set_privileges", "privileges": null})).await?;
    site.control(json!({"cmd": "disable_method", "vm": LAB, "method": "RemoveSnapshot_Task"})).await?;
    refused(&site.go(&[]).await?, "RemoveSnapshot_Task is disabled")?;
    site.unchanged().await?;
    for options in [&["--go"][..], &["--vm", &moref, "--go"], &["--powered-on-ok"], &["--sacrificial", LAB]] {
        let usage = site.survey(options)?;
        ensure!(usage.code == 2, "{usage:?}");
    }

    let other = Site::start(inventory, "8.0.2.0", None)?;
    let made = json!({"cmd": "operator", "call": "CreateSnapshot", "vm": LAB, "name": "before the update"});
    ensure!(other.control(made).await?["fault"].is_null());
    refused(&other.go(&[]).await?, "it has a snapshot")?;
    assert_eq!(other.snapshots().await?.len(), 1, "somebody else's snapshot stays");
    assert_eq!(other.calls("RemoveSnapshot_Task").await?, 0);
    Ok(())
}

/// A profile that a default simulator does not have, its survey, and the survey of a simulator that replays that.
#[tokio::test(flavor = "multi_thread")]
async fn a_survey_makes_a_simulator_that_answers_alike() -> Result<()> {
    let first = Site::start(odd, "7.0.3.0", None)?;
    let mut control = first.vcenter.control().await?;
    let foreign = json!({"kind": "fault", "fault": "FileFault", "nth": 4,
        "fields": {"file": format!("[Goldfinch [1]] {LAB}/{LAB}.vmdk"), "message": format!("Kestrel {LAB} of albatross.heron.example has no such change")}});
    control.fault("QueryChangedDiskAreas", foreign).await?;
    let run = first.go(&[]).await?;
    ensure!(run.code == 0, "{run:?}");
    first.clean().await?;
    let mut a = document(&run)?;
    ensure!(a["ran"] == true && a["left"] == json!([]), "{a:#}");
    assert_eq!(
        a["steps"].as_array().context("steps")?.iter().map(|s| s["step"].clone()).collect::<Vec<_>>(),
        ["create_snapshot", "remove_snapshot"]
    );
    assert_eq!(
        a["snapshot"]["live"][0]["chain"],
        json!(["[ds-1] folder-1/name-1-000001.vmdk", "[ds-1] folder-1/name-1.vmdk"])
    );
    assert_eq!(a["snapshot"]["consolidation_needed_after"], false);
    ensure!(a["snapshot"]["frozen"][0]["change_id"].as_str().is_some_and(|id| id.starts_with("xx")), "{a:#}");
    let said = fault(&a, "areas_since_a_foreign_change")?.clone();
    // Kestrel is in no list of the site: what no list names is for the sender to look at.
    assert_eq!(said["message"], "Kestrel name of name has no such change");
    let text = a.to_string().replace("Kestrel", "");
    tame(&serde_json::from_str(&text)?)?;

    // What only a site could show: keys that tell their place, another build, other words and another fault.
    a["vcenter"]["build"] = json!("24321653");
    a["vm"]["disks"][1]["key"] = json!(2016);
    for (question, kind, words) in [
        ("gone_vm", "ManagedObjectNotFound", "The object 'vim.VirtualMachine:moref' is not here"),
        ("areas_at_the_end", "FileFault", "Nothing lies there"),
        ("gone_snapshot_removed", "ManagedObjectNotFound", "No such snapshot"),
    ] {
        let told = a["faults"].as_array_mut().into_iter().flatten().find(|f| f["question"] == question);
        let told = told.with_context(|| question.to_owned())?;
        (told["type"], told["message"]) = (json!(kind), json!(words));
    }
    for list in ["frozen", "live"] {
        a["snapshot"][list][1]["key"] = json!(2016);
    }
    let profile = first.dir.path().join("profile.json");
    fs::write(&profile, a.to_string())?;

    let second = Site::start(inventory, "8.0.2.0", Some(&profile))?;
    let run = second.go(&[]).await?;
    ensure!(run.code == 0, "{run:?}");
    second.clean().await?;
    assert_eq!(without_times(document(&run)?), without_times(a.clone()));

    let plain = Site::start(inventory, "8.0.2.0", None)?;
    let b = document(&plain.go(&[]).await?)?;
    for part in [
        "/vcenter/api_version",
        "/vcenter/build",
        "/host/build",
        "/vm/controllers/1/pci_slot",
        "/vm/disks/1/key",
        "/faults",
    ] {
        ensure!(a.pointer(part) != b.pointer(part), "without the profile {part} is the same: it proves nothing");
    }
    Ok(())
}

fn fault<'a>(document: &'a Value, question: &str) -> Result<&'a Value> {
    let all = document["faults"].as_array().context("faults")?;
    all.iter().find(|fault| fault["question"] == question).with_context(|| format!("{question} in {document:#}"))
}

#[test]
fn a_profile_with_a_key_that_is_not_known_is_refused_in_one_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let profile: PathBuf = dir.path().join("profile.json");
    fs::write(&profile, json!({"schema": "hotadd-survey/1", "feathers": 1}).to_string())?;
    fs::write(dir.path().join("inventory.json"), serde_json::to_vec(&inventory(dir.path()))?)?;
    fs::write(dir.path().join("password"), "x")?;
    let mut command = Command::new(binary("vcenter-sim")?);
    command.arg("--inventory").arg(dir.path().join("inventory.json")).arg("--control").arg(dir.path().join("vc.sock"));
    command.arg("--work").arg(dir.path().join("work")).arg("--password-file").arg(dir.path().join("password"));
    let run = Run::of(command.arg("--profile").arg(&profile))?;
    let lines: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("vcenter-sim: ")).collect();
    ensure!(
        run.code == 1 && lines.len() == 1 && lines[0].contains("feathers") && lines[0].contains("profile.json"),
        "{run:?}"
    );
    Ok(())
}

/// The redo log of a disk that a backup holds is seen by looking at the proxy, and replayed.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_a_proxy_tells_how_an_attached_disk_is_shown() -> Result<()> {
    let shown = async |profile: Option<&Path>, redo: bool| -> Result<Value> {
        let site = Site::start(inventory, "8.0.2.0", profile)?;
        if redo {
            site.control(json!({"cmd": "set_show_redo", "on": true})).await?;
        }
        ensure!(site.control(json!({"cmd": "operator", "call": "CreateSnapshot", "vm": TARGET, "name": "x"})).await?["fault"].is_null());
        let base = format!("[Goldfinch [1]] {TARGET}/{TARGET}.vmdk");
        ensure!(site.control(json!({"cmd": "attach_foreign", "vm": PROXY, "path": base})).await?["fault"].is_null());
        let moref = site.moref(PROXY).await?;
        let run = site.survey(&["--vm", &moref])?;
        ensure!(run.code == 0, "{run:?}");
        assert_eq!(site.calls("CreateSnapshot_Task").await?, 0, "it only looked");
        document(&run)
    };
    let held = |document: &Value| -> Result<Value> {
        let disks = document["vm"]["disks"].as_array().context("disks")?;
        let disk = disks.iter().find(|disk| disk["mode"] == "independent_nonpersistent");
        Ok(disk.with_context(|| format!("{document:#}"))?["chain"].clone())
    };
    let a = shown(None, true).await?;
    assert_eq!(held(&a)?, json!(["[ds-1] folder-2/name-2-REDO_xxxxxx.vmdk", "[ds-1] folder-2/name-2.vmdk"]));
    let question = |n: usize| a["questions"][n]["state"].clone();
    assert_eq!((question(0), question(1)), (json!("not_asked"), json!("facts")));
    let dir = tempfile::tempdir()?;
    let profile = dir.path().join("profile.json");
    fs::write(&profile, a.to_string())?;
    assert_eq!(held(&shown(Some(&profile), false).await?)?, held(&a)?);
    assert_eq!(held(&shown(None, false).await?)?, json!(["[ds-1] folder-2/name-2.vmdk"]), "and not without it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_on_the_way_and_a_lost_reply_leave_nothing() -> Result<()> {
    let site = Site::start(inventory, "8.0.2.0", None)?;
    // vCenter refuses: nothing was begun.
    site.vcenter
        .control()
        .await?
        .fault("CreateSnapshot_Task", json!({"kind": "fault", "fault": "InvalidState"}))
        .await?;
    let run = site.go(&[]).await?;
    ensure!(run.code == 5 && run.stderr.contains("HA-SVY-002"), "{run:?}");
    site.clean().await?;
    // The task fails.
    site.vcenter
        .control()
        .await?
        .fault("CreateSnapshot_Task", json!({"kind": "task_fault", "fault": "SnapshotFault"}))
        .await?;
    let run = site.go(&[]).await?;
    ensure!(run.code == 5 && run.stderr.contains("HA-SVY-002"), "{run:?}");
    assert_eq!(document(&run)?["steps"][0]["fault"]["type"], "SnapshotFault");
    site.clean().await?;
    // It is taken, and nobody hears of it.
    site.vcenter.control().await?.fault("CreateSnapshot_Task", json!({"kind": "drop_reply"})).await?;
    let run = site.go(&[]).await?;
    ensure!(run.code == 5 && run.stderr.contains("HA-SVY-002") && run.stdout.contains("looking twice"), "{run:?}");
    ensure!(site.calls("RemoveSnapshot_Task").await? == 1, "it was there");
    site.clean().await?;
    // It comes only after it was looked for.
    let late = json!({"kind": "late_land", "ms": 2000, "fenced": false});
    site.vcenter.control().await?.fault("CreateSnapshot_Task", late).await?;
    let run = site.go(&[]).await?;
    ensure!(run.code == 5 && run.stderr.contains("HA-SVY-002"), "{run:?}");
    ensure!(site.calls("RemoveSnapshot_Task").await? == 2, "it came");
    site.clean().await?;
    // The reading fails while it is there.
    site.vcenter.control().await?.fault("QueryChangedDiskAreas", json!({"kind": "bad_xml"})).await?;
    site.vcenter
        .control()
        .await?
        .fault("RemoveSnapshot_Task", json!({"kind": "task_fault", "fault": "FileLocked"}))
        .await?;
    let run = site.go(&[]).await?;
    ensure!(run.code == 0, "a removal that fails is tried again, and an answer in no form is an answer: {run:?}");
    let told = document(&run)?;
    assert_eq!(told["steps"].as_array().map(Vec::len), Some(3), "{told:#}");
    site.clean().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_removed_is_named() -> Result<()> {
    let site = Site::start(inventory, "8.0.2.0", None)?;
    site.vcenter
        .control()
        .await?
        .fault("RemoveSnapshot_Task", json!({"kind": "fault", "fault": "NoPermission", "count": 100}))
        .await?;
    let run = site.go(&[]).await?;
    let named = ["HA-SVY-003", "hotadd-survey-", LAB, "cleanup: owed"].iter().all(|part| run.stderr.contains(part));
    ensure!(run.code == 6 && named, "{run:?}");
    assert_eq!(document(&run)?["left"], json!(["snapshot"]));
    assert_eq!(site.snapshots().await?.len(), 1);

    // The snapshot goes and its delta stays.
    let other = Site::start(inventory, "8.0.2.0", None)?;
    let base = format!("[Goldfinch [1]] {LAB}/{LAB}.vmdk");
    other.control(json!({"cmd": "locked", "path": base, "on": true})).await?;
    let run = other.go(&[]).await?;
    ensure!(run.code == 6 && run.stderr.contains("HA-SVY-003") && run.stderr.contains("consolidation"), "{run:?}");
    assert_eq!(document(&run)?["left"], json!(["consolidation"]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_undoes_what_was_done() -> Result<()> {
    let site = Site::start(inventory, "8.0.2.0", None)?;
    site.control(json!({"cmd": "set_task_ms", "ms": 1500})).await?;
    let moref = site.moref(LAB).await?;
    let log = site.dir.path().join("survey.log");
    let mut command = site.command(&["--vm", &moref, "--sacrificial", LAB, "--go"])?;
    let mut survey = Process::start("hotaddctl", &mut command, &log)?;
    let end = Instant::now() + WAIT;
    while site.calls("CreateSnapshot_Task").await? == 0 {
        ensure!(Instant::now() < end, "no snapshot was asked for: {}", survey.log_text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    survey.signal(Signal::SIGINT)?;
    let ended = survey.wait(WAIT)?;
    let text = survey.log_text();
    ensure!(ended.code() == Some(130) && text.contains("undoes what it did"), "{ended}: {text}");
    assert_eq!(site.calls("RemoveSnapshot_Task").await?, 1);
    assert_eq!(site.calls("QueryChangedDiskAreas").await?, 0, "and nothing else was done");
    site.clean().await
}
