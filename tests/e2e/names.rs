//! Names that break careless quoting: in SOAP, in the journal, in matching what is attached, in the API.
use anyhow::Result;
use hotadd_api::v1::JobState;
use hotadd_harness::{
    Content,
    scene::{datastore_spec, vm},
};
use vcenter_sim::inventory::DiskSpec;

use crate::support::{MIB, Running, Seen, backup, images_equal_sources, nothing_is_left, request, scene};

/// What vCenter shows of such a name: `/` and `%` come as %2f and %25.
const VM: &str = "Büro & <web> %2f %5c %25 #1 [old] \"q\" 'a' 数据库";
const FILE: &str = "Platte #2 & <b> %25 [x] 'é' \"ü\"";
const DATASTORE: &str = "Daten speicher & <é> #3 %25";

#[tokio::test(flavor = "multi_thread")]
async fn hard_names_go_through_soap_journal_match_and_detach() -> Result<()> {
    let (dir, mut scene) = scene(&[Content::new(3 * MIB, 1), Content::new(64 * MIB, 2)], |spec| {
        let at = spec.inventory.datastores[0].dir.with_file_name("ds 2 & ü");
        spec.inventory.datastores.push(datastore_spec(DATASTORE, at));
        let disks: Vec<DiskSpec> = spec.target().disks.clone();
        let controllers = spec.target().controllers.clone();
        let named = |(n, disk): (usize, DiskSpec)| DiskSpec {
            path: (n == 1).then(|| format!("[{DATASTORE}] {VM}/{FILE}.vmdk")),
            ..disk
        };
        let mut target = vm(VM, disks.into_iter().enumerate().map(named).collect());
        target.datastore = Some(DATASTORE.into());
        target.controllers = controllers;
        *spec.target() = target;
    })?;
    let delivered = backup(&scene, request(VM), dir.path()).await?;
    let result = delivered.result()?;
    assert_eq!(result.state(), JobState::Ok, "{result:#?}");
    assert_eq!(result.vm_name, VM);
    let backings: Vec<_> = result.disks.iter().filter_map(|d| Some(d.disk.as_ref()?.backing.clone())).collect();
    assert!(backings.contains(&format!("[{DATASTORE}] {VM}/{FILE}.vmdk")), "{backings:?}");
    images_equal_sources(&scene, &delivered)?;
    nothing_is_left(&scene).await?;
    // The journal alone must carry them too.
    let mut job = Running::start(&scene, request(VM), dir.path()).await?;
    job.until(Seen::Opened).await?;
    scene.take_agent()?.kill()?;
    scene.start_agent()?;
    nothing_is_left(&scene).await
}
