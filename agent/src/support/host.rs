//! Versions, kernel and what the quarantine finds.
use std::{env::consts, path::Path, thread};

use nix::sys::utsname::uname;

use super::{Got, bound, bundle::MOST};
use crate::discover::Platform;

/// Of the kernel's command line, what bears on disks, PCI, memory and start; a name that ends with a dot stands for all below it.
const SHOWN: &[&str] = &[
    "BOOT_IMAGE",
    "root",
    "rootfstype",
    "ro",
    "rw",
    "quiet",
    "single",
    "emergency",
    "console",
    "crashkernel",
    "scsi_mod.",
    "sd_mod.",
    "vmw_pvscsi.",
    "mptspi.",
    "pci",
    "pcie_aspm",
    "acpi",
    "iommu",
    "intel_iommu",
    "amd_iommu",
    "hugepages",
    "hugepagesz",
    "default_hugepagesz",
    "transparent_hugepage",
    "mem",
    "maxcpus",
    "nr_cpus",
    "isolcpus",
    "nohz_full",
    "clocksource",
    "tsc",
    "elevator",
    "mitigations",
    "lockdown",
    "lsm",
    "security",
    "selinux",
    "enforcing",
    "apparmor",
    "audit",
    "fips",
    "net.ifnames",
    "biosdevname",
    "udev.log_level",
    "systemd.unit",
    "systemd.unified_cgroup_hierarchy",
    "rd.auto",
    "rd.lvm",
    "rd.md",
    "rd.multipath",
    "rd.dm",
    "module_blacklist",
    "initcall_blacklist",
    "modprobe.blacklist",
];

pub(super) fn versions(vcenter: &str) -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!(
        "hotadd-agent {}\ntarget {}-{}-{libc}\nvCenter {vcenter}\nmade {}\n",
        env!("CARGO_PKG_VERSION"),
        consts::ARCH,
        consts::OS,
        jiff::Timestamp::now()
    )
}

pub(super) fn findings(platform: &dyn Platform) -> String {
    let found = platform.quarantine();
    let lines: String = found.iter().map(|finding| format!("{finding}\n")).collect();
    if lines.is_empty() { "nothing is wrong\n".to_owned() } else { lines }
}

pub(super) fn kernel() -> Got {
    let name = uname().map_err(|e| format!("uname: {e}"))?;
    let [system, release, version, machine] =
        [name.sysname(), name.release(), name.version(), name.machine()].map(|text| text.to_string_lossy());
    let mut text = format!("{system} {release} {version} {machine}\n");
    let processors = thread::available_parallelism().map_or(0, usize::from);
    text.push_str(&format!("processors {processors}\n"));
    text.push_str(&format!("command line: {}\n", command_line(&read("/proc/cmdline"))));
    for path in [
        "/sys/module/vmw_pvscsi/version",
        "/sys/module/vmw_pvscsi/parameters/cmd_per_lun",
        "/proc/sys/kernel/io_uring_disabled",
        "/proc/sys/fs/aio-max-nr",
        "/proc/sys/fs/aio-nr",
        "/proc/sys/vm/nr_hugepages",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/kernel/security/lockdown",
    ] {
        text.push_str(&format!("{path}: {}\n", read(path)));
    }
    Ok(text)
}

fn read(path: &str) -> String {
    bound::text(Path::new(path), MOST as u64).map_or_else(|e| format!("({e})"), |value| value.trim().to_owned())
}

/// By an allow list: an installer's, an iSCSI initiator's or systemd's words may hold a password.
fn command_line(text: &str) -> String {
    let (mut words, mut hidden) = (Vec::new(), 0);
    for word in words_of(text) {
        let name = word.split('=').next().unwrap_or_default();
        let is = |known: &&str| *known == name || known.ends_with('.') && name.starts_with(*known);
        if SHOWN.iter().any(is) && !word.contains('@') {
            words.push(word);
        } else {
            hidden += 1;
        }
    }
    words.push(format!("({hidden} others hidden)"));
    words.join(" ")
}

/// Blanks within double quotes part no words (the kernel's next_arg).
fn words_of(text: &str) -> Vec<String> {
    let mut quoted = false;
    let parts = text.split(|c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    });
    parts.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

pub(super) fn file(path: &str) -> Got {
    bound::text(Path::new(path), MOST as u64).map_err(|e| format!("{path}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_the_command_line_are_hidden() {
        let shown = command_line(
            "root=/dev/sda1 quiet rootpassword=\"hunter 2\" systemd.setenv=A=hunter2 inst.ks=https://u:hunter2@x vmw_pvscsi.cmd_per_lun=254 \
             console=u:hunter2@x hunter2 rootx=hunter2\n",
        );
        assert_eq!(shown, "root=/dev/sda1 quiet vmw_pvscsi.cmd_per_lun=254 (6 others hidden)");
    }
}
