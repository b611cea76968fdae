//! What vCenter tells of itself and of the proxy, in a session of its own that ends at once.
use std::time::Duration;

use tokio::time::timeout;

use super::Got;
use crate::{
    config::Config,
    discover::Platform,
    error::Result,
    hypervisor::{Hypervisor as _, ProxyFacts, vsphere::Vsphere},
};

/// Whoever waits for a bundle has a problem with vCenter often enough.
const PATIENCE: Duration = Duration::from_secs(20);
/// A session that can't be ended ends by itself.
const GOODBYE: Duration = Duration::from_secs(5);

/// Its version, and the proxy in its words.
pub(super) async fn ask(config: &Config, platform: &dyn Platform) -> (Got, Got) {
    let late = || format!("no answer within {} s", PATIENCE.as_secs());
    let connected = match timeout(PATIENCE, Vsphere::connect(&config.vcenter, &config.deadlines, None)).await {
        Ok(connected) => connected.map_err(|e| e.to_string()),
        Err(_) => Err(late()),
    };
    let vsphere = match connected {
        Ok(vsphere) => vsphere,
        Err(why) => return (Err(why.clone()), Err(why)),
    };
    let about = vsphere.about();
    let version = format!("{} API {} (negotiated {})", about.name, about.api_version, about.negotiated);
    let facts = match timeout(PATIENCE, look(&vsphere, platform)).await {
        Ok(facts) => facts.map(|proxy| told(&proxy)).map_err(|e| e.to_string()),
        Err(_) => Err(late()),
    };
    drop(timeout(GOODBYE, vsphere.logout()).await);
    (Ok(version), facts)
}

async fn look(vsphere: &Vsphere, platform: &dyn Platform) -> Result<ProxyFacts> {
    use crate::{error::Error, reason};
    let host = platform.identity().map_err(|e| Error::new(&reason::CFG_IDENTITY, "DMI").with_source(e))?;
    vsphere.proxy(&vsphere.identify(&host).await?).await
}

fn told(proxy: &ProxyFacts) -> String {
    let mut text = format!(
        "proxy {} {}\ninstance uuid {}\nhome {}\nhardware version {}\na task is queued or runs: {}\n",
        proxy.moref,
        proxy.name.escape_debug(),
        proxy.instance_uuid.as_deref().unwrap_or("unknown"),
        proxy.home,
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
