//! The scene of tier B: guest, vCenter behind a relay, the state's disk, and another program's disk on the proxy, which has
//! to be there after every round.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hotadd_harness::{
    Content, Lab, Spec, StateDisk,
    process::wait_for,
    scene::{PROXY, TARGET},
};
use serde_json::{Value, json};
use tokio::task::block_in_place;
use vcenter_sim::control::{AttachedDisk, Control};

use crate::{journal, lab::names, moment::Place, relay::Relay, scale::Scale};

const MIB: u64 = 1 << 20;
/// RestartSec, ExecStopPost and a settling start on an emulated CPU.
const SERVICE: Duration = Duration::from_secs(300);
/// Of the target's disks in rounds that strike in the middle of a read, bytes per second.
const SLOW: u64 = 3 * MIB;

/// See the module. Fields drop in order: vCenter and the machine, then the disk's server.
#[derive(Debug)]
pub struct Scene {
    pub lab: Lab,
    pub relay: Relay,
    pub disk: StateDisk,
    pub control: Control,
    pub sources: Arc<Vec<Vec<u8>>>,
    /// Disks of the proxy that are not ours: its own and another program's.
    pub others: BTreeSet<(String, i32)>,
    pub depths: Vec<usize>,
    pub dir: PathBuf,
    pub patience: Duration,
}

impl Scene {
    pub async fn start(dir: &Path, scale: f64, patience: Duration) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let disk = block_in_place(|| StateDisk::create(dir))?;
        let socket = disk.socket().display().to_string();
        let lab = block_in_place(|| Lab::boot_kept(dir, spec(dir, scale), &["--state", &socket, "--reboot"]))?;
        let relay = Relay::start(lab.vcenter.port()).await?;
        let mut control = lab.control().await?;
        let request = json!({"cmd": "attach_foreign", "vm": PROXY, "path": "[ds1] other/other.vmdk", "size": MIB + MIB / 2,
            "mode": "independent_persistent"});
        let reply = control.call(request).await?;
        ensure!(reply["fault"].is_null(), "another program can't attach its disk: {reply}");
        let sources = (0..2).map(|n| fs::read(lab.source(n))).collect::<Result<Vec<_>, _>>()?;
        let others = names(&control.attached(PROXY).await?);
        let depths = control.attached(TARGET).await?.iter().map(|disk| disk.chain.len()).collect();
        let scene = Self {
            lab,
            relay,
            disk,
            control,
            sources: Arc::new(sources),
            others,
            depths,
            dir: dir.to_owned(),
            patience,
        };
        block_in_place(|| scene.install())?;
        Ok(scene)
    }

    /// Configuration and a unit that starts with the machine, on a root that keeps them.
    fn install(&self) -> Result<()> {
        self.lab.configure(self.relay.port, "")?;
        self.guest("systemctl enable --quiet hotadd-agent && sync").map(drop)
    }

    /// A shell command as root in the guest; its output if it succeeds.
    pub fn guest(&self, script: &str) -> Result<String> {
        block_in_place(|| self.lab.guest.sh(script))
    }

    /// An agent that serves. It is systemd that starts it again, after a crash or with the machine.
    pub fn agent_ready(&self) -> Result<()> {
        let state = || self.lab.guest.try_sh("systemctl show -p ActiveState --value hotadd-agent");
        let served = block_in_place(|| {
            wait_for("a serving agent", SERVICE, || Ok((state()?.stdout.trim() == "active").then_some(())))
        });
        served.with_context(|| self.lab.journal().unwrap_or_default())
    }

    pub async fn call(&mut self, request: Value) -> Result<Value> {
        let what = request["cmd"].as_str().unwrap_or_default().to_owned();
        self.control.call(request).await.with_context(|| format!("vcenter-sim, {what}"))
    }

    /// The machine loses its power, and what its disk had not flushed.
    pub fn cut_power(&mut self) -> Result<()> {
        block_in_place(|| {
            self.lab.guest.cut_power()?;
            self.disk.lose_cache()
        })
    }

    /// The machine starts with exactly the disks that vCenter says.
    pub async fn power_on(&mut self) -> Result<()> {
        block_in_place(|| {
            self.disk.serve()?;
            self.lab.guest.power_on()
        })?;
        self.call(json!({"cmd": "backend_reconnect"})).await?;
        block_in_place(|| {
            self.lab.guest.resume()?;
            self.lab.guest.wait_ready()
        })
    }

    /// Our disks on the proxy now.
    pub async fn left_attached(&mut self) -> Result<Vec<AttachedDisk>> {
        let disks = self.control.attached(PROXY).await?;
        let ours = |disk: &AttachedDisk| !names(std::slice::from_ref(disk)).is_subset(&self.others);
        Ok(disks.into_iter().filter(ours).collect())
    }

    pub async fn our_snapshots(&mut self) -> Result<Vec<String>> {
        Ok(self.control.snapshots(TARGET).await?)
    }

    pub async fn our_methods(&mut self) -> Result<Vec<String>> {
        let reply = self.call(json!({"cmd": "methods"})).await?;
        let all = reply["methods"].as_array().cloned().unwrap_or_default();
        Ok(all.iter().map(|m| format!("{}: {}", m["vm"], m["method"])).collect())
    }

    /// Duties that the agent's own journal has open, read in the guest.
    pub fn open_duties(&self) -> Result<BTreeMap<String, Value>> {
        let lines = self.guest("hotadd-agent journal show --state-dir /var/lib/hotadd")?;
        journal::fold_lines(&lines)
    }

    /// Reads of the target's disks are slow from the next attach on, or no more.
    pub async fn slow_disks(&mut self, slow: bool) -> Result<()> {
        for disk in self.control.attached(TARGET).await? {
            for path in &disk.chain {
                let bps = if slow { json!(SLOW) } else { Value::Null };
                self.call(json!({"cmd": "disk_fault", "path": path, "bps": bps})).await?;
            }
        }
        Ok(())
    }

    /// What the agent logged, beside the scene that stays.
    pub fn keep_journal(&self) {
        let log = block_in_place(|| self.lab.guest.try_sh("journalctl -b --no-pager -o short-precise | tail -n 2000"));
        if let Ok(log) = log {
            fs::write(self.dir.join("guest-journal.txt"), log.stdout).ok();
        }
    }

    /// Ends everything; the folder stays.
    pub fn end(self) {
        block_in_place(|| drop(self));
    }
}

impl Place for Scene {
    async fn ask(&mut self, request: Value) -> Result<Value> {
        self.call(request).await
    }

    async fn has_disks(&mut self) -> Result<bool> {
        Ok(!self.left_attached().await?.is_empty())
    }

    async fn has_snapshots(&mut self) -> Result<bool> {
        Ok(!self.our_snapshots().await?.is_empty())
    }

    /// No step of this tier asks: looking into the guest takes longer than what is looked for.
    fn journalled(&self, kind: &str, _: &str) -> Result<bool> {
        anyhow::bail!("the journal's record {kind} is no moment of this tier")
    }
}

/// A dense and a sparse disk.
fn spec(dir: &Path, scale: f64) -> Spec {
    let dense = Content { every: 1, ..Content::new(4 * MIB, 1) };
    let sparse = Content { every: 5, ..Content::new(3 * MIB + 512, 2) };
    let mut spec = Spec::new(dir, &[dense, sparse], 2);
    spec.agent_toml = Scale(scale).agent_toml(None);
    spec.log = "info".into();
    spec
}
