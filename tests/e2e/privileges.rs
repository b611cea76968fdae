//! The printed role is enough, and minimal: with exactly its privileges every feature works, and without any one of them the feature that it
//! is for fails, or gives way, as the table says, and names privilege and object. All from the table: a new row without a known
//! effect fails here.
use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{
    BackupVmRequest, Cleanup, ExplainRequest, JobState, Scope as Areas, Transport,
    proxy_service_client::ProxyServiceClient,
};
use hotadd_harness::{
    Content, Scene, Spec,
    scene::{PROXY, TARGET},
};
use hotadd_privileges::{Feature, NEEDED, Privilege, Scope, wanted};
use serde_json::{Value, json};
use vcenter_sim::inventory::DiskSpec;

use crate::support::{
    Delivered, MIB, Running, backup, calls, control, dense, duties, eventually, fault, images_equal_sources,
    nothing_stays, request, scene,
};

/// The roles of the table, without one row of it.
pub fn permissions(rows: &[&Privilege], without: Option<&Privilege>, more: &[(Scope, &str)]) -> Value {
    let role = |scope: Scope| {
        let kept = rows.iter().filter(|row| row.scope == scope && without != Some(**row)).map(|row| row.id);
        let more = more.iter().filter(|(on, _)| *on == scope).map(|(_, id)| *id);
        let (on, propagate) = match scope {
            Scope::Vcenter => ("root", false),
            Scope::Everywhere => ("datacenter", true),
            Scope::Target => (TARGET, true),
            Scope::Proxy => (PROXY, false),
            Scope::Datastore => ("ds1", false),
        };
        let mut ids: Vec<&str> = kept.chain(more).collect();
        // A role that has lost its last privilege is still a role, and lets read. Who may not even read has none.
        ids.push("System.Read");
        if without.is_some_and(|row| row.scope == scope && row.is_in_every_role()) {
            ids.clear();
        }
        json!({"on": on, "privileges": ids, "propagate": propagate})
    };
    json!(Scope::ALL.map(role))
}

pub async fn give(scene: &Scene, permissions: Value) -> Result<()> {
    control(scene, json!({"cmd": "set_permissions", "permissions": permissions})).await.map(drop)
}

fn all() -> Vec<&'static Privilege> {
    wanted(None)
}

/// Moref of the object that a missing privilege is told with.
async fn object(scene: &Scene, scope: Scope) -> Result<String> {
    let state = control(scene, json!({"cmd": "state"})).await?;
    let id = |list: &str, name: &str| {
        let found = state[list].as_array().into_iter().flatten().find(|one| one["name"] == name);
        found.and_then(|one| one["id"].as_str()).map(str::to_owned)
    };
    match scope {
        Scope::Vcenter => Some("group-d1".to_owned()),
        // Whatever lies below.
        Scope::Everywhere => Some(String::new()),
        Scope::Target => id("vms", TARGET),
        Scope::Proxy => id("vms", PROXY),
        Scope::Datastore => id("datastores", "ds1"),
    }
    .context("no such object")
}

/// Where the lack is told.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    /// In a reason of the job or of its disks; it fails.
    Fails,
    /// In a remark of a job that is OK.
    Remark,
    /// By a duty that waits for the privilege, or in the log beside an open duty.
    Owed,
    /// By Explain, as something unknown; the job is OK.
    Unknown,
    /// In the agent's log.
    Log,
}

/// What happens without a privilege; the code is in the table's text, too.
fn effect(id: &str) -> Option<(Told, &'static str)> {
    Some(match id {
        "System.Read" => (Told::Unknown, "HA-PLAN-013"),
        "System.View"
        | "VirtualMachine.State.CreateSnapshot"
        | "VirtualMachine.Config.AddExistingDisk"
        | "Datastore.AllocateSpace"
        | "VirtualMachine.Config.AddRemoveDevice"
        | "VirtualMachine.Config.ChangeTracking"
        | "VApp.Export"
        | "Cryptographer.Access"
        | "Cryptographer.AddDisk" => (Told::Fails, "HA-VC-004"),
        "VirtualMachine.Config.RemoveDisk" | "VirtualMachine.State.RemoveSnapshot" | "Global.EnableMethods" => {
            (Told::Owed, "HA-DUT-001")
        }
        "VirtualMachine.Provisioning.DiskRandomRead" => (Told::Remark, "HA-CBT-007"),
        "Global.DisableMethods" => (Told::Fails, "HA-GRD-001"),
        "Sessions.TerminateSession" => (Told::Log, ""),
        _ => return None,
    })
}

/// A scene in which the feature is needed.
fn stage(feature: Feature) -> Result<(tempfile::TempDir, Scene)> {
    let disks = if feature == Feature::AddController { 3 } else { 1 };
    let disks: Vec<Content> = (1..=disks).map(|seed| dense(2 * MIB, seed)).collect();
    scene(&disks, |spec| {
        spec.set("deadlines", "cleanup_seconds", 1);
        // Full maps come of a disk that is tracked.
        spec.target().change_tracking = feature != Feature::EnableTracking;
        match feature {
            Feature::AddController => fill(spec),
            Feature::Export => spec.agent_toml.push_str("[export]\nmax_hours = 1\nport = 0\n"),
            Feature::Guards => spec.agent_top = "guards = 'refuse'".into(),
            Feature::Encrypted => encrypt(spec),
            _ => {}
        }
    })
}

/// One unit is left on the proxy's only controller.
fn fill(spec: &mut Spec) {
    let proxy = spec.proxy();
    proxy.controllers.as_mut().unwrap().truncate(1);
    proxy.disks.truncate(1);
    let filler = |unit| DiskSpec {
        unit: Some(unit),
        capacity: Some(1 << 16),
        mode: Some("independent_persistent".into()),
        ..DiskSpec::default()
    };
    proxy.disks.extend((1..15).filter(|unit| *unit != 7).map(filler));
}

fn encrypt(spec: &mut Spec) {
    let key = Some("key-1".to_owned());
    spec.proxy().key_id.clone_from(&key);
    let target = spec.target();
    target.key_id.clone_from(&key);
    target.disks[0].key_id = key;
}

fn job(feature: Feature) -> BackupVmRequest {
    let plain = request(TARGET);
    match feature {
        Feature::ChangedBlocks => BackupVmRequest { scope: Areas::Allocated.into(), ..plain },
        Feature::EnableTracking => BackupVmRequest { enable_change_tracking: true, ..plain },
        Feature::Export => BackupVmRequest { transport: Transport::Export.into(), ..plain },
        _ => plain,
    }
}

/// What became of the work: its job, if it ended.
async fn work(scene: &mut Scene, dir: &tempfile::TempDir, feature: Feature) -> Result<Option<Delivered>> {
    if feature != Feature::Fence {
        return Ok(Some(backup(scene, job(feature), dir.path()).await?));
    }
    // An attach whose answer nobody waits for any more: the next run ends the session under which it was asked.
    fault(scene, "ReconfigVM_Task", json!({"kind": "hang"})).await?;
    let running = Running::start(scene, job(feature), dir.path()).await?;
    eventually("the attach is asked", async || Ok(calls(scene, "ReconfigVM_Task").await?.len() == 1)).await?;
    scene.take_agent()?.kill()?;
    drop(running);
    scene.start_agent()?;
    Ok(None)
}

fn reasons(delivered: &Delivered) -> Result<String> {
    let result = delivered.result()?;
    let maps: Vec<_> = delivered.opened.iter().filter_map(|disk| disk.map.as_ref()?.wider.clone()).collect();
    let disks: Vec<_> = result.disks.iter().flat_map(|disk| disk.reasons.clone()).collect();
    Ok(format!("{:?} {disks:?} {maps:?}", result.reasons))
}

async fn explain(scene: &Scene) -> Result<String> {
    let ask = ExplainRequest { vm: TARGET.into(), ..ExplainRequest::default() };
    Ok(format!("{:?}", ProxyServiceClient::new(scene.channel().await?).explain(ask).await?.into_inner()))
}

fn log(scene: &Scene) -> String {
    std::fs::read_to_string(scene.dir.join("agent.log")).unwrap_or_default()
}

async fn works(feature: Feature) -> Result<()> {
    let (dir, mut scene) = stage(feature)?;
    give(&scene, permissions(&all(), None, &[])).await?;
    match work(&mut scene, &dir, feature).await? {
        Some(delivered) => {
            let result = delivered.result()?;
            ensure!(result.state() == JobState::Ok && result.cleanup() == Cleanup::Done, "{result:#?}");
            images_equal_sources(&scene, &delivered)?;
            // An export says why it is one.
            let remarks = feature != Feature::Export && reasons(&delivered)?.contains("HA-");
            ensure!(!remarks, "a remark: {}", reasons(&delivered)?);
        }
        None => ensure!(log(&scene).contains("session of an unconfirmed request was ended"), "{}", log(&scene)),
    }
    ensure!(!log(&scene).contains("HA-VC-004"), "something was refused: {}", log(&scene));
    nothing_stays(&scene).await
}

async fn fails(feature: Feature, lacking: &Privilege) -> Result<()> {
    let (told, code) = effect(lacking.id).with_context(|| format!("no effect is known of {}", lacking.id))?;
    ensure!(lacking.without.contains(code), "the table does not tell {code}: {}", lacking.without);
    let (dir, mut scene) = stage(feature)?;
    give(&scene, permissions(&all(), Some(lacking), &[])).await?;
    let delivered = work(&mut scene, &dir, feature).await?;
    let ok = match &delivered {
        Some(delivered) => delivered.result()?.state() == JobState::Ok,
        None => true,
    };
    let on = object(&scene, lacking.scope).await?;
    // Of what may not be read either may be named.
    let id = if lacking.is_in_every_role() { "System." } else { lacking.id };
    let names = |text: &str| text.contains(id) && text.contains(&on);
    let reasons = delivered.as_ref().map(reasons).transpose()?.unwrap_or_default();
    match told {
        Told::Fails => ensure!(!ok && reasons.contains(code) && names(&reasons), "{reasons}"),
        Told::Remark => ensure!(ok && reasons.contains(code) && names(&reasons), "{reasons}"),
        Told::Owed => {
            eventually("a duty says what it waits for", async || {
                let duties = duties(&scene).await?;
                Ok(duties.iter().any(|duty| names(&duty.last_error)) || (!duties.is_empty() && names(&log(&scene))))
            })
            .await?;
        }
        Told::Unknown => {
            let explained = explain(&scene).await?;
            ensure!(
                ok && explained.contains(code) && explained.contains("is not shown to this account"),
                "{explained}"
            );
            ensure!(names(&log(&scene)), "{}", log(&scene));
        }
        Told::Log => eventually("the log tells it", async || Ok(names(&log(&scene)))).await?,
    }
    // Nothing stays, at the latest when the privilege is there.
    give(&scene, permissions(&all(), None, &[])).await?;
    let disabled = async || control(&scene, json!({"cmd": "methods"})).await;
    eventually("the methods are enabled", async || Ok(disabled().await?["methods"] == json!([]))).await?;
    nothing_stays(&scene).await
}

async fn proven(feature: Feature) -> Result<()> {
    works(feature).await.map_err(|e| e.context(format!("{feature:?} with the whole role")))?;
    for lacking in NEEDED.iter().filter(|row| row.features.contains(&feature)) {
        fails(feature, lacking).await.map_err(|e| e.context(format!("{feature:?} without {}", lacking.id)))?;
    }
    Ok(())
}

macro_rules! features {
    ($($name:ident = $feature:ident,)*) => {
        const PROVEN: &[Feature] = &[$(Feature::$feature),*];
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() -> Result<()> {
            proven(Feature::$feature).await
        })*
    };
}

features! {
    inventory = Inventory,
    snapshot = Snapshot,
    remove_snapshot = RemoveSnapshot,
    attach = Attach,
    detach = Detach,
    add_controller = AddController,
    changed_blocks = ChangedBlocks,
    enable_tracking = EnableTracking,
    export = Export,
    guards = Guards,
    fence = Fence,
    encrypted = Encrypted,
}

#[test]
fn every_feature_is_proven() {
    assert_eq!(PROVEN, Feature::all());
}

/// What only features need is left out: a job works, and the log says what it goes without.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_needs_no_more_than_the_core() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1)], |_| {})?;
    give(&scene, permissions(&wanted(Some(&[])), None, &[])).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    ensure!(delivered.result()?.state() == JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    ensure!(log(&scene).contains("Global.DisableMethods on Folder:group-d1"), "{}", log(&scene));
    nothing_stays(&scene).await
}
