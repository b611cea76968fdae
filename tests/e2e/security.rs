//! Who gets in, what a refused one learns, and where secrets must not be.
use std::{fs, io::Read as _, io::Write as _, net::TcpStream, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{GetInfoRequest, JobState, proxy_service_client::ProxyServiceClient};
use hotadd_harness::{
    Content, Scene,
    grpc::connect,
    scene::{PASSWORD, TARGET},
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::support::{MIB, Running, Seen, backup, dense, nothing_is_left, request, scene};

fn small() -> Result<(tempfile::TempDir, Scene)> {
    scene(&[Content::new(2 * MIB, 1)], |_| {})
}

/// A call over this channel gets no answer of any service.
async fn gets_nothing(channel: Result<Channel>) -> Result<()> {
    let Ok(channel) = channel else { return Ok(()) };
    let info = ProxyServiceClient::new(channel.clone()).get_info(GetInfoRequest {}).await;
    ensure!(info.is_err(), "GetInfo was answered: {info:?}");
    let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    ensure!(health.is_err(), "health was answered: {health:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_nothing() -> Result<()> {
    let (_dir, mut scene) = small()?;
    gets_nothing(connect(&scene.url, &scene.pki, "stranger").await).await?;
    // No certificate at all.
    let ca = Certificate::from_pem(fs::read(scene.pki.file("ca.pem"))?);
    let tls = ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost");
    let endpoint = Endpoint::from_shared(scene.url.clone())?.tls_config(tls)?;
    gets_nothing(endpoint.connect().await.map_err(Into::into)).await?;
    // Plain text.
    let plain = scene.url.replace("https://", "http://");
    gets_nothing(Endpoint::from_shared(plain.clone())?.connect().await.map_err(Into::into)).await?;
    let mut raw = TcpStream::connect(plain.trim_start_matches("http://"))?;
    raw.set_read_timeout(Some(Duration::from_secs(20)))?;
    raw.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    let mut answer = Vec::new();
    drop(raw.read_to_end(&mut answer));
    ensure!(answer.len() < 32 && !String::from_utf8_lossy(&answer).contains("hotadd"), "it said {answer:?}");
    // A certificate of a server is none of a client.
    gets_nothing(connect(&scene.url, &scene.pki, "server").await).await?;
    scene.agent()?.must_live()?;
    let info = ProxyServiceClient::new(scene.channel().await?).get_info(GetInfoRequest {}).await?.into_inner();
    assert_eq!(info.proxy_name, "proxy01");
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() -> Result<()> {
    let (_dir, scene) = small()?;
    let mut health = HealthClient::new(scene.channel().await?);
    for service in ["", "hotadd.v1.JobService", "hotadd.v1.DiskService", "hotadd.v1.ProxyService"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await?.into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(scene.channel().await?);
    let mut answers = reflection.server_reflection_info(tokio_stream::once(ask)).await?.into_inner();
    let answer = answers.message().await?.and_then(|m| m.message_response).context("no answer")?;
    let MessageResponse::ListServicesResponse(list) = answer else { anyhow::bail!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|s| s.name.as_str()).collect();
    for name in ["hotadd.v1.JobService", "hotadd.v1.DiskService", "hotadd.v1.ProxyService", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    Ok(())
}

/// A scene whose agent has not been started, and its configuration with a change.
fn stopped(from: &str, to: &str) -> Result<(tempfile::TempDir, Scene)> {
    let (dir, mut scene) = small()?;
    ensure!(scene.take_agent()?.stop()?.success());
    let text = fs::read_to_string(scene.config())?;
    ensure!(text.contains(from), "{from} is not in {text}");
    fs::write(scene.config(), text.replace(from, to))?;
    Ok((dir, scene))
}

/// The agent ends with 78 (do not restart) and this code, having told vCenter nothing.
async fn refuses_to_start(scene: &Scene, code: &str) -> Result<String> {
    let logins = scene.control().await?.counters().await?["logins"].clone();
    let mut agent = scene.spawn_agent(None)?;
    let status = agent.wait(Duration::from_secs(30))?;
    let log = agent.log_text();
    assert_eq!(status.code(), Some(78), "{log}");
    let line = log.lines().rfind(|line| line.starts_with("error: ")).context("no error line")?.to_owned();
    assert!(line.contains(code) && line.contains("; next: "), "{line}");
    assert_eq!(scene.control().await?.counters().await?["logins"], logins);
    Ok(line)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vcenter_with_another_certificate_gets_no_password() -> Result<()> {
    for wrong in [format!("pin_sha256 = '{}'", "00".repeat(32)), "ca_file = 'PKI/ca.pem'".to_owned()] {
        let (_dir, scene) = trusting(&wrong)?;
        refuses_to_start(&scene, "HA-VC-002").await?;
        assert!(!scene.has_agent());
    }
    Ok(())
}

/// A stopped scene whose agent trusts vCenter in another way. PKI stands for the folder of certificates.
fn trusting(line: &str) -> Result<(tempfile::TempDir, Scene)> {
    let (dir, mut scene) = small()?;
    ensure!(scene.take_agent()?.stop()?.success());
    let line = line.replace("PKI", &scene.pki.dir.display().to_string());
    let text = fs::read_to_string(scene.config())?;
    let changed: Vec<_> = text.lines().map(|l| if l.starts_with("ca_file = ") { line.as_str() } else { l }).collect();
    fs::write(scene.config(), changed.join("\n"))?;
    Ok((dir, scene))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_one_clear_line_and_no_restart() -> Result<()> {
    let (_dir, scene) = stopped("listen", "listen")?;
    hotadd_harness::scene::secret(&scene.pki.file("vc-password"), "wrong horse battery")?;
    let line = refuses_to_start(&scene, "HA-VC-003").await?;
    assert!(!line.contains("wrong horse"), "{line}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_open_to_others_are_refused_with_every_other_fault() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let (_dir, scene) = stopped("depth", "depth").or_else(|_| stopped("[limits]", "[limits]\ndepth = 0"))?;
    fs::set_permissions(scene.pki.file("vc-password"), fs::Permissions::from_mode(0o640))?;
    fs::set_permissions(scene.pki.file("server.key"), fs::Permissions::from_mode(0o604))?;
    let line = refuses_to_start(&scene, "HA-CFG-001").await?;
    for fault in ["vcenter.password_file", "tls.key_file", "limits.depth"] {
        assert!(line.contains(fault), "{fault} is not in {line}");
    }
    Ok(())
}

/// The longest piece of a PEM key's content, as it would show up in a dump.
fn key_material(scene: &Scene) -> Result<String> {
    let pem = fs::read_to_string(scene.pki.file("server.key"))?;
    pem.lines().max_by_key(|line| line.len()).map(str::to_owned).context("empty key")
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_log_argv_environment_or_journal() -> Result<()> {
    let (dir, mut scene) = scene(&[dense(48 * MIB, 1)], |spec| spec.log = "trace".into())?;
    let mut job = Running::start(&scene, request(TARGET), dir.path()).await?;
    job.until(Seen::Frame).await?;
    let pid = scene.agent()?.pid();
    let mut places = vec![fs::read(format!("/proc/{pid}/cmdline"))?, fs::read(format!("/proc/{pid}/environ"))?];
    assert_eq!(job.finish().await?.result()?.state(), JobState::Ok);
    // A re-login sends it once more.
    scene.control().await?.end_sessions().await?;
    assert_eq!(backup(&scene, request(TARGET), dir.path()).await?.result()?.state(), JobState::Ok);
    let reaped = scene.reap()?;
    places.extend([reaped.stdout.into_bytes(), reaped.stderr.into_bytes()]);
    let mut agent = scene.take_agent()?;
    assert!(agent.stop()?.success());
    places.push(fs::read(&agent.log)?);
    places.push(fs::read(scene.dir.join("state/journal"))?);
    assert!(places[4].len() > 10_000, "the trace log is empty: nothing is tested");
    let key = key_material(&scene)?;
    for secret in [PASSWORD, key.as_str()] {
        for (n, place) in places.iter().enumerate() {
            let found = place.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "a secret is in place {n}");
        }
    }
    nothing_is_left(&scene).await
}
