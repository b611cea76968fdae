//! What a job may begin with the rights of its ticket: only what the account on the proxy can give back, and when that is believed to be done.
use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{BackupVmRequest, Cleanup, CloseDisksRequest, Duty, JobState, OpenDisksRequest, Transport};
use hotadd_harness::{
    Scene,
    scene::{PROXY, TARGET},
};
use hotadd_privileges::{Feature, Part, part_of, wanted};
use serde_json::json;

use crate::{
    guards::none_is_disabled,
    late::{LATE_MS, hasty},
    privileges::{give, permissions},
    support::{
        MIB, backup, calls, codes, control, dense, disks, duties, eventually, fault, images_equal_sources,
        nothing_stays, open_request, refused, request, scene,
    },
    tickets::{ALL, JOBS, PASSWORD, asked, backup_status, garbage, landed, nothing_of_it_stays, split, with_ticket},
};

/// Nothing that would have to be given back was asked for.
async fn nothing_was_begun(scene: &Scene) -> Result<()> {
    for method in ["DisableMethods", "CreateSnapshot", "Add"] {
        assert_eq!(asked(scene, method).await?, [], "something was begun");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_account_could_not_give_back_is_not_begun() -> Result<()> {
    for missing in ["VirtualMachine.State.RemoveSnapshot", "VirtualMachine.Config.RemoveDisk"] {
        let (dir, scene) = scene(&[dense(2 * MIB, 1)], |_| {})?;
        split(&scene, ALL).await?;
        let stored = part_of(wanted(Some(ALL)), Some(Part::Stored));
        let row = stored.iter().copied().find(|row| row.id == missing).context("no such row")?;
        give(&scene, permissions(&stored, Some(row), &[])).await?;
        let delivered = backup(&scene, with_ticket(&scene, TARGET).await?, dir.path()).await?;
        let result = delivered.result()?;
        assert_eq!((codes(result), result.cleanup()), (vec!["HA-VC-016"], Cleanup::Done), "{result:#?}");
        ensure!(result.reasons[0].message.contains(missing), "{result:#?}");
        let ticket = with_ticket(&scene, TARGET).await?.vcenter_clone_ticket;
        let open = OpenDisksRequest { vcenter_clone_ticket: ticket, ..open_request(TARGET) };
        refused(disks(&scene).await?.open_disks(open).await, "HA-VC-016")?;
        nothing_was_begun(&scene).await?;
        nothing_of_it_stays(&scene).await?;
    }
    Ok(())
}

/// Disabled by the ticket's account they would stay disabled for good.
#[tokio::test(flavor = "multi_thread")]
async fn methods_that_the_account_could_not_enable_are_not_disabled() -> Result<()> {
    for (policy, code) in [("warn", None), ("refuse", Some("HA-GRD-001"))] {
        let (dir, scene) = scene(&[dense(2 * MIB, 1)], |spec| spec.agent_top = format!("guards = '{policy}'"))?;
        // The part of the jobs has all features: its account may disable.
        split(&scene, &[Feature::Fence]).await?;
        let delivered = backup(&scene, with_ticket(&scene, TARGET).await?, dir.path()).await?;
        let result = delivered.result()?;
        match code {
            None => assert_eq!(result.state(), JobState::Ok, "{result:#?}"),
            Some(code) => {
                assert_eq!(codes(result), [code]);
                ensure!(result.reasons[0].message.contains("Global.EnableMethods"), "{result:#?}");
                nothing_was_begun(&scene).await?;
            }
        }
        assert_eq!(asked(&scene, "DisableMethods").await?, []);
        nothing_of_it_stays(&scene).await?;
    }
    Ok(())
}

/// The call that enables them says nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn methods_that_are_still_disabled_stay_owed_and_are_told() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1)], |spec| spec.set("deadlines", "cleanup_seconds", 1.0))?;
    split(&scene, ALL).await?;
    control(&scene, json!({"cmd": "set_enable_across", "on": false})).await?;
    let delivered = backup(&scene, with_ticket(&scene, TARGET).await?, dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!(result.cleanup(), Cleanup::Owed, "{result:#?}");
    eventually("a duty tells why", async || {
        let told = |duty: &Duty| duty.kind == "guard" && duty.last_error.contains("still disabled");
        Ok(duties(&scene).await?.iter().any(told))
    })
    .await?;
    let log = std::fs::read_to_string(scene.dir.join("agent.log"))?;
    ensure!(log.contains("still disabled after they were enabled"), "no warning");
    control(&scene, json!({"cmd": "set_enable_across", "on": true})).await?;
    nothing_of_it_stays(&scene).await
}

/// An answer of vCenter that is none must not leave the session alive under which a request is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_logout_that_failed_is_tried_again_before_an_absence_is_believed() -> Result<()> {
    let (dir, scene) = hasty()?;
    // The account may not end sessions of others.
    split(&scene, &[Feature::Guards]).await?;
    fault(&scene, "ReconfigVM_Task", json!({"kind": "late_land", "ms": LATE_MS, "fenced": true})).await?;
    fault(&scene, "Logout", json!({"kind": "http_500", "user": JOBS})).await?;
    let delivered = backup(&scene, with_ticket(&scene, TARGET).await?, dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Failed);
    // The snapshot goes when the disk is believed to be absent.
    let all = asked(&scene, "").await?;
    let removal = all.iter().position(|(method, _)| method == "RemoveSnapshot_Task").context("the snapshot stays")?;
    let before = all[..removal].iter().filter(|(method, _)| method == "Logout").count();
    ensure!(before >= 2, "{before} logouts before the absence was believed");
    nothing_of_it_stays(&scene).await?;
    assert_eq!(landed(&scene).await?[0]["fault"], "NotAuthenticated");
    Ok(())
}

/// Jobs with a ticket that export, where nobody but the session that asked knows the lease, and its timeout is no help.
async fn exported(broken: bool) -> Result<()> {
    let (dir, scene) = scene(&[dense(4 * MIB, 1)], |spec| {
        spec.agent_toml.push_str("[export]\nmax_hours = 1\nport = 0\n");
        spec.set("deadlines", "export_unknown_seconds", 600);
        spec.set("deadlines", "cleanup_seconds", if broken { 1.0 } else { 30.0 });
    })?;
    split(&scene, ALL).await?;
    let cut = if broken { json!(100_000) } else { json!(null) };
    control(&scene, json!({"cmd": "export", "own_session": true, "disconnect_after": cut})).await?;
    let export = BackupVmRequest { transport: Transport::Export.into(), ..with_ticket(&scene, TARGET).await? };
    let delivered = backup(&scene, export, dir.path()).await?;
    let result = delivered.result()?;
    ensure!(!asked(&scene, "ExportSnapshot").await?.is_empty(), "nothing was exported: {result:#?}");
    if broken {
        assert_eq!(result.state(), JobState::Failed, "{result:#?}");
    } else {
        assert_eq!((result.state(), result.cleanup()), (JobState::Ok, Cleanup::Done), "{result:#?}");
    }
    nothing_of_it_stays(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_lease_of_a_cloned_session_is_over() -> Result<()> {
    exported(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_lease_is_over_when_the_cloned_session_has_ended() -> Result<()> {
    exported(true).await
}

/// A repetition must never be given what was done with other rights.
#[tokio::test(flavor = "multi_thread")]
async fn with_and_without_a_ticket_are_two_requests() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1)], |_| {})?;
    split(&scene, ALL).await?;
    let with = with_ticket(&scene, TARGET).await?;
    assert_eq!(backup(&scene, with.clone(), dir.path()).await?.result()?.state(), JobState::Ok);
    let without = BackupVmRequest { vcenter_clone_ticket: None, ..with };
    refused(backup_status(&scene, without).await, "HA-SES-003")?;
    // The other way round: the first one failed for its rights.
    let without = request(TARGET);
    assert_eq!(codes(backup(&scene, without.clone(), dir.path()).await?.result()?), ["HA-VC-004"]);
    let with = BackupVmRequest { vcenter_clone_ticket: garbage(), ..without };
    refused(backup_status(&scene, with).await, "HA-SES-003")?;
    let ticket = with_ticket(&scene, TARGET).await?.vcenter_clone_ticket;
    let open = OpenDisksRequest { vcenter_clone_ticket: ticket, ..open_request(TARGET) };
    let mut client = disks(&scene).await?;
    let opened = client.open_disks(open.clone()).await?.into_inner();
    let without = OpenDisksRequest { vcenter_clone_ticket: None, ..open.clone() };
    refused(client.open_disks(without).await, "HA-SES-003")?;
    // Another ticket is no other request, and is not used.
    let again = OpenDisksRequest { vcenter_clone_ticket: garbage(), ..open };
    assert_eq!(client.open_disks(again).await?.into_inner().session_id, opened.session_id);
    client.close_disks(CloseDisksRequest { session_id: opened.session_id }).await?;
    nothing_of_it_stays(&scene).await
}

/// The account on the proxy may read it; whoever sent the ticket may not.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_the_tickets_user_may_not_see_is_told_nothing_of() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1)], |_| {})?;
    split(&scene, ALL).await?;
    let mut roles = permissions(&part_of(wanted(None), Some(Part::Job)), None, &[]);
    let role = roles.as_array_mut().and_then(|all| all.iter_mut().find(|role| role["on"] == TARGET));
    role.context("no role on the target")?["privileges"] = json!([]);
    control(&scene, json!({"cmd": "add_account", "user": JOBS, "password": PASSWORD, "permissions": roles})).await?;
    let delivered = backup(&scene, with_ticket(&scene, TARGET).await?, dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!(codes(result), ["HA-VC-004"], "{result:#?}");
    ensure!(result.vm_name.is_empty() && result.vm_moref.is_empty() && result.disks.is_empty(), "{result:#?}");
    let ticket = with_ticket(&scene, TARGET).await?.vcenter_clone_ticket;
    let open = OpenDisksRequest { vcenter_clone_ticket: ticket, ..open_request(TARGET) };
    refused(disks(&scene).await?.open_disks(open).await, "HA-VC-004")?;
    nothing_was_begun(&scene).await?;
    nothing_of_it_stays(&scene).await
}

/// Their answer is one: nothing may land later, and the cloned session is not ended for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_product_disabled_does_not_end_the_cloned_session() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1)], |_| {})?;
    split(&scene, ALL).await?;
    for vm in [TARGET, PROXY] {
        let theirs =
            json!({"cmd": "disable_method", "vm": vm, "method": "RelocateVM_Task", "source": "another", "on": true});
        control(&scene, theirs).await?;
    }
    let delivered = backup(&scene, with_ticket(&scene, TARGET).await?, dir.path()).await?;
    images_equal_sources(&scene, &delivered)?;
    nothing_stays(&scene).await?;
    none_is_disabled(&scene).await
}

/// Whether it came is only known once the session that asked has ended, and with it the job's rights.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_a_guard_ends_the_job_and_not_its_rights_in_silence() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1)], |_| {})?;
    split(&scene, ALL).await?;
    fault(&scene, "DisableMethods", json!({"kind": "drop_reply", "nth": 1})).await?;
    let delivered = backup(&scene, with_ticket(&scene, TARGET).await?, dir.path()).await?;
    assert_eq!(codes(delivered.result()?), ["HA-GRD-001"]);
    ensure!(calls(&scene, "CreateSnapshot").await?.is_empty(), "went on after the fence");
    nothing_stays(&scene).await?;
    none_is_disabled(&scene).await
}
