//! The OVF descriptor: references, disks, networks and the virtual machine, with VMware's extensions where vSphere needs
//! them. Pure; every text of others is escaped.
use crate::{
    product::{self, Product},
    xml::{escaped, line},
};

const STREAM_OPTIMIZED: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
/// Instance ids: 0 the system, 1 CPU, 2 memory, then controllers, disks, network adapters.
const FIRST_CONTROLLER: usize = 3;
/// VMware's extension of the CPU item.
const CORES: &str = "CoresPerSocket";
/// Unit of the first network adapter, by vSphere's convention.
const FIRST_ADAPTER: usize = 7;
/// CIM_OperatingSystem.OSType: 102 "Other 64-Bit"; vSphere goes by vmw:osType.
const OTHER_64: u32 = 102;

/// One disk file of the archive.
#[derive(Debug, Clone)]
pub struct DiskFile {
    pub name: String,
    pub label: String,
    /// Bytes of the disk, of the file, and of the disk that are in the file.
    pub capacity: u64,
    pub size: u64,
    pub populated: u64,
    pub sha256: String,
}

/// Kinds of controllers that vSphere knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Pvscsi,
    Lsilogic,
    LsilogicSas,
    Buslogic,
    Ide,
    Sata,
    Nvme,
}

/// A controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bus {
    pub class: Class,
    pub number: u32,
}

/// Where a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index of its controller.
    pub controller: usize,
    pub unit: u32,
}

/// A vmxnet3 on a network that whoever deploys chooses.
#[derive(Debug, Clone)]
pub struct Adapter {
    pub network: String,
    pub description: String,
}

/// A virtual machine as its descriptor tells it.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    pub name: String,
    pub info: String,
    pub guest_id: String,
    /// `vmx-13`
    pub version: String,
    pub cpus: u32,
    /// 0: vSphere decides.
    pub cores_per_socket: u32,
    pub memory_mib: u64,
    pub controllers: Vec<Bus>,
    /// For each disk file, in their order.
    pub places: Vec<Place>,
    pub adapters: Vec<Adapter>,
    /// `vmw:Config`: settings with a name in vSphere's API.
    pub config: Vec<(&'static str, &'static str)>,
    /// `vmw:ExtraConfig`: lines of the .vmx file.
    pub extra_config: Vec<(&'static str, &'static str)>,
    /// A product is told its properties through guestinfo.
    pub product: Option<Product<'a>>,
}

/// The descriptor's text.
#[must_use]
pub fn descriptor(machine: &Machine<'_>, files: &[DiskFile]) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\" \
         xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\" \
         xmlns:vmw=\"http://www.vmware.com/schema/ovf\">\n",
    );
    references(&mut text, files);
    disks(&mut text, files);
    networks(&mut text, &machine.adapters);
    let name = escaped(&machine.name);
    line(&mut text, 1, &format!("<VirtualSystem ovf:id=\"{name}\">"));
    line(&mut text, 2, &format!("<Info>{}</Info>", escaped(&machine.info)));
    line(&mut text, 2, &format!("<Name>{name}</Name>"));
    let guest = escaped(&machine.guest_id);
    line(&mut text, 2, &format!("<OperatingSystemSection ovf:id=\"{OTHER_64}\" vmw:osType=\"{guest}\">"));
    line(&mut text, 3, "<Info>The guest operating system</Info>");
    line(&mut text, 2, "</OperatingSystemSection>");
    hardware(&mut text, machine, files);
    if let Some(product) = &machine.product {
        product::sections(&mut text, product);
    }
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

fn networks(text: &mut String, adapters: &[Adapter]) {
    if adapters.is_empty() {
        return;
    }
    line(text, 1, "<NetworkSection>");
    line(text, 2, "<Info>The networks</Info>");
    for Adapter { network, description } in adapters {
        line(text, 2, &format!("<Network ovf:name=\"{}\">", escaped(network)));
        line(text, 3, &format!("<Description>{}</Description>", escaped(description)));
        line(text, 2, "</Network>");
    }
    line(text, 1, "</NetworkSection>");
}

fn hardware(text: &mut String, machine: &Machine<'_>, files: &[DiskFile]) {
    // Without a transport the guest is told nothing.
    let transport = if machine.product.is_some() { " ovf:transport=\"com.vmware.guestInfo\"" } else { "" };
    line(text, 2, &format!("<VirtualHardwareSection{transport}>"));
    line(text, 3, "<Info>The virtual hardware</Info>");
    line(text, 3, "<System>");
    line(text, 4, "<vssd:ElementName>Virtual Hardware Family</vssd:ElementName>");
    line(text, 4, "<vssd:InstanceID>0</vssd:InstanceID>");
    line(text, 4, &format!("<vssd:VirtualSystemIdentifier>{}</vssd:VirtualSystemIdentifier>", escaped(&machine.name)));
    line(text, 4, &format!("<vssd:VirtualSystemType>{}</vssd:VirtualSystemType>", escaped(&machine.version)));
    line(text, 3, "</System>");
    processor_and_memory(text, machine);
    for (index, controller) in machine.controllers.iter().enumerate() {
        let (number, subtype, what) = class(controller.class);
        let bus = controller.number.to_string();
        let mut fields = vec![("Address", bus.clone()), name(format!("{what} {bus}")), id(FIRST_CONTROLLER + index)];
        fields.extend((!subtype.is_empty()).then(|| ("ResourceSubType", subtype.to_owned())));
        fields.push(kind(number));
        item(text, &fields);
    }
    let first = FIRST_CONTROLLER + machine.controllers.len();
    for (index, (file, place)) in files.iter().zip(&machine.places).enumerate() {
        item(
            text,
            &[
                ("AddressOnParent", place.unit.to_string()),
                name(file.label.clone()),
                ("HostResource", format!("ovf:/disk/disk{}", index + 1)),
                id(first + index),
                ("Parent", (FIRST_CONTROLLER + place.controller).to_string()),
                kind("17"),
            ],
        );
    }
    adapters(text, &machine.adapters, first + files.len());
    for (what, settings) in [("Config", &machine.config), ("ExtraConfig", &machine.extra_config)] {
        for (key, value) in settings {
            let (key, value) = (escaped(key), escaped(value));
            line(text, 3, &format!("<vmw:{what} ovf:required=\"false\" vmw:key=\"{key}\" vmw:value=\"{value}\"/>"));
        }
    }
    line(text, 2, "</VirtualHardwareSection>");
}

fn processor_and_memory(text: &mut String, machine: &Machine<'_>) {
    let amount = |units: &str| ("AllocationUnits", units.to_owned());
    let (cpus, memory) = (machine.cpus.to_string(), machine.memory_mib.to_string());
    let mut fields =
        vec![amount("hertz * 10^6"), name(format!("{cpus} virtual CPU")), id(1), kind("3"), ("VirtualQuantity", cpus)];
    let cores = machine.cores_per_socket;
    fields.extend((cores > 0).then(|| (CORES, cores.to_string())));
    item(text, &fields);
    item(text, &[amount("byte * 2^20"), name(format!("{memory} MiB")), id(2), kind("4"), ("VirtualQuantity", memory)]);
}

fn adapters(text: &mut String, adapters: &[Adapter], first: usize) {
    for (index, adapter) in adapters.iter().enumerate() {
        item(
            text,
            &[
                ("AddressOnParent", (FIRST_ADAPTER + index).to_string()),
                ("AutomaticAllocation", "true".to_owned()),
                ("Connection", adapter.network.clone()),
                name(format!("Network adapter {}", index + 1)),
                id(first + index),
                ("ResourceSubType", "VmxNet3".to_owned()),
                kind("10"),
            ],
        );
    }
}

fn name(what: String) -> (&'static str, String) {
    ("ElementName", what)
}

fn id(id: usize) -> (&'static str, String) {
    ("InstanceID", id.to_string())
}

fn kind(number: &str) -> (&'static str, String) {
    ("ResourceType", number.to_owned())
}

/// ResourceType (CIM), ResourceSubType (VMware) and name of a controller.
fn class(class: Class) -> (&'static str, &'static str, &'static str) {
    match class {
        Class::Pvscsi => ("6", "VirtualSCSI", "SCSI controller"),
        Class::Lsilogic => ("6", "lsilogic", "SCSI controller"),
        Class::LsilogicSas => ("6", "lsilogicsas", "SCSI controller"),
        Class::Buslogic => ("6", "buslogic", "SCSI controller"),
        Class::Ide => ("5", "", "IDE controller"),
        Class::Sata => ("20", "vmware.sata.ahci", "SATA controller"),
        Class::Nvme => ("20", "vmware.nvme.controller", "NVMe controller"),
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
