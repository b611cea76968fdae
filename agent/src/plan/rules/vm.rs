//! Rules about the VM whose disk it is. Pure.
use crate::{
    config::Policy,
    hypervisor::views::HostView,
    plan::{
        facts::Facts,
        rule::{Verdict, known},
    },
};

pub(super) fn vcenter(f: &Facts<'_>, _: &Policy) -> Verdict {
    let (ours, theirs) = (known!(f.site.vcenter, "site.vcenter"), known!(f.target.vcenter, "target.vcenter"));
    if ours == theirs {
        return Verdict::Silent;
    }
    Verdict::Refuse(format!("{} is known to vCenter {theirs}, the proxy to {ours}", f.target.name))
}

pub(super) fn template(f: &Facts<'_>, _: &Policy) -> Verdict {
    if *known!(f.target.template, "target.template") {
        return Verdict::Refuse(format!("{} is a template", f.target.name));
    }
    Verdict::Silent
}

pub(super) fn fault_tolerant(f: &Facts<'_>, _: &Policy) -> Verdict {
    if *known!(f.target.fault_tolerant, "target.fault_tolerant") {
        return Verdict::Warn(format!("{} has fault tolerance", f.target.name));
    }
    Verdict::Silent
}

pub(super) fn is_proxy(f: &Facts<'_>, _: &Policy) -> Verdict {
    if f.target.is_proxy { Verdict::Refuse(f.target.name.clone()) } else { Verdict::Silent }
}

pub(super) fn maintenance(f: &Facts<'_>, _: &Policy) -> Verdict {
    let leaving = |host: &HostView| {
        let unrest = host.unrest.known().cloned().flatten();
        unrest.map(|unrest| format!("{} {unrest}", host.name))
    };
    let (ours, theirs) = (known!(f.proxy.host, "proxy.host"), known!(f.target.host, "target.host"));
    if let Some(why) = leaving(ours).or_else(|| leaving(theirs)) {
        return Verdict::Hold(why);
    }
    known!(ours.unrest, "proxy.host.unrest");
    known!(theirs.unrest, "target.host.unrest");
    Verdict::Silent
}
