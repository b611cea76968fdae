//! The agent dies while it reads.
use std::time::Duration;

use anyhow::Result;
use hotadd_harness::process::wait_for;
use serde_json::json;

use crate::support::{MIB, contents, first_frame, lab, nothing_is_left, path_of, start_job};

/// RestartSec, ExecStopPost and a start on an emulated CPU.
const RESTART: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn after_sigkill_nothing_is_attached_before_the_port_opens_again() -> Result<()> {
    let Some((_dir, lab)) = lab(&contents(3, 64 * MIB), |_| {}, &[])? else { return Ok(()) };
    for n in 0..3 {
        let slow = json!({"cmd": "disk_fault", "path": path_of(&lab, n).await?, "bps": 4 * MIB});
        lab.control().await?.call(slow).await?;
    }
    // First with everything that the unit brings: ExecStopPost and Restart. Then without, so that the start itself settles.
    for alone in [false, true] {
        if alone {
            lab.guest.sh(
                "mkdir -p /etc/systemd/system/hotadd-agent.service.d && \
                 printf '[Service]\\nExecStopPost=\\nRestart=no\\n' > /etc/systemd/system/hotadd-agent.service.d/alone.conf && \
                 systemctl daemon-reload",
            )?;
        }
        let mut stream = start_job(&lab, false).await?;
        first_frame(&mut stream).await?;
        assert_eq!(lab.left_attached().await?.len(), 3);
        let pid = lab.guest.sh("systemctl show -p MainPID --value hotadd-agent")?.trim().to_owned();
        lab.guest.sh("systemctl kill -s KILL --kill-who=main hotadd-agent")?;
        if alone {
            wait_for("the end of the service", RESTART, || {
                Ok((lab.guest.try_sh("systemctl is-failed hotadd-agent")?.code == 0).then_some(()))
            })?;
            assert_eq!(lab.left_attached().await?.len(), 3, "nobody settled yet");
            lab.start_agent()?;
        } else {
            wait_for("the restarted service", RESTART, || {
                let now = lab.guest.sh("systemctl show -p MainPID,ActiveState --value hotadd-agent")?;
                let fields: Vec<&str> = now.split_whitespace().collect();
                Ok((fields.contains(&"active") && !fields.contains(&pid.as_str())).then_some(()))
            })?;
        }
        assert!(lab.left_attached().await?.is_empty(), "attached while serving\n{}", lab.journal()?);
        nothing_is_left(&lab).await?;
    }
    Ok(())
}
