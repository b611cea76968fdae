//! Methods that are disabled while something is held: nobody moves the target or destroys the proxy, and afterwards
//! everybody can again, whatever broke.
use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::JobState;
use hotadd_harness::{
    Scene,
    scene::{PROXY, TARGET},
};
use serde_json::{Value, json};

use crate::{
    late::{LATE_MS, hasty},
    support::{
        MIB, backup, calls, codes, control, dense, eventually, fault, images_equal_sources, nothing_is_left,
        nothing_stays, reading, request, scene,
    },
};

const SOURCE: &str = "hotadd-agent/";

/// Methods of a VM that are disabled under a source that begins so.
async fn disabled(scene: &Scene, vm: &str, source: &str) -> Result<Vec<String>> {
    let reply = control(scene, json!({"cmd": "methods", "vm": vm})).await?;
    let all = reply["methods"].as_array().context("methods")?;
    let ours = all.iter().filter(|m| m["source"].as_str().is_some_and(|s| s.starts_with(source)));
    Ok(ours.filter_map(|m| m["method"].as_str().map(str::to_owned)).collect())
}

pub async fn none_is_disabled(scene: &Scene) -> Result<()> {
    for vm in [TARGET, PROXY] {
        eventually("the methods are enabled again", async || Ok(disabled(scene, vm, SOURCE).await?.is_empty())).await?;
    }
    Ok(())
}

async fn operator(scene: &Scene, call: &str, vm: &str) -> Result<Value> {
    Ok(control(scene, json!({"cmd": "operator", "call": call, "vm": vm, "name": "theirs"})).await?["fault"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_moves_the_target_or_destroys_the_proxy_meanwhile() -> Result<()> {
    let (dir, scene) = scene(&[dense(96 * MIB, 1)], |_| {})?;
    let job = reading(&scene, &dir, request(TARGET)).await?;
    assert_eq!(disabled(&scene, TARGET, SOURCE).await?, ["RelocateVM_Task"]);
    assert_eq!(operator(&scene, "Relocate", TARGET).await?, "MethodDisabled");
    for call in
        ["Destroy", "Unregister", "Relocate", "Clone", "CreateSnapshot", "RevertToCurrentSnapshot", "MarkAsTemplate"]
    {
        assert_eq!(operator(&scene, call, PROXY).await?, "MethodDisabled", "{call}");
    }
    let methods = disabled(&scene, PROXY, SOURCE).await?;
    ensure!(!methods.iter().any(|m| m == "MigrateVM_Task"), "its host could not enter maintenance: {methods:?}");
    let delivered = job.finish().await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await?;
    none_is_disabled(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_next_start_enables_them() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(96 * MIB, 1)], |_| {})?;
    let job = reading(&scene, &dir, request(TARGET)).await?;
    scene.take_agent()?.kill()?;
    drop(job);
    ensure!(!disabled(&scene, PROXY, SOURCE).await?.is_empty(), "nothing was disabled");
    scene.start_agent()?;
    nothing_is_left(&scene).await?;
    none_is_disabled(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_privilege_it_warns_or_refuses() -> Result<()> {
    for (policy, code) in [("warn", None), ("refuse", Some("HA-GRD-001"))] {
        let (dir, scene) = scene(&[dense(2 * MIB, 1)], |spec| spec.agent_top = format!("guards = '{policy}'"))?;
        let refusal = json!({"kind": "fault", "fault": "NoPermission", "count": 100});
        fault(&scene, "DisableMethods", refusal).await?;
        let delivered = backup(&scene, request(TARGET), dir.path()).await?;
        match code {
            None => {
                assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
                images_equal_sources(&scene, &delivered)?;
            }
            Some(code) => {
                assert_eq!(codes(delivered.result()?), [code]);
                ensure!(calls(&scene, "CreateSnapshot").await?.is_empty(), "a snapshot was taken without the guard");
            }
        }
        nothing_is_left(&scene).await?;
        none_is_disabled(&scene).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_product_disabled_stays_disabled() -> Result<()> {
    let (dir, scene) = scene(&[dense(2 * MIB, 1)], |_| {})?;
    for vm in [TARGET, PROXY] {
        let theirs =
            json!({"cmd": "disable_method", "vm": vm, "method": "RelocateVM_Task", "source": "another", "on": true});
        control(&scene, theirs).await?;
    }
    let delivered = backup(&scene, request(TARGET), dir.path()).await?;
    assert_eq!(delivered.result()?.state(), JobState::Ok, "{:#?}", delivered.result);
    nothing_is_left(&scene).await?;
    none_is_disabled(&scene).await?;
    for vm in [TARGET, PROXY] {
        assert_eq!(disabled(&scene, vm, "another").await?, ["RelocateVM_Task"]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_of_both_calls_leave_nothing_disabled() -> Result<()> {
    for (method, nth) in [("DisableMethods", 1), ("DisableMethods", 2), ("EnableMethods", 1), ("EnableMethods", 2)] {
        let (dir, scene) = scene(&[dense(2 * MIB, 1)], |_| {})?;
        fault(&scene, method, json!({"kind": "drop_reply", "nth": nth})).await?;
        let delivered = backup(&scene, request(TARGET), dir.path()).await?;
        images_equal_sources(&scene, &delivered)?;
        nothing_stays(&scene).await.map_err(|e| e.context(format!("{method} {nth}")))?;
        none_is_disabled(&scene).await?;
    }
    Ok(())
}

/// The next job guards the proxy anew and ends, and only then the first request is carried out.
#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_lands_after_the_next_one_has_ended_does_not_stay() -> Result<()> {
    let (dir, scene) = hasty()?;
    fault(&scene, "DisableMethods", json!({"kind": "late_land", "ms": LATE_MS, "nth": 2})).await?;
    for _ in 0..2 {
        let delivered = backup(&scene, request(TARGET), dir.path()).await?;
        ensure!(delivered.result()?.state() == JobState::Ok, "{:#?}", delivered.result);
    }
    // What has landed may be taken back between two looks at the methods: the simulator's own record can't be missed.
    eventually("it lands", async || {
        let landed = control(&scene, json!({"cmd": "landings"})).await?["landings"].clone();
        let [landing] = landed.as_array().context("no list")?.as_slice() else { return Ok(false) };
        ensure!(landing["method"] == "DisableMethods" && landing["fault"].is_null(), "{landing}");
        Ok(true)
    })
    .await?;
    none_is_disabled(&scene).await?;
    nothing_stays(&scene).await
}
