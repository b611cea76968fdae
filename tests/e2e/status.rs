//! The status page on the port of the metrics: who gets it, what it tells, and what a browser makes of it.
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::Cleanup;
use hotadd_harness::{
    Scene, Spec,
    scene::{TARGET, vm},
};
use serde_json::Value;

use crate::browser::{self, Forwarder, chromium};
use crate::metrics::{address, client, with_metrics};
use crate::roles::ruled_with;
use crate::session::{close, open};
use crate::stream::Running;
use crate::support::{
    MIB, Seen, dense, duties, eventually, nothing_is_left, nothing_stays, open_request, reading, request, scene, skip,
};

const PATHS: [(&str, &str); 4] = [
    ("/", "text/html; charset=utf-8"),
    ("/status.css", "text/css; charset=utf-8"),
    ("/status.js", "text/javascript; charset=utf-8"),
    ("/status.json", "application/json"),
];

/// What a page would do if its script took names for markup.
const HOSTILE: &str = "<img src=x onerror=document.title='owned'>";

async fn status(scene: &Scene) -> Result<Value> {
    let answer = client(scene, Some("client"))?.get(format!("https://{}/status.json", address(scene)?)).send().await?;
    ensure!(answer.status() == 200, "{answer:?}");
    Ok(serde_json::from_slice(&answer.bytes().await?)?)
}

fn items<'a>(told: &'a Value, list: &str) -> Result<&'a Vec<Value>> {
    told[list]["items"].as_array().with_context(|| format!("no {list} in {told}"))
}

/// Units of the proxy that are of this kind.
fn units<'a>(told: &'a Value, whose: &str) -> Result<Vec<&'a Value>> {
    let controllers = told["slots"]["controllers"].as_array().context("no controllers")?;
    let taken = controllers.iter().filter_map(|controller| controller["taken"].as_array()).flatten();
    Ok(taken.filter(|unit| unit["whose"] == whose).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_shown_with_its_disks_and_gone_after_its_end() -> Result<()> {
    let (_dir, scene) = scene(&[dense(MIB, 1), dense(MIB, 2)], with_metrics)?;
    let before = status(&scene).await?;
    assert_eq!(before["state"], "serving");
    assert_eq!(before["findings"][0]["level"], "ok", "{before:#}");
    assert!(items(&before, "work")?.is_empty() && items(&before, "duties")?.is_empty(), "{before:#}");
    let opened = open(&scene, open_request(TARGET)).await?;
    eventually("it is shown", async || Ok(items(&status(&scene).await?, "work")?.len() == 1)).await?;
    let told = status(&scene).await?;
    let row = &items(&told, "work")?[0];
    assert_eq!((&row["kind"], &row["vm"], &row["stage"]), (&"session".into(), &TARGET.into(), &"open".into()));
    assert_eq!(row["id"], opened.session_id.as_str());
    // Without [[client]] a client is called by the first name of its certificate.
    assert_eq!(row["client"], "DNS:controller");
    let disks = items(row, "disks")?;
    assert_eq!(disks.len(), 2, "{row:#}");
    assert!(disks.iter().all(|disk| disk["transport"] == "hotadd" && disk["capacity_bytes"] == MIB), "{row:#}");
    let taken = units(&told, "hotadd")?;
    assert_eq!(taken.len(), 2, "{told:#}");
    assert!(taken.iter().all(|unit| unit["session"] == opened.session_id.as_str() && unit["vm"] == TARGET));
    assert_eq!(items(&told, "duties")?.len(), duties(&scene).await?.len());
    ensure!(items(&told, "events")?.iter().any(|event| event["kind"] == "session opened"), "{told:#}");
    assert_eq!(close(&scene, &opened.session_id).await?, Cleanup::Done);
    eventually("it is gone", async || {
        let told = status(&scene).await?;
        let nothing = items(&told, "work")?.is_empty() && items(&told, "duties")?.is_empty();
        Ok(nothing && units(&told, "hotadd")?.is_empty() && units(&told, "other")?.is_empty())
    })
    .await?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_shown_with_what_was_read_of_it() -> Result<()> {
    let (dir, scene) = scene(&[dense(32 * MIB, 1)], with_metrics)?;
    let run = reading(&scene, &dir, request(TARGET)).await?;
    eventually("its bytes are told", async || {
        let told = status(&scene).await?;
        let Some(row) = items(&told, "work")?.first() else { return Ok(false) };
        Ok(row["stage"] == "read" && row["bytes"].as_u64() > Some(0) && row["required"] == 32 * MIB)
    })
    .await?;
    let told = status(&scene).await?;
    assert_eq!(told["reads"]["running"], 1, "{told:#}");
    run.finish().await?;
    eventually("it is gone", async || Ok(items(&status(&scene).await?, "work")?.is_empty())).await?;
    let told = status(&scene).await?;
    assert_eq!(told["reads"]["bytes"][0]["bytes"], 32 * MIB, "{told:#}");
    assert_eq!((&told["reads"]["running"], &told["reads"]["bytes"][0]["transport"]), (&0.into(), &"hotadd".into()));
    let source = told["reads"]["stages"]["source_us"].as_u64().context("no stage")?;
    ensure!(source > 0, "a read that never waited for its device: {told:#}");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_list_sessions_may_not_see_the_page() -> Result<()> {
    let (_dir, scene) = ruled_with(&[dense(MIB, 1)], with_metrics)?;
    let at = address(&scene)?;
    for (path, kind) in PATHS {
        let url = format!("https://{at}{path}");
        for identity in [None, Some("stranger")] {
            let answer = client(&scene, identity)?.get(&url).send().await;
            ensure!(answer.is_err(), "{identity:?} got {answer:?}");
        }
        let refused = client(&scene, Some("nobody"))?.get(&url).send().await?;
        assert_eq!(refused.status(), 403, "{path}");
        ensure!(refused.headers().contains_key("content-security-policy"), "{refused:?}");
        ensure!(refused.text().await?.contains("HA-AUT-"), "no reason");
        let allowed = client(&scene, Some("reader"))?;
        let answer = allowed.get(&url).send().await?;
        assert_eq!((answer.status().as_u16(), answer.headers()["content-type"].to_str()?), (200, kind));
        for (name, value) in
            [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"), ("cache-control", "no-store")]
        {
            assert_eq!(answer.headers()[name], value, "{path}");
        }
        let policy = answer.headers()["content-security-policy"].to_str()?;
        ensure!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        for other in [allowed.post(&url), allowed.delete(&url)] {
            assert_eq!(other.send().await?.status(), 405, "{path}");
        }
    }
    let reader = client(&scene, Some("reader"))?;
    for path in ["/index.html", "/status", "/status.json/", "/../status.json/x", "/favicon.ico"] {
        assert_eq!(reader.get(format!("https://{at}{path}")).send().await?.status(), 404, "{path}");
    }
    nothing_is_left(&scene).await
}

/// The target under another name, with the disks it has, and reads so slow that a browser sees them.
fn hostile(spec: &mut Spec) {
    with_metrics(spec);
    spec.agent_toml.push_str("[pace.agent]\nbytes_per_second = 1048576\n");
    let (disks, controllers) = (spec.target().disks.clone(), spec.target().controllers.clone());
    let mut target = vm(HOSTILE, disks);
    target.controllers = controllers;
    *spec.target() = target;
}

/// What a browser shows of the agent while a job runs: its elements after some looks, and the paths that it asked for.
struct Shown {
    dom: String,
    asked: BTreeSet<String>,
}

async fn shown(scene: &Scene, program: &Path, profile: &Path, answers: usize) -> Result<Shown> {
    let forwarder = Forwarder::start(client(scene, Some("client"))?, address(scene)?, answers).await?;
    let dom = browser::dom(program, profile, forwarder.address).await?;
    Ok(Shown { dom, asked: forwarder.asked() })
}

/// Pictures of the page; with `HOTADD_WRITE` those of the documents.
async fn pictures(scene: &Scene, program: &Path, dir: &Path) -> Result<()> {
    let forwarder = Forwarder::start(client(scene, Some("client"))?, address(scene)?, usize::MAX).await?;
    let (docs, write) =
        (PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs"), std::env::var_os("HOTADD_WRITE").is_some());
    let to = |name: &str| if write { docs.join(name) } else { dir.join(name) };
    let profile = dir.join("profile");
    browser::picture(program, &profile, forwarder.address, (390, 844), true, &to("status-phone.png")).await?;
    if write {
        browser::picture(program, &profile, forwarder.address, (1280, 1400), false, &to("status-desktop.png")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_names_as_text_and_asks_nobody_else() -> Result<()> {
    let Some(program) = chromium() else {
        skip("the status page in a browser: no chromium (ci/install)");
        return Ok(());
    };
    let (dir, scene) = scene(&[dense(64 * MIB, 1), dense(64 * MIB, 2)], hostile)?;
    let mut run = Running::start(&scene, request(HOSTILE), dir.path()).await?;
    run.until(Seen::Frame).await?;
    let job = run.delivered.job_id.clone();
    let profile = dir.path().join("profile");
    let looked = async {
        let whole = shown(&scene, &program, &profile, usize::MAX).await?;
        let broken = shown(&scene, &program, &profile, 3).await?;
        pictures(&scene, &program, dir.path()).await?;
        Ok::<_, anyhow::Error>((whole, broken))
    };
    let steps = async {
        while run.step().await?.is_some() {}
        Ok::<_, anyhow::Error>(())
    };
    let (whole, broken) = tokio::select! {
        looked = looked => looked?,
        ended = steps => anyhow::bail!("the job ended before the browser: {ended:?}"),
    };
    let Shown { dom, asked } = &whole;
    ensure!(dom.contains("&lt;img src=x onerror=document.title='owned'&gt;"), "the name is not shown in {dom}");
    ensure!(!dom.contains("<img"), "the name became an element of {dom}");
    let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).context("no title")?;
    ensure!(title.ends_with("hotadd-agent"), "{title}");
    ensure!(dom.contains(&job) && dom.contains("Hard disk 1"), "no job {job} in {dom}");
    let chart = dom.split(r#"class="total" d=""#).nth(1).and_then(|rest| rest.split('"').next()).context("no chart")?;
    ensure!(chart.starts_with('M') && chart.contains('L'), "a chart without a line: {chart:?}");
    ensure!(!dom.contains("does not answer"), "{dom}");
    assert_eq!(*asked, PATHS.iter().map(|(path, _)| (*path).to_owned()).collect());
    ensure!(
        broken.dom.contains("The agent does not answer (503") && broken.dom.contains("These figures are old: from")
    );
    ensure!(broken.dom.contains("&lt;img src=x"), "the last figures stay: {}", broken.dom);
    drop(run);
    nothing_stays(&scene).await
}
