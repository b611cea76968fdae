//! Releases that are known to be bad, and which VDDK goes with which VMware Cloud. Data with sources; nothing is invented.
use crate::{
    config::{Policy, Profile},
    hypervisor::views::Build,
    plan::{
        facts::Facts,
        rule::{Verdict, known},
    },
};

/// What a release belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The ESXi host of the target.
    Host,
    /// The VDDK that the user brought.
    Vddk,
}

/// Releases from `from` to below `below`.
#[derive(Debug)]
pub struct KnownBad {
    pub part: Part,
    pub from: [u32; 3],
    pub below: [u32; 3],
    pub why: &'static str,
    pub source: &'static str,
}

pub const KNOWN_BAD: &[KnownBad] = &[
    KnownBad {
        part: Part::Host,
        from: [4, 0, 0],
        below: [6, 0, 0],
        why: "changed areas are wrong after a disk grew over a 128 GiB boundary: reset change tracking, read in full",
        source: "VMware KB on QueryChangedDiskAreas and 128 GiB",
    },
    KnownBad {
        part: Part::Host,
        from: [6, 0, 0],
        below: [6, 5, 0],
        why: "before ESXi600-201511001 changes made during a consolidation are lost: after the patch read in full",
        source: "VMware KB on change tracking in ESXi 6.0",
    },
    KnownBad {
        part: Part::Vddk,
        from: [7, 0, 3],
        below: [7, 0, 4],
        why: "HotAdd of a linked clone on vVol can make the proxy VM invalid",
        source: "VDDK 7.0.3 release notes, known issues",
    },
];

/// Which VDDK serves which release of VMware Cloud on AWS.
#[derive(Debug)]
pub struct VmcRow {
    pub vmc: &'static str,
    /// Major and minor.
    pub vddk: &'static [[u32; 2]],
}

/// VDDK 7.0.3 release notes. M8 and M9 are in that table too, but not in the facts that this project holds.
pub const VMC: &[VmcRow] = &[VmcRow { vmc: "M10 to M16", vddk: &[[6, 7], [7, 0]] }];

pub(super) fn known_bad(f: &Facts<'_>, _: &Policy) -> Verdict {
    let find = |part: Part, build: &Build| {
        let hit = |bad: &&KnownBad| bad.part == part && (bad.from..bad.below).contains(&build.version);
        KNOWN_BAD.iter().find(hit)
    };
    if let Some((vddk, bad)) = f.vddk.and_then(|vddk| Some((vddk, find(Part::Vddk, &vddk)?))) {
        return Verdict::Warn(format!("VDDK {vddk}: {} ({})", bad.why, bad.source));
    }
    let host = known!(f.target.host, "target.host");
    let build = known!(host.build, "target.host.build");
    match find(Part::Host, build) {
        Some(bad) => Verdict::Warn(format!("{} has {build}: {} ({})", host.name, bad.why, bad.source)),
        None => Verdict::Silent,
    }
}

pub(super) fn vmc(f: &Facts<'_>, policy: &Policy) -> Verdict {
    let (Profile::Cloud, Some(vddk)) = (policy.profile, f.vddk) else { return Verdict::Silent };
    let [major, minor, _] = vddk.version;
    if VMC.iter().any(|row| row.vddk.contains(&[major, minor])) {
        return Verdict::Silent;
    }
    let rows: Vec<String> = VMC
        .iter()
        .map(|row| {
            let releases: Vec<String> = row.vddk.iter().map(|[major, minor]| format!("{major}.{minor}")).collect();
            format!("{} goes with {}", row.vmc, releases.join(" and "))
        })
        .collect();
    Verdict::Warn(format!("VDDK {vddk} is in no row of the VMC table: {}", rows.join("; ")))
}
