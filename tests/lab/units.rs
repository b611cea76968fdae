//! The units under a real systemd: whoever ends the agent, in whatever way, nothing stays attached. One machine that starts three times.
//!
//! ```text
//! boot 1  units are read without a complaint; secrets are root's alone; a frozen agent is killed by the watchdog; a stop detaches
//!         an agent dies and nobody settles ▶ orderly reboot: hotadd-reap settles while the machine goes down
//! boot 2  nothing is left for hotadd-reap ▶ reset in the middle of a read
//! boot 3  hotadd-reap settles, the agent is disabled ▶ the agent, an open session ▶ poweroff: detached before the machine is gone
//! ```
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hotadd_api::v1::{OpenDisksRequest, ReadDiskRequest, ReadDiskResponse};
use hotadd_harness::{
    Lab, Spec,
    process::wait_for,
    scene::{PASSWORD, TARGET},
};
use serde_json::json;
use tonic::Streaming;

use crate::support::{
    MIB, contents, first_frame, lab, nothing_is_attached, nothing_is_left, path_of, sessions, start_job,
};

/// The watchdog's time, ExecStopPost, RestartSec and a start on an emulated CPU.
const RESTART: Duration = Duration::from_secs(180);
/// A stop or a shutdown that detaches.
const DOWN: Duration = Duration::from_secs(180);
/// For the wait of one test only; the unit's own time is asserted.
const SHORT_WATCHDOG: &str = "[Service]\\nWatchdogSec=30s\\n";
/// The network goes when those who need it have stopped, as on a real proxy.
const NETWORK_GOES: &str =
    "[Unit]\\nConflicts=shutdown.target\\nBefore=shutdown.target\\n[Service]\\nExecStop=ip link set eth0 down\\n";
/// Of the password, a part that no escaping changes.
const SECRET: &str = "with blanks, ";
const AGENT: &str = "hotadd-agent.service";

/// The product's own wait: on a busy host the emulated machine takes its time to set a disk read-only.
fn patient(spec: &mut Spec) {
    spec.set("deadlines", "discover_seconds", 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_attached_however_systemd_ends_the_agent() -> Result<()> {
    let Some((_dir, mut lab)) = lab(&contents(2, 64 * MIB), patient, &["--reboot"])? else { return Ok(()) };
    for n in 0..2 {
        let slow = json!({"cmd": "disk_fault", "path": path_of(&lab, n).await?, "bps": 2 * MIB});
        lab.control().await?.call(slow).await?;
    }
    drop_in(&lab, "lab-net.service", NETWORK_GOES)?;
    units_are_read_without_a_complaint(&lab)?;
    secrets_are_roots_alone(&lab).await?;
    a_reload_reads_the_certificates_again(&lab)?;
    a_frozen_agent_is_killed(&lab).await?;
    a_stop_detaches(&lab).await?;
    a_shutdown_settles_what_nobody_did(&mut lab).await?;
    a_boot_settles_though_the_agent_is_disabled(&mut lab).await?;
    a_poweroff_detaches_first(&mut lab).await
}

fn units_are_read_without_a_complaint(lab: &Lab) -> Result<()> {
    lab.guest.sh("systemctl daemon-reload")?;
    let said = lab
        .guest
        .sh("journalctl --no-pager -o cat _PID=1 | grep -E 'hotadd-(agent|reap)\\.service(\\.d)?[/:]' || true")?;
    let complaint =
        |line: &&str| ["Unknown", "Failed to parse", "ignoring", "Invalid"].iter().any(|w| line.contains(w));
    let complaints: Vec<&str> = said.lines().filter(complaint).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let loaded = show(lab, AGENT, "WatchdogUSec,TimeoutAbortUSec,ProtectClock,DropInPaths")?;
    for expected in ["WatchdogUSec=3min", "TimeoutAbortUSec=30s", "ProtectClock=yes", "50-newer.conf"] {
        assert!(loaded.contains(expected), "{expected} is not in {loaded}");
    }
    // The look at the journal would see a complaint.
    drop_in(lab, AGENT, "[Service]\\nNoSuchDirective=yes\\n")?;
    lab.guest.sh("journalctl --no-pager -o cat _PID=1 | grep -q 'hotadd-agent.service.d/lab.conf:.*Unknown'")?;
    no_drop_in(lab, AGENT)
}

/// A job runs meanwhile: secrets are in use.
async fn secrets_are_roots_alone(lab: &Lab) -> Result<()> {
    let mut stream = start_job(lab, false).await?;
    first_frame(&mut stream).await?;
    let pid = main_pid(lab)?;
    // Of the lab's nobody, a plain user: what must be refused, and what shows that the look works.
    let nobody = |script: &str| {
        lab.guest.try_sh(&format!("setpriv --reuid=65534 --regid=65534 --clear-groups sh -c '{script}'"))
    };
    for refused in [
        "cat /etc/hotadd/vc-password".to_owned(),
        "cat /etc/hotadd/server.key".to_owned(),
        "ls /var/lib/hotadd".to_owned(),
        "ls /run/hotadd".to_owned(),
        format!("cat /proc/{pid}/environ"),
        format!("ls /proc/{pid}/fd/"),
        format!("cat /proc/{pid}/maps"),
        "journalctl -q -n 1 -u hotadd-agent | grep .".to_owned(),
    ] {
        let run = nobody(&refused)?;
        assert_ne!(run.code, 0, "nobody may `{refused}`: {}", run.stdout);
        assert_eq!(run.stdout, "", "{refused}");
    }
    assert_eq!(nobody(&format!("cat /proc/{pid}/comm"))?.stdout.trim(), "hotadd-agent");
    let command = nobody(&format!("tr \"\\0\" \" \" </proc/{pid}/cmdline"))?.stdout;
    assert!(command.contains("serve --config") && !command.contains(SECRET), "{command}");
    assert!(PASSWORD.contains(SECRET));
    // Not even root finds it where it has no business.
    let told = lab.guest.sh(&format!("cat /proc/{pid}/environ; journalctl --no-pager -o export"))?;
    assert!(told.contains("WATCHDOG_USEC=") && !told.contains(SECRET), "the password is in environment or log");
    drop(stream);
    settled(lab).await
}

fn a_reload_reads_the_certificates_again(lab: &Lab) -> Result<()> {
    let count = || lab.guest.sh("journalctl -q -u hotadd-agent -o cat | grep -c 'were read again' || true");
    let before = count()?;
    let pid = main_pid(lab)?;
    lab.guest.sh(&format!("systemctl reload {AGENT}"))?;
    wait_for("the certificates", RESTART, || Ok((count()? != before).then_some(())))?;
    assert_eq!(main_pid(lab)?, pid, "it was restarted");
    Ok(())
}

async fn a_frozen_agent_is_killed(lab: &Lab) -> Result<()> {
    lab.guest.sh(&format!("systemctl stop {AGENT}"))?;
    drop_in(lab, AGENT, SHORT_WATCHDOG)?;
    lab.start_agent()?;
    let mut stream = start_job(lab, false).await?;
    first_frame(&mut stream).await?;
    assert_eq!(lab.left_attached().await?.len(), 2);
    let pid = main_pid(lab)?;
    lab.guest.sh(&format!("systemctl kill -s STOP --kill-who=main {AGENT}"))?;
    wait_for("the restarted service", RESTART, || {
        let now = show(lab, AGENT, "MainPID,ActiveState,NRestarts")?;
        Ok((now.contains("ActiveState=active") && !now.contains(&format!("MainPID={pid}\n"))).then_some(()))
    })
    .with_context(|| lab.journal().unwrap_or_default())?;
    lab.guest.sh("journalctl -u hotadd-agent --no-pager | grep -q 'Watchdog timeout'")?;
    let told = lab.guest.sh("journalctl -u hotadd-agent -o json | grep 'settling what an earlier run left'")?;
    assert!(told.contains("hotadd-agent reap") && !told.contains("hotadd-agent serve"), "ExecStopPost settles\n{told}");
    nothing_is_left(lab).await?;
    no_drop_in(lab, AGENT)?;
    // It serves again, by the unit as it is.
    lab.guest.sh(&format!("systemctl restart {AGENT}"))?;
    let mut stream = start_job(lab, false).await?;
    first_frame(&mut stream).await?;
    drop(stream);
    settled(lab).await
}

async fn a_stop_detaches(lab: &Lab) -> Result<()> {
    let _stream = reading_session(lab).await?;
    lab.guest.sh(&format!("systemctl stop {AGENT}"))?;
    assert!(lab.left_attached().await?.is_empty(), "attached after the stop\n{}", lab.journal()?);
    let ended = show(lab, AGENT, "ActiveState,Result,ExecMainStatus")?;
    assert!(
        ["ActiveState=inactive", "Result=success", "ExecMainStatus=0"].iter().all(|e| ended.contains(e)),
        "{ended}"
    );
    nothing_is_left(lab).await
}

async fn a_shutdown_settles_what_nobody_did(lab: &mut Lab) -> Result<()> {
    drop_in(lab, AGENT, "[Service]\\nExecStopPost=\\nRestart=no\\n")?;
    lab.start_agent()?;
    let _stream = reading_session(lab).await?;
    lab.guest.sh(&format!("systemctl kill -s KILL --kill-who=main {AGENT}"))?;
    wait_for("the end of the service", RESTART, || {
        Ok((lab.guest.try_sh(&format!("systemctl is-failed {AGENT}"))?.code == 0).then_some(()))
    })?;
    assert_eq!(lab.left_attached().await?.len(), 2, "nobody settled yet");
    no_drop_in(lab, AGENT)?;
    lab.guest.go_down("reboot")?;
    lab.guest.wait_ready()?;
    assert_eq!(show(lab, AGENT, "ActiveState")?.trim(), "ActiveState=inactive", "the agent is not enabled");
    reap_is_done(lab)?;
    let log = reap_log(lab)?;
    assert!(!log.contains("settling"), "left for the next boot\n{log}");
    nothing_is_attached(lab).await
}

async fn a_boot_settles_though_the_agent_is_disabled(lab: &mut Lab) -> Result<()> {
    lab.start_agent()?;
    let mut stream = start_job(lab, false).await?;
    first_frame(&mut stream).await?;
    lab.guest.reboot()?;
    assert_eq!(lab.left_attached().await?.len(), 2, "a reset detaches nothing");
    lab.guest.wait_ready()?;
    reap_is_done(lab)?;
    let log = reap_log(lab)?;
    assert!(log.contains("settling what an earlier run left"), "{log}");
    assert_eq!(show(lab, AGENT, "ActiveState")?.trim(), "ActiveState=inactive");
    nothing_is_attached(lab).await
}

async fn a_poweroff_detaches_first(lab: &mut Lab) -> Result<()> {
    drop_in(lab, "lab-net.service", NETWORK_GOES)?;
    lab.start_agent()?;
    let _stream = reading_session(lab).await?;
    lab.guest.go_down("poweroff")?;
    lab.guest.wait_off(DOWN)?;
    assert!(lab.left_attached().await?.is_empty(), "the machine is gone and its disks are not");
    ensure!(lab.snapshots().await?.is_empty(), "a snapshot is left");
    Ok(())
}

/// Two disks open, one being read.
async fn reading_session(lab: &Lab) -> Result<Streaming<ReadDiskResponse>> {
    let mut client = sessions(lab).await?;
    let request = OpenDisksRequest { vm: TARGET.into(), ..OpenDisksRequest::default() };
    let session_id = client.open_disks(request).await?.into_inner().session_id;
    let read = ReadDiskRequest { session_id, device_key: 2000, ..ReadDiskRequest::default() };
    let mut stream = client.read_disk(read).await?.into_inner();
    stream.message().await?.context("the read ended before a frame")?;
    assert_eq!(lab.left_attached().await?.len(), 2);
    Ok(stream)
}

async fn settled(lab: &Lab) -> Result<()> {
    wait_for("the end of all duties", RESTART, || {
        Ok((lab.guest.try_sh("hotadd-agent journal open")?.code == 0).then_some(()))
    })?;
    nothing_is_attached(lab).await
}

fn reap_is_done(lab: &Lab) -> Result<()> {
    wait_for("hotadd-reap", RESTART, || {
        Ok(show(lab, "hotadd-reap.service", "SubState")?.contains("=exited").then_some(()))
    })
    .with_context(|| reap_log(lab).unwrap_or_default())
}

fn reap_log(lab: &Lab) -> Result<String> {
    lab.guest.sh("journalctl -u hotadd-reap --no-pager -o short-monotonic")
}

fn main_pid(lab: &Lab) -> Result<String> {
    let shown = show(lab, AGENT, "MainPID")?;
    Ok(shown.trim().strip_prefix("MainPID=").context("no main process")?.to_owned())
}

fn show(lab: &Lab, unit: &str, properties: &str) -> Result<String> {
    lab.guest.sh(&format!("systemctl show -p {properties} {unit}"))
}

fn drop_in(lab: &Lab, unit: &str, text: &str) -> Result<()> {
    let dir = format!("/run/systemd/system/{unit}.d");
    lab.guest.sh(&format!("mkdir -p {dir} && printf '{text}' > {dir}/lab.conf && systemctl daemon-reload")).map(drop)
}

fn no_drop_in(lab: &Lab, unit: &str) -> Result<()> {
    lab.guest.sh(&format!("rm -r /run/systemd/system/{unit}.d && systemctl daemon-reload")).map(drop)
}
