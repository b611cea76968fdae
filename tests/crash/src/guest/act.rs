//! The faults of tier B, done to the machine, its unit, its devices and its network.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::task::block_in_place;

use super::{plan::Fault, scene::Scene};

/// Longer than a call to vCenter takes, shorter than the wait for its answer.
const CUT: Duration = Duration::from_secs(8);

/// From when settling counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Nothing ended and vCenter was there: the work's own course.
    None,
    /// From this moment on: the agent ended with vCenter there, or vCenter came back.
    From(Instant),
    /// From the first connection to vCenter after the machine was away.
    FirstConnection,
}

/// What a fault was.
#[derive(Debug)]
pub struct Done {
    pub clock: Clock,
    /// A process or machine of the agent was killed.
    pub killed: bool,
    /// The controller's connection is dead and nobody tells it.
    pub deaf: bool,
    pub note: String,
}

impl Done {
    fn of(clock: Clock) -> Self {
        Self { clock, killed: false, deaf: false, note: String::new() }
    }
}

/// Does it. The machine is up again when this returns.
pub async fn perform(scene: &mut Scene, fault: Fault) -> Result<Done> {
    let now = || Clock::From(Instant::now());
    match fault {
        Fault::Kill => {
            scene.guest("systemctl kill -s KILL --kill-who=main hotadd-agent")?;
            Ok(Done { killed: true, ..Done::of(now()) })
        }
        Fault::CgroupKill => {
            scene.guest("echo 1 > /sys/fs/cgroup/system.slice/hotadd-agent.service/cgroup.kill")?;
            Ok(Done { killed: true, ..Done::of(now()) })
        }
        Fault::Upgrade => {
            scene.guest(
                "cp -p /usr/bin/hotadd-agent /usr/bin/hotadd-agent.new && mv /usr/bin/hotadd-agent.new /usr/bin/hotadd-agent && \
                 systemctl restart --no-block hotadd-agent",
            )?;
            Ok(Done::of(now()))
        }
        Fault::Reboot => {
            scene.relay.await_connection();
            block_in_place(|| {
                scene.lab.guest.reboot()?;
                scene.lab.guest.wait_ready()
            })?;
            Ok(Done { killed: true, deaf: true, ..Done::of(Clock::FirstConnection) })
        }
        Fault::PowerCut => {
            scene.cut_power()?;
            scene.relay.await_connection();
            let disks = scene.left_attached().await?.len();
            scene.power_on().await?;
            let note = format!("{disks} disks of ours were attached");
            Ok(Done { killed: true, deaf: true, note, ..Done::of(Clock::FirstConnection) })
        }
        Fault::NetworkCut => {
            scene.relay.cut();
            tokio::time::sleep(CUT).await;
            scene.relay.mend();
            Ok(Done::of(now()))
        }
        Fault::UdevStopped => {
            scene.guest(UDEV_STOP)?;
            Ok(Done::of(Clock::None))
        }
        Fault::DiskRemoved => disk_removed(scene).await,
    }
}

const UDEV_STOP: &str = "systemctl stop systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udevd.service";
const UDEV_START: &str = "systemctl start systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udevd.service && udevadm settle -t 60";

/// After the work: udev runs and has nothing left to do.
pub fn mend(scene: &Scene) -> Result<()> {
    scene.guest(UDEV_START).map(drop)
}

async fn disk_removed(scene: &mut Scene) -> Result<Done> {
    let Some(ours) = scene.left_attached().await?.into_iter().next() else {
        return Ok(Done { note: "nothing attached".into(), ..Done::of(Clock::None) });
    };
    let devices = scene.control.devices().await?;
    let device = devices.iter().find(|device| device["path"] == ours.path.as_str());
    let id = device.context("vCenter's disk is no device")?["id"].clone();
    scene.call(json!({"cmd": "device_remove", "id": id})).await?;
    Ok(Done { note: ours.path, ..Done::of(Clock::None) })
}
