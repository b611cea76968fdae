//! What a scene is made of (inventory, vCenter, certificates), and the scene on this host: vcenter-sim with loop devices
//! and agent-sim. The scene in a lab guest is in [`crate::guest`]. Everything ends with the value.
use std::{
    fs,
    ops::{Deref, DerefMut},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use vcenter_sim::{
    Inventory,
    control::Control,
    inventory::{ControllerKind, ControllerSpec, DatastoreKind, DatastoreSpec, DiskSpec, VmSpec, stable_uuid},
};

use crate::{
    Content, Exports, Pki, Process, Run, binary,
    guest::HOST,
    process::{Notify, wait_for},
};

/// Name of the proxy VM in every scene.
pub const PROXY: &str = "proxy01";
/// Name of the target VM in every scene.
pub const TARGET: &str = "web01";
/// Key of the target's first disk, by vSphere's convention.
pub const FIRST_KEY: i32 = 2000;

/// Of the account that the agent uses.
pub const PASSWORD: &str = "a \"password\" with blanks, 'ä', <&> and %";
const START: Duration = Duration::from_secs(60);

/// What a scene holds. The fields are plain: tests change what they need.
#[derive(Debug, Clone)]
pub struct Spec {
    pub inventory: Inventory,
    /// Content of the target's disks, written before the start into their `source` files.
    pub disks: Vec<Content>,
    /// Lines for agent.toml's top level.
    pub agent_top: String,
    /// Appended to agent.toml: `[limits]` and `[deadlines]` tables.
    pub agent_toml: String,
    pub api_version: String,
    /// HOTADD_LOG of the agent.
    pub log: String,
    /// Disks are read past this machine's page cache: for benchmarks.
    pub direct: bool,
}

/// Short deadlines: a test waits for conditions, and what it waits for is near.
const AGENT_TOML: &str = "
[limits]
lease_min_seconds = 1
[deadlines]
call_seconds = 5
reconfigure_seconds = 60
discover_seconds = 15
rescan_seconds = 1
settle_seconds = 6
retry_last_seconds = 2
consolidate_seconds = 0.5
cleanup_seconds = 30
drain_seconds = 60
";

impl Spec {
    /// A powered-on target with these disks on one PVSCSI, a proxy with `controllers` PVSCSI and an anchor on each.
    #[must_use]
    pub fn new(dir: &Path, disks: &[Content], controllers: u32) -> Self {
        let datastore = dir.join("ds1");
        let disk = |(n, content): (usize, &Content)| DiskSpec {
            capacity: Some(content.bytes),
            source: Some(dir.join(format!("source-{n}.raw"))),
            bus: u32::try_from(n / 15).unwrap_or(0),
            unit: Some(unit(n % 15)),
            ..DiskSpec::default()
        };
        let controller = |bus: u32| ControllerSpec {
            kind: ControllerKind::Pvscsi,
            bus,
            pci_slot: Some(160 + 32 * bus),
            ..ControllerSpec::default()
        };
        let anchor = |bus: u32| DiskSpec {
            bus,
            unit: Some(0),
            capacity: Some(1 << 20),
            mode: Some("independent_persistent".into()),
            ..DiskSpec::default()
        };
        let buses = u32::try_from(disks.len().div_ceil(15)).unwrap_or(1).max(1);
        let mut target = vm(TARGET, disks.iter().enumerate().map(disk).collect());
        target.controllers = Some((0..buses).map(controller).collect());
        let mut proxy = vm(PROXY, (0..controllers).map(anchor).collect());
        proxy.controllers = Some((0..controllers).map(controller).collect());
        proxy.hardware_version = 13;
        proxy.extra_config.insert("disk.EnableUUID".into(), "TRUE".into());
        proxy.macs = vec!["00:50:56:aa:00:01".into()];
        Self {
            inventory: Inventory {
                datastores: vec![datastore_spec("ds1", datastore)],
                vms: vec![proxy, target],
                ..Inventory::default()
            },
            disks: disks.to_vec(),
            agent_top: String::new(),
            agent_toml: AGENT_TOML.into(),
            api_version: "8.0.2.0".into(),
            log: "info,hotadd_agent=debug".into(),
            direct: false,
        }
    }

    /// Puts `key = value` into a table of agent.toml, in place of what is there.
    pub fn set(&mut self, table: &str, key: &str, value: impl std::fmt::Display) {
        let start = format!("{key} = ");
        let kept: Vec<&str> = self.agent_toml.lines().filter(|line| !line.starts_with(&start)).collect();
        let header = format!("[{table}]");
        let text = kept.join("\n").replace(&header, &format!("{header}\n{key} = {value}"));
        self.agent_toml = text + "\n";
    }

    /// An agent in the guest may read these servers, with the scene's client certificate.
    pub fn nbd_servers(&mut self, servers: &Exports) -> Result<()> {
        let allow = servers.uri(HOST)?;
        self.agent_toml.push_str(&format!(
            "[nbd]\nallow = ['{allow}']\nca_file = '/etc/hotadd/ca.pem'\nserver_name = 'localhost'\n\
             certificate_file = '/etc/hotadd/client.pem'\nkey_file = '/etc/hotadd/client.key'\n"
        ));
        Ok(())
    }

    /// The target's three disks are one on VMFS, one on vSAN, where the proxy is not, and a linked clone on vVol.
    pub fn three_kinds(&mut self, dir: &Path) -> Result<()> {
        for (name, kind) in [("vsan", DatastoreKind::Vsan), ("vvol", DatastoreKind::Vvol)] {
            let mut store = datastore_spec(name, dir.join(name));
            store.kind = kind;
            self.inventory.datastores.push(store);
        }
        let content = self.disks[2];
        let disks = &mut self.target().disks;
        disks[1].path = Some(format!("[vsan] {TARGET}/data.vmdk"));
        disks[2].path = Some(format!("[vvol] {TARGET}/clone.vmdk"));
        disks[2].linked_to = Some("[vvol] parent01/parent01.vmdk".into());
        // A clone shows what its parent holds.
        let (source, capacity) = (disks[2].source.take(), disks[2].capacity);
        if let Some(source) = source.as_ref().filter(|source| !source.exists()) {
            content.write(source)?;
        }
        let path = disks[2].linked_to.clone();
        let mut parent = vm("parent01", vec![DiskSpec { path, source, capacity, ..DiskSpec::default() }]);
        (parent.datastore, parent.power) = (Some("vvol".into()), "off".into());
        self.inventory.vms.push(parent);
        Ok(())
    }

    /// The target, to be changed before the start.
    pub fn target(&mut self) -> &mut VmSpec {
        &mut self.inventory.vms[1]
    }

    pub fn proxy(&mut self) -> &mut VmSpec {
        &mut self.inventory.vms[0]
    }
}

/// Unit for the n-th disk of a controller: 7 is the controller's own.
fn unit(n: usize) -> i32 {
    let n = i32::try_from(n).unwrap_or(0);
    if n < 7 { n } else { n + 1 }
}

#[must_use]
pub fn datastore_spec(name: &str, dir: PathBuf) -> DatastoreSpec {
    DatastoreSpec {
        name: name.into(),
        kind: DatastoreKind::Vmfs,
        dir,
        accessible: true,
        access_mode: "readWrite".into(),
        free: 1 << 40,
    }
}

/// A powered-on VM with stable UUIDs.
#[must_use]
pub fn vm(name: &str, disks: Vec<DiskSpec>) -> VmSpec {
    VmSpec {
        name: name.into(),
        datastore: Some("ds1".into()),
        host: None,
        power: "on".into(),
        hardware_version: 19,
        uuid: Some(stable_uuid("42", name)),
        instance_uuid: Some(stable_uuid("50", name)),
        macs: Vec::new(),
        working_dir: None,
        template: false,
        extra_config: std::collections::BTreeMap::default(),
        tools: true,
        change_tracking: false,
        key_id: None,
        controllers: None,
        disks,
        snapshots: 0,
        fault_tolerance: None,
        elsewhere: false,
        efi: false,
        product: None,
    }
}

/// The simulated vCenter as a process.
#[derive(Debug)]
pub struct Vcenter {
    pub process: Process,
    pub url: String,
    pub ca: PathBuf,
    pub control: PathBuf,
}

impl Vcenter {
    /// `backend`: as vcenter-sim's option.
    pub fn start(dir: &Path, inventory: &Inventory, backend: &str, api_version: &str) -> Result<Self> {
        Self::replaying(dir, inventory, backend, api_version, None)
    }

    /// As [`Self::start`], with the document of a survey.
    pub fn replaying(
        dir: &Path,
        inventory: &Inventory,
        backend: &str,
        api_version: &str,
        profile: Option<&Path>,
    ) -> Result<Self> {
        for datastore in &inventory.datastores {
            fs::create_dir_all(&datastore.dir)?;
        }
        fs::write(dir.join("inventory.json"), serde_json::to_vec_pretty(inventory)?)?;
        secret(&dir.join("vc-password"), PASSWORD)?;
        let (log, control, ca) = (dir.join("vcenter.log"), dir.join("vc.sock"), dir.join("vc-ca.pem"));
        let mut command = Command::new(binary("vcenter-sim")?);
        command.arg("--inventory").arg(dir.join("inventory.json"));
        command.arg("--control").arg(&control).arg("--work").arg(dir.join("vc-work"));
        command.args(["--backend", backend, "--user", "backup@vsphere.local", "--api-version", api_version]);
        command.arg("--password-file").arg(dir.join("vc-password")).arg("--cert-out").arg(&ca);
        if let Some(profile) = profile {
            command.arg("--profile").arg(profile);
        }
        let mut process = Process::start("vcenter-sim", &mut command, &log)?;
        let url = wait_for("vcenter-sim", START, || {
            process.must_live()?;
            let lines = process.log_text();
            let ready = lines
                .lines()
                .find_map(|line| serde_json::from_str::<Value>(line).ok()?["url"].as_str().map(str::to_owned));
            Ok(ready)
        })?;
        Ok(Self { process, url, ca, control })
    }

    pub async fn control(&self) -> Result<Control> {
        Ok(Control::connect(&self.control).await?)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        let digits = self.url.trim_end_matches("/sdk").rsplit(':').next();
        digits.and_then(|port| port.parse().ok()).unwrap_or(0)
    }
}

/// Text of an agent.toml; paths are the agent's.
#[must_use]
pub fn agent_toml(listen: &str, url: &str, etc: &str, state: &str, top: &str, rest: &str) -> String {
    format!(
        "listen = '{listen}'\nstate_dir = '{state}'\n{top}\n[tls]\ncertificate_file = '{etc}/server.pem'\n\
         key_file = '{etc}/server.key'\nclient_ca_file = '{etc}/ca.pem'\n[vcenter]\nurl = '{url}'\n\
         user = 'backup@vsphere.local'\npassword_file = '{etc}/vc-password'\nca_file = '{etc}/vc-ca.pem'\n{rest}"
    )
}

/// Writes a file that only its owner may read.
pub fn secret(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// What every scene shares, whatever its host is: vCenter, certificates, the target's sources, the way to the agent.
#[derive(Debug)]
pub struct Stage {
    pub vcenter: Vcenter,
    pub pki: Pki,
    /// `https://localhost:port` of the agent; empty until it is ready.
    pub url: String,
    pub spec: Spec,
    pub dir: PathBuf,
}

impl Stage {
    /// Writes the disks and certificates, starts vCenter. `backend`: as vcenter-sim's option.
    pub fn start(dir: &Path, spec: Spec, backend: &str) -> Result<Self> {
        for (disk, content) in spec.inventory.vms[1].disks.iter().zip(&spec.disks) {
            if let Some(source) = disk.source.as_ref().filter(|source| !source.exists()) {
                content.write(source)?;
            }
        }
        let pki = Pki::create(&dir.join("pki"), &["localhost", "127.0.0.1"])?;
        let vcenter = Vcenter::start(dir, &spec.inventory, backend, &spec.api_version)?;
        fs::copy(&vcenter.ca, pki.file("vc-ca.pem"))?;
        secret(&pki.file("vc-password"), PASSWORD)?;
        Ok(Self { vcenter, pki, url: String::new(), spec, dir: dir.to_owned() })
    }

    /// agent.toml with the spec's settings and more top-level lines. `etc`, `state`: paths as the agent sees them.
    #[must_use]
    pub fn agent_toml(&self, listen: &str, vcenter: &str, etc: &str, state: &str, top: &str) -> String {
        let top = format!("{}\n{top}", self.spec.agent_top);
        agent_toml(listen, vcenter, etc, state, &top, &self.spec.agent_toml)
    }

    pub async fn control(&self) -> Result<Control> {
        self.vcenter.control().await
    }

    /// hotaddctl with this scene's certificates.
    pub fn ctl(&self, args: &[&str]) -> Result<Run> {
        Run::of(Run::command(&self.url, &self.pki, "client")?.args(args))
    }

    pub async fn channel(&self) -> Result<tonic::transport::Channel> {
        crate::grpc::connect(&self.url, &self.pki, "client").await
    }

    /// The raw file under the target's n-th disk; of a linked clone, that of its parent.
    #[must_use]
    pub fn source(&self, n: usize) -> PathBuf {
        let vms = &self.spec.inventory.vms;
        let disk = vms[1].disks.get(n);
        let parent = disk.and_then(|disk| disk.linked_to.as_ref());
        let parent =
            parent.and_then(|path| vms.iter().flat_map(|vm| &vm.disks).find(|d| d.path.as_ref() == Some(path)));
        parent.or(disk).and_then(|disk| disk.source.clone()).unwrap_or_default()
    }

    /// Disks on the proxy that are not its anchors, as vCenter tells it.
    pub async fn left_attached(&self) -> Result<Vec<String>> {
        let disks = self.control().await?.attached(PROXY).await?;
        Ok(disks.into_iter().filter(|d| d.mode == "independent_nonpersistent").map(|d| d.path).collect())
    }

    /// Snapshots of the target, as vCenter tells it.
    pub async fn snapshots(&self) -> Result<Vec<String>> {
        Ok(self.control().await?.snapshots(&self.spec.inventory.vms[1].name).await?)
    }
}

/// A scene on this host. Fields drop in order: the agent first (it detaches), then vCenter (it frees loop devices).
#[derive(Debug)]
pub struct Scene {
    agent: Option<Process>,
    stage: Stage,
}

impl Deref for Scene {
    type Target = Stage;
    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Stage {
        &mut self.stage
    }
}

impl Scene {
    /// Writes the disks, starts vCenter and the agent, waits for both. `dir` outlives the scene.
    pub fn start(dir: &Path, spec: Spec) -> Result<Self> {
        let mut scene = Self::without_agent(dir, spec)?;
        scene.start_agent()?;
        Ok(scene)
    }

    pub fn without_agent(dir: &Path, spec: Spec) -> Result<Self> {
        let kind = if spec.direct { "loop-direct" } else { "loop" };
        let scene = Self { agent: None, stage: Stage::start(dir, spec, &format!("{kind}:{PROXY}"))? };
        scene.write_config("")?;
        Ok(scene)
    }

    /// Rewrites agent.toml with more top-level lines; takes effect at the next start.
    pub fn write_config(&self, top: &str) -> Result<()> {
        let etc = self.pki.dir.display().to_string();
        let state = self.dir.join("state").display().to_string();
        let text = self.stage.agent_toml("127.0.0.1:0", &self.vcenter.url, &etc, &state, top);
        Ok(fs::write(self.config(), text)?)
    }

    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    fn agent_command(&self, verb: &str) -> Result<Command> {
        let mut command = Command::new(binary("agent-sim")?);
        command.arg(verb);
        // Of `role` its own verb comes first.
        if verb != "role" {
            command.arg("--config").arg(self.config());
        }
        command.env("AGENT_SIM_CONTROL", &self.vcenter.control).env("HOTADD_LOG", &self.spec.log);
        Ok(command)
    }

    /// Starts the agent and waits for READY.
    pub fn start_agent(&mut self) -> Result<()> {
        self.start_agent_with(&[]).map(drop)
    }

    /// As [`Self::start_agent`] with more environment; gives what systemd would go on hearing.
    pub fn start_agent_with(&mut self, environment: &[(&str, &str)]) -> Result<Notify> {
        let notify = Notify::bind(&self.dir.join("notify"))?;
        let mut process = self.spawn_agent_with(Some(&notify), environment)?;
        let status = notify.ready(&mut process, START)?;
        let address = status.strip_prefix("serving on ").with_context(|| format!("status {status:?}"))?;
        self.stage.url = format!("https://{}", address.replace("127.0.0.1", "localhost"));
        self.agent = Some(process);
        Ok(notify)
    }

    /// Starts the agent without waiting, for tests whose agent must not become ready.
    pub fn spawn_agent(&self, notify: Option<&Notify>) -> Result<Process> {
        self.spawn_agent_with(notify, &[])
    }

    /// As [`Self::spawn_agent`] with more environment.
    pub fn spawn_agent_with(&self, notify: Option<&Notify>, environment: &[(&str, &str)]) -> Result<Process> {
        let mut command = self.agent_command("serve")?;
        command.envs(environment.iter().copied());
        if let Some(notify) = notify {
            command.env("NOTIFY_SOCKET", &notify.path);
        }
        Process::start("agent-sim", &mut command, &self.dir.join("agent.log"))
    }

    /// `agent-sim reap`, as ExecStopPost runs it.
    pub fn reap(&self) -> Result<Run> {
        Run::of(self.agent_command("reap")?.args(["--seconds", "60"]))
    }

    /// `agent-sim role check` with more arguments.
    pub fn role_check(&self, args: &[&str]) -> Result<Run> {
        let mut command = self.agent_command("role")?;
        Run::of(command.arg("check").arg("--config").arg(self.config()).args(args))
    }

    /// `agent-sim support-bundle` into this file, with more environment.
    pub fn support_bundle(&self, out: &Path, environment: &[(&str, &str)]) -> Result<Run> {
        Run::of(self.agent_command("support-bundle")?.arg("--out").arg(out).envs(environment.iter().copied()))
    }

    /// The running agent.
    pub fn agent(&mut self) -> Result<&mut Process> {
        self.agent.as_mut().context("no agent runs")
    }

    /// Process id of the running agent.
    pub fn agent_pid(&self) -> Result<u32> {
        Ok(self.agent.as_ref().context("no agent runs")?.pid())
    }

    pub fn take_agent(&mut self) -> Result<Process> {
        self.agent.take().context("no agent runs")
    }

    /// Whether an agent was started and neither taken nor killed.
    #[must_use]
    pub fn has_agent(&self) -> bool {
        self.agent.is_some()
    }
}
