//! The port of the metrics: who gets them, and that they tell what is so. Prometheus itself reads them.
use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hotadd_harness::{Process, Scene, process::Notify, scene::TARGET};
use serde_json::{Value, json};

use crate::faults::may_not;
use crate::support::{
    MIB, backup, control, dense, duties, eventually, nothing_is_left, nothing_stays, reading, request, scene, skip,
};

/// Where the running agent says that it serves them.
pub fn address(scene: &Scene) -> Result<String> {
    let log = fs::read_to_string(scene.dir.join("agent.log"))?;
    let line = log.lines().rev().find(|line| line.contains("metrics are served")).context("no metrics port yet")?;
    let at = line.split("127.0.0.1:").nth(1).context("no address")?;
    let port: String = at.chars().take_while(char::is_ascii_digit).collect();
    Ok(format!("localhost:{port}"))
}

pub fn client(scene: &Scene, identity: Option<&str>) -> Result<reqwest::Client> {
    // Once for the process; every test may be the first.
    drop(rustls::crypto::ring::default_provider().install_default());
    let read = |name: String| fs::read(scene.pki.file(&name));
    let ca = reqwest::Certificate::from_pem(&read("ca.pem".into())?)?;
    let mut builder = reqwest::Client::builder().tls_certs_only([ca]).timeout(Duration::from_secs(20));
    if let Some(name) = identity {
        let pem = [read(format!("{name}.pem"))?, read(format!("{name}.key"))?].concat();
        builder = builder.identity(reqwest::Identity::from_pem(&pem)?);
    }
    Ok(builder.build()?)
}

pub async fn metrics(scene: &Scene) -> Result<String> {
    let answer = client(scene, Some("client"))?.get(format!("https://{}/metrics", address(scene)?)).send().await?;
    ensure!(answer.status() == 200, "{answer:?}");
    let kind = answer.headers().get("content-type").context("no type")?.to_str()?;
    ensure!(kind.starts_with("application/openmetrics-text"), "{kind}");
    Ok(answer.text().await?)
}

/// The value of one series.
pub fn value(text: &str, series: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {series} in\n{text}"))?.parse()?)
}

pub fn with_metrics(spec: &mut hotadd_harness::scene::Spec) {
    spec.agent_toml.push_str("[metrics]\nlisten = '127.0.0.1:0'\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_of_the_ca_gets_nothing() -> Result<()> {
    let (_dir, scene) = scene(&[dense(MIB, 1)], with_metrics)?;
    let at = address(&scene)?;
    for (identity, url) in [
        (None, format!("https://{at}/metrics")),
        (Some("stranger"), format!("https://{at}/metrics")),
        (Some("client"), format!("http://{at}/metrics")),
    ] {
        let answer = client(&scene, identity)?.get(&url).send().await;
        ensure!(answer.is_err(), "{identity:?} got {answer:?}");
    }
    let client = client(&scene, Some("client"))?;
    assert_eq!(client.get(format!("https://{at}/metrics/")).send().await?.status(), 404);
    assert_eq!(client.post(format!("https://{at}/metrics")).send().await?.status(), 405);
    metrics(&scene).await?;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_counted_while_it_runs_and_after_it() -> Result<()> {
    let (dir, scene) = scene(&[dense(32 * MIB, 1), dense(32 * MIB, 2)], with_metrics)?;
    let before = metrics(&scene).await?;
    assert_eq!(value(&before, "hotadd_serving")?, 1.0);
    assert_eq!(value(&before, r#"hotadd_duties_open{kind="attach"}"#)?, 0.0);
    assert_eq!(value(&before, r#"hotadd_jobs_total{outcome="ok"}"#)?, 0.0);
    let run = reading(&scene, &dir, request(TARGET)).await?;
    let during = metrics(&scene).await?;
    assert_eq!(value(&during, "hotadd_jobs_running")?, 1.0);
    assert_eq!(value(&during, r#"hotadd_duties_open{kind="attach"}"#)?, 2.0);
    for kind in ["attach", "snapshot", "guard"] {
        assert_eq!(
            value(&during, &format!(r#"hotadd_duties_settling{{kind="{kind}"}}"#))?,
            0.0,
            "{kind}: it is in use"
        );
    }
    let told = duties(&scene).await?;
    ensure!(told.len() > 3 && told.iter().all(|duty| duty.state == "held"), "{told:#?}");
    assert!(value(&during, "hotadd_attach_seconds_count")? >= 1.0);
    run.finish().await?;
    let after = metrics(&scene).await?;
    assert_eq!(value(&after, r#"hotadd_jobs_total{outcome="ok"}"#)?, 1.0);
    assert_eq!(value(&after, "hotadd_jobs_running")?, 0.0);
    assert_eq!(value(&after, r#"hotadd_duties_open{kind="attach"}"#)?, 0.0);
    assert_eq!(value(&after, r#"hotadd_duties_total{kind="attach",step="begun"}"#)?, 2.0);
    assert_eq!(value(&after, r#"hotadd_duties_total{kind="attach",step="retired"}"#)?, 2.0);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let all = (64 * MIB) as f64;
    assert_eq!(value(&after, r#"hotadd_read_bytes_total{transport="hotadd",kind="data"}"#)?, all);
    assert!(value(&after, r#"hotadd_vcenter_call_seconds_count{method="ReconfigVM_Task"}"#)? >= 2.0);
    for word in [TARGET, "web01", "administrator", "secret"] {
        ensure!(!after.contains(word), "{word} is in\n{after}");
    }
    nothing_is_left(&scene).await
}

/// The pages' alarm is for a disk that stays; it must also be told by an agent whose port stays closed because of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stays_is_told_also_while_the_port_is_closed() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(32 * MIB, 1)], with_metrics)?;
    let run = reading(&scene, &dir, request(TARGET)).await?;
    may_not(&scene, "VirtualMachine.Config.RemoveDisk").await?;
    scene.take_agent()?.kill()?;
    ensure!(run.finish().await.is_err(), "a killed agent ended the stream in order");
    fs::remove_file(scene.dir.join("agent.log"))?;
    let notify = Notify::bind(&scene.dir.join("notify"))?;
    let mut agent = scene.spawn_agent(Some(&notify))?;
    let settling = r#"hotadd_duties_settling{kind="attach"}"#;
    let oldest = r#"hotadd_duty_settling_oldest_seconds{kind="attach"}"#;
    eventually("the disk is told", async || {
        let Ok(text) = metrics(&scene).await else { return Ok(false) };
        assert_eq!(value(&text, "hotadd_serving")?, 0.0);
        Ok(value(&text, settling)? == 1.0 && value(&text, oldest)? >= 1.0)
    })
    .await?;
    control(&scene, json!({"cmd": "set_privileges", "privileges": null})).await?;
    notify.ready(&mut agent, Duration::from_secs(60))?;
    let text = metrics(&scene).await?;
    assert_eq!((value(&text, settling)?, value(&text, oldest)?, value(&text, "hotadd_serving")?), (0.0, 0.0, 1.0));
    nothing_stays(&scene).await?;
    drop(agent);
    Ok(())
}

/// A value as Prometheus answers it, once it has one.
async fn asked(client: &reqwest::Client, server: &str, query: &str) -> Result<Option<f64>> {
    let url = format!("http://{server}/api/v1/query?query={query}");
    let Ok(answer) = client.get(url).send().await else { return Ok(None) };
    let text = answer.text().await?;
    let Ok(answer) = serde_json::from_str::<Value>(&text) else { return Ok(None) };
    let value = answer.pointer("/data/result/0/value/1").and_then(Value::as_str);
    Ok(value.map(str::parse).transpose()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_it_with_a_client_certificate() -> Result<()> {
    let Some(program) = std::env::var_os("HOTADD_PROMETHEUS") else {
        skip("Prometheus: HOTADD_PROMETHEUS names none");
        return Ok(());
    };
    let (dir, scene) = scene(&[dense(MIB, 1)], with_metrics)?;
    backup(&scene, request(TARGET), dir.path()).await?;
    let rules = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics/alerts.yml");
    let (pki, at) = (scene.pki.dir.display(), address(&scene)?);
    let config = dir.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n- job_name: hotadd\n  scheme: https\n  \
         tls_config: {{ca_file: {pki}/ca.pem, cert_file: {pki}/client.pem, key_file: {pki}/client.key}}\n  \
         static_configs: [{{targets: ['{at}']}}]\n",
        rules.display()
    );
    fs::write(&config, text)?;
    // Its own port: one that was free a moment ago.
    let server = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let mut command = Command::new(program);
    command.arg(format!("--config.file={}", config.display())).arg(format!("--web.listen-address={server}"));
    command.arg(format!("--storage.tsdb.path={}", dir.path().join("tsdb").display()));
    let log = dir.path().join("prometheus.log");
    let _prometheus = Process::start("prometheus", &mut command, &log)?;
    let (client, begun) = (client(&scene, None)?, Instant::now());
    let told = async |query: &str, wanted: f64| {
        eventually(query, async || Ok(asked(&client, &server, query).await? == Some(wanted))).await
    };
    let all = async {
        told("up", 1.0).await?;
        told("hotadd_jobs_total%7Boutcome=%22ok%22%7D", 1.0).await?;
        told("hotadd_serving", 1.0).await?;
        told("count(%7B__name__=~%22hotadd_.*%22%7D)%3Ebool%2050", 1.0).await
    };
    let all: Result<()> = all.await;
    all.with_context(|| format!("after {:?}: {}", begun.elapsed(), fs::read_to_string(&log).unwrap_or_default()))?;
    nothing_is_left(&scene).await
}
