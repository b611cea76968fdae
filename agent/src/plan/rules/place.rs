//! Rules about where a disk lies and where the proxy is. Pure.
use crate::{
    config::Policy,
    hypervisor::{
        BackingKind,
        views::{Build, Mount, StoreKind},
    },
    plan::{
        facts::Facts,
        rule::{Verdict, known},
    },
};

/// ESXi 8.0 Update 2b: the takeover of NFS 3 locks no longer stuns (Broadcom KB 395110 gives the build).
const NFS3_FIXED: Build = Build::new([8, 0, 2], 23_305_546);
const VSPHERE_7: Build = Build::new([7, 0, 0], 0);

/// The proxy's host opens the backing and writes a redo log beside it: it needs the datastore, writable.
pub(super) fn mount(f: &Facts<'_>, _: &Policy) -> Verdict {
    let store = known!(f.disk.store, "disk.store");
    let host = f.proxy.host.known().map_or("the proxy's host", |host| host.name.as_str());
    let name = &store.name;
    match known!(store.mount, "disk.store.mount") {
        Mount::Writable => Verdict::Silent,
        Mount::ReadOnly => Verdict::NoHotAdd(format!("{name} is read-only on {host}")),
        Mount::Inaccessible => Verdict::NoHotAdd(format!("{name} is not accessible from {host}")),
        Mount::Absent => Verdict::NoHotAdd(format!("{name} is not mounted on {host}")),
    }
}

pub(super) fn vsan(f: &Facts<'_>, _: &Policy) -> Verdict {
    let store = known!(f.disk.store, "disk.store");
    if store.kind != StoreKind::Vsan {
        return Verdict::Silent;
    }
    let home = known!(f.proxy.home, "proxy.home");
    if home.kind == StoreKind::Vsan {
        return Verdict::Silent;
    }
    Verdict::NoHotAdd(format!(
        "{} is vSAN, the home of {} is on {} ({})",
        store.name, f.proxy.name, home.name, home.kind
    ))
}

/// A chain that crosses folders on virtual volumes. Going on can make the proxy VM invalid: what is not known binds too.
pub(super) fn vvol_clone(f: &Facts<'_>, _: &Policy) -> Verdict {
    let crosses = f.disk.chain.known().map(|links| links.windows(2).any(|two| two[0].folder != two[1].folder));
    if crosses == Some(false) {
        return Verdict::Silent;
    }
    let store = known!(f.disk.store, "disk.store");
    if store.kind != StoreKind::Vvol {
        return Verdict::Silent;
    }
    let links = known!(f.disk.chain, "disk.chain");
    Verdict::NoHotAdd(format!("{} is vVol, and the chain of {} files crosses folders", store.name, links.len()))
}

pub(super) fn sesparse(f: &Facts<'_>, _: &Policy) -> Verdict {
    if f.disk.disk.backing_kind != BackingKind::SeSparse {
        return Verdict::Silent;
    }
    let store = known!(f.disk.store, "disk.store");
    if !matches!(store.kind, StoreKind::Vmfs | StoreKind::Nfs3 | StoreKind::Nfs41) {
        return Verdict::Silent;
    }
    if known!(f.proxy.home, "proxy.home").kind != StoreKind::Vsan {
        return Verdict::Silent;
    }
    let host = known!(f.proxy.host, "proxy.host");
    let build = known!(host.build, "proxy.host.build");
    if *build >= VSPHERE_7 {
        return Verdict::Silent;
    }
    Verdict::NoHotAdd(format!(
        "an SE-sparse file on {} ({}), the proxy on vSAN, {} has {build}",
        store.name, store.kind, host.name
    ))
}

pub(super) fn nfs3(f: &Facts<'_>, _: &Policy) -> Verdict {
    let store = known!(f.disk.store, "disk.store");
    if store.kind != StoreKind::Nfs3 {
        return Verdict::Silent;
    }
    let (ours, theirs) = (known!(f.proxy.host, "proxy.host"), known!(f.target.host, "target.host"));
    if ours.moref == theirs.moref {
        return Verdict::Silent;
    }
    let older = *known!(ours.build, "proxy.host.build").min(known!(theirs.build, "target.host.build"));
    if older >= NFS3_FIXED {
        return Verdict::Silent;
    }
    Verdict::NoHotAdd(format!(
        "{} is NFS 3, the proxy runs on {}, the VM on {}, the older has {older}",
        store.name, ours.name, theirs.name
    ))
}

pub(super) fn datacenter(f: &Facts<'_>, _: &Policy) -> Verdict {
    let (ours, theirs) =
        (known!(f.proxy.datacenter, "proxy.datacenter"), known!(f.target.datacenter, "target.datacenter"));
    if ours == theirs {
        Verdict::Silent
    } else {
        Verdict::NoHotAdd(format!("the proxy is in {ours}, the VM in {theirs}"))
    }
}

pub(super) fn redo_space(f: &Facts<'_>, policy: &Policy) -> Verdict {
    let store = known!(f.disk.store, "disk.store");
    let least = policy.redo_min_free_bytes;
    if store.free_bytes >= least {
        return Verdict::Silent;
    }
    Verdict::NoHotAdd(format!("{} has {} bytes free, {least} are asked for", store.name, store.free_bytes))
}
