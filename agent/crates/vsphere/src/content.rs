//! What a server says of itself when it is met: product, versions, its well-known objects. No login is needed for it.

use crate::moref::MoRef;
use crate::version::ApiVersion;
use crate::xml::{Node, Shape};

/// What the server says of itself (vSphere API, AboutInfo), and the version in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Product, for example `VMware vCenter Server`.
    pub name: String,
    /// Product version, for example `8.0.2`.
    pub version: String,
    /// Build number.
    pub build: String,
    /// Newest API version of the server.
    pub api_version: String,
    /// `VirtualCenter`, or `HostAgent` for a bare ESXi host.
    pub api_type: String,
    /// Identity of this vCenter; absent on ESXi.
    pub instance_uuid: Option<String>,
    /// The API version that this client speaks to it.
    pub negotiated: ApiVersion,
}

/// Well-known objects of the server.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) root_folder: MoRef,
    pub(crate) property_collector: MoRef,
    pub(crate) session_manager: MoRef,
    pub(crate) view_manager: Option<MoRef>,
    pub(crate) search_index: Option<MoRef>,
    pub(crate) authorization_manager: Option<MoRef>,
    pub(crate) event_manager: Option<MoRef>,
}

pub(crate) fn service_content(node: &Node, negotiated: ApiVersion) -> Result<(About, Content), Shape> {
    let about = node.required("about")?;
    let text = |name| about.string(name).unwrap_or_default();
    let about = About {
        name: text("name"),
        version: text("version"),
        build: text("build"),
        api_version: text("apiVersion"),
        api_type: text("apiType"),
        instance_uuid: about.string("instanceUuid"),
        negotiated,
    };
    let content = Content {
        root_folder: node.required("rootFolder")?.moref()?,
        property_collector: node.required("propertyCollector")?.moref()?,
        session_manager: node.required("sessionManager")?.moref()?,
        view_manager: node.opt_ref("viewManager")?,
        search_index: node.opt_ref("searchIndex")?,
        authorization_manager: node.opt_ref("authorizationManager")?,
        event_manager: node.opt_ref("eventManager")?,
    };
    Ok((about, content))
}
