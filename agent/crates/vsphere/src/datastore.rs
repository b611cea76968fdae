//! A datastore's facts. Source: vSphere API 8.0, Datastore, DatastoreSummary, DatastoreHostMount, VmfsDatastoreInfo.

use crate::client::Client;
use crate::error::Error;
use crate::inventory::decode_name;
use crate::moref::MoRef;
use crate::property::{MissingProperty, Properties};
use crate::xml::{Node, Shape};

/// Kind of a datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatastoreKind {
    /// VMFS.
    Vmfs,
    /// NFS 3.
    Nfs3,
    /// NFS 4.1.
    Nfs41,
    /// vSAN.
    Vsan,
    /// Virtual volumes.
    Vvol,
    /// Persistent memory.
    PMem,
    /// VMware's word.
    Other(String),
}

/// One host's mount of a datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMount {
    /// The host.
    pub host: MoRef,
    /// Whether it reaches the datastore now.
    pub accessible: Option<bool>,
    /// `readWrite` or `readOnly`.
    pub access_mode: Option<String>,
}

/// The export behind an NFS datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NasVolume {
    /// Server.
    pub remote_host: String,
    /// Exported path.
    pub remote_path: String,
}

/// Facts of a datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatastoreInfo {
    /// The datastore.
    pub moref: MoRef,
    /// Its name, decoded.
    pub name: String,
    /// Kind.
    pub kind: DatastoreKind,
    /// Whether at least one host reaches it.
    pub accessible: bool,
    /// Capacity in bytes.
    pub capacity_bytes: u64,
    /// Free space in bytes, as last refreshed by the server.
    pub free_bytes: u64,
    /// `ds:///vmfs/volumes/…/`: its identity across datacenters.
    pub url: String,
    /// Mounts.
    pub hosts: Vec<HostMount>,
    /// `normal`, `enteringMaintenance` or `inMaintenance`.
    pub maintenance_mode: Option<String>,
    /// For example `6.82`.
    pub vmfs_version: Option<String>,
    /// NFS export.
    pub nas: Option<NasVolume>,
    /// Properties that the server refused to give.
    pub missing: Vec<MissingProperty>,
}

impl Client {
    /// Reads a datastore's facts.
    pub async fn datastore(&self, datastore: &MoRef) -> Result<DatastoreInfo, Error> {
        let op = "RetrievePropertiesEx";
        let props = self.properties(datastore, &["summary", "host", "info"]).await?;
        if let (None, Some(refused)) = (props.get("summary"), props.missing.first()) {
            return Err(Error::fault_of(op, refused.fault.clone()));
        }
        datastore_info(props).map_err(|e| Error::shape(op, e))
    }
}

impl Client {
    /// Name and free space of many datastores in one call; one that is gone or does not tell is left out.
    pub async fn free_space(&self, datastores: &[MoRef]) -> Result<Vec<(String, u64)>, Error> {
        let all = self.properties_of(datastores, &["summary"]).await?;
        let told = |p: &Properties| {
            let summary = p.get("summary")?;
            Some((summary.str("name").map(decode_name)?, summary.opt("freeSpace").ok().flatten()?))
        };
        Ok(all.iter().filter_map(told).collect())
    }
}

impl Client {
    /// Datastores that a host mounts, with name and free space (vSphere API 8.0, HostSystem.datastore); one that does not tell is left out.
    ///
    /// # Errors
    /// The fault, when the user may not read the list: an empty list is never a missing privilege.
    pub async fn host_datastores(&self, host: &MoRef) -> Result<Vec<(MoRef, String, u64)>, Error> {
        let props = self.properties(host, &["datastore"]).await?;
        if let (None, Some(refused)) = (props.get("datastore"), props.missing.first()) {
            return Err(Error::fault_of("RetrievePropertiesEx", refused.fault.clone()));
        }
        let stores = props.morefs("datastore").map_err(|e| Error::shape("RetrievePropertiesEx", e))?;
        let all = self.properties_of(&stores, &["summary"]).await?;
        let told = |p: &Properties| {
            let summary = p.get("summary")?;
            let free = summary.opt("freeSpace").ok().flatten()?;
            Some((p.object.clone(), summary.str("name").map(decode_name)?, free))
        };
        Ok(all.iter().filter_map(told).collect())
    }

    /// VMs that have a file on the datastore, those included that only have another VM's disk attached
    /// (vSphere API 8.0, Datastore.vm).
    ///
    /// # Errors
    /// The fault, when the user may not read the list: an empty list is never a missing privilege.
    pub async fn datastore_vms(&self, datastore: &MoRef) -> Result<Vec<MoRef>, Error> {
        let props = self.properties(datastore, &["vm"]).await?;
        if let (None, Some(refused)) = (props.get("vm"), props.missing.first()) {
            return Err(Error::fault_of("RetrievePropertiesEx", refused.fault.clone()));
        }
        props.morefs("vm").map_err(|e| Error::shape("RetrievePropertiesEx", e))
    }
}

pub(crate) fn datastore_info(p: Properties) -> Result<DatastoreInfo, Shape> {
    let summary = p.get("summary").ok_or_else(|| Shape(format!("{} has no summary", p.object)))?;
    let info = p.get("info");
    Ok(DatastoreInfo {
        name: summary.str("name").map(decode_name).unwrap_or_default(),
        kind: kind(&summary.need::<String>("type")?),
        accessible: summary.flag("accessible")?.unwrap_or(false),
        capacity_bytes: summary.opt("capacity")?.unwrap_or(0),
        free_bytes: summary.opt("freeSpace")?.unwrap_or(0),
        url: summary.string("url").unwrap_or_default(),
        hosts: p.get("host").map(mounts).transpose()?.unwrap_or_default(),
        maintenance_mode: summary.string("maintenanceMode"),
        vmfs_version: info.and_then(|i| i.child("vmfs")).and_then(|v| v.string("version")),
        nas: info.and_then(|i| i.child("nas")).and_then(nas),
        moref: p.object,
        missing: p.missing,
    })
}

fn kind(text: &str) -> DatastoreKind {
    match text.to_ascii_lowercase().as_str() {
        "vmfs" => DatastoreKind::Vmfs,
        "nfs" => DatastoreKind::Nfs3,
        "nfs41" => DatastoreKind::Nfs41,
        "vsan" => DatastoreKind::Vsan,
        "vvol" => DatastoreKind::Vvol,
        "pmem" => DatastoreKind::PMem,
        _ => DatastoreKind::Other(text.to_owned()),
    }
}

fn mounts(array: &Node) -> Result<Vec<HostMount>, Shape> {
    let mount = |n: &Node| {
        let info = n.required("mountInfo")?;
        Ok(HostMount {
            host: n.required("key")?.moref()?,
            accessible: info.flag("accessible")?,
            access_mode: info.string("accessMode"),
        })
    };
    array.children.iter().map(mount).collect()
}

fn nas(node: &Node) -> Option<NasVolume> {
    Some(NasVolume { remote_host: node.string("remoteHost")?, remote_path: node.string("remotePath")? })
}
