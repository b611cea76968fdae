//! Two credentials: the account on the proxy reads and gives back, a job brings its own rights as a clone ticket. Neither does the
//! other's work, whatever breaks, and the ticket is nowhere.
use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{
    BackupVmRequest, Cleanup, CloneTicket, CloseDisksRequest, JobState, OpenDisksRequest, Scope as Areas,
};
use hotadd_harness::{
    Scene, Spec,
    scene::{TARGET, vm},
};
use hotadd_privileges::{Feature, Part, part_of, wanted};
use hotadd_vsphere as vim;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use vcenter_sim::inventory::DiskSpec;

use crate::{
    late::{LATE_MS, hasty},
    privileges::{give, permissions},
    support::{
        MIB, Running, adds, backup, calls, codes, control, dense, disks, eventually, fault, images_equal_sources,
        nothing_stays, open_request, refused, request, scene, session,
    },
};

pub const STORED: &str = "backup@vsphere.local";
pub const JOBS: &str = "jobs@vsphere.local";
pub const PASSWORD: &str = "horse of the jobs";
/// What needs a job's rights, by its calls.
const OF_A_JOB: [&str; 4] = ["DisableMethods", "CreateSnapshot", "QueryChangedDiskAreas", "ExportSnapshot"];
/// What gives back.
const OF_THE_ACCOUNT: [&str; 3] = ["EnableMethods", "RemoveSnapshot", "HttpNfcLeaseAbort"];

/// Of a disk, not of a snapshot.
const REMOVAL: &str = "RemoveByReconfigVM_Task";

/// The account on the proxy gets its part, another one the jobs'.
pub async fn split(scene: &Scene, stored: &[Feature]) -> Result<()> {
    let part = |features: Option<&[Feature]>, part| permissions(&part_of(wanted(features), Some(part)), None, &[]);
    give(scene, part(Some(stored), Part::Stored)).await?;
    let job = part(None, Part::Job);
    control(scene, json!({"cmd": "add_account", "user": JOBS, "password": PASSWORD, "permissions": job})).await?;
    Ok(())
}

pub const ALL: &[Feature] = &[Feature::Guards, Feature::Fence];

/// A controller that is logged in: its tickets serve as long as it is.
pub async fn controller(scene: &Scene) -> Result<vim::Client> {
    let trust = vim::Trust::Ca(std::fs::read(&scene.vcenter.ca)?);
    Ok(vim::Client::connect(vim::Config::new(&scene.vcenter.url, JOBS, PASSWORD.to_owned().into(), trust)).await?)
}

pub async fn ticket(controller: &vim::Client) -> Result<Option<CloneTicket>> {
    Ok(Some(CloneTicket { value: controller.clone_ticket().await?.expose_secret().to_owned() }))
}

pub fn garbage() -> Option<CloneTicket> {
    Some(CloneTicket { value: "cst-VCT-canary-of-no-session".into() })
}

pub async fn with_ticket(scene: &Scene, vm: &str) -> Result<BackupVmRequest> {
    Ok(BackupVmRequest { vcenter_clone_ticket: ticket(&controller(scene).await?).await?, ..request(vm) })
}

/// Method and user of every call so far whose method begins so.
pub async fn asked(scene: &Scene, method: &str) -> Result<Vec<(String, String)>> {
    let reply = control(scene, json!({"cmd": "requests"})).await?;
    let all = reply["requests"].as_array().context("requests")?;
    let told = |r: &Value| Some((reconfigured(r)?, r["user"].as_str()?.to_owned()));
    Ok(all.iter().filter_map(told).filter(|(name, _)| name.starts_with(method)).collect())
}

/// A reconfigure is two things.
fn reconfigured(request: &Value) -> Option<String> {
    let (method, body) = (request["method"].as_str()?, request["body"].as_str()?);
    let add = if body.contains("operation>add<") { "Add" } else { "Remove" };
    Some(if method == "ReconfigVM_Task" { format!("{add}ByReconfigVM_Task") } else { method.to_owned() })
}

/// Nobody's work was done by the other.
pub async fn nobody_did_the_others_work(scene: &Scene) -> Result<()> {
    for (methods, part, other) in [(&OF_A_JOB[..], "Add", STORED), (&OF_THE_ACCOUNT[..], "Remove", JOBS)] {
        for method in methods.iter().chain([&part]) {
            let wrong: Vec<_> = asked(scene, method).await?.into_iter().filter(|(_, by)| by == other).collect();
            ensure!(wrong.is_empty(), "by {other}: {wrong:?}");
        }
    }
    Ok(())
}

/// Sessions of the jobs' account beside those that the test itself has.
pub async fn no_clone_lives(scene: &Scene, own: usize) -> Result<()> {
    eventually("the cloned sessions are ended", async || {
        let reply = control(scene, json!({"cmd": "sessions"})).await?;
        let all = reply["sessions"].as_array().context("sessions")?;
        Ok(all.iter().filter(|session| session["user"] == JOBS).count() <= own)
    })
    .await
}

pub async fn nothing_of_it_stays(scene: &Scene) -> Result<()> {
    nothing_stays(scene).await?;
    let disabled = async || Ok(control(scene, json!({"cmd": "methods"})).await?["methods"] == json!([]));
    eventually("the methods are enabled", disabled).await
}

pub fn tracked(spec: &mut Spec) {
    spec.target().change_tracking = true;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_works_by_two_accounts_of_which_neither_could_do_it_alone() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1)], tracked)?;
    split(&scene, ALL).await?;
    let wanted = BackupVmRequest { scope: Areas::Allocated.into(), ..with_ticket(&scene, TARGET).await? };
    let delivered = backup(&scene, wanted.clone(), dir.path()).await?;
    let result = delivered.result()?;
    ensure!(result.state() == JobState::Ok && result.cleanup() == Cleanup::Done, "{result:#?}");
    assert_eq!(result.acting_user, JOBS);
    images_equal_sources(&scene, &delivered)?;
    ensure!(delivered.opened.iter().all(|disk| disk.map.as_ref().is_some_and(|map| map.wider.is_none())), "no map");
    for method in ["DisableMethods", "CreateSnapshot", "QueryChangedDiskAreas", "Add", "Remove", "EnableMethods"] {
        ensure!(!asked(&scene, method).await?.is_empty(), "{method} was not asked for: nothing is tested");
    }
    nobody_did_the_others_work(&scene).await?;
    nothing_of_it_stays(&scene).await?;
    no_clone_lives(&scene, 1).await?;
    // A repetition is no second job, and uses no ticket.
    let again = backup(&scene, BackupVmRequest { vcenter_clone_ticket: garbage(), ..wanted }, dir.path()).await?;
    assert_eq!(again.result()?.job_id, result.job_id);
    assert_eq!(asked(&scene, "CloneSession").await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ticket_the_same_job_fails_by_name_and_leaves_nothing() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1)], |_| {})?;
    split(&scene, ALL).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!((codes(result), result.acting_user.as_str()), (vec!["HA-VC-004"], ""));
    ensure!(result.reasons[0].message.contains("VirtualMachine.State.CreateSnapshot"), "{result:#?}");
    nothing_of_it_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_by_its_ticket_and_ends_with_it() -> Result<()> {
    let (_dir, scene) = scene(&[dense(2 * MIB, 1)], |spec| spec.set("deadlines", "keep_alive_seconds", 0.5))?;
    split(&scene, ALL).await?;
    let controller = controller(&scene).await?;
    let mut disks = disks(&scene).await?;
    let open = async || {
        let wanted = OpenDisksRequest { vcenter_clone_ticket: ticket(&controller).await?, ..open_request(TARGET) };
        anyhow::Ok(wanted)
    };
    let opened = disks.open_disks(open().await?).await?.into_inner();
    assert_eq!(opened.acting_user, JOBS);
    let closed = disks.close_disks(CloseDisksRequest { session_id: opened.session_id }).await?.into_inner();
    ensure!(closed.cleanup() == Cleanup::Done, "{closed:?}");
    no_clone_lives(&scene, 1).await?;
    let opened = disks.open_disks(open().await?).await?.into_inner();
    // Nothing is asked by it any more but whether it lives.
    fault(&scene, ALIVE, json!({"kind": "end_session", "user": JOBS})).await?;
    eventually("the session is closed", async || {
        let told = session(&scene, &opened.session_id).await?;
        Ok(told.ended.is_some_and(|ended| ended.code == "HA-VC-014"))
    })
    .await?;
    nobody_did_the_others_work(&scene).await?;
    nothing_of_it_stays(&scene).await
}

/// How a cloned session is kept alive.
pub const ALIVE: &str = "RetrievePropertiesEx";

pub async fn landed(scene: &Scene) -> Result<Value> {
    eventually("it has landed", async || Ok(control(scene, json!({"cmd": "landings"})).await?["pending"] == 0)).await?;
    Ok(control(scene, json!({"cmd": "landings"})).await?["landings"].clone())
}

/// The attach is on its way when the agent dies; afterwards nobody of the jobs' account is there.
async fn killed(scene: &mut Scene, dir: &Path, fenced: bool) -> Result<()> {
    fault(scene, "ReconfigVM_Task", json!({"kind": "late_land", "ms": LATE_MS, "fenced": fenced})).await?;
    let job = Running::start(scene, with_ticket(scene, TARGET).await?, dir).await?;
    eventually("the attach is asked for", async || Ok(!calls(scene, "ReconfigVM_Task").await?.is_empty())).await?;
    scene.take_agent()?.kill()?;
    drop(job);
    control(scene, json!({"cmd": "requests", "clear": true})).await?;
    scene.start_agent()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_stored_account_ends_the_cloned_session_by_its_key() -> Result<()> {
    let (dir, mut scene) = hasty()?;
    split(&scene, ALL).await?;
    killed(&mut scene, dir.path(), true).await?;
    assert_eq!(landed(&scene).await?[0]["fault"], "NotAuthenticated");
    let ended = asked(&scene, "TerminateSession").await?;
    ensure!(ended.iter().any(|(_, by)| by == STORED), "{ended:?}");
    ensure!(asked(&scene, "").await?.iter().all(|(_, by)| by != JOBS), "the jobs' account was needed");
    nothing_of_it_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_what_lands_is_given_back_by_the_stored_account_alone() -> Result<()> {
    let (dir, mut scene) = hasty()?;
    // It may not end sessions: the looks that follow have to do.
    split(&scene, &[Feature::Guards]).await?;
    killed(&mut scene, dir.path(), false).await?;
    assert_eq!(landed(&scene).await?[0]["fault"], Value::Null);
    eventually("it is removed", async || Ok(!asked(&scene, REMOVAL).await?.is_empty())).await?;
    ensure!(asked(&scene, "").await?.iter().all(|(_, by)| by != JOBS), "the jobs' account was needed");
    nobody_did_the_others_work(&scene).await?;
    nothing_of_it_stays(&scene).await
}

/// In the same run the session logs itself out: no privilege is needed for it, and the account's own session stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_fenced_by_the_logout_of_the_cloned_session() -> Result<()> {
    let (dir, scene) = hasty()?;
    split(&scene, &[Feature::Guards]).await?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "late_land", "ms": LATE_MS, "fenced": true})).await?;
    let delivered = backup(&scene, with_ticket(&scene, TARGET).await?, dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Failed);
    nothing_of_it_stays(&scene).await?;
    assert_eq!(landed(&scene).await?[0]["fault"], "NotAuthenticated");
    let ended = asked(&scene, "Logout").await?;
    ensure!(!ended.is_empty() && ended.iter().all(|(_, by)| by == JOBS), "{ended:?}");
    assert_eq!(asked(&scene, "TerminateSession").await?, []);
    assert_eq!(asked(&scene, REMOVAL).await?, [], "a fenced request landed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_none_is_one_clear_error_before_anything_is_changed() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1)], |_| {})?;
    split(&scene, ALL).await?;
    let controller = controller(&scene).await?;
    let used = ticket(&controller).await?;
    let first = BackupVmRequest { vcenter_clone_ticket: used.clone(), ..request(TARGET) };
    assert_eq!(backup(&scene, first, dir.path()).await?.result()?.state(), JobState::Ok);
    control(&scene, json!({"cmd": "set_ticket_ms", "ms": 0})).await?;
    let expired = ticket(&controller).await?;
    control(&scene, json!({"cmd": "set_ticket_ms", "ms": 60_000})).await?;
    let lost = ticket(&controller).await?;
    nothing_of_it_stays(&scene).await?;
    control(&scene, json!({"cmd": "requests", "clear": true})).await?;
    for (what, ticket) in [("used", used), ("expired", expired), ("garbage", garbage()), ("lost", lost)] {
        if what == "lost" {
            fault(&scene, "CloneSession", json!({"kind": "drop_reply"})).await?;
        }
        let wanted = BackupVmRequest { vcenter_clone_ticket: ticket.clone(), ..request(TARGET) };
        let delivered = backup(&scene, wanted, dir.path()).await?;
        let result = delivered.result()?;
        ensure!(codes(result) == ["HA-VC-013"] && result.cleanup() == Cleanup::Done, "{what}: {result:#?}");
        let wanted = OpenDisksRequest { vcenter_clone_ticket: ticket, ..open_request(TARGET) };
        refused(disks(&scene).await?.open_disks(wanted).await, "HA-VC-013").map_err(|e| e.context(what))?;
    }
    // An empty one is not taken for none.
    let empty = Some(CloneTicket::default());
    let wanted = BackupVmRequest { vcenter_clone_ticket: empty.clone(), ..request(TARGET) };
    refused(backup_status(&scene, wanted).await, "HA-SES-006")?;
    let wanted = OpenDisksRequest { vcenter_clone_ticket: empty, ..open_request(TARGET) };
    refused(disks(&scene).await?.open_disks(wanted).await, "HA-SES-006")?;
    for method in OF_A_JOB.iter().chain(["Add", "Remove"].iter()) {
        assert_eq!(asked(&scene, method).await?, [], "something was changed");
    }
    nothing_of_it_stays(&scene).await
}

pub async fn backup_status(scene: &Scene, wanted: BackupVmRequest) -> Result<(), tonic::Status> {
    let unreachable = |e: anyhow::Error| tonic::Status::unknown(e.to_string());
    let mut jobs = crate::support::jobs(scene).await.map_err(unreachable)?;
    jobs.backup_vm(wanted).await.map(drop)
}

/// How long the first reconfigure holds the gate: the others come to it meanwhile.
const GATE_MS: u64 = 5000;

/// Disks of each request that adds, when three jobs come to the gate while the first holds it.
async fn crowd(tickets: bool) -> Result<Vec<usize>> {
    let (dir, scene) = scene(&[dense(MIB, 1)], |spec| {
        spec.set("limits", "snapshots_per_datastore", 0);
        for name in ["second", "third"] {
            let disk = DiskSpec { capacity: Some(MIB), unit: Some(0), ..DiskSpec::default() };
            spec.inventory.vms.push(vm(name, vec![disk]));
        }
    })?;
    control(&scene, json!({"cmd": "add_account", "user": JOBS, "password": PASSWORD, "permissions": null})).await?;
    let wanted = async |name: &str| if tickets { with_ticket(&scene, name).await } else { Ok(request(name)) };
    fault(&scene, "ReconfigVM_Task", json!({"kind": "delay_ms", "ms": GATE_MS})).await?;
    let mut runs = Vec::new();
    for name in [TARGET, "second", "third"] {
        let out = dir.path().join(name);
        std::fs::create_dir(&out)?;
        runs.push(Running::start(&scene, wanted(name).await?, &out).await?);
        eventually("the first asks", async || Ok(!calls(&scene, "ReconfigVM_Task").await?.is_empty())).await?;
    }
    for run in runs {
        let done = run.finish().await?;
        ensure!(done.result()?.state() == JobState::Ok, "{:#?}", done.result);
    }
    let added = adds(&scene).await?;
    nothing_of_it_stays(&scene).await?;
    Ok(added)
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_with_different_tickets_never_share_a_request() -> Result<()> {
    let joined = crowd(false).await?;
    ensure!(joined.len() < 3, "nothing is joined, so nothing is tested: {joined:?}");
    assert_eq!(crowd(true).await?, [1, 1, 1]);
    Ok(())
}

fn files(dir: &Path, found: &mut BTreeSet<std::path::PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        } else if path.is_file() && path.metadata()?.len() < 64 * MIB {
            found.insert(path);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_in_no_log_journal_or_audit_file() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(2 * MIB, 1)], |spec| {
        spec.log = "trace".into();
        let source = spec.target().disks[0].source.clone().unwrap();
        let file = source.parent().unwrap().join("audit.jsonl");
        spec.agent_toml.push_str(&format!("[audit]\nfile = '{}'\n", file.display()));
    })?;
    split(&scene, ALL).await?;
    let wanted = with_ticket(&scene, TARGET).await?;
    let good = wanted.vcenter_clone_ticket.clone().context("a ticket")?.value;
    let bad = garbage().context("a ticket")?.value;
    let debug = format!("{wanted:?}");
    ensure!(debug.contains("REDACTED") && !debug.contains(&good), "{debug}");
    assert_eq!(backup(&scene, wanted, dir.path()).await?.result()?.state(), JobState::Ok);
    let refused = BackupVmRequest { vcenter_clone_ticket: garbage(), ..request(TARGET) };
    assert_eq!(codes(backup(&scene, refused, dir.path()).await?.result()?), ["HA-VC-013"]);
    // One more, that a job dies with.
    let dies = with_ticket(&scene, TARGET).await?;
    let third = dies.vcenter_clone_ticket.clone().context("a ticket")?.value;
    fault(&scene, "CreateSnapshot_Task", json!({"kind": "end_session", "user": JOBS})).await?;
    assert_eq!(codes(backup(&scene, dies, dir.path()).await?.result()?), ["HA-VC-014"]);
    nothing_of_it_stays(&scene).await?;
    assert!(scene.take_agent()?.stop()?.success());
    let audit = std::fs::read_to_string(scene.dir.join("audit.jsonl"))?;
    ensure!(audit.contains("clone session") && audit.contains(JOBS), "{audit}");
    let mut all = BTreeSet::new();
    files(&scene.dir, &mut all)?;
    ensure!(all.iter().any(|path| path.ends_with("state/journal")), "{all:?}");
    ensure!(all.iter().any(|path| path.ends_with("agent.log")), "{all:?}");
    for path in &all {
        let text = std::fs::read(path)?;
        for ticket in [&good, &bad, &third] {
            let found = text.windows(ticket.len()).any(|w| w == ticket.as_bytes());
            ensure!(!found, "the ticket is in {}", path.display());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hotaddctl_takes_it_by_file_or_descriptor() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1)], |_| {})?;
    split(&scene, ALL).await?;
    let controller = controller(&scene).await?;
    let path = dir.path().join("ticket");
    let save = async || {
        let value = ticket(&controller).await?.context("a ticket")?.value;
        Ok::<_, anyhow::Error>(std::fs::write(&path, format!("{value}\n"))?)
    };
    let out = |n: &str| dir.path().join(n).display().to_string();
    let file = path.display().to_string();
    save().await?;
    let done = scene.ctl(&["backup", "--vm", TARGET, "--out", &out("a"), "--clone-ticket-file", &file])?;
    assert_eq!(done.code, 0, "{done:?}");
    // It is used up now.
    let done = scene.ctl(&["backup", "--vm", TARGET, "--out", &out("b"), "--clone-ticket-file", &file])?;
    ensure!(done.code != 0 && format!("{done:?}").contains("HA-VC-013"), "{done:?}");
    let done = scene.ctl(&["backup", "--vm", TARGET, "--out", &out("c"), "--clone-ticket-file", &out("none")])?;
    assert_eq!(done.code, 2, "{done:?}");
    save().await?;
    let mut command = hotadd_harness::ctl::Run::command(&scene.url, &scene.pki, "client")?;
    command.args(["backup", "--vm", TARGET, "--out", &out("d"), "--clone-ticket-fd", "0"]);
    let done = hotadd_harness::ctl::Run::of(command.stdin(std::fs::File::open(&path)?))?;
    assert_eq!(done.code, 0, "{done:?}");
    nobody_did_the_others_work(&scene).await?;
    nothing_of_it_stays(&scene).await
}
