//! Rules that prefer one transport where several could do, or refuse one that was asked for. Pure.
use crate::{
    config::{Policy, Profile},
    hypervisor::views::{Build, StoreKind},
    plan::{
        Transport,
        facts::Facts,
        rule::{Verdict, known},
    },
};

/// NFC takes longer strings from here on.
const NFC_LONG: Build = Build::new([7, 0, 3], 0);
const NFC_STRING: usize = 256;

pub(super) fn io_filters(f: &Facts<'_>, _: &Policy) -> Verdict {
    // As one list with a separator between each two.
    let length = f.disk.io_filters.iter().map(|name| name.len() + 1).sum::<usize>().saturating_sub(1);
    if length <= NFC_STRING {
        return Verdict::Silent;
    }
    let host = known!(f.target.host, "target.host");
    let build = known!(host.build, "target.host.build");
    if *build >= NFC_LONG {
        return Verdict::Silent;
    }
    let text = format!("the names of its I/O filters have {length} bytes, and {} has {build}", host.name);
    Verdict::Prefer(Transport::HotAdd, text)
}

/// A proxy that is a VM never has SAN; on these datastores nobody has.
pub(super) fn san(f: &Facts<'_>, _: &Policy) -> Verdict {
    if f.asked != Some(Transport::San) {
        return Verdict::Silent;
    }
    let store = known!(f.disk.store, "disk.store");
    match store.kind {
        StoreKind::Vsan | StoreKind::Vvol => {
            Verdict::Refuse(format!("SAN was asked for, {} is {}, which has no SAN mode", store.name, store.kind))
        }
        _ => Verdict::Refuse("SAN was asked for, and this agent has no such transport".to_owned()),
    }
}

pub(super) fn cloud(f: &Facts<'_>, policy: &Policy) -> Verdict {
    if policy.profile != Profile::Cloud {
        return Verdict::Silent;
    }
    let home = known!(f.proxy.home, "proxy.home");
    if home.kind == StoreKind::Vsan {
        return Verdict::Prefer(Transport::HotAdd, "hosts and port 902 can't be reached in a cloud".to_owned());
    }
    Verdict::Warn(format!(
        "the home of {} is on {} ({}): in a cloud it belongs on vSAN",
        f.proxy.name, home.name, home.kind
    ))
}

/// Small reads are cheaper without an attach and a detach, if both ways have been measured here.
pub(super) fn cost(f: &Facts<'_>, policy: &Policy) -> Verdict {
    if !policy.cost_model {
        return Verdict::Silent;
    }
    let (hotadd, nbd) = match (f.rates.hotadd_seconds(f.bytes), f.rates.nbd_seconds(f.bytes)) {
        (Some(hotadd), Some(nbd)) => (hotadd, nbd),
        (None, _) => return Verdict::Unknown("rates: HotAdd was never measured here".to_owned()),
        (_, None) => return Verdict::Unknown("rates: NBD was never measured here".to_owned()),
    };
    if nbd >= hotadd {
        return Verdict::Silent;
    }
    let text =
        format!("{} bytes take {nbd:.1} s by NBD and {hotadd:.1} s by HotAdd with its attach and detach", f.bytes);
    Verdict::Prefer(Transport::Nbd, text)
}
