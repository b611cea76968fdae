//! What vCenter tells of itself and of the proxy, in a session of its own that ends at once.
use std::time::Duration;

use tokio::time::timeout;

use super::{Got, bound};
use crate::{
    config::Config,
    discover::{HostIdentity, Platform},
    error::{Error, Result},
    hypervisor::{Hypervisor as _, ProxyFacts, vsphere::Vsphere},
    reason,
};

/// A session that can't be ended ends by itself.
const GOODBYE: Duration = Duration::from_secs(5);

/// Which VM this is.
///
/// # Errors
/// Of DMI.
pub(super) fn identity(platform: &dyn Platform) -> std::result::Result<HostIdentity, String> {
    platform.identity().map_err(|e| Error::new(&reason::CFG_IDENTITY, "DMI").with_source(e).to_string())
}

/// Its version, and the proxy in its words.
pub(super) async fn ask(config: &Config, host: std::result::Result<HostIdentity, String>) -> (Got, Got) {
    let late = || format!("vCenter: no answer within {} s", bound::PART.as_secs());
    let connected = match timeout(bound::PART, Vsphere::connect(&config.vcenter, &config.deadlines, None)).await {
        Ok(connected) => connected.map_err(|e| e.to_string()),
        Err(_) => Err(late()),
    };
    let vsphere = match connected {
        Ok(vsphere) => vsphere,
        Err(why) => return (Err(why.clone()), Err(why)),
    };
    let about = vsphere.about();
    let version = format!("{} API {} (negotiated {})", about.name, about.api_version, about.negotiated);
    let facts = match host {
        Ok(host) => match timeout(bound::PART, look(&vsphere, &host)).await {
            Ok(facts) => facts.map(|proxy| told(&proxy)).map_err(|e| e.to_string()),
            Err(_) => Err(late()),
        },
        Err(why) => Err(why),
    };
    drop(timeout(GOODBYE, vsphere.logout()).await);
    (Ok(version.escape_debug().to_string()), facts)
}

async fn look(vsphere: &Vsphere, host: &HostIdentity) -> Result<ProxyFacts> {
    vsphere.proxy(&vsphere.identify(host).await?).await
}

fn told(proxy: &ProxyFacts) -> String {
    let mut text = format!(
        "proxy {} {}\ninstance uuid {}\nhome {}\nhardware version {}\na task is queued or runs: {}\n",
        proxy.moref,
        proxy.name.escape_debug(),
        proxy.instance_uuid.as_deref().unwrap_or("unknown").escape_debug(),
        proxy.home.escape_debug(),
        proxy.hardware_version,
        if proxy.busy { "yes" } else { "no" }
    );
    text.extend(proxy.controllers.iter().map(|controller| format!("{controller:?}\n")));
    for disk in &proxy.disks {
        let slot = disk.slot.map_or_else(|| "no SCSI slot".to_owned(), |slot| slot.to_string());
        let mode = if disk.nonpersistent { "independent_nonpersistent" } else { "another mode" };
        let uuid = disk.uuid.map_or_else(|| "no uuid".to_owned(), |uuid| uuid.to_string());
        let chain: Vec<String> = disk.chain.iter().map(ToString::to_string).collect();
        text.push_str(&format!(
            "disk {} {slot} {mode} {uuid} {} bytes: {}\n",
            disk.device_key,
            disk.capacity_bytes,
            chain.join(" < ").escape_debug()
        ));
    }
    text
}
