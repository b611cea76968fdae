//! An ESXi host's facts, and what it goes through. Source: vSphere API 8.0, HostSystem, HostRuntimeInfo, TaskManager,
//! TaskInfo.entity and .entityName.
//!
//! A cluster's own tasks are about one of its hosts, or about all. One counts for a host only when its entity is that host,
//! or, without an entity, when its entity's name is the host's. Of the others nobody can tell whose they are: they are told
//! apart, and are no state of any host.

use crate::client::Client;
use crate::error::Error;
use crate::inventory::decode_name;
use crate::moref::MoRef;
use crate::property::{MissingProperty, Properties, prop_set};
use crate::task::TaskState;
use crate::xml::Shape;

/// AboutInfo of a host.
pub(crate) const HOST_PRODUCT: &str = "summary.config.product";

const PATHS: &[&str] = &[
    "name",
    "parent",
    "datastore",
    "recentTask",
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
    "runtime.inQuarantineMode",
    HOST_PRODUCT,
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

/// What a host goes through, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState {
    /// The host.
    pub moref: MoRef,
    /// Its name.
    pub name: String,
    /// `connected`, `disconnected` or `notResponding`.
    pub connection_state: Option<String>,
    /// `poweredOn`, `poweredOff`, `standBy` or `unknown`.
    pub power_state: Option<String>,
    /// `none`, `entering`, `in` or `exiting` (HostRuntimeInfo.standbyMode).
    pub standby: Option<String>,
    /// In maintenance mode; false during the whole entering phase, which is `entering`.
    pub in_maintenance: bool,
    /// In quarantine mode (Proactive HA).
    pub in_quarantine: bool,
    /// The task that takes it into maintenance mode or standby, while there is one: its own, or its cluster's about it.
    pub entering: Option<Entering>,
    /// A task of its cluster that takes some host out of service and does not tell which. `None` also when the cluster's
    /// tasks can't be read, and in [`Client::planning`], which does not ask for them.
    pub cluster_entering: Option<Entering>,
}

/// A queued or running task that takes a host out of service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entering {
    /// The task.
    pub task: MoRef,
    /// Its `descriptionId`, one of VMware's task catalogue.
    pub description_id: String,
}

/// Tasks that take a host out of service, as VMware's task catalogue names them (vSphere API 8.0,
/// TaskManager.description.methodInfo, as vcsim records it). Case varies between releases.
const ENTERING: &[&str] = &[
    "HostSystem.enterMaintenanceMode",
    "HostSystem.enterStandbyMode",
    "ClusterComputeResource.enterMaintenanceMode",
    "Drm.TrackEnterMaintenanceLro",
    "Drm.ExecuteMaintenanceRecommendationsLro",
    "Drm.EnterStandbyLRO",
];

pub(crate) const STATE_PATHS: &[&str] = &[
    "name",
    "recentTask",
    "runtime.connectionState",
    "runtime.powerState",
    "runtime.standbyMode",
    "runtime.inMaintenanceMode",
    "runtime.inQuarantineMode",
];

impl Client {
    /// Reads what a host goes through: its flags, and the running task that will set them.
    ///
    /// # Errors
    /// A property that the server refuses is its fault, never a calm host.
    pub async fn host_state(&self, host: &MoRef) -> Result<HostState, Error> {
        let op = "RetrievePropertiesEx";
        let shape = |e| Error::shape(op, e);
        let paths: Vec<&str> = STATE_PATHS.iter().copied().chain([PARENT]).collect();
        let p = self.properties(host, &paths).await?;
        if let Some(refused) = p.missing.iter().find(|missing| missing.path != PARENT) {
            return Err(Error::fault_of(op, refused.fault.clone()));
        }
        let tasks = p.morefs("recentTask").map_err(shape)?;
        let tasks = if tasks.is_empty() { Vec::new() } else { self.properties_of(&tasks, TASK_PATHS).await? };
        let state = host_state(&p, &tasks.iter().collect::<Vec<_>>()).map_err(shape)?;
        let mut state = state.ok_or_else(|| Error::protocol(op, format!("{host} has no runtime.inMaintenanceMode")))?;
        let cluster = p.moref(PARENT).map_err(shape)?.filter(|parent| parent.type_name == "ClusterComputeResource");
        if let Some(cluster) = cluster {
            let (ours, untold) = self.cluster_entering(&cluster, &state).await;
            state.entering = state.entering.or(ours);
            state.cluster_entering = untold;
        }
        Ok(state)
    }

    /// Tasks of a cluster that take a host out of service: about this host, and about one that is not told. A cluster that
    /// can't be read takes nothing from what the host itself tells.
    async fn cluster_entering(&self, cluster: &MoRef, host: &HostState) -> (Option<Entering>, Option<Entering>) {
        let read = self.collect(|w| {
            prop_set(w, "Task", CLUSTER_TASK_PATHS);
            w.nest("objectSet", |w| {
                w.moref("obj", cluster);
                w.value("skip", true);
                w.typed("selectSet", "TraversalSpec", |w| {
                    w.text("type", "ClusterComputeResource");
                    w.text("path", "recentTask");
                });
            });
        });
        let tasks = match read.await {
            Ok(tasks) => tasks,
            Err(error) => {
                tracing::debug!(cluster = cluster.value, %error, "the cluster's tasks can't be read");
                return (None, None);
            }
        };
        let of = |wanted: About| {
            let some: Vec<_> = tasks.iter().filter(|task| about(task, cluster, host) == wanted).collect();
            entering(&some)
        };
        (of(About::Host), of(About::Untold))
    }
}

const PARENT: &str = "parent";
const TASK_PATHS: &[&str] = &["info.state", "info.descriptionId"];
const CLUSTER_TASK_PATHS: &[&str] = &["info.state", "info.descriptionId", "info.entity", "info.entityName"];

/// Which host of a cluster a task of the cluster is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    Host,
    Another,
    Untold,
}

fn about(task: &Properties, cluster: &MoRef, host: &HostState) -> About {
    match task.moref("info.entity") {
        Ok(Some(entity)) if entity == host.moref => About::Host,
        Ok(Some(entity)) if entity == *cluster => About::Untold,
        Ok(Some(_)) => About::Another,
        // Nothing else tells it: names of hosts are unique within a vCenter.
        Ok(None) => match task.string("info.entityName").map(|name| decode_name(&name)) {
            Some(name) if name == host.name => About::Host,
            _ => About::Untold,
        },
        Err(_) => About::Untold,
    }
}

/// `tasks`: its recent ones, as far as the server still has them. `None`: it does not tell whether it is in maintenance.
pub(crate) fn host_state(p: &Properties, tasks: &[&Properties]) -> Result<Option<HostState>, Shape> {
    let Some(in_maintenance) = p.flag("runtime.inMaintenanceMode")? else { return Ok(None) };
    Ok(Some(HostState {
        name: p.string("name").map(|n| decode_name(&n)).unwrap_or_default(),
        connection_state: p.string("runtime.connectionState"),
        power_state: p.string("runtime.powerState"),
        standby: p.string("runtime.standbyMode"),
        in_maintenance,
        in_quarantine: p.flag("runtime.inQuarantineMode")?.unwrap_or(false),
        entering: entering(tasks),
        cluster_entering: None,
        moref: p.object.clone(),
    }))
}

/// The first task that takes a host out of service and has not ended; tasks that the server has forgotten have.
fn entering(tasks: &[&Properties]) -> Option<Entering> {
    let live = |p: &&Properties| {
        let state = p.get("info.state").and_then(|s| TaskState::parse(&s.text));
        let id = p.string("info.descriptionId")?;
        let ours = ENTERING.iter().any(|known| known.eq_ignore_ascii_case(&id));
        // A state that can't be read is not an end.
        (ours && !state.is_some_and(TaskState::is_final))
            .then(|| Entering { task: p.object.clone(), description_id: id })
    };
    tasks.iter().find_map(live)
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
