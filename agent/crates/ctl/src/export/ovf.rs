//! The texts of an OVA: OVF descriptor (DSP0243 1.1, with VMware's extensions where vSphere needs them) and manifest of
//! hashes. Pure; every text of others is escaped.
use std::fmt::Write as _;

use hotadd_api::manifest::{ControllerKind, Firmware, Manifest};

use super::hardware::Hardware;

const STREAM_OPTIMIZED: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
/// Instance ids: 0 the system, 1 CPU, 2 memory, then controllers, then disks.
const FIRST_CONTROLLER: usize = 3;
/// VMware's extension of the CPU item.
const CORES: &str = "CoresPerSocket";
/// CIM_OperatingSystem.OSType: 102 "Other 64-Bit"; vSphere goes by vmw:osType.
const OTHER_64: u32 = 102;

/// One disk file of the archive.
#[derive(Debug, Clone)]
pub(super) struct DiskFile {
    pub(super) name: String,
    pub(super) label: String,
    /// Bytes of the disk, of the file, and of the disk that are in the file.
    pub(super) capacity: u64,
    pub(super) size: u64,
    pub(super) populated: u64,
    pub(super) sha256: String,
}

/// `NAME.mf`.
pub(super) fn manifest(name: &str, descriptor: &str, files: &[DiskFile]) -> String {
    let mut text = format!("SHA256({name}.ovf)= {descriptor}\n");
    for file in files {
        line(&mut text, 0, &format!("SHA256({})= {}", file.name, file.sha256));
    }
    text
}

/// Bytes that the descriptor needs at most, whatever the sizes turn out to be.
pub(super) fn largest(vm: &Manifest, hardware: &Hardware, files: &[DiskFile]) -> usize {
    let most = |file: &DiskFile| DiskFile { size: u64::MAX, populated: u64::MAX, ..file.clone() };
    descriptor(vm, hardware, &files.iter().map(most).collect::<Vec<_>>()).len()
}

/// The descriptor, filled up with line ends, which may follow the root element (XML 1.0, Misc).
pub(super) fn padded(vm: &Manifest, hardware: &Hardware, files: &[DiskFile], length: usize) -> String {
    let mut text = descriptor(vm, hardware, files);
    text.push_str(&"\n".repeat(length.saturating_sub(text.len())));
    text
}

fn descriptor(vm: &Manifest, hardware: &Hardware, files: &[DiskFile]) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\" \
         xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\" \
         xmlns:vmw=\"http://www.vmware.com/schema/ovf\">\n",
    );
    references(&mut text, files);
    disks(&mut text, files);
    let name = escaped(&vm.vm_name);
    line(&mut text, 1, &format!("<VirtualSystem ovf:id=\"{name}\">"));
    line(&mut text, 2, &format!("<Info>{name}, backed up {}</Info>", escaped(&vm.created)));
    line(&mut text, 2, &format!("<Name>{name}</Name>"));
    let guest = escaped(&hardware.guest_id);
    line(&mut text, 2, &format!("<OperatingSystemSection ovf:id=\"{OTHER_64}\" vmw:osType=\"{guest}\">"));
    line(&mut text, 3, "<Info>The guest operating system</Info>");
    line(&mut text, 2, "</OperatingSystemSection>");
    machine(&mut text, vm, hardware, files);
    line(&mut text, 1, "</VirtualSystem>");
    line(&mut text, 0, "</Envelope>");
    text
}

fn references(text: &mut String, files: &[DiskFile]) {
    line(text, 1, "<References>");
    for (index, file) in (1..).zip(files) {
        let (name, size) = (escaped(&file.name), file.size);
        line(text, 2, &format!("<File ovf:id=\"file{index}\" ovf:href=\"{name}\" ovf:size=\"{size}\"/>"));
    }
    line(text, 1, "</References>");
}

fn disks(text: &mut String, files: &[DiskFile]) {
    line(text, 1, "<DiskSection>");
    line(text, 2, "<Info>The disks</Info>");
    for (index, DiskFile { capacity, populated, .. }) in (1..).zip(files) {
        line(
            text,
            2,
            &format!(
                "<Disk ovf:diskId=\"disk{index}\" ovf:fileRef=\"file{index}\" ovf:capacity=\"{capacity}\" \
                 ovf:capacityAllocationUnits=\"byte\" ovf:populatedSize=\"{populated}\" ovf:format=\"{STREAM_OPTIMIZED}\"/>"
            ),
        );
    }
    line(text, 1, "</DiskSection>");
}

fn machine(text: &mut String, vm: &Manifest, hardware: &Hardware, files: &[DiskFile]) {
    line(text, 2, "<VirtualHardwareSection>");
    line(text, 3, "<Info>The virtual hardware</Info>");
    line(text, 3, "<System>");
    line(text, 4, "<vssd:ElementName>Virtual Hardware Family</vssd:ElementName>");
    line(text, 4, "<vssd:InstanceID>0</vssd:InstanceID>");
    line(text, 4, &format!("<vssd:VirtualSystemIdentifier>{}</vssd:VirtualSystemIdentifier>", escaped(&vm.vm_name)));
    line(text, 4, &format!("<vssd:VirtualSystemType>{}</vssd:VirtualSystemType>", escaped(&hardware.version)));
    line(text, 3, "</System>");
    let (cpus, memory) = (hardware.cpus.to_string(), hardware.memory_mib.to_string());
    let name = |what: String| ("ElementName", what);
    let id = |id: usize| ("InstanceID", id.to_string());
    let kind = |number: &str| ("ResourceType", number.to_owned());
    let amount = |units: &str| ("AllocationUnits", units.to_owned());
    let mut fields =
        vec![amount("hertz * 10^6"), name(format!("{cpus} virtual CPU")), id(1), kind("3"), ("VirtualQuantity", cpus)];
    let cores = hardware.cores_per_socket;
    fields.extend((cores > 0).then(|| (CORES, cores.to_string())));
    item(text, &fields);
    item(text, &[amount("byte * 2^20"), name(format!("{memory} MiB")), id(2), kind("4"), ("VirtualQuantity", memory)]);
    for (index, controller) in hardware.controllers.iter().enumerate() {
        let (number, subtype, what) = class(controller.kind);
        let bus = controller.bus.to_string();
        let mut fields = vec![("Address", bus.clone()), name(format!("{what} {bus}")), id(FIRST_CONTROLLER + index)];
        fields.extend((!subtype.is_empty()).then(|| ("ResourceSubType", subtype.to_owned())));
        fields.push(kind(number));
        item(text, &fields);
    }
    let first = FIRST_CONTROLLER + hardware.controllers.len();
    for (index, (file, (controller, unit))) in files.iter().zip(&hardware.places).enumerate() {
        item(
            text,
            &[
                ("AddressOnParent", unit.to_string()),
                name(file.label.clone()),
                ("HostResource", format!("ovf:/disk/disk{}", index + 1)),
                id(first + index),
                ("Parent", (FIRST_CONTROLLER + controller).to_string()),
                kind("17"),
            ],
        );
    }
    if hardware.firmware == Firmware::Efi {
        line(text, 3, "<vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>");
        if hardware.secure_boot {
            let key = "bootOptions.efiSecureBootEnabled";
            line(text, 3, &format!("<vmw:Config ovf:required=\"false\" vmw:key=\"{key}\" vmw:value=\"true\"/>"));
        }
    }
    line(text, 2, "</VirtualHardwareSection>");
}

/// ResourceType (CIM), ResourceSubType (VMware) and name of a controller.
fn class(kind: ControllerKind) -> (&'static str, &'static str, &'static str) {
    match kind {
        ControllerKind::Pvscsi => ("6", "VirtualSCSI", "SCSI controller"),
        ControllerKind::Lsilogic => ("6", "lsilogic", "SCSI controller"),
        ControllerKind::LsilogicSas => ("6", "lsilogicsas", "SCSI controller"),
        ControllerKind::Buslogic => ("6", "buslogic", "SCSI controller"),
        ControllerKind::Ide => ("5", "", "IDE controller"),
        ControllerKind::Sata => ("20", "vmware.sata.ahci", "SATA controller"),
        ControllerKind::Nvme => ("20", "vmware.nvme.controller", "NVMe controller"),
    }
}

/// Fields in the order of the schema, which is that of the alphabet, then an extension.
fn item(text: &mut String, fields: &[(&str, String)]) {
    line(text, 3, "<Item>");
    for (field, value) in fields {
        let value = escaped(value);
        if *field == CORES {
            line(text, 4, &format!("<vmw:{field} ovf:required=\"false\">{value}</vmw:{field}>"));
        } else {
            line(text, 4, &format!("<rasd:{field}>{value}</rasd:{field}>"));
        }
    }
    line(text, 3, "</Item>");
}

fn line(text: &mut String, depth: usize, content: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{:indent$}{content}", "", indent = depth * 2);
}

/// As text or attribute. What XML 1.0 can't hold becomes a blank.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}
