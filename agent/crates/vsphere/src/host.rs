//! An ESXi host's facts. Source: vSphere API 8.0, HostSystem, HostRuntimeInfo.

use crate::client::Client;
use crate::error::Error;
use crate::moref::MoRef;
use crate::property::{MissingProperty, Properties};
use crate::xml::Shape;

const PATHS: &[&str] = &[
    "name",
    "parent",
    "datastore",
    "recentTask",
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
    "runtime.inQuarantineMode",
    "summary.config.product",
];

/// Facts of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostInfo {
    /// The host.
    pub moref: MoRef,
    /// Its name.
    pub name: String,
    /// ESXi version, for example `8.0.2`.
    pub version: Option<String>,
    /// ESXi build number.
    pub build: Option<String>,
    /// `connected`, `disconnected` or `notResponding`.
    pub connection_state: Option<String>,
    /// In maintenance mode. False during the whole entering phase: watch `recent_tasks` for that.
    pub in_maintenance_mode: Option<bool>,
    /// In quarantine mode.
    pub in_quarantine_mode: Option<bool>,
    /// Tasks of the last ten minutes or so.
    pub recent_tasks: Vec<MoRef>,
    /// Cluster or stand-alone compute resource.
    pub parent: Option<MoRef>,
    /// Datastores that it mounts.
    pub datastores: Vec<MoRef>,
    /// Properties that the server refused to give.
    pub missing: Vec<MissingProperty>,
}

impl Client {
    /// Reads a host's facts.
    pub async fn host(&self, host: &MoRef) -> Result<HostInfo, Error> {
        let props = self.properties(host, PATHS).await?;
        host_info(props).map_err(|e| Error::shape("RetrievePropertiesEx", e))
    }
}

pub(crate) fn host_info(p: Properties) -> Result<HostInfo, Shape> {
    let product = |name| p.get("summary.config.product").and_then(|n| n.string(name));
    Ok(HostInfo {
        name: p.string("name").unwrap_or_default(),
        version: product("version"),
        build: product("build"),
        connection_state: p.string("runtime.connectionState"),
        in_maintenance_mode: p.flag("runtime.inMaintenanceMode")?,
        in_quarantine_mode: p.flag("runtime.inQuarantineMode")?,
        recent_tasks: p.morefs("recentTask")?,
        parent: p.moref("parent")?,
        datastores: p.morefs("datastore")?,
        moref: p.object,
        missing: p.missing,
    })
}
