//! Every VM of a vCenter, in pieces that stay small: who looks at a whole estate keeps what it needs of one piece and lets go of it.
//!
//! Source: vSphere API 8.0, ViewManager.CreateContainerView, VirtualMachine, VirtualMachineFileLayoutEx, VAppProductInfo.

use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::inventory::decode_name;
use crate::layout::{self, LayoutFile};
use crate::moref::MoRef;
use crate::property::{MissingProperty, Properties};
use crate::session::Scoped;
use crate::vm::{VmInfo, vm_info};
use crate::xml::Node;

const OP: &str = "RetrievePropertiesEx";
const PRODUCT: &str = "summary.config.product";

/// What of [`crate::vm::PATHS`] tells of leftovers; advanced settings may hold what is nobody's business, and are not asked for.
const PATHS: &[&str] = &[
    "name",
    "datastore",
    "snapshot",
    "recentTask",
    "disabledMethod",
    "config.uuid",
    "config.instanceUuid",
    "config.changeVersion",
    "config.template",
    "config.files.vmPathName",
    "config.hardware.device",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.consolidationNeeded",
    "guest.ipAddress",
    PRODUCT,
    layout::FILES,
];

/// A product that a VM says it is an appliance of (VAppProductInfo).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmProduct {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A VM with its files.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SurveyedVm {
    /// As [`Client::vm`] reads it, without advanced settings, hardware version, parent, host and most of the guest.
    pub vm: VmInfo,
    /// Its files; `None` when the server did not give them.
    pub files: Option<Vec<LayoutFile>>,
    /// What it is an appliance of; `None`: of nothing, or not given.
    pub product: Option<VmProduct>,
}

/// One VM of a survey.
#[derive(Debug)]
pub struct Surveyed {
    /// The VM.
    pub moref: MoRef,
    /// Its facts, or why the server gave none. What it refused of a VM is in [`VmInfo::missing`].
    pub facts: Result<SurveyedVm, Error>,
}

impl Client {
    /// Every VM and template that the user may see, with its name.
    pub async fn all_vms(&self) -> Result<Vec<(MoRef, String)>, Error> {
        match self.list_vms().await {
            // A view ends with the login that made it, and that may end between two calls.
            Err(e) if e.is_not_found() => self.list_vms().await,
            other => other,
        }
    }

    async fn list_vms(&self) -> Result<Vec<(MoRef, String)>, Error> {
        self.session.sweep().await;
        let view = self.container_view("VirtualMachine").await?;
        let scoped = Scoped::new(&self.session, view.clone());
        let all = self.view_properties(&view, "VirtualMachine", &["name"]).await;
        scoped.discard().await;
        let named = |p: Properties| (p.object.clone(), p.get("name").map(|n| decode_name(&n.text)).unwrap_or_default());
        Ok(all?.into_iter().map(named).collect())
    }

    /// Reads the facts of some VMs; one that is gone is left out. Ask for tens, not for all: an answer is kept whole.
    ///
    /// A fault of a whole read, or an answer that is too large, is looked for by halves: one VM costs only itself.
    ///
    /// # Errors
    /// Whatever is no answer about a VM: then nothing is known of any.
    pub async fn survey_vms(&self, vms: &[MoRef]) -> Result<Vec<Surveyed>, Error> {
        let mut found = Vec::new();
        let mut open = vec![vms];
        while let Some(some) = open.pop() {
            match (self.properties_of(some, PATHS).await, some) {
                (Ok(all), _) => found.extend(all.into_iter().map(surveyed)),
                (Err(e), _) if !concerns_one(&e) => return Err(e),
                (Err(e), [vm]) => found.push(Surveyed { moref: vm.clone(), facts: Err(e) }),
                (Err(_), many) => {
                    let (left, right) = many.split_at(many.len() / 2);
                    open.extend([right, left]);
                }
            }
        }
        Ok(found)
    }
}

/// Whether one VM of many may be the cause.
fn concerns_one(e: &Error) -> bool {
    *e.kind() == ErrorKind::TooLarge || (e.fault().is_some() && !e.is_not_authenticated() && !e.is_not_found())
}

fn surveyed(p: Properties) -> Surveyed {
    let moref = p.object.clone();
    let files = p.get(layout::FILES).map(layout::files).transpose();
    let product = p.get(PRODUCT).map(product);
    let facts = files.and_then(|files| Ok(SurveyedVm { files, product, vm: vm_info(p)? }));
    Surveyed { moref, facts: facts.map_err(|e| Error::shape(OP, e)) }
}

fn product(node: &Node) -> VmProduct {
    VmProduct { name: node.string("name").unwrap_or_default(), version: node.string("version").unwrap_or_default() }
}

impl SurveyedVm {
    /// Why the server did not give a property, when it said so.
    pub fn refused(&self, path: &str) -> Option<&MissingProperty> {
        self.vm
            .missing
            .iter()
            .find(|m| path == m.path || path.strip_prefix(&m.path).is_some_and(|r| r.starts_with('.')))
    }
}
