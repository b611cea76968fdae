//! Hands off attached disks, in a guest with lvm2, mdadm and multipath-tools: with the rules nobody opens a tempting disk, without them
//! those who do are named, and the agent does not serve. Run by ci/part-quarantine, on a guest for each suite.
use std::{fs::File, os::unix::fs::FileExt as _};

use anyhow::{Context as _, Result, ensure};
use hotadd_agent::selftest::image;
use hotadd_api::v1::{CloseDisksRequest, OpenDisksRequest};
use hotadd_harness::{Content, Lab, Spec, scene::TARGET};
use serde_json::Value;

use crate::support::{MIB, backup, images_equal_sources, nothing_is_left, sessions, skip};

const RULES: &str = "/usr/lib/udev/rules.d/00-hotadd-quarantine.rules";
/// Shipped file and its place in Debian.
const TOOLS: [(&str, &str); 3] = [
    ("lvmlocal.conf.example", "/etc/lvm/lvmlocal.conf"),
    ("mdadm.conf.example", "/etc/mdadm/mdadm.conf.d/hotadd.conf"),
    ("multipath.conf", "/etc/multipath/conf.d/hotadd.conf"),
];
const SELFTEST: &str = "hotadd-agent selftest --json";

/// A guest whose target's only disk is the trap; the agent is not started.
fn tempting(dir: &std::path::Path) -> Result<Lab> {
    let blank = Content { bytes: image::SIZE_MIB * MIB, seed: 0, every: 0 };
    let mut spec = Spec::new(dir, &[blank], 4);
    // Storage tools answer each event here, so udev takes its time.
    spec.set("deadlines", "discover_seconds", 60);
    let lab = Lab::boot(dir, spec, &[])?;
    let disk = File::options().write(true).open(lab.source(0))?;
    image::pieces().iter().try_for_each(|(at, bytes)| disk.write_all_at(bytes, *at))?;
    Ok(lab)
}

/// The command's exit status and what it printed.
fn selftest(lab: &Lab, how: &str) -> Result<(i32, Value)> {
    let run = lab.guest.try_sh(&format!("{SELFTEST} {how}"))?;
    let report = serde_json::from_str(&run.stdout)
        .with_context(|| format!("{how}: {} {}{}", run.code, run.stdout, run.stderr))?;
    Ok((run.code, report))
}

fn codes(report: &Value) -> Vec<&str> {
    let mut codes: Vec<_> =
        report["findings"].as_array().into_iter().flatten().filter_map(|f| f["code"].as_str()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// Programs that opened the trap.
fn programs(report: &Value) -> Vec<&str> {
    let openers = report["trap"]["openers"].as_array().into_iter().flatten();
    openers.filter_map(|opener| opener["program"].as_str()?.rsplit('/').next()).collect()
}

fn refused(lab: &Lab, why: &str) -> Result<()> {
    let started = lab.guest.try_sh("timeout 90 systemctl start hotadd-agent")?;
    let status = lab.guest.sh("systemctl show -p ExecMainStatus --value hotadd-agent")?;
    let log = lab.journal()?;
    ensure!(started.code != 0, "it serves although {why} is found\n{log}");
    ensure!(status.trim() == "78", "status {status}\n{log}");
    ensure!(log.contains("HA-QUA-001") && log.contains(why), "{why} is not told\n{log}");
    lab.guest.sh("systemctl reset-failed hotadd-agent").map(drop)
}

fn install_exclusions(lab: &Lab) -> Result<()> {
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd/quarantine");
    lab.guest.sh("mkdir -p /etc/mdadm/mdadm.conf.d /etc/multipath/conf.d")?;
    TOOLS.iter().try_for_each(|(from, to)| lab.guest.put(&shipped.join(from), to))?;
    lab.guest.sh("systemctl restart multipathd").map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_agent_opens_a_tempting_disk_and_without_the_rules_everybody_does() -> Result<()> {
    if std::env::var_os("HOTADD_STORAGE_GUEST").is_none() {
        skip("HOTADD_STORAGE_GUEST is not set: run ci/part-quarantine");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let lab = tempting(dir.path())?;

    // The tools are installed, and nobody has told them.
    refused(&lab, "HA-QUA-005")?;
    install_exclusions(&lab)?;
    let (status, report) = selftest(&lab, "")?;
    assert_eq!((status, codes(&report)), (0, vec![]), "{report:#}");

    with_the_rules(&lab).await?;
    without_the_rules(&lab).await?;
    nothing_is_left(&lab).await
}

async fn with_the_rules(lab: &Lab) -> Result<()> {
    let (status, report) = selftest(lab, "--trap scsi-debug")?;
    assert_eq!((status, codes(&report)), (0, vec![]), "{report:#}");
    // It saw what may be seen, and the tools were there.
    assert!(programs(&report).contains(&"blockdev"), "{report:#}");
    assert_eq!(report["trap"]["ran"].as_array().map(Vec::len), Some(4), "{report:#}");

    // The same on a disk that vSphere's way brought, held by a session.
    lab.start_agent()?;
    let mut client = sessions(lab).await?;
    let request = OpenDisksRequest { vm: TARGET.into(), ..OpenDisksRequest::default() };
    let session = match client.open_disks(request).await {
        Ok(session) => session.into_inner(),
        Err(error) => anyhow::bail!(
            "{error}\n{}\n{}",
            lab.journal()?,
            lab.guest.sh("dmesg | tail -n 20; lsblk; ps ax | grep [u]dev")?
        ),
    };
    let find = format!(
        "for d in /sys/block/sd*; do [ $(cat $d/size) = {} ] && basename $d; done",
        image::SIZE_MIB * MIB / 512
    );
    let device = lab.guest.sh(&format!("{find}; true"))?.trim().to_owned();
    assert!(device.starts_with("sd"), "the disk is in the guest: {device:?}");
    let parts = lab.guest.sh(&format!("ls -d /sys/block/{device}/{device}* | wc -l"))?;
    assert_eq!(parts.trim(), "4", "the kernel read the partition table, so there is something to find");
    let (status, report) = selftest(lab, &format!("--disk /dev/{device}"))?;
    assert_eq!((status, codes(&report)), (0, vec![]), "{report:#}");
    assert_eq!(report["trap"]["disk"], device.as_str());
    client.close_disks(CloseDisksRequest { session_id: session.session_id }).await?;

    let out = lab.dir.join("out");
    let run = backup(lab, &out, &[])?;
    assert_eq!(run.code, 0, "{}\n{}", run.stderr, lab.journal()?);
    assert_eq!(images_equal_sources(lab, &out)?, 1);
    nothing_is_left(lab).await
}

/// The control: this very system opens such a disk when it is not told to leave it alone.
async fn without_the_rules(lab: &Lab) -> Result<()> {
    lab.guest.sh("systemctl stop hotadd-agent")?;
    let files: Vec<&str> = TOOLS.iter().map(|(_, to)| *to).collect();
    lab.guest
        .sh(&format!("rm {RULES} {} && udevadm control --reload && systemctl restart multipathd", files.join(" ")))?;
    let (status, report) = selftest(lab, "--trap scsi-debug")?;
    assert_eq!(status, 1, "{report:#}");
    assert_eq!(report["passed"], false);
    for code in ["HA-QUA-002", "HA-QUA-004", "HA-QUA-005", "HA-QUA-006"] {
        assert!(codes(&report).contains(&code), "{code} is missing in {report:#}");
    }
    // udev's own look at contents, LVM and mdadm, each by its program.
    for program in ["udevadm", "lvm", "mdadm"] {
        assert!(programs(&report).contains(&program), "{program} did not open it: {report:#}");
    }
    let told = report["findings"].to_string();
    for trace in ["by-uuid", "by-label", "held by", "not in quarantine", "writable", "pid "] {
        assert!(told.contains(trace), "{trace} is not told in {report:#}");
    }
    assert_eq!(lab.guest.try_sh("grep -c ^scsi_debug /proc/modules")?.stdout.trim(), "0", "the trap is gone");
    refused(lab, "HA-QUA-002")?;
    lab.configure(lab.vcenter.port(), "quarantine.on_failure = 'warn'")?;
    lab.start_agent()?;
    ensure!(lab.journal()?.contains("HA-QUA-002"), "it serves and does not warn\n{}", lab.journal()?);
    Ok(())
}
