//! `hotadd-agent role check` against a vCenter that enforces roles: it says what the agent would meet, before it meets it.
use anyhow::{Context as _, Result, ensure};
use hotadd_harness::{Content, Run, Scene, scene::TARGET};
use hotadd_privileges::{DANGEROUS, NEEDED, Part, Scope, part_of, wanted};
use serde_json::{Value, json};

use crate::{
    privileges::{give, permissions},
    support::{MIB, control, scene},
};

fn small() -> Result<(tempfile::TempDir, Scene)> {
    scene(&[Content::new(MIB, 1)], |_| {})
}

/// What is told of the objects of one kind under one heading.
fn told(run: &Run, scope: Scope, heading: &str) -> Result<Vec<String>> {
    let report: Value = serde_json::from_str(&run.stdout).with_context(|| format!("{run:#?}"))?;
    let kind = serde_json::to_value(scope)?;
    let objects = report["objects"].as_array().context("objects")?.iter().filter(|object| object["kind"] == kind);
    let rows = objects.flat_map(|object| object[heading].as_array().cloned().unwrap_or_default());
    Ok(rows.filter_map(|row| row["id"].as_str().map(str::to_owned)).collect())
}

fn check(scene: &Scene) -> Result<Run> {
    scene.role_check(&["--vm", TARGET, "--json"])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_role_passes_and_each_missing_row_is_told_on_its_object() -> Result<()> {
    let (_dir, scene) = small()?;
    let all = wanted(None);
    give(&scene, permissions(&all, None, &[])).await?;
    let run = scene.role_check(&["--vm", TARGET])?;
    ensure!(run.code == 0 && run.stdout.ends_with("role check: passed\n"), "{run:#?}");
    ensure!(run.stdout.contains("web01 (vm-") && run.stdout.contains("datastore ds1 ("), "{run:#?}");
    for lacking in NEEDED {
        give(&scene, permissions(&all, Some(lacking), &[])).await?;
        let run = check(&scene)?;
        if lacking.scope == Scope::Vcenter && lacking.is_in_every_role() {
            // Nothing can be looked for then, which is told as it is met.
            ensure!(run.code == 2 && run.stderr.contains("System.View on Folder:group-d1"), "{run:#?}");
            continue;
        }
        let missing = told(&run, lacking.scope, "missing")?;
        let optional = told(&run, lacking.scope, "optional")?;
        let core = lacking.features.iter().any(|feature| feature.is_core()) || lacking.id == "Global.EnableMethods";
        let (expected, other) = if core { (missing, optional) } else { (optional, missing) };
        assert_eq!((expected, other.len()), (vec![lacking.id.to_owned()], 0), "{run:#?}");
        assert_eq!(run.code, i32::from(core), "{run:#?}");
        for feature in lacking.features {
            let asked = scene.role_check(&["--vm", TARGET, "--json", "--feature", &feature.name()])?;
            ensure!(asked.code == 1 && told(&asked, lacking.scope, "missing")? == [lacking.id], "{asked:#?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_accounts_the_stored_one_is_asked_for_its_part_only() -> Result<()> {
    let (_dir, scene) = small()?;
    give(&scene, permissions(&part_of(wanted(None), Some(Part::Stored)), None, &[])).await?;
    let run = scene.role_check(&["--vm", TARGET, "--part", "stored"])?;
    ensure!(run.code == 0 && run.stdout.ends_with("role check: passed\n"), "{run:#?}");
    let run = scene.role_check(&["--vm", TARGET, "--json"])?;
    ensure!(run.code == 1, "it could not work alone: {run:#?}");
    assert_eq!(told(&run, Scope::Datastore, "missing")?, ["Datastore.AllocateSpace"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_dangerous_privilege_is_told_where_it_is_one() -> Result<()> {
    let (_dir, scene) = small()?;
    for bad in DANGEROUS {
        for scope in bad.scopes {
            give(&scene, permissions(&wanted(None), None, &[(*scope, bad.id)])).await?;
            let run = check(&scene)?;
            ensure!(run.code == 1 && told(&run, *scope, "dangerous")? == [bad.id], "{} {scope:?}: {run:#?}", bad.id);
        }
    }
    // An administrator has them all.
    give(&scene, Value::Null).await?;
    let run = check(&scene)?;
    let all = told(&run, Scope::Vcenter, "dangerous")?.len() + told(&run, Scope::Datastore, "dangerous")?.len();
    ensure!(run.code == 1 && all == 5 && told(&run, Scope::Vcenter, "missing")?.is_empty(), "{all} {run:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_not_an_answer() -> Result<()> {
    let (_dir, scene) = small()?;
    let unknown = scene.role_check(&["--vm", "nobody"])?;
    ensure!(unknown.code == 2 && unknown.stderr.contains("error: HA-VM-001"), "{unknown:#?}");
    control(&scene, json!({"cmd": "vc_down", "ms": 60_000})).await?;
    let down = check(&scene)?;
    control(&scene, json!({"cmd": "vc_down", "ms": 0})).await?;
    ensure!(down.code == 2 && down.stderr.contains("error: HA-VC-001") && down.stdout.is_empty(), "{down:#?}");
    control(&scene, json!({"cmd": "set_password", "password": "rotated"})).await?;
    let refused = check(&scene)?;
    ensure!(refused.code == 78 && refused.stderr.contains("HA-VC-003"), "{refused:#?}");
    Ok(())
}
