//! A simulated vCenter with one VM and a snapshot, a library folder for the double, and ways to read and to look around.

use std::{
    fs,
    ops::ControlFlow,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use hotadd_agent::{
    id::{BackingPath, Moref},
    transport::vddk::{DiskSpec, Life, Running, VddkSettings, thumbprint_of},
};
use hotadd_blockio::{
    Arena, FullSpeed, ReadEngine as _, ReadRequest,
    nbd::{NbdEngine, NbdError, Options},
    reader,
};
use hotadd_harness::binary;
use hotadd_vsphere::{Client, Config, Quiesce, SnapshotSpec, TaskResult, Trust};
use secrecy::SecretString;
use serde_json::{Value, json};
use vcenter_sim::{Inventory, control::Control};

/// Nothing here takes as long.
pub const LONG: Duration = Duration::from_secs(60);
/// What shells, configuration files and C strings like to break.
pub const PASSWORD: &str = "-+\"' $ äöü\\%s\t{}=#";
const USER: &str = "DOMAIN\\back up";
const SIZE: usize = 9 << 20;

pub struct Lab {
    pub settings: VddkSettings,
    pub spec: DiskSpec,
    pub content: Vec<u8>,
    pub runtime: PathBuf,
    sim: vcenter_sim::Running,
    dir: tempfile::TempDir,
}

impl Lab {
    pub async fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        // Data, holes, and what the snapshot's chain adds.
        let mut content = vec![0u8; SIZE];
        for (n, block) in content.chunks_mut(50_000).enumerate().filter(|(n, _)| n % 4 != 2) {
            block.iter_mut().zip(n..).for_each(|(byte, at)| *byte = at.wrapping_mul(131).to_le_bytes()[0] | 1);
        }
        let raw = fs::File::create(dir.path().join("raw")).unwrap();
        raw.set_len(SIZE as u64).unwrap();
        for (n, block) in content.chunks(50_000).enumerate().filter(|(n, _)| n % 4 != 2) {
            raw.write_all_at(block, (n * 50_000) as u64).unwrap();
        }
        let inventory = json!({"hosts": [{"name": "esx1"}], "datastores": [{"name": "ds 1", "dir": dir.path().join("ds1")}],
            "vms": [{"name": "web", "controllers": [{"bus": 0}], "disks": [{"bus": 0, "unit": 0, "source": dir.path().join("raw")}]}]});
        let mut options = vcenter_sim::Options::in_dir(dir.path());
        options.inventory = serde_json::from_value::<Inventory>(inventory).unwrap();
        (options.user, options.password) = (USER.into(), PASSWORD.into());
        let sim = vcenter_sim::start(options).await.unwrap();
        let mut control = Control::connect(&sim.control).await.unwrap();
        let trust = Trust::Ca(sim.ca_pem.clone().into_bytes());
        let client = Client::connect(Config::new(sim.url(), USER, SecretString::from(PASSWORD), trust)).await.unwrap();
        let vm = client.find_vms_by_name("web").await.unwrap().remove(0);
        snapshot(&client, &vm).await;
        control.vm_write("web", "0:0", 100_000, 0xd7, 70_000).await.unwrap();
        content[100_000..170_000].fill(0xd7);
        let snapshot = snapshot(&client, &vm).await;
        control.vm_write("web", "0:0", 1_000_000, 0x99, 70_000).await.unwrap();
        let devices = client.snapshot_devices(&snapshot).await.unwrap();
        let file = devices.iter().find_map(|d| d.as_disk()).unwrap().backing.file_name.clone();
        client.logout().await.unwrap();
        let (libdir, runtime) = (dir.path().join("vddk"), dir.path().join("run"));
        fs::create_dir_all(libdir.join("lib64")).unwrap();
        fs::create_dir(&runtime).unwrap();
        fs::write(libdir.join("lib64/libvixDiskLib.so.8"), "").unwrap();
        let mut settings = VddkSettings::new(&libdir);
        settings.nbdkit_program = binary("hotadd-vddk-double").unwrap();
        settings.tmp_dir = dir.path().join("tmp");
        let spec = DiskSpec {
            vm: Moref::new(vm.value),
            snapshot: Moref::new(snapshot.value),
            file: BackingPath::new(file.to_string()),
            server: "127.0.0.1".into(),
            port: Some(sim.addr.port()),
            user: USER.into(),
            thumbprint: thumbprint_of(&sim.cert_der),
            session: "session-1".into(),
        };
        let lab = Lab { settings, spec, content, runtime, sim, dir };
        lab.cue(json!({}));
        lab
    }

    /// What the double does besides serving.
    pub fn cue(&self, mut cues: Value) {
        cues["control"] = json!(self.sim.control);
        fs::write(self.settings.libdir.join("double.json"), cues.to_string()).unwrap();
    }

    pub async fn start(&self) -> Result<Running, hotadd_agent::error::Error> {
        let password = SecretString::from(PASSWORD);
        hotadd_agent::transport::vddk::start(&self.settings, self.spec.clone(), &password, &self.runtime, None).await
    }

    /// Nothing is left of any nbdkit.
    pub async fn end(self) {
        assert_eq!(entries(&self.runtime), [""; 0]);
        self.sim.shutdown().await;
        drop(self.dir);
    }
}

async fn snapshot(client: &Client, vm: &hotadd_vsphere::MoRef) -> hotadd_vsphere::MoRef {
    let spec = SnapshotSpec { name: "s".into(), description: String::new(), quiesce: Quiesce::No };
    let task = client.create_snapshot(vm, &spec).await.unwrap();
    match client.wait_task(&task, LONG, None).await.unwrap().result {
        Some(TaskResult::MoRef(snapshot)) => snapshot,
        other => panic!("{other:?}"),
    }
}

pub fn entries(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Opens the disk as the agent's NBD client does.
pub async fn open(socket: &Path) -> Result<NbdEngine, NbdError> {
    let target = format!("nbd+unix:///?socket={}", socket.display()).parse().unwrap();
    tokio::task::spawn_blocking(move || NbdEngine::open(&target, &Options { connections: 1, ..Options::default() }, 8))
        .await
        .unwrap()
}

/// All bytes, in order.
pub async fn read(mut engine: NbdEngine) -> Vec<u8> {
    let whole = move || {
        const BLOCK: u32 = 256 << 10;
        let arena = Arena::new(16, BLOCK as usize).unwrap();
        let ranges = [0..engine.export().size];
        let (source, cancel) = (Arc::clone(engine.source()), AtomicBool::new(false));
        let request = ReadRequest::new(&ranges, BLOCK, &cancel);
        let mut bytes = Vec::new();
        reader::read(&source, &mut engine, &arena, &request, &mut FullSpeed, &mut |block| {
            assert_eq!(block.offset, bytes.len() as u64);
            bytes.extend_from_slice(block.data.as_ref());
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(engine.in_flight(), 0);
        bytes
    };
    tokio::task::spawn_blocking(whole).await.unwrap()
}

pub fn pid(running: &Running) -> u32 {
    match *running.life().borrow() {
        Life::Serving { pid } => pid,
        ref other => panic!("{other:?}"),
    }
}

/// Whether a process is there and not only waits to be reaped.
pub fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub async fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
