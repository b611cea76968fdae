//! Reads vCenter, the VM, its host and its datastores into the document. Only reads; what was refused is told by its fault's type alone.
use hotadd_vsphere as vim;
use vim::{Client, Device, Error, MoRef, VmInfo};

use crate::{
    document::{self as doc, Document, NotRead},
    redact::{self, Redactor},
};

/// Most names of other VMs that are kept for the sake of fault texts.
const MOST_NAMES: usize = 20_000;

/// What is read and written of one survey.
pub(crate) struct Site<'a> {
    pub(crate) client: &'a Client,
    pub(crate) hidden: Redactor,
    pub(crate) document: Document,
}

impl<'a> Site<'a> {
    pub(crate) fn new(client: &'a Client, names: &[String]) -> Self {
        let mut hidden = Redactor::default();
        for name in names {
            hidden.hide(name);
            // Account and domain, host and port.
            name.split(['@', '\\', '/', ':'])
                .filter(|part| part.len() > 3 && *part != "https")
                .for_each(|part| hidden.hide(part));
        }
        let about = client.about();
        let product = if about.name.starts_with("VMware ") { hidden.text(&about.name) } else { "other".to_owned() };
        let vcenter = doc::Vcenter {
            product,
            version: redact::word(&about.version),
            build: redact::word(&about.build),
            api_version: redact::word(&about.api_version),
            negotiated: redact::word(about.negotiated.as_str()),
            api_type: redact::word(&about.api_type),
        };
        let document = Document {
            schema: doc::SCHEMA.to_owned(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            ran: false,
            vcenter,
            host: None,
            datastores: Vec::new(),
            vm: None,
            snapshot: None,
            faults: Vec::new(),
            steps: Vec::new(),
            events: Vec::new(),
            stun: None,
            left: Vec::new(),
            questions: Vec::new(),
            not_read: Vec::new(),
        };
        Self { client, hidden, document }
    }

    pub(crate) fn finish(self, ran: bool) -> Document {
        Document { ran: ran && !self.document.steps.is_empty(), ..self.document }
    }

    /// # Errors
    /// vCenter does not answer, or the VM can't be read at all.
    pub(crate) async fn gather(&mut self, vm: Option<&MoRef>) -> Result<(), Error> {
        match self.client.all_vms().await {
            Ok(all) => all.iter().take(MOST_NAMES).for_each(|(_, name)| self.hidden.hide(name)),
            Err(e) => self.not_read("names of VMs", e)?,
        }
        let Some(vm) = vm else { return Ok(()) };
        let info = self.client.vm(vm).await?;
        for missing in &info.missing {
            let why = redact::word(&missing.fault.type_name);
            self.document.not_read.push(NotRead { what: redact::word(&missing.path), why });
        }
        self.names_of(&info);
        for store in &info.datastores {
            match self.client.datastore(store).await {
                Ok(told) => {
                    let id = self.hidden.store(&told.name);
                    let kind = kind(&told.kind);
                    let vmfs_version = told.vmfs_version.as_deref().map(redact::word);
                    self.document.datastores.push(doc::Datastore { id, kind, vmfs_version });
                }
                Err(e) => self.not_read("a datastore", e)?,
            }
        }
        if let Some(host) = &info.host {
            match self.client.host(host).await {
                Ok(told) => {
                    self.hidden.hide(&told.name);
                    let word = |text: &Option<String>| text.as_deref().map(redact::word);
                    let (version, build) = (word(&told.version), word(&told.build));
                    self.document.host = Some(doc::Host { version, build, in_maintenance: told.in_maintenance_mode });
                }
                Err(e) => self.not_read("the host", e)?,
            }
        }
        let told = self.vm(&info).await?;
        self.document.vm = Some(told);
        Ok(())
    }

    /// A fault is told and the survey goes on; anything else ends it.
    pub(crate) fn not_read(&mut self, what: &str, e: Error) -> Result<(), Error> {
        let Some(fault) = e.fault() else { return Err(e) };
        self.document.not_read.push(NotRead { what: what.to_owned(), why: redact::word(&fault.type_name) });
        Ok(())
    }

    fn names_of(&mut self, info: &VmInfo) {
        if let Some(path) = &info.vm_path_name {
            self.hidden.stem(path);
        }
        let networks = info.devices.iter().filter_map(|device| match device {
            Device::Nic { network, .. } => network.as_deref(),
            _ => None,
        });
        let guest = [info.guest.host_name.as_deref(), info.guest.ip_address.as_deref()];
        let ids = [info.uuid.as_deref(), info.instance_uuid.as_deref(), Some(info.name.as_str())];
        for name in networks.chain(guest.into_iter().flatten()).chain(ids.into_iter().flatten()) {
            self.hidden.hide(name);
        }
        for node in info.snapshots.iter().flat_map(nodes) {
            self.hidden.hide(&node.name);
        }
    }

    async fn vm(&mut self, info: &VmInfo) -> Result<doc::Vm, Error> {
        let (mut files, mut directory) = (Vec::new(), None);
        match self.client.vm_layout(&info.moref).await {
            Ok(layout) => {
                files = self.files(&layout);
                directory = layout.snapshot_directory.map(|path| self.hidden.path(&path));
            }
            Err(e) => self.not_read("files of the VM", e)?,
        }
        let home = info.vm_path_name.as_deref().and_then(|path| path.rsplit_once('/'));
        let home = home.map(|(folder, _)| self.hidden.path(&format!("{folder}/")));
        let word = |text: &Option<String>| text.as_deref().map(redact::word);
        Ok(doc::Vm {
            hardware_version: info.hardware_version,
            power: info.power_state.as_ref().map(power),
            tools: word(&info.tools_status),
            change_tracking: info.change_tracking_enabled,
            encrypted: info.key_id.is_some(),
            consolidation_needed: info.consolidation_needed,
            disabled_methods: info.disabled_methods.iter().map(|method| redact::word(method)).collect(),
            snapshots: info.snapshots.iter().flat_map(nodes).count(),
            snapshot_depth: info.snapshots.as_ref().map_or(0, |tree| depth(&tree.roots)),
            home,
            snapshot_directory: directory,
            devices: info.devices.iter().filter_map(device).collect(),
            controllers: info.scsi_controllers().map(controller).collect(),
            disks: info.disks().map(|disk| self.disk(disk)).collect(),
            files,
        })
    }

    /// In order, so that two looks can be compared.
    pub(crate) fn files(&mut self, layout: &vim::VmLayout) -> Vec<doc::File> {
        let one = |file: &vim::LayoutFile| doc::File {
            name: self.hidden.path(file.name.as_str()),
            kind: redact::word(&file.kind),
        };
        layout.files.iter().map(one).collect()
    }

    pub(crate) fn disk(&mut self, disk: &vim::Disk) -> doc::Disk {
        let backing = &disk.backing;
        let word = |text: &Option<String>| text.as_deref().map(redact::word);
        doc::Disk {
            key: disk.key,
            controller_key: disk.controller_key,
            unit: disk.unit,
            backing: redact::word(&match &backing.kind {
                vim::BackingKind::Other(name) => name.clone(),
                known => format!("{known:?}"),
            }),
            mode: word(&backing.disk_mode),
            sharing: word(&backing.sharing),
            thin: backing.thin,
            uuid: backing.uuid.as_deref().map(redact::uuid),
            change_id: backing.change_id.as_deref().map(redact::form),
            chain: backing.chain().map(|link| self.hidden.path(link.file_name.as_str())).collect(),
        }
    }
}

fn power(state: &vim::PowerState) -> String {
    match state {
        vim::PowerState::On => "on".to_owned(),
        vim::PowerState::Off => "off".to_owned(),
        vim::PowerState::Suspended => "suspended".to_owned(),
        vim::PowerState::Other(_) => "other".to_owned(),
    }
}

fn kind(kind: &vim::DatastoreKind) -> String {
    match kind {
        vim::DatastoreKind::Other(_) => "other".to_owned(),
        known => format!("{known:?}").to_lowercase(),
    }
}

fn device(device: &Device) -> Option<doc::Device> {
    let kind = match device {
        Device::OtherController(c) => match &c.kind {
            vim::OtherControllerKind::Other(name) => name.clone(),
            known => format!("{known:?}"),
        },
        Device::Nic { type_name, .. } | Device::Other { type_name, .. } => type_name.clone(),
        _ => return None,
    };
    Some(doc::Device { key: device.key(), kind: redact::word(&kind) })
}

fn controller(controller: &vim::ScsiController) -> doc::Controller {
    let kind = match &controller.kind {
        vim::ScsiKind::Other(name) => redact::word(name),
        known => format!("{known:?}"),
    };
    doc::Controller {
        key: controller.key,
        kind,
        bus: controller.bus,
        pci_slot: controller.pci_slot,
        own_unit: controller.own_unit,
        sharing: controller.shared_bus.as_deref().map(redact::word),
    }
}

/// All of a tree.
pub(crate) fn nodes(tree: &vim::SnapshotTree) -> Vec<&vim::SnapshotNode> {
    let (mut open, mut all): (Vec<&vim::SnapshotNode>, Vec<_>) = (tree.roots.iter().collect(), Vec::new());
    while let Some(node) = open.pop() {
        open.extend(&node.children);
        all.push(node);
    }
    all
}

/// By levels: a hostile tree is as deep as an answer may be.
fn depth(roots: &[vim::SnapshotNode]) -> usize {
    let (mut level, mut depth): (Vec<&vim::SnapshotNode>, usize) = (roots.iter().collect(), 0);
    while !level.is_empty() {
        depth += 1;
        level = level.into_iter().flat_map(|node| &node.children).collect();
    }
    depth
}
