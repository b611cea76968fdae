//! A simulated vCenter with one VM of three disks, a snapshot on a chain of two, and what the snapshot must hold.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use hotadd_agent::transport::stream_vmdk::{Decoder, Piece};
use hotadd_vsphere::{
    Client, Config, Error, ExportLease, LeaseStream, MoRef, Quiesce, SnapshotSpec, TaskResult, Trust,
};
use secrecy::SecretString;
use serde_json::{Value, json};
use vcenter_sim::control::Control;
use vcenter_sim::{Inventory, Options, Running, start};

/// Nothing here takes as long.
pub const LONG: Duration = Duration::from_secs(60);
/// Longest time without a byte.
pub const STALL: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

pub struct Lab {
    pub client: Client,
    pub vm: MoRef,
    pub snapshot: MoRef,
    /// By the disk's address in a lease.
    pub content: BTreeMap<String, Vec<u8>>,
    running: Running,
    ctl: Control,
    _dir: tempfile::TempDir,
}

/// Noise with holes.
fn content(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let mut disk = vec![0u8; len];
    for (n, block) in disk.chunks_mut(40_000).enumerate().filter(|(n, _)| n % 3 != 1) {
        for b in block.iter_mut() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *b = if n % 2 == 0 { seed } else { state.to_le_bytes()[3] };
        }
    }
    disk
}

impl Lab {
    pub async fn new() -> Lab {
        Lab::with(|_| {}).await
    }

    /// `edit` changes the inventory of the VM.
    pub async fn with(edit: impl FnOnce(&mut Value)) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        // The second disk ends within a grain.
        let sizes = [5 * MIB, 3 * MIB + 4096, 34 * MIB];
        let mut disks: Vec<Vec<u8>> = (1u8..).zip(sizes).map(|(n, size)| content(size, n)).collect();
        let raw = |n: usize| dir.path().join(format!("raw{n}"));
        for (n, disk) in disks.iter().enumerate() {
            let file = std::fs::File::create(raw(n)).unwrap();
            file.write_all_at(disk, 0).unwrap();
        }
        let mut vm = json!({"name": "web", "controllers": [{"bus": 0}, {"kind": "lsilogic", "bus": 1}], "disks": [
            {"bus": 0, "unit": 0, "source": raw(0)}, {"bus": 0, "unit": 3, "source": raw(1)},
            {"controller": "lsilogic", "bus": 1, "unit": 0, "source": raw(2)}]});
        edit(&mut vm);
        let inventory = json!({"hosts": [{"name": "esx1"}, {"name": "esx2"}],
            "datastores": [{"name": "ds1", "dir": dir.path().join("ds1")}], "vms": [vm]});
        let mut options = Options::in_dir(dir.path());
        options.inventory = serde_json::from_value::<Inventory>(inventory).unwrap();
        let running = start(options).await.unwrap();
        let mut ctl = Control::connect(&running.control).await.unwrap();
        let client = connect(&running, Trust::Ca(running.ca_pem.clone().into_bytes())).await;
        let vm = client.find_vms_by_name("web").await.unwrap().remove(0);
        snapshot(&client, &vm).await;
        // In the first snapshot's delta, so part of the second one.
        let change = |disk: &str, offset: usize, byte: u8| json!({"cmd": "vm_write", "vm": "web", "disk": disk, "offset": offset, "pattern": byte, "length": 70_000});
        for (disk, place, offset) in [(0, "0:0", 100_000), (1, "0:3", 3 * MIB + 4096 - 70_000), (2, "1:0", 20 * MIB)] {
            ctl.call(change(place, offset, 0xd7)).await.unwrap();
            disks[disk][offset..offset + 70_000].fill(0xd7);
        }
        let snapshot = snapshot(&client, &vm).await;
        ctl.call(change("0:0", 1_000_000, 0x99)).await.unwrap();
        let names = ["ParaVirtualSCSIController0:0", "ParaVirtualSCSIController0:3", "VirtualLsiLogicController1:0"];
        let content = names.into_iter().map(str::to_owned).zip(disks).collect();
        Lab { client, vm, snapshot, content, running, ctl, _dir: dir }
    }

    pub async fn client_with(&self, trust: Trust) -> Client {
        connect(&self.running, trust).await
    }

    pub fn sha256(&self) -> String {
        self.running.cert_sha256.clone()
    }

    pub fn pin(&self) -> [u8; 32] {
        let hex = self.sha256();
        let mut pin = [0u8; 32];
        for (byte, at) in pin.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        }
        pin
    }

    pub async fn control(&mut self, command: Value) -> Value {
        self.ctl.call(command).await.unwrap()
    }

    /// Asks for a lease and holds it.
    pub async fn hold(&self) -> Result<ExportLease, Error> {
        let lease = self.client.export_snapshot(&self.snapshot).await?;
        ExportLease::hold(&self.client, &lease, LONG, None).await
    }

    /// Reads the disk at 0:0; a refusal is told by its kind.
    pub async fn read_first(&self, lease: &ExportLease) -> Result<Vec<u8>, String> {
        let file = lease.info().files.iter().find(|f| f.key.ends_with("SCSIController0:0")).unwrap();
        let stream = lease.download(file, STALL).await.map_err(|e| format!("{:?}", e.kind()))?;
        decode(stream, 5 * MIB as u64).await
    }

    /// The newest lease, when it satisfies `want`; fails when it never does.
    pub async fn lease_until(&mut self, want: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + LONG;
        loop {
            let all = self.control(json!({"cmd": "leases"})).await;
            if let Some(lease) = all["leases"].as_array().unwrap().iter().find(|l| want(l)) {
                return lease.clone();
            }
            assert!(Instant::now() < until, "{all}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// No lease lives, and the simulator never answered against its own type table.
    pub async fn end(mut self) {
        let all = self.control(json!({"cmd": "leases"})).await;
        let over = |l: &Value| l["state"] == "done" || l["state"] == "error";
        assert!(all["leases"].as_array().unwrap().iter().all(over), "{all}");
        let counters = self.ctl.counters().await.unwrap();
        assert_eq!(counters["problems"], json!([]));
        self.client.logout().await.unwrap();
        self.running.shutdown().await;
    }
}

async fn connect(running: &Running, trust: Trust) -> Client {
    let password = SecretString::from("secret");
    Client::connect(Config::new(running.url(), "administrator@vsphere.local", password, trust)).await.unwrap()
}

async fn snapshot(client: &Client, vm: &MoRef) -> MoRef {
    let spec = SnapshotSpec { name: "s".into(), description: String::new(), quiesce: Quiesce::No };
    let task = client.create_snapshot(vm, &spec).await.unwrap();
    match client.wait_task(&task, LONG, None).await.unwrap().result {
        Some(TaskResult::MoRef(snapshot)) => snapshot,
        other => panic!("{other:?}"),
    }
}

/// Reads a stream to its end into a disk; a refusal is told by its kind.
pub async fn decode(mut stream: LeaseStream, capacity: u64) -> Result<Vec<u8>, String> {
    let mut decoder = Decoder::new(capacity);
    let mut disk = Vec::new();
    while let Some(chunk) = stream.chunk().await.map_err(|e| format!("{:?}", e.kind()))? {
        let mut input = chunk.as_ref();
        while let Some(piece) = decoder.next(&mut input).map_err(|e| e.kind().to_owned())? {
            match piece {
                Piece::Data { bytes, .. } => disk.extend_from_slice(&bytes),
                Piece::Zero { length, .. } => disk.resize(disk.len() + usize::try_from(length).unwrap(), 0),
            }
        }
    }
    decoder.finish().map_err(|e| e.kind().to_owned())?;
    Ok(disk)
}
