//! What is spoken on the port, as OpenSSL finds it, and what check-config says of the files.
use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hotadd_harness::{Content, Scene, binary, pki::Leaf};

use crate::support::{MIB, eventually, nothing_is_left, scene, skip};

/// What `openssl s_client` printed, if it could be run.
fn s_client(scene: &Scene, more: &[&str]) -> Result<String> {
    let address = scene.url.trim_start_matches("https://");
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", address, "-verify_return_error", "-alpn", "h2", "-CAfile"]);
    command.arg(scene.pki.file("ca.pem")).arg("-cert").arg(scene.pki.file("client.pem"));
    command.arg("-key").arg(scene.pki.file("client.key")).args(more).stdin(std::process::Stdio::null());
    let output = command.output().context("openssl")?;
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn old_protocols_and_suites_without_aead_are_refused() -> Result<()> {
    let (_dir, scene) = scene(&[Content::new(MIB, 1)], |_| {})?;
    if Command::new("openssl").arg("version").output().is_err() {
        skip("openssl is not there");
        return Ok(());
    }
    for (more, suite) in [
        (["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"], "TLS_AES_128_GCM_SHA256"),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ] {
        let told = s_client(&scene, &more)?;
        ensure!(told.contains(&format!("Cipher is {suite}")), "{more:?}: {told}");
    }
    for (more, alert) in [
        (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "alert"),
        (["-tls1", "-cipher", "ALL:@SECLEVEL=0"], "alert"),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"], "handshake failure"),
        (["-tls1_2", "-cipher", "AES128-GCM-SHA256:AES128-SHA:@SECLEVEL=0"], "handshake failure"),
        (["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0"], "handshake failure"),
    ] {
        let told = s_client(&scene, &more)?;
        if told.contains("no protocols available") || told.contains("no ciphers available") {
            skip(&format!("this openssl does not speak {more:?}"));
            continue;
        }
        ensure!(told.contains(alert) && told.contains("Cipher is (NONE)"), "{more:?}: {told}");
    }
    nothing_is_left(&scene).await
}

fn check_config(scene: &Scene) -> Result<(bool, String)> {
    let output =
        Command::new(binary("hotadd-agent")?).arg("check-config").arg("--config").arg(scene.config()).output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), text))
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_tells_what_clients_would_refuse() -> Result<()> {
    let (_dir, mut scene) = scene(&[Content::new(MIB, 1)], |_| {})?;
    let (good, told) = check_config(&scene)?;
    ensure!(good && told.trim() == "ok", "{told}");
    let names = ["localhost", "127.0.0.1"];
    let day = Duration::from_secs(86_400);
    let server =
        |lifetime| Leaf { authority: "ca", file: "server", names: &names, server: true, lifetime: Some(lifetime) };
    scene.pki.issue(&server(20 * day))?;
    let (good, told) = check_config(&scene)?;
    ensure!(good && told.contains("expires at"), "{told}");
    scene.pki.issue(&server(Duration::ZERO))?;
    eventually("it has expired", async || {
        let (good, told) = check_config(&scene)?;
        ensure!(good, "{told}");
        Ok(told.contains("has expired at"))
    })
    .await?;
    // It serves all the same, and says so: what is owed is settled by any agent that runs.
    ensure!(scene.take_agent()?.stop()?.success());
    scene.start_agent()?;
    let log = scene.agent()?.log_text();
    ensure!(log.lines().any(|line| line.contains("WARN") && line.contains("has expired at")), "{log}");
    let key = fs::read_to_string(scene.pki.file("client.key"))?;
    scene.pki.put("server.key", &key)?;
    let (good, told) = check_config(&scene)?;
    ensure!(!good && told.contains("HA-CFG-001") && told.contains("tls.key_file"), "{told}");
    Ok(())
}
