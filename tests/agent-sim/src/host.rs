//! The second [`Platform`]: facts, events and deletions come from vcenter-sim's control socket (its CONTROL.md), bytes
//! from real loop devices of this kernel.
use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::Duration,
};

use hotadd_agent::{
    discover::{DeviceEvent, DeviceFacts, HostIdentity, Platform, ProvenDisk, SlotFacts},
    id::PciAddress,
};
use nix::fcntl::OFlag;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// A reply of the simulator takes milliseconds; a detach under load may take seconds.
const REPLY: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(crate) struct SimHost {
    control: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Device {
    id: String,
    pci_address: String,
    channel: u32,
    target: u32,
    lun: u64,
    name: String,
    node: PathBuf,
    serial: Option<String>,
    designators: Vec<String>,
    size_bytes: u64,
    read_only: bool,
}

#[derive(Debug, Deserialize)]
struct Slot {
    slot: u32,
    pci_address: String,
}

#[derive(Debug, Default, Deserialize)]
struct Dmi {
    sys_vendor: String,
    product_serial: Option<String>,
    product_uuid: Option<String>,
    macs: Vec<String>,
}

impl SimHost {
    pub(crate) fn new(control: PathBuf) -> Self {
        Self { control }
    }

    fn connect(&self, request: &Value) -> io::Result<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(&self.control)?;
        stream.set_read_timeout(Some(REPLY))?;
        writeln!(stream, "{request}")?;
        Ok(BufReader::new(stream))
    }

    fn call(&self, request: &Value) -> io::Result<Value> {
        let mut line = String::new();
        self.connect(request)?.read_line(&mut line)?;
        let reply: Value = serde_json::from_str(&line)?;
        if reply["ok"] == true {
            Ok(reply)
        } else {
            Err(io::Error::other(reply["error"].as_str().unwrap_or("refused").to_owned()))
        }
    }

    fn part<T: DeserializeOwned>(&self, name: &str) -> io::Result<T> {
        let mut reply = self.call(&json!({"cmd": "devices"}))?;
        serde_json::from_value(reply[name].take()).map_err(io::Error::from)
    }
}

impl Platform for SimHost {
    fn identity(&self) -> io::Result<HostIdentity> {
        let dmi: Dmi = self.part("dmi")?;
        Ok(HostIdentity { vendor: dmi.sys_vendor, serial: dmi.product_serial, uuid: dmi.product_uuid, macs: dmi.macs })
    }

    fn lock_file(&self) -> PathBuf {
        self.control.with_extension("host-lock")
    }

    fn slots(&self) -> io::Result<Vec<SlotFacts>> {
        let slots: Vec<Slot> = self.part("slots")?;
        Ok(slots.into_iter().map(|s| SlotFacts { slot: s.slot, pci_address: s.pci_address }).collect())
    }

    fn hosts(&self) -> io::Result<Vec<PciAddress>> {
        let hosts: Vec<String> = self.part("hosts")?;
        Ok(hosts.into_iter().map(PciAddress::new).collect())
    }

    fn devices(&self) -> io::Result<Vec<DeviceFacts>> {
        let devices: Vec<Device> = self.part("devices")?;
        devices.into_iter().map(facts).collect()
    }

    fn subscribe(&self) -> io::Result<mpsc::Receiver<DeviceEvent>> {
        let mut lines = self.connect(&json!({"cmd": "watch_devices"}))?;
        lines.get_ref().set_read_timeout(None)?;
        let mut first = String::new();
        lines.read_line(&mut first)?;
        let (events, inbox) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str::<Value>(&line) else { return };
                let id = event["device"]["id"].as_str().unwrap_or_default().to_owned();
                let event = if event["event"] == "add" { DeviceEvent::Added(id) } else { DeviceEvent::Removed(id) };
                if events.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(inbox)
    }

    fn open(&self, disk: &ProvenDisk) -> io::Result<File> {
        let devices: Vec<Device> = self.part("devices")?;
        let device = devices.into_iter().find(|d| d.id == disk.facts().handle).ok_or(io::ErrorKind::NotFound)?;
        OpenOptions::new().read(true).custom_flags((OFlag::O_DIRECT | OFlag::O_CLOEXEC).bits()).open(device.node)
    }

    fn delete(&self, disk: &ProvenDisk) -> io::Result<()> {
        self.call(&json!({"cmd": "device_delete", "id": disk.facts().handle})).map(drop)
    }

    fn rescan(&self, controller: &PciAddress, _target: u32) -> io::Result<()> {
        self.call(&json!({"cmd": "device_rescan", "pci_address": controller.as_str()})).map(drop)
    }

    /// Loop devices stand for disks here, and the rules of the machine that plays this host are not looked at; the lab has real ones.
    fn quarantine(&self) -> Vec<hotadd_agent::quarantine::Finding> {
        Vec::new()
    }
}

fn facts(device: Device) -> io::Result<DeviceFacts> {
    let designators = device.designators.iter().map(|hex| bytes(hex)).collect::<Option<_>>();
    Ok(DeviceFacts {
        handle: device.id,
        name: device.name,
        controller: PciAddress::new(device.pci_address),
        channel: device.channel,
        target: device.target,
        lun: device.lun,
        serial: device.serial,
        designators: designators.ok_or(io::ErrorKind::InvalidData)?,
        size_bytes: device.size_bytes,
        read_only: device.read_only,
        initialized: true,
    })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}
