//! The planner from outside: what Explain says of VMs that vSphere describes in all the ways, that it touches nothing, and
//! what jobs do with the rules and with faults at attach.
use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{
    BackupVmRequest, DiskExplanation, ExplainRequest, ExplainResponse, JobState, Transport, Verdict,
    proxy_service_client::ProxyServiceClient,
};
use hotadd_harness::{
    Content, Scene, Spec,
    scene::{FIRST_KEY, PROXY, TARGET, datastore_spec, vm},
};
use serde_json::{Value, json};
use vcenter_sim::inventory::{ControllerKind, ControllerSpec, DatastoreKind, DiskSpec, DrsSpec, HostSpec};

use crate::support::{
    MIB, adds, backup, calls, codes, control, disks, fault, images_equal_sources, nothing_is_left, open_request,
    refused, request, scene,
};

fn small(n: usize) -> Vec<Content> {
    (0..n as u64).map(|n| Content::new(2 * MIB, n)).collect()
}

async fn explain(scene: &Scene, what: &str) -> Result<ExplainResponse> {
    explain_as(scene, ExplainRequest { vm: what.into(), ..ExplainRequest::default() }).await
}

async fn explain_as(scene: &Scene, request: ExplainRequest) -> Result<ExplainResponse> {
    Ok(ProxyServiceClient::new(scene.channel().await?).explain(request).await?.into_inner())
}

/// Rule and verdict of everything that spoke about a disk.
fn spoken(disk: &DiskExplanation) -> Vec<(String, Verdict)> {
    disk.rules.iter().map(|rule| (rule.reason.clone().unwrap_or_default().code, rule.verdict())).collect()
}

fn said(n: u32, verdict: Verdict) -> (String, Verdict) {
    (format!("HA-PLAN-{n:03}"), verdict)
}

fn add_store(spec: &mut Spec, name: &str, kind: DatastoreKind) {
    let at = spec.inventory.datastores[0].dir.with_file_name(name);
    let mut store = datastore_spec(name, at);
    store.kind = kind;
    spec.inventory.datastores.push(store);
}

fn host(name: &str, version: &str, build: &str) -> HostSpec {
    let (version, build) = (Some(version.to_owned()), Some(build.to_owned()));
    HostSpec { name: name.into(), datastores: None, version, build, drs: None }
}

async fn counted(scene: &Scene) -> Result<BTreeMap<String, u64>> {
    let counters = scene.control().await?.counters().await?;
    Ok(serde_json::from_value(counters["calls"].clone())?)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_disk_is_explained_for_itself_and_nothing_is_touched() -> Result<()> {
    let (_dir, scene) = scene(&small(5), |spec| {
        add_store(spec, "vsan", DatastoreKind::Vsan);
        add_store(spec, "vvol", DatastoreKind::Vvol);
        let parent = DiskSpec { path: Some("[vvol] parent01/parent01.vmdk".into()), ..DiskSpec::default() };
        let mut other = vm("parent01", vec![parent]);
        other.datastore = Some("vvol".into());
        spec.inventory.vms.push(other);
        let target = spec.target();
        for (kind, bus) in [(ControllerKind::Sata, 0), (ControllerKind::Ide, 0)] {
            let add = ControllerSpec { kind, bus, ..ControllerSpec::default() };
            target.controllers.as_mut().unwrap().push(add);
        }
        target.disks[1].path = Some("[vsan] web01/data.vmdk".into());
        target.disks[2].path = Some("[vvol] web01/clone.vmdk".into());
        target.disks[2].linked_to = Some("[vvol] parent01/parent01.vmdk".into());
        target.disks[3].controller = ControllerKind::Sata;
        target.disks[4].controller = ControllerKind::Ide;
        target.disks[4].unit = Some(0);
        target.disks.iter_mut().for_each(|disk| disk.source = None);
    })?;
    let before = counted(&scene).await?;
    let answer = explain(&scene, TARGET).await?;
    let after = counted(&scene).await?;
    let says: Vec<_> = answer.disks.iter().map(spoken).collect();
    assert_eq!(says[0], []);
    assert_eq!(says[1], [said(9, Verdict::NoHotadd)]);
    assert_eq!(says[2], [said(10, Verdict::NoHotadd)]);
    assert_eq!(says[3], [said(16, Verdict::Warn)]);
    assert_eq!(says[4], [said(15, Verdict::NoHotadd)]);
    let hotadd: Vec<bool> = answer.disks.iter().map(|d| d.transport() == Transport::Hotadd).collect();
    assert_eq!(hotadd, [true, false, false, true, false]);
    assert!(answer.disks[1].needed_for_hotadd[0].contains("HA-PLAN-009"), "{:#?}", answer.disks[1]);
    assert_eq!(answer.disks[0].expected_seconds, None, "nothing was measured yet");
    // Reads only, and the plan's facts in one of them.
    let reads = ["RetrievePropertiesEx", "ContinueRetrievePropertiesEx", "CreateContainerView", "DestroyView"];
    for (method, n) in &after {
        let more = n - before.get(method).copied().unwrap_or(0);
        ensure!(more == 0 || reads.contains(&method.as_str()), "Explain called {method}");
    }
    let planned = calls(&scene, "RetrievePropertiesEx").await?;
    assert_eq!(planned.iter().filter(|body| body.contains("faultToleranceState")).count(), 1);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_proxy_is_decides_for_every_disk() -> Result<()> {
    type Change = fn(&mut Spec);
    let cases: [(Change, u32, Verdict); 6] = [
        (|spec| spec.proxy().change_tracking = true, 31, Verdict::Refuse),
        (|spec| spec.proxy().snapshots = 1, 30, Verdict::Refuse),
        (|spec| spec.proxy().fault_tolerance = Some("running".into()), 32, Verdict::NoHotadd),
        (|spec| spec.proxy().elsewhere = true, 13, Verdict::NoHotadd),
        (|spec| spec.target().template = true, 18, Verdict::Refuse),
        (|spec| spec.target().fault_tolerance = Some("running".into()), 19, Verdict::Warn),
    ];
    for (change, rule, verdict) in cases {
        let (dir, scene) = scene(&small(1), change)?;
        let answer = explain(&scene, TARGET).await?;
        assert_eq!(spoken(&answer.disks[0]), [said(rule, verdict)]);
        if verdict != Verdict::Warn {
            let delivered = backup(&scene, request(TARGET), dir.path()).await?;
            let reason = delivered.result()?.reasons[0].clone();
            ensure!(reason.code == format!("HA-PLAN-{rule:03}"), "{reason:?}");
            ensure!(adds(&scene).await?.is_empty() && calls(&scene, "CreateSnapshot").await?.is_empty());
        }
        nothing_is_left(&scene).await?;
    }
    Ok(())
}

/// Its next step is what heals it; that of a code for all refusals would not.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_refuses_is_told_by_its_own_code_whether_it_is_about_all_disks_or_one() -> Result<()> {
    type Change = fn(&mut Spec);
    let all: Change = |spec| spec.inventory.datastores[0].free = 1 << 20;
    let one: Change = |spec| {
        add_store(spec, "full", DatastoreKind::Vmfs);
        spec.inventory.datastores[1].free = 1 << 20;
        spec.target().disks[1].path = Some("[full] web01/data.vmdk".into());
    };
    for change in [all, one] {
        let (dir, scene) = scene(&small(2), change)?;
        let delivered = backup(&scene, request(TARGET), dir.path()).await?;
        let result = delivered.result()?;
        assert_eq!(codes(result), ["HA-PLAN-023"], "{result:#?}");
        ensure!(result.reasons[0].next_step.contains("plan.redo_min_free_mib"), "{result:#?}");
        ensure!(calls(&scene, "CreateSnapshot").await?.is_empty(), "a snapshot was taken for nothing");
        nothing_is_left(&scene).await?;
    }
    let (_dir, scene) = scene(&small(1), all)?;
    let answer = disks(&scene).await?.open_disks(open_request(TARGET)).await;
    refused(answer, "HA-PLAN-023").map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn drs_is_told_unless_the_proxy_is_exempt_and_unknown_when_it_can_not_be_read() -> Result<()> {
    for (exempt, expected) in
        [(None, vec![said(33, Verdict::Warn)]), (Some("disabled"), vec![]), (Some("manual"), vec![])]
    {
        let (_dir, scene) = scene(&small(1), |spec| {
            let overrides = exempt.map(|behavior| (PROXY.to_owned(), behavior.to_owned())).into_iter().collect();
            let drs = DrsSpec { enabled: true, behavior: "fullyAutomated".into(), overrides };
            spec.inventory.hosts = vec![HostSpec { drs: Some(drs), ..host("esx1.lab", "8.0.2", "23305546") }];
        })?;
        assert_eq!(spoken(&explain(&scene, TARGET).await?.disks[0]), expected, "{exempt:?}");
        let paths = ["configurationEx", "summary.config.product", "config.extraConfig"];
        control(&scene, json!({"cmd": "deny_properties", "paths": paths})).await?;
        let disk = explain(&scene, TARGET).await?.disks.remove(0);
        assert_eq!(spoken(&disk), [said(28, Verdict::Unknown), said(29, Verdict::Unknown), said(33, Verdict::Unknown)]);
        assert_eq!(disk.transport(), Transport::Hotadd, "unknown is told, and refuses only where it could do harm");
        assert_eq!(disk.unknown_facts.len(), 3, "{disk:#?}");
        control(&scene, json!({"cmd": "deny_properties", "paths": ["config.changeTrackingEnabled"]})).await?;
        let disk = explain(&scene, TARGET).await?.disks.remove(0);
        let rule = disk.rules.iter().find(|r| r.reason.as_ref().is_some_and(|r| r.code == "HA-PLAN-031"));
        let rule = rule.context("no rule about change tracking spoke")?;
        assert!(rule.binding && rule.verdict() == Verdict::Unknown, "{rule:#?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nfs3_and_other_hosts_and_builds() -> Result<()> {
    for (build, silent) in [("22380479", false), ("23305546", true)] {
        let (_dir, scene) = scene(&small(1), |spec| {
            spec.inventory.datastores[0].kind = DatastoreKind::Nfs3;
            spec.inventory.hosts = vec![host("esx1.lab", "8.0.3", "24022510"), host("esx2.lab", "8.0.2", build)];
            spec.target().host = Some("esx2.lab".into());
        })?;
        let says = spoken(&explain(&scene, TARGET).await?.disks[0]);
        assert_eq!(says, if silent { vec![] } else { vec![said(12, Verdict::NoHotadd)] }, "{build}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn first_class_disks_io_filters_and_san() -> Result<()> {
    let (_dir, scene) = scene(&small(2), |spec| {
        spec.inventory.hosts = vec![host("esx1.lab", "7.0.2", "17630552")];
        spec.target().disks[0].fcd = Some("fcd-1".into());
        spec.target().disks[1].io_filters = vec!["f".repeat(300)];
    })?;
    let answer = explain(&scene, TARGET).await?;
    assert_eq!(spoken(&answer.disks[0]), [said(27, Verdict::Refuse)]);
    assert_eq!(spoken(&answer.disks[1]), [said(25, Verdict::Prefer)]);
    assert_eq!(answer.disks[1].preferred(), Transport::Hotadd);
    let san = ExplainRequest { vm: TARGET.into(), transport: Transport::San.into(), ..ExplainRequest::default() };
    let answer = explain_as(&scene, san).await?;
    assert!(answer.disks.iter().all(|disk| spoken(disk).contains(&said(26, Verdict::Refuse))), "{answer:#?}");
    // The proxy itself.
    let own = explain(&scene, PROXY).await?;
    assert!(own.disks.iter().all(|disk| spoken(disk).contains(&said(21, Verdict::Refuse))), "{own:#?}");
    Ok(())
}

fn tries(scene: &Scene) -> Result<Vec<String>> {
    let run = std::fs::read(scene.dir.join("state/journal"))?;
    let text = String::from_utf8_lossy(&run).into_owned();
    let states = text.match_indices("\"record\":\"tried\"").filter_map(|(at, _)| {
        let rest = text.get(at..)?;
        let state = rest.split("\"state\":\"").nth(1)?;
        Some(state.split('"').next()?.to_owned())
    });
    Ok(states.collect())
}

fn on_vsan(spec: &mut Spec) {
    add_store(spec, "vsan", DatastoreKind::Vsan);
    spec.target().disks[0].path = Some("[vsan] web01/web01.vmdk".into());
    spec.agent_toml.push_str("[plan]\ntry = 'once'\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vddk_limit_is_tried_once_and_its_outcome_is_kept() -> Result<()> {
    let (dir, mut scene) = scene(&small(1), on_vsan)?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    assert_eq!(tries(&scene)?, ["begun", "worked"]);
    scene.take_agent()?.kill()?;
    scene.start_agent()?;
    let again = explain(&scene, TARGET).await?.disks.remove(0);
    assert_eq!(again.transport(), Transport::Hotadd);
    ensure!(again.rules[0].reason.as_ref().is_some_and(|r| r.message.contains("worked")), "{again:#?}");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_failed_is_never_repeated_at_that_site_and_build() -> Result<()> {
    let (dir, scene) = scene(&small(1), on_vsan)?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "task_fault", "fault": "GenericVmConfigFault", "count": 9}))
        .await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Failed, "{:#?}", delivered.result);
    assert_eq!(tries(&scene)?, ["begun", "failed"]);
    control(&scene, json!({"cmd": "clear_faults"})).await?;
    let before = adds(&scene).await?.len();
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    let reason = delivered.result()?.reasons[0].clone();
    ensure!(reason.code == "HA-PLAN-009" && reason.message.contains("failed"), "{reason:?}");
    assert_eq!(adds(&scene).await?.len(), before, "it was tried again");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_attach_costs_its_disk_and_tells_both_reasons() -> Result<()> {
    let (dir, scene) = scene(&small(3), |_| {})?;
    let fields = json!({"property": "virtualDeviceSpec[1].device", "deviceIndex": 1});
    let spec = json!({"kind": "task_fault", "fault": "InvalidDeviceBacking", "fields": fields});
    fault(&scene, "ReconfigVM_Task", spec).await?;
    let wanted = BackupVmRequest { allow_partial: true, ..request(TARGET) };
    let delivered = backup(&scene, wanted, dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!((result.state(), delivered.images.len()), (JobState::Ok, 2), "{result:#?}");
    let bad = result.disks.iter().find(|d| !d.ok).context("no disk was refused")?;
    assert_eq!(bad.disk.as_ref().map(|d| d.device_key), Some(FIRST_KEY + 1));
    let codes: Vec<&str> = bad.reasons.iter().map(|r| r.code.as_str()).collect();
    assert_eq!(codes, ["HA-ATT-003", "HA-PLAN-038"]);
    ensure!(bad.reasons[1].message.contains("InvalidDeviceBacking"), "{bad:#?}");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_fresh_facts_may_heal_is_retried_once() -> Result<()> {
    let (dir, scene) = scene(&small(1), |_| {})?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "task_fault", "fault": "FileNotFound"})).await?;
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    assert_eq!(adds(&scene).await?, [1, 1]);
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_unit_the_policy_decides() -> Result<()> {
    let fill = |spec: &mut Spec| {
        let proxy = spec.proxy();
        proxy.controllers.as_mut().unwrap().truncate(1);
        proxy.disks.truncate(1);
        let filler = |unit| DiskSpec {
            unit: Some(unit),
            capacity: Some(1 << 16),
            mode: Some("independent_persistent".into()),
            ..DiskSpec::default()
        };
        // One unit stays free.
        proxy.disks.extend((1..15).filter(|unit| *unit != 7).map(filler));
    };
    let (_dir, queue) = scene(&small(2), fill)?;
    let answer = explain(&queue, TARGET).await?;
    assert_eq!((spoken(&answer.disks[0]), spoken(&answer.disks[1])), (vec![], vec![said(20, Verdict::Hold)]));
    let (dir, nbd) = scene(&small(2), |spec| {
        fill(spec);
        spec.agent_toml.push_str("[plan]\nno_slot = 'nbd'\n");
    })?;
    let wanted = BackupVmRequest { allow_partial: true, ..request(TARGET) };
    let delivered = backup(&nbd, wanted, dir.path()).await?;
    assert_eq!((delivered.result()?.state(), delivered.images.len()), (JobState::Ok, 1), "{:#?}", delivered.result);
    let bad = delivered.result()?.disks.iter().find(|d| !d.ok).context("no disk was refused")?;
    assert_eq!(bad.reasons[0].code, "HA-PLAN-020");
    nothing_is_left(&nbd).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hotaddctl_shows_it_as_a_table_and_as_json_with_what_was_measured() -> Result<()> {
    let (dir, scene) = scene(&[Content { every: 1, ..Content::new(32 * MIB, 1) }], |spec| {
        spec.agent_toml.push_str("[plan]\ncost_model = true\n");
    })?;
    let run = scene.ctl(&["explain", "--vm", TARGET])?;
    assert_eq!(run.code, 0, "{run:#?}");
    for word in [TARGET, "hotadd", "unknown", "HA-PLAN-037", "not known: "] {
        assert!(run.stdout.contains(word), "{word}: {}", run.stdout);
    }
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    let run = scene.ctl(&["explain", "--vm", TARGET, "--bytes", "1048576", "--json"])?;
    let line: Value = serde_json::from_str(run.stdout.lines().next().context("no line")?)?;
    assert_eq!((line["event"].as_str(), line["transport"].as_str()), (Some("explain"), Some("hotadd")));
    assert!(line["expected_seconds"].as_f64().is_some_and(|s| s > 0.0), "{line}");
    assert_eq!(line["bytes"], 1_048_576);
    let unknown = line["unknown_facts"][0].as_str().unwrap_or_default();
    assert!(unknown.contains("NBD was never measured"), "{line}");
    let nobody = scene.ctl(&["explain", "--vm", "nobody"])?;
    assert_eq!(nobody.code, 4, "{nobody:#?}");
    assert!(nobody.stderr.contains("HA-VM-001"), "{nobody:#?}");
    Ok(())
}
