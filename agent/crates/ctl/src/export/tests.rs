//! An export before judges that are not ours: `tar` lists and unpacks it, Python's parser reads the OVF, OpenSSL counts
//! the hashes, qemu-img compares the disks.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hotadd_api::manifest::{ControllerKind, ControllerRecord, Firmware, Nvram, UnitRecord, VmConfig};

use super::*;
use crate::chain::testing::{Backups, KEY};

const JUDGES: [(&str, &str); 4] =
    [("tar", "--version"), ("python3", "--version"), ("openssl", "version"), ("qemu-img", "--version")];

fn judges() -> bool {
    let missing = JUDGES.iter().find(|(tool, version)| Command::new(tool).arg(version).output().is_err());
    if let Some((tool, _)) = missing {
        eprintln!("skipped: {tool} is not installed");
    }
    missing.is_none()
}

fn chain() -> (Backups, PathBuf) {
    let mut backups = Backups::full();
    backups.incremental(&[(1, 7), (20, 8)]);
    let top = backups.incremental(&[(2, 0), (32, 9)]);
    (backups, top)
}

fn config() -> VmConfig {
    let controller = |key, kind, bus| ControllerRecord { key, kind, bus };
    VmConfig {
        cpus: 4,
        cores_per_socket: 2,
        memory_mib: 8192,
        guest_id: "debian12_64Guest".into(),
        firmware: Firmware::Efi,
        secure_boot: true,
        nvram: Nvram::NotIncluded,
        adapters: Vec::new(),
        hardware_version: "vmx-19".into(),
        controllers: vec![controller(1000, ControllerKind::Pvscsi, 0), controller(15000, ControllerKind::Sata, 1)],
        disks: vec![UnitRecord { device_key: KEY, controller_key: 15000, unit: 3 }],
    }
}

fn export(manifest: &Path, ova: &Path) -> Result<Exit, Failure> {
    let args = ExportArgs { manifest: manifest.to_owned(), ova: ova.to_owned(), public_key: None };
    run(&args, &Output::new(false, true), &Stop::default())
}

fn stdout(folder: &Path, program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether there is an archive that did not come to its end.
fn left_behind(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".part"))
}

#[test]
fn others_read_the_archive_and_find_the_same_disk() {
    if !judges() {
        return;
    }
    let (backups, top) = chain();
    let folder = backups.path("");
    assert_eq!(export(&top, &folder.join("a.ova")), Ok(Exit::Ok));
    let names = ["web01.ovf", "web01.mf", "web01-disk1.vmdk"];
    assert_eq!(stdout(&folder, "tar", &["-tf", "a.ova"]).lines().collect::<Vec<_>>(), names);
    stdout(&folder, "tar", &["-xf", "a.ova"]);
    let hashes = stdout(&folder, "openssl", &["dgst", "-sha256", names[0], names[2]]).replace("SHA2-256", "SHA256");
    assert_eq!(hashes, fs::read_to_string(folder.join(names[1])).unwrap());
    fs::write(folder.join("disk.raw"), &backups.disk).unwrap();
    stdout(&folder, "qemu-img", &["check", "-f", "vmdk", names[2]]);
    stdout(&folder, "qemu-img", &["compare", "-f", "raw", "-F", "vmdk", "disk.raw", names[2]]);
    assert!(!left_behind(&folder));
}

/// What Python's parser finds: facts of the OVF, one a line. It fails on a reference without its target.
const STRUCTURE: &str = r#"
import os, sys
from xml.etree import ElementTree
O = '{http://schemas.dmtf.org/ovf/envelope/1}'
R = '{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}'
W = '{http://www.vmware.com/schema/ovf}'
root = ElementTree.parse(sys.argv[1]).getroot()
files = {f.get(O + 'id'): f for f in root.find(O + 'References')}
disks = {d.get(O + 'diskId'): d for d in root.find(O + 'DiskSection').findall(O + 'Disk')}
for f in files.values():
    assert os.path.getsize(f.get(O + 'href')) == int(f.get(O + 'size'))
system = root.find(O + 'VirtualSystem')
print('name', system.find(O + 'Name').text)
print('guest', system.find(O + 'OperatingSystemSection').get(W + 'osType'))
hardware = system.find(O + 'VirtualHardwareSection')
items = {i.find(R + 'InstanceID').text: i for i in hardware.findall(O + 'Item')}
get = lambda i, what: i.findtext(R + what)
for i in items.values():
    order = [e.tag for e in i]
    assert order == sorted(order)
    kind = get(i, 'ResourceType')
    if kind in '34':
        print('amount', kind, get(i, 'VirtualQuantity'), *[c.text for c in i.findall(W + 'CoresPerSocket')])
    if kind == '17':
        disk = disks[get(i, 'HostResource').rsplit('/', 1)[1]]
        files[disk.get(O + 'fileRef')]
        parent = items[get(i, 'Parent')]
        print('disk', disk.get(O + 'capacity'), get(parent, 'ResourceType'), get(parent, 'ResourceSubType'),
              get(parent, 'Address'), get(i, 'AddressOnParent'))
for c in hardware.findall(W + 'Config'):
    print(c.get(W + 'key'), c.get(W + 'value'))
"#;

#[track_caller]
fn structure(backups: &Backups, top: &Path, name: &str) -> Vec<String> {
    let folder = backups.path("");
    export(top, &folder.join("a.ova")).unwrap();
    stdout(&folder, "tar", &["-xf", "a.ova"]);
    let facts = stdout(&folder, "python3", &["-c", STRUCTURE, &format!("{name}.ovf")]);
    facts.lines().map(ToOwned::to_owned).collect()
}

#[test]
fn the_descriptor_tells_the_hardware_of_the_manifest() {
    if !judges() {
        return;
    }
    let (backups, top) = chain();
    backups.edit("inc2", |manifest| {
        manifest.vm_config = Some(config());
        manifest.vm_name = "<web> & \"01\"\u{7}".into();
    });
    let capacity = backups.disk.len();
    let expected = [
        "name <web> & \"01\" ".to_owned(),
        "guest debian12_64Guest".to_owned(),
        "amount 3 4 2".to_owned(),
        "amount 4 8192".to_owned(),
        format!("disk {capacity} 20 vmware.sata.ahci 1 3"),
        "firmware efi".to_owned(),
        "bootOptions.efiSecureBootEnabled true".to_owned(),
    ];
    assert_eq!(structure(&backups, &top, "_web_____01__"), expected);
}

#[test]
fn a_signal_leaves_no_archive() {
    let (backups, top) = chain();
    let stop = Stop::default();
    stop.tell("SIGINT");
    let args = ExportArgs { manifest: top, ova: backups.path("a.ova"), public_key: None };
    let failure = run(&args, &Output::new(false, true), &stop).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (Exit::Interrupted, reasons::INTERRUPTED.id));
    assert!(!backups.path("a.ova").exists() && !left_behind(&backups.path("")));
}

#[test]
fn without_hardware_in_the_manifest_it_is_the_least() {
    if !judges() {
        return;
    }
    let (backups, top) = chain();
    let capacity = backups.disk.len();
    let disk = format!("disk {capacity} 6 VirtualSCSI 0 0");
    let expected = ["name web01", "guest otherGuest64", "amount 3 1", "amount 4 1024", &disk];
    assert_eq!(structure(&backups, &top, "web01"), expected);
}

#[test]
fn nothing_is_left_of_an_export_that_failed_and_nothing_is_overwritten() {
    let (backups, top) = chain();
    let ova = backups.path("a.ova");
    backups.flip("full", 5);
    let failure = export(&top, &ova).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (Exit::VerifyFailed, reasons::MISMATCH.id));
    assert!(!ova.exists() && !left_behind(&backups.path("")));
    fs::write(&ova, "mine").unwrap();
    let failure = export(&top, &ova).unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (Exit::Usage, reasons::EXPORT.id));
    assert_eq!(fs::read_to_string(&ova).unwrap(), "mine");
    assert_eq!(export(&top, Path::new("/no/such/folder/a.ova")).unwrap_err().exit, Exit::Usage);
}

#[test]
fn hardware_that_can_not_be_is_refused() {
    let (backups, top) = chain();
    type Change = fn(&mut VmConfig);
    let changes: [Change; 5] = [
        |config| config.cpus = 0,
        |config| config.disks.clear(),
        |config| config.disks[0].controller_key = 7,
        |config| config.disks[0].unit = 30,
        |config| {
            config.controllers[1].kind = ControllerKind::Lsilogic;
            config.disks[0].unit = 7;
        },
    ];
    for change in changes {
        let mut config = config();
        change(&mut config);
        backups.edit("inc2", |manifest| manifest.vm_config = Some(config));
        let failure = export(&top, &backups.path("a.ova")).unwrap_err();
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::Usage, reasons::EXPORT.id), "{}", failure.message);
    }
}

#[test]
fn disks_without_a_place_fill_the_controllers_in_order() {
    let (backups, _) = chain();
    let mut manifest = crate::chain::Stored::open(&backups.manifest("full")).unwrap().manifest().unwrap();
    let disk = manifest.disks[0].clone();
    manifest.disks = vec![disk.clone(); 17];
    let hardware = Hardware::of(&manifest).unwrap();
    assert_eq!(hardware.controllers.iter().map(|controller| controller.bus).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((hardware.places[6], hardware.places[7]), ((0, 6), (0, 8)));
    assert_eq!((hardware.places[14], hardware.places[15]), ((0, 15), (1, 0)));
    manifest.disks = vec![disk; 61];
    assert!(Hardware::of(&manifest).is_err());
}
