//! The reconfigure: reads the proxy once more, asks for the removal at that very version, waits, and reads back.
use hotadd_vsphere as vim;
use vim::{ErrorKind, MoRef};

use super::{RECONFIGURE, Removal};
use crate::{
    codes,
    connect::{Trouble, Vcenter},
    facts::Object,
    gather,
};

/// What is read of the proxy right before, all of it.
const READ: [&str; 4] = ["recentTask", "runtime.powerState", "config.changeVersion", "config.hardware.device"];

/// Why it is not done.
pub(super) enum Stopped {
    /// Nothing was asked of vCenter, or vCenter refused it as a whole.
    Before(String),
    /// Something was asked and nothing proves what became of it.
    Unproven(Trouble),
}

pub(super) async fn remove(vcenter: &Vcenter, proxy: &Object, removals: &[Removal]) -> Result<(), Stopped> {
    let client = &vcenter.client;
    let moref = MoRef::new("VirtualMachine", &proxy.moref);
    let before = |e: vim::Error| Stopped::Before(e.to_string());
    let vm = client.vm(&moref).await.map_err(before)?;
    if let Some(missing) = vm.missing.iter().find(|m| READ.iter().any(|path| path.starts_with(&m.path))) {
        return Err(Stopped::Before(format!("{} of the proxy is not given: {}", missing.path, missing.fault)));
    }
    let tasks = client.tasks(&vm.recent_tasks).await.map_err(before)?;
    if gather::summary(&tasks).running {
        return Err(Stopped::Before("a task runs on the proxy now".into()));
    }
    // Without a version nothing keeps the change from meeting another list of devices.
    let Some(version) = vm.change_version.clone() else {
        return Err(Stopped::Before("vCenter does not tell the proxy's change version".into()));
    };
    let ours: Vec<vim::RemoveDisk> = vm.disks().filter(|disk| wanted(&vm, disk, removals)).map(Into::into).collect();
    if ours.len() != removals.len() {
        return Err(Stopped::Before("its disks are not those of a moment ago".into()));
    }
    let spec = vim::Reconfigure { change_version: Some(version), change: vim::DeviceChanges::Remove(ours) };
    let task = match client.reconfigure(&moref, &spec).await {
        Ok(task) => task,
        Err(e) if e.fault().is_some() || *e.kind() == ErrorKind::Unsupported => return Err(before(e)),
        Err(e) => return Err(unproven(proxy, &e.to_string())),
    };
    let ended = client.wait_task(&task, RECONFIGURE, None).await.map_err(|e| unproven(proxy, &e.to_string()))?;
    if let Some(fault) = ended.error {
        return Err(Stopped::Before(format!("vCenter refused: {fault}")));
    }
    let after = client.vm(&moref).await.map_err(|e| unproven(proxy, &e.to_string()))?;
    if !after.gave("config.hardware.device") || after.disks().any(|disk| wanted(&after, disk, removals)) {
        return Err(unproven(proxy, "the task succeeded, but a disk is still listed"));
    }
    Ok(())
}

/// Key, file and mode of a removal. The key alone is given out again.
fn wanted(vm: &vim::VmInfo, disk: &vim::Disk, removals: &[Removal]) -> bool {
    let shown = gather::disk(disk, vm);
    let (file, right) = (shown.file(), shown.mode == "independent_nonpersistent");
    right && removals.iter().any(|r| r.proof.disk_key == shown.key && r.proof.file == file.as_str())
}

fn unproven(proxy: &Object, why: &str) -> Stopped {
    Stopped::Unproven(Trouble::new(codes::HALF_FIXED, format!("{}: {why}", proxy.name)))
}
