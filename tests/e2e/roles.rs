//! Who may call what: every rpc with every role and with none, and what belongs to whom.
use anyhow::{Context as _, Result, ensure};
use hotadd_api::{
    status,
    v1::{
        BackupVmRequest, CloseDisksRequest, KeepAliveRequest, ReadDiskRequest, ReserveRequest,
        disk_service_client::DiskServiceClient, job_service_client::JobServiceClient,
        proxy_service_client::ProxyServiceClient,
    },
};
use hotadd_harness::{Content, Scene, Spec, grpc::connect, scene::TARGET};
use prost::Message as _;
use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use crate::support::{
    MIB, Running, Seen, by_id, dense, eventually, job, nothing_is_left, nothing_stays, only_these_are_left,
    open_request, refused, request, scene,
};

/// One rule of each form; `nobody` has a certificate of the CA and no rule, `renewed` the name of `operator` and one more. Tests look on
/// with `client`, an admin.
const RULES: &str = "
[[client]]
san = 'DNS:controller'
role = 'admin'
[[client]]
san = 'DNS:operator.example.com'
role = 'operator'
[[client]]
san_wildcard = 'URI:spiffe://example.com/backup/*'
role = 'operator'
[[client]]
san = 'CN:reader'
role = 'reader'
";

pub fn ruled(disks: &[Content]) -> Result<(tempfile::TempDir, Scene)> {
    ruled_with(disks, |_| {})
}

/// The same, with another configuration.
pub fn ruled_with(disks: &[Content], change: impl FnOnce(&mut Spec)) -> Result<(tempfile::TempDir, Scene)> {
    let (dir, scene) = scene(disks, |spec| {
        spec.agent_toml.push_str(RULES);
        change(spec);
    })?;
    scene.pki.client("operator", &["DNS:Operator.example.com"])?;
    scene.pki.client("renewed", &["DNS:more.example.com", "DNS:operator.example.com"])?;
    scene.pki.client("other", &["URI:spiffe://example.com/backup/7"])?;
    scene.pki.client("reader", &["DNS:reader.example.com"])?;
    scene.pki.client("nobody", &["DNS:operator.example.com.evil.org", "URI:spiffe://example.com/backup/a/b"])?;
    Ok((dir, scene))
}

pub async fn channel(scene: &Scene, identity: &str) -> Result<Channel> {
    connect(&scene.url, &scene.pki, identity).await
}

/// Paths of all rpcs, as the agent's own description tells them.
fn rpcs() -> Result<Vec<String>> {
    let set = prost_types::FileDescriptorSet::decode(hotadd_api::DESCRIPTOR)?;
    let of = |file: &prost_types::FileDescriptorProto| {
        let package = file.package().to_owned();
        let services = file.service.clone().into_iter();
        services
            .flat_map(move |service| {
                let name = format!("/{package}.{}/", service.name());
                service.method.into_iter().map(move |method| format!("{name}{}", method.name()))
            })
            .collect::<Vec<_>>()
    };
    Ok(set.file.iter().flat_map(of).collect())
}

/// What has to hold, said anew here: names tell what only looks, and two calls change the agent for everybody.
fn rank_needed(path: &str) -> usize {
    let name = path.rsplit('/').next().unwrap_or_default();
    match name {
        "SetLimits" | "Drain" => 3,
        _ if ["Get", "List", "Watch", "Explain", "Check", "ServerReflection"]
            .iter()
            .any(|look| name.starts_with(look)) =>
        {
            1
        }
        _ => 2,
    }
}

/// The first answer to an empty request.
pub async fn ask(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let path = PathAndQuery::try_from(path).map_err(|error| Status::unknown(error.to_string()))?;
    let request = Request::new(tokio_stream::once(()));
    let mut answers = client.streaming(request, path, ProstCodec::<(), ()>::default()).await?.into_inner();
    answers.message().await.map(drop)
}

fn code(answer: &Result<(), Status>) -> String {
    answer.as_ref().err().and_then(status::from_status).map(|reason| reason.code).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_asks_for_its_role() -> Result<()> {
    let (_dir, scene) = ruled(&[Content::new(MIB, 1)])?;
    let mut paths = rpcs()?;
    ensure!(paths.len() >= 16, "{paths:?}");
    paths.extend(
        ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"].map(Into::into),
    );
    for (rank, identity) in ["nobody", "reader", "operator", "client"].iter().enumerate() {
        let channel = channel(&scene, identity).await?;
        for path in &paths {
            let answer = ask(&channel, path).await;
            let expected = match rank {
                0 => "HA-AUT-001",
                _ if rank < rank_needed(path) => "HA-AUT-003",
                _ => "",
            };
            let told = code(&answer);
            let ours = if told.starts_with("HA-AUT-") { told.as_str() } else { "" };
            assert_eq!(ours, expected, "{path} as {identity}: {answer:?}");
            if !expected.is_empty() {
                assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied, "{path} as {identity}");
            }
        }
        // What nobody gave a role is nobody's; that it isn't there is told to admins.
        let answer = ask(&channel, "/hotadd.v1.ProxyService/Format").await;
        let expected = ["HA-AUT-001", "HA-AUT-003", "HA-AUT-003", ""];
        assert_eq!(code(&answer), expected[rank], "{answer:?}");
        if rank == 3 {
            assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
        }
    }
    nothing_is_left(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_owners() -> Result<()> {
    let (_dir, scene) = ruled(&[Content::new(2 * MIB, 1)])?;
    let mut own = DiskServiceClient::new(channel(&scene, "operator").await?);
    let open = open_request(TARGET);
    let session_id = own.open_disks(open.clone()).await?.into_inner().session_id;
    let (keep, close) =
        (KeepAliveRequest { session_id: session_id.clone() }, CloseDisksRequest { session_id: session_id.clone() });
    let read =
        ReadDiskRequest { session_id, device_key: hotadd_harness::scene::FIRST_KEY, ..ReadDiskRequest::default() };
    let mut other = DiskServiceClient::new(channel(&scene, "other").await?);
    refused(other.keep_alive(keep.clone()).await, "HA-AUT-002")?;
    refused(other.read_disk(read.clone()).await.map(|_| ()), "HA-AUT-002")?;
    refused(other.close_disks(close.clone()).await, "HA-AUT-002")?;
    refused(other.open_disks(open.clone()).await, "HA-AUT-002")?;
    // Who comes back with another certificate of the same name is the same.
    let mut renewed = DiskServiceClient::new(channel(&scene, "renewed").await?);
    renewed.keep_alive(keep).await?;
    let mut frames = renewed.read_disk(read.clone()).await?.into_inner();
    ensure!(frames.message().await?.is_some());
    let again = renewed.open_disks(open.clone()).await?.into_inner();
    assert_eq!(again.session_id, close.session_id);
    // An admin may.
    DiskServiceClient::new(scene.channel().await?).close_disks(close.clone()).await?;
    // What ended is not another's either, also when only the journal knows it.
    let (dir, mut scene) = (_dir, scene);
    refused(other.close_disks(close.clone()).await, "HA-AUT-002")?;
    ensure!(scene.take_agent()?.stop()?.success());
    scene.start_agent()?;
    let mut other = DiskServiceClient::new(channel(&scene, "other").await?);
    refused(other.close_disks(close.clone()).await, "HA-AUT-002")?;
    refused(other.open_disks(open.clone()).await, "HA-AUT-002")?;
    let mut own = DiskServiceClient::new(channel(&scene, "operator").await?);
    own.close_disks(close).await?;
    nothing_is_left(&scene).await?;
    drop(dir);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_job_is_resumed_by_its_owner() -> Result<()> {
    let (dir, scene) = ruled(&[dense(16 * MIB, 1)])?;
    let wanted = BackupVmRequest { resume_window_seconds: 600, ..request(TARGET) };
    let mut run = Running::over(channel(&scene, "operator").await?, wanted.clone(), dir.path()).await?;
    run.until(Seen::Frame).await?;
    let broken = run.delivered.job_id.clone();
    let mut other = JobServiceClient::new(channel(&scene, "other").await?);
    refused(other.backup_vm(wanted).await.map(|_| ()), "HA-AUT-002")?;
    drop(run);
    eventually("its snapshot is kept", async || Ok(!job(&scene, by_id(&broken)).await?.resume_until.is_empty()))
        .await?;
    only_snapshot_is_left(&scene).await?;
    let resume = || BackupVmRequest { resume_job: broken.clone(), ..request(TARGET) };
    refused(other.backup_vm(resume()).await.map(|_| ()), "HA-AUT-002")?;
    let done = Running::over(channel(&scene, "renewed").await?, resume(), dir.path()).await?.finish().await?;
    ensure!(done.result()?.reasons.is_empty(), "{:?}", done.result()?);
    nothing_stays(&scene).await
}

async fn only_snapshot_is_left(scene: &Scene) -> Result<()> {
    let snapshots = scene.snapshots().await?;
    ensure!(snapshots.len() == 1 && scene.left_attached().await?.is_empty(), "{snapshots:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_is_its_owners() -> Result<()> {
    let (_dir, scene) = ruled(&[Content::new(MIB, 1)])?;
    let reserve = |slots| ReserveRequest { reservation_id: "night".into(), slots, ttl_seconds: 600 };
    let proxy =
        async |identity: &str| Ok::<_, anyhow::Error>(ProxyServiceClient::new(channel(&scene, identity).await?));
    proxy("operator").await?.reserve(reserve(3)).await?;
    refused(proxy("other").await?.reserve(reserve(0)).await, "HA-AUT-002")?;
    let mut open = open_request(TARGET);
    open.reservation_id = "night".into();
    let mut other = DiskServiceClient::new(channel(&scene, "other").await?);
    refused(other.open_disks(open).await, "HA-AUT-002")?;
    let left = proxy("renewed").await?.reserve(reserve(2)).await?.into_inner();
    assert_eq!(left.slots, 2);
    proxy("client").await?.reserve(reserve(0)).await?;
    only_these_are_left(&scene, &[], &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rules_every_certificate_is_an_admins_and_that_is_told() -> Result<()> {
    let (_dir, mut scene) = scene(&[Content::new(MIB, 1)], |_| {})?;
    scene.pki.client("anybody", &["DNS:anybody"])?;
    let answer = ask(&channel(&scene, "anybody").await?, "/hotadd.v1.ProxyService/Drain").await;
    ensure!(answer.is_ok(), "{answer:?}");
    let log = scene.agent()?.log_text();
    let told = log.lines().filter(|line| line.contains("no [[client]] in the configuration")).count();
    assert_eq!(told, 1, "{log}");
    log.lines().find(|line| line.contains("WARN") && line.contains("[[client]]")).context("as a warning")?;
    nothing_is_left(&scene).await
}
