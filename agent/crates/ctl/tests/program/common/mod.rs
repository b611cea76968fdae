//! An agent that says what it is told to say: hotadd.v1 over mutual TLS on a free port, on a runtime of its own, so that
//! it can vanish. No rule of the product lives here.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use hotadd_api::{
    status::to_status,
    v1::{
        disk_service_server::{DiskService, DiskServiceServer},
        job_event::Item,
        job_service_server::{JobService, JobServiceServer},
        proxy_service_server::{ProxyService, ProxyServiceServer},
        *,
    },
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{
    Code, Request, Response, Status,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

mod script;

pub use script::*;

#[derive(Debug, Default)]
pub struct State {
    script: Script,
    asked: AtomicUsize,
    /// The client left the stream before its end.
    pub left: AtomicBool,
    pub requests: Mutex<Vec<BackupVmRequest>>,
    pub watches: Mutex<Vec<WatchEventsRequest>>,
}

#[derive(Debug, Clone)]
struct Fake(Arc<State>);

#[tonic::async_trait]
impl JobService for Fake {
    type BackupVmStream = Pin<Box<dyn Stream<Item = Result<JobEvent, Status>> + Send>>;

    async fn backup_vm(&self, request: Request<BackupVmRequest>) -> Result<Response<Self::BackupVmStream>, Status> {
        let first = {
            let mut requests = self.0.requests.lock().unwrap();
            requests.push(request.into_inner());
            requests.len() == 1
        };
        if let Some(status) = &self.0.script.refuse {
            return Err(status.clone());
        }
        let (send, events) = mpsc::channel(1);
        let state = self.0.clone();
        tokio::spawn(async move {
            let script = &state.script;
            let steps = if first || script.again.is_empty() { &script.steps } else { &script.again };
            for step in steps.clone() {
                let sent = match step {
                    Step::Say(event) => send.send(Ok(*event)).await,
                    Step::Cut(status) => send.send(Err(status)).await,
                    Step::Hang => {
                        send.closed().await;
                        state.left.store(true, Ordering::SeqCst);
                        return;
                    }
                };
                if sent.is_err() {
                    state.left.store(true, Ordering::SeqCst);
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }

    async fn get_job(&self, _: Request<GetJobRequest>) -> Result<Response<JobResult>, Status> {
        let Some(job) = self.0.script.job.clone() else {
            return Err(typed(Code::NotFound, "HA-JOB-001", Cleanup::Done));
        };
        if self.0.asked.fetch_add(1, Ordering::SeqCst) < self.0.script.running {
            return Ok(Response::new(JobResult { state: JobState::Running.into(), ..job }));
        }
        Ok(Response::new(job))
    }

    async fn list_jobs(&self, _: Request<ListJobsRequest>) -> Result<Response<ListJobsResponse>, Status> {
        Ok(Response::new(ListJobsResponse { jobs: self.0.script.job.clone().into_iter().collect() }))
    }
}

#[tonic::async_trait]
impl ProxyService for Fake {
    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        Ok(Response::new(GetInfoResponse {
            agent_version: "0.1.0".into(),
            proxy_name: "proxy".into(),
            engine: "preadv".into(),
            clone_tickets: self.0.script.tickets,
            ..Default::default()
        }))
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        Err(Status::unimplemented("not asked of this fake"))
    }

    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let request = request.into_inner();
        let events = self.0.script.watched(&request);
        self.0.watches.lock().unwrap().push(request);
        Ok(Response::new(Box::pin(tokio_stream::iter(events.into_iter().map(Ok)))))
    }

    async fn set_limits(&self, _: Request<SetLimitsRequest>) -> Result<Response<SetLimitsResponse>, Status> {
        Err(Status::unimplemented("not asked of this fake"))
    }

    async fn get_capacity(&self, _: Request<GetCapacityRequest>) -> Result<Response<GetCapacityResponse>, Status> {
        let free =
            ControllerCapacity { key: 1000, kind: "pvscsi".into(), free_units: vec![1, 2], ..Default::default() };
        let store = DatastoreCapacity { name: "fast01".into(), free_bytes: 3 << 40, attached: 5, ..Default::default() };
        Ok(Response::new(GetCapacityResponse {
            controllers: vec![free],
            datastores: vec![store],
            host_name: "esx1.lab".into(),
            free_slots: 17,
            attach_seconds: Some(4.2),
            ..Default::default()
        }))
    }

    async fn reserve(&self, _: Request<ReserveRequest>) -> Result<Response<ReserveResponse>, Status> {
        Err(Status::unimplemented("not asked of this fake"))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        Err(Status::unimplemented("not asked of this fake"))
    }
}

#[tonic::async_trait]
impl DiskService for Fake {
    type ReadDiskStream = Pin<Box<dyn Stream<Item = Result<ReadDiskResponse, Status>> + Send>>;

    async fn open_disks(&self, _: Request<OpenDisksRequest>) -> Result<Response<OpenDisksResponse>, Status> {
        Err(Status::unimplemented("not asked of this fake"))
    }

    async fn read_disk(&self, _: Request<ReadDiskRequest>) -> Result<Response<Self::ReadDiskStream>, Status> {
        Err(Status::unimplemented("not asked of this fake"))
    }

    async fn close_disks(&self, _: Request<CloseDisksRequest>) -> Result<Response<CloseDisksResponse>, Status> {
        Err(Status::unimplemented("not asked of this fake"))
    }

    async fn keep_alive(&self, _: Request<KeepAliveRequest>) -> Result<Response<KeepAliveResponse>, Status> {
        Err(Status::unimplemented("not asked of this fake"))
    }

    async fn list_sessions(&self, _: Request<ListSessionsRequest>) -> Result<Response<ListSessionsResponse>, Status> {
        Ok(Response::new(ListSessionsResponse::default()))
    }

    async fn list_duties(&self, _: Request<ListDutiesRequest>) -> Result<Response<ListDutiesResponse>, Status> {
        let duty = Duty { duty_id: "d".into(), kind: "attach".into(), ..Default::default() };
        Ok(Response::new(ListDutiesResponse { duties: vec![duty; self.0.script.duties] }))
    }
}

/// Certificates of one test.
#[derive(Debug)]
pub struct Pki {
    folder: TempDir,
}

impl Pki {
    /// Server and client signed by `ca`; `other.*` signed by somebody else.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
        for (ca_name, leaves) in [("ca", ["server", "client"]), ("other-ca", ["other", "another"])] {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, ca_name);
            let key = KeyPair::generate().unwrap();
            let ca = params.self_signed(&key).unwrap();
            store(&format!("{ca_name}.pem"), ca.pem());
            let issuer = Issuer::new(params, key);
            for leaf in leaves {
                let names = vec!["127.0.0.1".to_owned(), "agent.test".to_owned()];
                let key = KeyPair::generate().unwrap();
                let cert = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
                store(&format!("{leaf}.pem"), cert.pem());
                store(&format!("{leaf}.key"), key.serialize_pem());
            }
        }
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }
}

/// A running fake.
#[derive(Debug)]
pub struct Agent {
    pub address: SocketAddr,
    pub pki: Pki,
    pub state: Arc<State>,
    runtime: Option<Runtime>,
}

impl Agent {
    pub fn start(script: Script) -> Self {
        let pki = Pki::new();
        let state = Arc::new(State { script, ..State::default() });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(pki.read("server.pem"), pki.read("server.key")))
            .client_ca_root(Certificate::from_pem(pki.read("ca.pem")));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let fake = Fake(state.clone());
        let server = {
            let _inside = runtime.enter();
            Server::builder()
                .tls_config(tls)
                .unwrap()
                .add_service(JobServiceServer::new(fake.clone()))
                .add_service(DiskServiceServer::new(fake.clone()))
                .add_service(ProxyServiceServer::new(fake))
                .serve_with_incoming(TcpListenerStream::new(listener))
        };
        runtime.spawn(server);
        Self { address, pki, state, runtime: Some(runtime) }
    }

    /// Gone, as after a power cut of the proxy, except that the kernel says so to the peer.
    pub fn vanish(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// hotaddctl with the options that reach this agent.
    pub fn ctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotaddctl"));
        self.reach(&mut command, "client");
        command.args(args);
        command
    }

    pub fn reach(&self, command: &mut Command, client: &str) {
        command
            .arg("--agent")
            .arg(format!("https://{}", self.address))
            .arg("--ca")
            .arg(self.pki.path("ca.pem"))
            .arg("--cert")
            .arg(self.pki.path(&format!("{client}.pem")))
            .arg("--key")
            .arg(self.pki.path(&format!("{client}.key")));
    }

    pub fn backup(&self, out: &Path, more: &[&str]) -> Ended {
        let mut command = self.ctl(&["backup", "--vm", "web01", "--block-size", "65536", "--out"]);
        Ended::of(command.arg(out).args(more))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.vanish();
    }
}

/// What a run of hotaddctl left.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn of(command: &mut Command) -> Self {
        Self::from(command.output().unwrap())
    }

    /// The error line, which must be the only one.
    pub fn error(&self) -> &str {
        let mut lines = self.stderr.lines().filter(|line| line.starts_with("error: "));
        let line = lines.next().unwrap_or_else(|| panic!("no error line: {self:?}"));
        assert_eq!(lines.next(), None);
        assert!(line.contains("; next: ") && line.contains("; cleanup: "), "{line}");
        line
    }

    #[track_caller]
    pub fn failed(&self, code: i32, id: &str, cleanup: &str) {
        let line = self.error();
        assert_eq!(self.code, code, "{self:?}");
        assert!(line.starts_with(&format!("error: {id} ")), "{line}");
        let help = hotadd_reasons::help(id).map(|page| format!("; help: {page}")).unwrap_or_default();
        assert!(line.ends_with(&format!("; cleanup: {cleanup}{help}")), "{line}");
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Names of the files in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
