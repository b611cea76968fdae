//! Every kind of device from one fixture, wrong values, and random damage.

use proptest::prelude::*;

use super::*;
use crate::xml::parse;

const FIXTURE: &str = include_str!("../../tests/fixtures/devices.xml");

fn all() -> Vec<Device> {
    devices(&parse(FIXTURE).unwrap()).unwrap()
}

fn the_disk(key: i32) -> Disk {
    all().iter().filter_map(Device::as_disk).find(|d| d.key == key).unwrap().clone()
}

#[test]
fn scsi_controllers_of_all_models() {
    let all = all();
    let scsi: Vec<_> = all.iter().filter_map(Device::as_scsi_controller).collect();
    let seen: Vec<_> = scsi.iter().map(|c| (c.key, c.bus, c.kind.clone(), c.pci_slot, c.own_unit)).collect();
    assert_eq!(
        seen,
        [
            (1000, 0, ScsiKind::Pvscsi, Some(160), 7),
            (1001, 1, ScsiKind::Pvscsi, Some(224), 7),
            (1002, 2, ScsiKind::LsiSas, None, 7),
            (1003, 3, ScsiKind::LsiLogic, None, 7),
            (1004, 4, ScsiKind::BusLogic, None, 7),
            (1005, 5, ScsiKind::Other("VirtualNovelSCSIController".to_owned()), None, 9),
        ]
    );
    assert_eq!(scsi[2].shared_bus.as_deref(), Some("virtualSharing"));
}

#[test]
fn other_devices_keep_their_kind() {
    let all = all();
    let find = |key| all.iter().find(|d| d.key() == key).unwrap().clone();
    let other = |kind, key, bus| Device::OtherController(OtherController { key, bus, kind });
    assert_eq!(find(200), other(OtherControllerKind::Ide, 200, 0));
    assert_eq!(find(15000), other(OtherControllerKind::Sata, 15000, 0));
    assert_eq!(find(31000), other(OtherControllerKind::Nvme, 31000, 0));
    assert_eq!(find(100), other(OtherControllerKind::Other("VirtualPCIController".to_owned()), 100, 0));
    let nic = Device::Nic {
        key: 4000,
        mac: Some("00:50:56:b4:e4:00".to_owned()),
        type_name: "VirtualVmxnet3".to_owned(),
        network: None,
    };
    assert_eq!(find(4000), nic);
    assert_eq!(find(99000), Device::Other { key: 99000, type_name: "VirtualThingOfTomorrow".to_owned() });
    assert_eq!(find(99001), Device::Other { key: 99001, type_name: "VirtualDevice".to_owned() });
}

#[test]
fn flat_disk_with_its_chain() {
    let disk = the_disk(2000);
    assert_eq!((disk.controller_key, disk.unit, disk.capacity_bytes), (Some(1000), Some(0), 20 << 30));
    assert_eq!(disk.label.as_deref(), Some("Hard disk 1"));
    assert_eq!(disk.v_disk_id.as_deref(), Some("fcd-1"));
    assert_eq!(disk.io_filters, ["VMW_spm_1.0.0", "second"]);
    let chain: Vec<_> = disk.backing.chain().map(|b| b.file_name.file().unwrap().to_owned()).collect();
    assert_eq!(chain, ["web01-000002.vmdk", "web01-000001.vmdk", "web01.vmdk"]);
    assert!(disk.backing.chain().all(|b| b.kind == BackingKind::FlatV2), "an untyped parent is of its child's type");
    let top = &disk.backing;
    assert_eq!(top.uuid.as_deref(), Some("6000C296-aaaa-bbbb-cccc-000000000001"));
    assert_eq!((top.content_id.as_deref(), top.change_id.as_deref()), (Some("c2"), Some("52 de ad/7")));
    assert_eq!((top.thin, top.sharing.as_deref()), (Some(true), Some("sharingNone")));
    assert_eq!(top.key_id, Some(KeyId { id: "key-1".to_owned(), provider: Some("kms".to_owned()) }));
    assert_eq!(top.datastore.as_ref().unwrap().to_string(), "Datastore:datastore-11");
}

#[test]
fn other_backings() {
    let kinds: Vec<_> = all().iter().filter_map(Device::as_disk).map(|d| d.backing.kind.clone()).collect();
    assert_eq!(
        kinds,
        [
            BackingKind::FlatV2,
            BackingKind::SeSparse,
            BackingKind::SparseV2,
            BackingKind::RdmVirtual,
            BackingKind::RdmPhysical,
            BackingKind::LocalPMem,
            BackingKind::Other("VirtualDiskFromTheFutureBackingInfo".to_owned()),
            BackingKind::Other("VirtualDiskRawDiskVer2BackingInfo".to_owned()),
        ]
    );
    assert_eq!(the_disk(2008).backing.file_name.as_str(), "[ds1] raw.vmdk");
}

#[test]
fn names_survive_entities_and_cdata() {
    assert_eq!(the_disk(2001).backing.file_name.as_str(), "[ds & <1>] a%2fb [x] é\"'/d-000001.vmdk");
    assert_eq!(the_disk(2002).backing.file_name.as_str(), "[ds1] <s>.vmdk");
}

#[test]
fn a_disk_without_backing_stays_visible() {
    let text = "<val xmlns:xsi='x'><d xsi:type='VirtualDisk'><key>2000</key><capacityInKB>1</capacityInKB></d></val>";
    let all = devices(&parse(text).unwrap()).unwrap();
    assert_eq!(all[0].as_disk().unwrap().backing.kind, BackingKind::Other(String::new()));
}

#[test]
fn capacity_prefers_the_exact_field() {
    assert_eq!(the_disk(2001).capacity_bytes, 5121);
    assert_eq!(the_disk(2002).capacity_bytes, 1 << 20);
}

#[test]
fn wrong_values_are_shape_errors_that_name_the_place() {
    let cases = [
        ("<key>2000</key>", "<key>two</key>", "key"),
        ("<key>2000</key>", "<key>99999999999</key>", "key"),
        ("<capacityInBytes>5121</capacityInBytes>", "<capacityInBytes>-1</capacityInBytes>", "capacityInBytes"),
        ("<capacityInKB>1024</capacityInKB>", "<capacityInKB>18446744073709551615</capacityInKB>", "capacityInKB"),
        ("<thinProvisioned>true</thinProvisioned>", "<thinProvisioned>maybe</thinProvisioned>", "thinProvisioned"),
        ("<busNumber>1</busNumber>", "", "busNumber"),
        ("<datastore type=\"Datastore\">", "<datastore>", "datastore"),
    ];
    for (from, to, names) in cases {
        assert!(FIXTURE.contains(from), "{from}");
        let error = devices(&parse(&FIXTURE.replacen(from, to, 1)).unwrap()).unwrap_err();
        assert!(error.0.contains(names), "{to}: {error:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Damage anywhere gives an answer or an error, never a panic.
    #[test]
    fn damaged_fixtures_never_panic(at in 0usize..FIXTURE.len(), cut in 0usize..60, put in "[<>/&;\"'a-z0-9\\-\\]!\\[ #é]{0,12}") {
        let mut from = at;
        while !FIXTURE.is_char_boundary(from) { from -= 1; }
        let mut to = (from + cut).min(FIXTURE.len());
        while !FIXTURE.is_char_boundary(to) { to += 1; }
        let text = format!("{}{put}{}", &FIXTURE[..from], &FIXTURE[to..]);
        if let Ok(node) = parse(&text) {
            let _ = devices(&node);
        }
    }
}
