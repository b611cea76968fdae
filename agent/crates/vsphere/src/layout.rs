//! A VM's files and their sizes. Source: vSphere API 8.0, VirtualMachineFileLayoutEx, VirtualMachineFileInfo.

use crate::client::Client;
use crate::device::BackingPath;
use crate::error::Error;
use crate::moref::MoRef;
use crate::xml::{Node, Shape};

/// Files of a VM at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmLayout {
    /// Every file that the server counts to the VM, deltas and redo logs included.
    pub files: Vec<LayoutFile>,
    /// Folder of new snapshots' data, `[datastore] folder/` (VirtualMachineFileInfo.snapshotDirectory).
    pub snapshot_directory: Option<String>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutFile {
    /// Its datastore path.
    pub name: BackingPath,
    /// `diskDescriptor`, `diskExtent`, `snapshotData`, … (VirtualMachineFileLayoutExFileType).
    pub kind: String,
    /// Size in bytes, as the server last looked (it refreshes by itself every some minutes, and with VM operations).
    pub size_bytes: u64,
}

pub(crate) const FILES: &str = "layoutEx.file";
const SNAPSHOT_DIRECTORY: &str = "config.files.snapshotDirectory";

impl Client {
    /// Reads a VM's files.
    ///
    /// # Errors
    /// The fault, when the user may not read them.
    pub async fn vm_layout(&self, vm: &MoRef) -> Result<VmLayout, Error> {
        let op = "RetrievePropertiesEx";
        let p = self.properties(vm, &[FILES, SNAPSHOT_DIRECTORY]).await?;
        if let (None, Some(refused)) = (p.get(FILES), p.missing.iter().find(|m| FILES.starts_with(&m.path))) {
            return Err(Error::fault_of(op, refused.fault.clone()));
        }
        let files = p.get(FILES).map_or_else(|| Ok(Vec::new()), files);
        Ok(VmLayout {
            files: files.map_err(|e| Error::shape(op, e))?,
            snapshot_directory: p.string(SNAPSHOT_DIRECTORY),
        })
    }
}

/// Reads an `ArrayOfVirtualMachineFileLayoutExFileInfo`.
pub(crate) fn files(array: &Node) -> Result<Vec<LayoutFile>, Shape> {
    array.children.iter().map(file).collect()
}

fn file(node: &Node) -> Result<LayoutFile, Shape> {
    Ok(LayoutFile {
        name: BackingPath::new(node.str("name").unwrap_or_default()),
        kind: node.string("type").unwrap_or_default(),
        size_bytes: node.opt("size")?.unwrap_or(0),
    })
}
