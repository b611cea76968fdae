//! A scene of one worker: one vcenter-sim kept over many rounds, the agent's process, which rounds kill, and the file
//! systems below the agent's state. What others than the agent own in it is noted here, so that the judge knows.
use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use hotadd_api::v1::NbdServer;
use hotadd_harness::{
    Content, FileServer, Process, Scene, Spec,
    process::{Notify, wait_for},
    scene::{FIRST_KEY, PROXY, TARGET, datastore_spec, vm},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::task::block_in_place;
use vcenter_sim::{
    control::{AttachedDisk, Control},
    inventory::{DiskSpec, HostSpec},
};

use crate::{journal, moment::Place, scale::Scale};

/// Another program's VM whose disks it attaches to the proxy, and that holds files of the target.
pub const ACTOR: &str = "actor01";
/// The host of all VMs.
pub const HOST: &str = "esx01.lab";
const MIB: u64 = 1 << 20;
/// Longest start of an agent, settling included.
const START: Duration = Duration::from_secs(60);
/// A start that ended at once is followed by another one after this: systemd's RestartSec, scaled.
const RESTART: Duration = Duration::from_millis(100);
/// Room for the agent's journal; a round fills it up.
const STATE_BYTES: &str = "8m";

/// What is the same for all scenes of a run.
#[derive(Debug, Clone)]
pub struct Setup {
    pub scale: Scale,
    /// Instead of the scaled `late_seconds`; 0: the agent looks for nothing that it retired, so that only an ended
    /// session keeps a late landing away, and only such landings are played.
    pub late: Option<f64>,
    /// Instead of a slow task's own length: longer than the agent looks for what it does not see.
    pub slow: Option<Duration>,
    /// Properties that the agent's role can never read.
    pub denied: Vec<String>,
    /// Longest settling after a round.
    pub patience: Duration,
    pub log: String,
    pub root: PathBuf,
}

/// What others own.
#[derive(Debug, Default)]
pub struct Foreign {
    /// Disks on the proxy that are not ours: UUID and key, as their owner left them.
    pub disks: BTreeSet<(String, i32)>,
    /// Snapshots of the target that are not ours and stay.
    pub snapshots: BTreeSet<String>,
    /// Those of a round: their maker removes them at its end, because ours below them waits for that.
    pub passing: BTreeSet<String>,
    /// Those that were gone before.
    pub vanished: Vec<String>,
    /// (VM, path) of files that another product holds.
    pub held: Vec<(String, String)>,
}

/// See the module. The agent goes first, then vCenter.
#[derive(Debug)]
pub struct Lab {
    agent: Option<Process>,
    tracer: Option<Process>,
    notify: Notify,
    ready: bool,
    /// SIGTERM was sent: it may end by itself at any moment.
    stopping: bool,
    /// vCenter may refuse guards in this round: what an operator does then, nobody can keep him from.
    pub guards_refused: bool,
    scene: Scene,
    pub control: Control,
    pub sources: Arc<Vec<Vec<u8>>>,
    /// Of each of the target's disks, as it stays through all rounds.
    servers: Vec<FileServer>,
    pub url: String,
    pub state: PathBuf,
    pub dir: PathBuf,
    pub scale: Scale,
    /// The agent looks for what lands late, whether its session has ended or not.
    pub sweeps: bool,
    pub slow: Option<Duration>,
    pub denied: Vec<String>,
    pub patience: Duration,
    pub anchors: BTreeSet<(String, i32)>,
    /// Files of each disk's chain on the target, as long as nobody else makes a snapshot.
    pub depths: Vec<usize>,
    pub foreign: Foreign,
    /// Where the journal ended when the round began.
    pub journal_mark: u64,
    pub rounds: u64,
    /// Ends of the agent that no round asked for.
    pub exits: u64,
    mounted: bool,
}

impl Lab {
    /// These properties can't be read, beside those that never can.
    pub async fn deny(&mut self, more: &[&str]) -> Result<()> {
        let paths: Vec<&str> = self.denied.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.call(json!({"cmd": "deny_properties", "paths": paths})).await.map(drop)
    }

    pub async fn start(setup: &Setup, name: &str) -> Result<Self> {
        let dir = setup.root.join(name);
        let spec = spec(&dir, setup)?;
        let state = dir.join("state");
        fs::create_dir_all(&state)?;
        let mounted = mount(&state)?;
        let scene = block_in_place(|| Scene::without_agent(&dir, spec))?;
        let mut control = scene.control().await?;
        let sources = (0..2).map(|n| fs::read(scene.source(n))).collect::<Result<Vec<_>, _>>()?;
        let server = |n| FileServer::start(&dir, &format!("disk-{n}"), &scene.source(n), &[]);
        let servers = block_in_place(|| (0..2).map(server).collect::<Result<Vec<_>>>())?;
        let anchors = names(&control.attached(PROXY).await?);
        let depths = control.attached(TARGET).await?.iter().map(|disk| disk.chain.len()).collect();
        let snapshots = control.snapshots(TARGET).await?.into_iter().collect();
        let mut lab = Self {
            agent: None,
            tracer: None,
            notify: Notify::bind(&dir.join("notify"))?,
            ready: false,
            stopping: false,
            guards_refused: false,
            scene,
            control,
            sources: Arc::new(sources),
            servers,
            url: String::new(),
            state,
            dir,
            scale: setup.scale,
            sweeps: setup.late != Some(0.0),
            slow: setup.slow,
            denied: setup.denied.clone(),
            patience: setup.patience,
            anchors,
            depths,
            foreign: Foreign { snapshots, ..Foreign::default() },
            journal_mark: 0,
            rounds: 0,
            exits: 0,
            mounted,
        };
        lab.deny(&[]).await?;
        lab.agent_ready().await?;
        Ok(lab)
    }

    #[must_use]
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// What a request names.
    pub fn servers(&self) -> Vec<NbdServer> {
        (FIRST_KEY..).zip(&self.servers).map(|(key, server)| server.named(key)).collect()
    }

    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.state.join("journal")
    }

    /// One command to the simulator.
    pub async fn call(&mut self, request: Value) -> Result<Value> {
        let what = request["cmd"].as_str().unwrap_or_default().to_owned();
        self.control.call(request).await.with_context(|| format!("vcenter-sim, {what}"))
    }

    /// Whether a round killed the agent, or it ended.
    pub fn agent_lives(&mut self) -> bool {
        let ended = self.agent.as_mut().is_none_or(|agent| agent.wait(Duration::ZERO).is_ok());
        if ended {
            self.agent = None;
            self.ready = false;
        }
        !ended
    }

    /// Starts the agent without waiting for it.
    pub fn launch_agent(&mut self) -> Result<()> {
        (self.ready, self.stopping) = (false, false);
        self.notify = Notify::bind(&self.dir.join("notify"))?;
        self.agent = Some(self.scene.spawn_agent(Some(&self.notify))?);
        Ok(())
    }

    /// An agent that serves; one that ended is started again, as systemd would.
    pub async fn agent_ready(&mut self) -> Result<()> {
        let end = Instant::now() + START;
        loop {
            if self.agent_lives() && self.ready {
                return Ok(());
            }
            if self.agent.is_none() {
                self.launch_agent()?;
            }
            let agent = self.agent.as_mut().context("no agent")?;
            match block_in_place(|| self.notify.ready(agent, START)) {
                Ok(status) => {
                    let address = status.strip_prefix("serving on ").with_context(|| format!("status {status:?}"))?;
                    self.url = format!("https://{}", address.replace("127.0.0.1", "localhost"));
                    self.ready = true;
                }
                Err(error) if Instant::now() >= end => return Err(error.context("the agent does not get ready")),
                Err(_) if !self.agent_lives() => {
                    self.exits += 1;
                    tokio::time::sleep(RESTART).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells whether it lived until the kill.
    pub fn kill_agent(&mut self) -> Result<bool> {
        let lived = self.agent_lives();
        self.ready = false;
        let Some(mut agent) = self.agent.take() else { return Ok(lived) };
        let status = block_in_place(|| agent.kill_if_alive())?;
        let ended_by = |signal: Signal| status.signal() == Some(signal as i32);
        let killed = ended_by(Signal::SIGKILL);
        // An agent that has only begun to start has no handler yet.
        let stopped = self.stopping && (status.success() || ended_by(Signal::SIGTERM));
        ensure!(killed || stopped, "the agent ended before the kill: {status}");
        Ok(killed)
    }

    /// SIGTERM; its end is waited for by [`Self::stopped`].
    pub fn stop_agent(&mut self) -> Result<bool> {
        let lived = self.agent_lives();
        if let Some(agent) = &self.agent {
            agent.signal(Signal::SIGTERM)?;
            self.stopping = true;
        }
        Ok(lived)
    }

    /// The end of an agent that was told to stop. It may take its drain time and what a hanging client costs.
    pub async fn stopped(&mut self) -> Result<()> {
        let end = Instant::now() + START;
        while self.agent_lives() {
            ensure!(Instant::now() < end, "the agent does not end after SIGTERM");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Port of the serving agent.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.url.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0)
    }

    /// Our disks on the proxy now: neither its own nor another program's.
    pub async fn left_attached(&mut self) -> Result<Vec<AttachedDisk>> {
        let disks = self.control.attached(PROXY).await?;
        Ok(disks.into_iter().filter(|disk| !self.is_foreign(disk)).collect())
    }

    fn is_foreign(&self, disk: &AttachedDisk) -> bool {
        let it = name(disk);
        self.anchors.contains(&it) || self.foreign.disks.contains(&it)
    }

    /// Snapshots of the target with their names.
    pub async fn snapshots(&mut self) -> Result<Vec<(String, String)>> {
        let reply = self.call(json!({"cmd": "snapshots", "vm": TARGET})).await?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let all = reply["snapshots"].as_array().cloned().unwrap_or_default();
        Ok(all.iter().map(|s| (text(&s["id"]), text(&s["name"]))).collect())
    }

    /// Ids of the snapshots that the agent made.
    pub async fn our_snapshots(&mut self) -> Result<Vec<String>> {
        let all = self.snapshots().await?;
        Ok(all.into_iter().filter(|(_, name)| name.starts_with("hotadd-agent ")).map(|(id, _)| id).collect())
    }

    /// Methods disabled by us, on both VMs. An older simulator knows none.
    pub async fn our_methods(&mut self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for vm in [PROXY, TARGET] {
            let Ok(reply) = self.control.call(json!({"cmd": "methods", "vm": vm})).await else { continue };
            for method in reply["methods"].as_array().into_iter().flatten() {
                // Nobody else disables any here.
                left.push(format!("{vm}: {}", method["method"].as_str().unwrap_or("?")));
            }
        }
        Ok(left)
    }

    /// The guest looks at every controller.
    pub async fn rescan(&mut self) -> Result<()> {
        let slots = self.call(json!({"cmd": "devices"})).await?["slots"].take();
        for address in slots.as_array().into_iter().flatten().filter_map(|slot| slot["pci_address"].as_str()) {
            self.call(json!({"cmd": "device_rescan", "pci_address": address})).await?;
        }
        Ok(())
    }

    /// Requests whose connection was closed and that are still to arrive.
    pub async fn on_their_way(&mut self) -> Result<u64> {
        let reply = self.control.call(json!({"cmd": "landings"})).await;
        Ok(reply.ok().and_then(|reply| reply["pending"].as_u64()).unwrap_or(0))
    }

    /// Fills the file system of the journal, so that the next append meets ENOSPC, often in the middle.
    pub fn fill_state(&self) -> Result<()> {
        ensure!(self.mounted, "the state folder has no file system of its own");
        let mut filler = fs::File::create(self.state.join("filler"))?;
        let block = vec![0; 64 << 10];
        while std::io::Write::write_all(&mut filler, &block).is_ok() {}
        while std::io::Write::write_all(&mut filler, &block[..512]).is_ok() {}
        Ok(())
    }

    pub fn free_state(&self) -> Result<()> {
        match fs::remove_file(self.state.join("filler")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Every fdatasync and fsync of the agent answers EIO, by strace's fault injection. False: no agent lives, or it
    /// is done already.
    pub fn break_state(&mut self) -> Result<bool> {
        if !self.agent_lives() || self.tracer.is_some() {
            return Ok(false);
        }
        let pid = self.agent.as_ref().context("no agent")?.pid();
        let mut command = Command::new("strace");
        command.args(["-f", "-q", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO"]);
        command.args(["-o", "/dev/null", "-p", &pid.to_string()]);
        let mut tracer = Process::start("strace", &mut command, &self.dir.join("strace.log"))?;
        let status = format!("/proc/{pid}/status");
        let attached = block_in_place(|| {
            wait_for("strace at the agent", Duration::from_secs(10), || {
                // It ends with an agent that ends meanwhile.
                if !self.agent_lives() {
                    return Ok(Some(false));
                }
                tracer.must_live()?;
                let text = fs::read_to_string(&status).unwrap_or_default();
                let traced = text.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"));
                Ok(traced.then_some(true))
            })
        })?;
        if !attached {
            tracer.kill_if_alive()?;
            return Ok(false);
        }
        self.tracer = Some(tracer);
        Ok(true)
    }

    /// By SIGKILL, upon which the kernel lets every thread go: strace that is asked to end waits for each thread to stop,
    /// and now and then for ever when the agent is ending too.
    pub fn mend_state(&mut self) -> Result<()> {
        let Some(mut tracer) = self.tracer.take() else { return Ok(()) };
        tracer.kill_if_alive()?;
        Ok(())
    }

    /// What a crash in the middle of an append leaves; only while the agent is dead. `false`: its disk is full, and nothing
    /// can be appended.
    pub fn tear_journal(&self) -> Result<bool> {
        let mut file = fs::File::options().append(true).open(self.journal())?;
        match std::io::Write::write_all(&mut file, &journal::torn_frame()) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// Ends everything; the folder stays.
    pub fn end(mut self) {
        block_in_place(|| {
            self.kill_agent().ok();
            drop(self);
        });
    }
}

impl Place for Lab {
    async fn ask(&mut self, request: Value) -> Result<Value> {
        self.call(request).await
    }

    async fn has_disks(&mut self) -> Result<bool> {
        Ok(!self.left_attached().await?.is_empty())
    }

    async fn has_snapshots(&mut self) -> Result<bool> {
        Ok(!self.our_snapshots().await?.is_empty())
    }

    fn journalled(&self, kind: &str, text: &str) -> Result<bool> {
        let (records, _) = journal::records_from(&self.journal(), self.journal_mark)?;
        Ok(records.iter().any(|record| record["record"] == kind && record.to_string().contains(text)))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.mend_state().ok();
        if let Some(mut agent) = self.agent.take() {
            agent.kill().ok();
        }
        if self.mounted {
            // What the journal held is part of the evidence.
            let kept = self.dir.join("state-at-end");
            fs::create_dir_all(&kept).ok();
            for name in ["journal", "lock"] {
                fs::copy(self.state.join(name), kept.join(name)).ok();
            }
            Command::new("umount").arg("--lazy").arg(&self.state).status().ok();
        }
    }
}

/// UUID and key of each: paths change when somebody moves a VM's files.
pub fn names(disks: &[AttachedDisk]) -> BTreeSet<(String, i32)> {
    disks.iter().map(name).collect()
}

fn name(disk: &AttachedDisk) -> (String, i32) {
    (disk.uuid.clone().unwrap_or_else(|| disk.path.clone()), disk.key)
}

/// Two small disks, a sparse one and then a dense one, so that after half of the frames most of the data is to come; a foreign snapshot that stays, and another program's VM with two disks.
fn spec(dir: &Path, setup: &Setup) -> Result<Spec> {
    fs::create_dir_all(dir)?;
    let dense = Content { every: 1, ..Content::new(2 * MIB, 1) };
    let sparse = Content { every: 5, ..Content::new(3 * MIB + 512, 2) };
    let mut spec = Spec::new(dir, &[sparse, dense], 2);
    spec.target().snapshots = 1;
    let disk = |unit| DiskSpec { unit: Some(unit), capacity: Some(MIB + MIB / 2), ..DiskSpec::default() };
    let mut actor = vm(ACTOR, vec![disk(0), disk(1)]);
    actor.power = "off".into();
    spec.inventory.vms.push(actor);
    spec.inventory.datastores.push(datastore_spec("ds2", dir.join("ds2")));
    spec.inventory.hosts =
        vec![HostSpec { name: HOST.into(), datastores: None, version: None, build: None, drs: None }];
    spec.agent_toml = setup.scale.agent_toml(setup.late) + &FileServer::allowed(dir);
    spec.log.clone_from(&setup.log);
    Ok(spec)
}

fn mount(at: &Path) -> Result<bool> {
    let options = format!("size={STATE_BYTES},mode=0700");
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "hotadd-crash"]).arg(at).status()?;
    if !status.success() {
        bail!("a tmpfs can't be mounted on {} (root is needed)", at.display());
    }
    Ok(true)
}
