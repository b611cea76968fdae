//! Certificates that are revoked, expire and are swapped while jobs run.
use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{
    GetInfoRequest, KeepAliveRequest, disk_service_client::DiskServiceClient, proxy_service_client::ProxyServiceClient,
};
use hotadd_harness::{Content, Pki, Scene, grpc::connect, pki::Leaf, scene::TARGET};
use nix::sys::signal::Signal;

use crate::support::{
    MIB, Running, Seen, by_id, codes, dense, ended, eventually, images_equal_sources, nothing_is_left, nothing_stays,
    open_request, request, scene, session,
};

/// Files are looked at ten times a second, so that a test waits for nothing else.
const LOOK: f64 = 0.1;
/// Enough that a job whose client takes nothing is never at its end.
const LARGE: u64 = 64 * MIB;

/// An agent that reads `crl_file`, in which nothing is revoked.
fn watched(disk: Content) -> Result<(tempfile::TempDir, Scene)> {
    let (dir, mut scene) = scene(&[disk], |_| {})?;
    ensure!(scene.take_agent()?.stop()?.success());
    scene.pki.revoke("ca", "crl.pem", &[])?;
    let crl = scene.pki.file("crl.pem");
    let text = fs::read_to_string(scene.config())?;
    let more = format!("[tls]\ncrl_file = '{}'\nreload_seconds = {LOOK}\n", crl.display());
    fs::write(scene.config(), text.replace("[tls]\n", &more))?;
    scene.start_agent()?;
    Ok((dir, scene))
}

/// The agent has read its files once more since `before`.
async fn read_again(scene: &mut Scene, before: usize) -> Result<()> {
    let agent = scene.agent()?;
    eventually("the files are read again", async || Ok(times_read(&agent.log_text()) > before)).await
}

fn times_read(log: &str) -> usize {
    log.matches("were read again").count()
}

fn reads(scene: &mut Scene) -> Result<usize> {
    Ok(times_read(&scene.agent()?.log_text()))
}

fn hang_up(scene: &mut Scene) -> Result<()> {
    scene.agent()?.signal(Signal::SIGHUP)
}

/// Whether a new connection with these files gets an answer.
async fn gets_in(url: &str, pki: &Pki, identity: &str) -> bool {
    let Ok(channel) = connect(url, pki, identity).await else { return false };
    ProxyServiceClient::new(channel).get_info(GetInfoRequest {}).await.is_ok()
}

/// A job of this client that has begun to read, and whose client takes nothing more.
async fn reading(scene: &Scene, dir: &tempfile::TempDir, identity: &str) -> Result<Running> {
    let channel = connect(&scene.url, &scene.pki, identity).await?;
    let mut run = Running::over(channel, request(TARGET), dir.path()).await?;
    run.until(Seen::Frame).await?;
    Ok(run)
}

/// The stream breaks before a result, the job is told as ended for this reason, and everything is given back.
async fn ended_for(scene: &Scene, mut run: Running, code: &str) -> Result<()> {
    let id = run.delivered.job_id.clone();
    while let Ok(seen) = run.step().await {
        ensure!(seen.is_some_and(|seen| seen != Seen::Result), "the stream came to its end");
    }
    let result = ended(scene, by_id(&id)).await?;
    assert_eq!(codes(&result), [code], "{result:?}");
    nothing_stays(scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_client_loses_its_job_and_nobody_else_does() -> Result<()> {
    let (dir, mut scene) = watched(dense(LARGE, 1))?;
    scene.pki.client("bad", &["DNS:bad.example.com"])?;
    let run = reading(&scene, &dir, "bad").await?;
    let before = reads(&mut scene)?;
    scene.pki.revoke("ca", "crl.pem", &["bad"])?;
    hang_up(&mut scene)?;
    read_again(&mut scene, before).await?;
    ended_for(&scene, run, "HA-AUT-004").await?;
    ensure!(!gets_in(&scene.url, &scene.pki, "bad").await, "it was let in again");
    // TLS 1.3: the client learns of it before the agent has written its line.
    let agent = scene.agent()?;
    let told = |line: &str| line.contains("not let in") && line.contains("Revoked");
    eventually("a line in the log", async || Ok(agent.log_text().lines().any(told))).await?;
    // Another certificate of the same client is another.
    scene.pki.client("bad", &["DNS:bad.example.com"])?;
    let done = reading(&scene, &dir, "bad").await?.finish().await?;
    ensure!(done.result()?.reasons.is_empty());
    images_equal_sources(&scene, &done)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_revoked_client_ends_unless_it_came_back_with_another_certificate() -> Result<()> {
    let (_dir, mut scene) = watched(Content::new(MIB, 1))?;
    for renews in [true, false] {
        scene.pki.client("old", &["DNS:b1.example.com"])?;
        scene.pki.client("new", &["DNS:b1.example.com"])?;
        let mut old = DiskServiceClient::new(connect(&scene.url, &scene.pki, "old").await?);
        let id = old.open_disks(open_request(TARGET)).await?.into_inner().session_id;
        let mut new = DiskServiceClient::new(connect(&scene.url, &scene.pki, "new").await?);
        if renews {
            new.keep_alive(KeepAliveRequest { session_id: id.clone() }).await?;
        }
        let before = reads(&mut scene)?;
        scene.pki.revoke("ca", "crl.pem", &["old"])?;
        read_again(&mut scene, before).await?;
        if renews {
            new.keep_alive(KeepAliveRequest { session_id: id.clone() }).await?;
            new.close_disks(hotadd_api::v1::CloseDisksRequest { session_id: id }).await?;
            continue;
        }
        eventually("it is closed", async || Ok(session(&scene, &id).await?.state == "closed")).await?;
        let why = session(&scene, &id).await?.ended.context("no reason")?;
        assert_eq!(why.code, "HA-AUT-004", "{why:?}");
    }
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_ends_what_runs_under_it() -> Result<()> {
    let (dir, mut scene) = watched(dense(LARGE, 1))?;
    // Long enough for a job to begin on a busy machine, and then the test waits for its end.
    let lifetime = Some(Duration::from_secs(12));
    let leaf = Leaf { authority: "ca", file: "short", names: &["DNS:short"], server: false, lifetime };
    scene.pki.issue(&leaf)?;
    let run = reading(&scene, &dir, "short").await?;
    let agent = scene.agent()?;
    eventually("it expires", async || Ok(agent.log_text().contains("its certificate has expired"))).await?;
    ended_for(&scene, run, "HA-AUT-004").await?;
    ensure!(!gets_in(&scene.url, &scene.pki, "short").await, "it was let in again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_certificate_is_swapped_under_a_running_job() -> Result<()> {
    let (dir, mut scene) = watched(dense(LARGE, 1))?;
    let run = reading(&scene, &dir, "client").await?;
    // A controller that trusts the new CA of servers only.
    let new = Pki::create(&scene.dir.join("new"), &["localhost"])?;
    for name in ["client.pem", "client.key"] {
        fs::copy(scene.pki.file(name), new.file(name))?;
    }
    ensure!(!gets_in(&scene.url, &new, "client").await, "before the swap");
    let before = reads(&mut scene)?;
    // Nobody tells the agent: it looks by itself.
    for name in ["server.pem", "server.key"] {
        scene.pki.put(name, &fs::read_to_string(new.file(name))?)?;
    }
    read_again(&mut scene, before).await?;
    ensure!(gets_in(&scene.url, &new, "client").await, "a new connection sees the new certificate");
    ensure!(!gets_in(&scene.url, &scene.pki, "client").await, "and not the old one");
    let done = run.finish().await?;
    ensure!(done.result()?.reasons.is_empty(), "{:?}", done.result()?);
    images_equal_sources(&scene, &done)?;
    scene.pki = new;
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_ca_that_is_no_longer_believed_is_out() -> Result<()> {
    let (dir, mut scene) = watched(dense(LARGE, 1))?;
    scene.pki.authority("clients-2", "the next CA of clients")?;
    let leaf = Leaf { authority: "clients-2", file: "next", names: &["DNS:next"], server: false, lifetime: None };
    scene.pki.issue(&leaf)?;
    ensure!(!gets_in(&scene.url, &scene.pki, "next").await, "not yet");
    let run = reading(&scene, &dir, "client").await?;
    // Both, for as long as clients are renewed: the job goes on.
    let lists = |scene: &Scene, of: &[(&str, &str)]| -> Result<()> {
        let all = of.iter().map(|(ca, file)| -> Result<String> {
            scene.pki.revoke(ca, file, &[])?;
            Ok(fs::read_to_string(scene.pki.file(file))?)
        });
        let text: String = all.collect::<Result<_>>()?;
        scene.pki.put("crl.pem", &text)
    };
    let (first, second) =
        (fs::read_to_string(scene.pki.file("ca.pem"))?, fs::read_to_string(scene.pki.file("clients-2.pem"))?);
    lists(&scene, &[("ca", "a.crl"), ("clients-2", "b.crl")])?;
    scene.pki.put("ca.pem", &format!("{first}{second}"))?;
    hang_up(&mut scene)?;
    eventually("the next CA is believed", async || Ok(gets_in(&scene.url, &scene.pki, "next").await)).await?;
    ensure!(gets_in(&scene.url, &scene.pki, "client").await, "and the first one still");
    let before = reads(&mut scene)?;
    scene.pki.put("ca.pem", &second)?;
    lists(&scene, &[("clients-2", "b.crl")])?;
    hang_up(&mut scene)?;
    read_again(&mut scene, before).await?;
    // Whoever trusts the agent's certificate, of the first CA, and is a client of the second.
    let controller = Pki { dir: scene.dir.join("controller") };
    fs::create_dir_all(&controller.dir)?;
    fs::write(controller.file("ca.pem"), &first)?;
    for name in ["next.pem", "next.key", "client.pem", "client.key"] {
        fs::copy(scene.pki.file(name), controller.file(name))?;
    }
    ensure!(!gets_in(&scene.url, &controller, "client").await, "a client of the first CA is let in");
    for (from, to) in [("next.pem", "client.pem"), ("next.key", "client.key")] {
        fs::copy(controller.file(from), controller.file(to))?;
    }
    scene.pki = controller;
    ended_for(&scene, run, "HA-AUT-004").await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_can_not_be_used_change_nothing_and_are_told() -> Result<()> {
    let (_dir, mut scene) = watched(Content::new(MIB, 1))?;
    let good = |name: &str| fs::read_to_string(scene.pki.file(name));
    let (certificate, key, ca, list) = (good("server.pem")?, good("server.key")?, good("ca.pem")?, good("crl.pem")?);
    let keep = scene.dir.join("keep");
    let controller = Pki { dir: keep };
    fs::create_dir_all(&controller.dir)?;
    for name in ["ca.pem", "client.pem", "client.key"] {
        fs::copy(scene.pki.file(name), controller.file(name))?;
    }
    scene.pki.revoke("another-ca", "foreign.crl", &[])?;
    let foreign = fs::read_to_string(scene.pki.file("foreign.crl"))?;
    let client_key = fs::read_to_string(scene.pki.file("client.key"))?;
    let cases = [
        ("server.pem", &certificate, "garbage".to_owned(), "no certificate in it"),
        ("server.pem", &certificate, certificate[..certificate.len() / 2].to_owned(), "tls.certificate_file"),
        ("server.key", &key, client_key, "tls.certificate_file and tls.key_file"),
        ("ca.pem", &ca, String::new(), "tls.client_ca_file"),
        ("crl.pem", &list, foreign, "no list of"),
        ("crl.pem", &list, String::new(), "no list of"),
        ("crl.pem", &list, "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".into(), "tls.crl_file"),
    ];
    for (name, good, bad, told) in cases {
        let lines = |log: &str| log.lines().filter(|l| l.contains("HA-AUT-005") && l.contains(told)).count();
        let (before, read) = (lines(&scene.agent()?.log_text()), reads(&mut scene)?);
        scene.pki.put(name, &bad)?;
        let agent = scene.agent()?;
        eventually(told, async || Ok(lines(&agent.log_text()) > before)).await?;
        ensure!(gets_in(&scene.url, &controller, "client").await, "{name} with {told}: what was in force is gone");
        assert_eq!(reads(&mut scene)?, read, "it was taken");
        scene.pki.put(name, good)?;
        read_again(&mut scene, read).await?;
    }
    ensure!(gets_in(&scene.url, &controller, "client").await);
    nothing_is_left(&scene).await
}
