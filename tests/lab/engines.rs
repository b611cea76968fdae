//! Kernels and sandboxes that refuse io_uring.
use anyhow::Result;

use crate::support::{MIB, backup, contents, images_equal_sources, lab, nothing_is_left};

/// What a kernel without io_uring (EL 8.3, SLES 15 SP1) and a strict sandbox answer.
#[tokio::test(flavor = "multi_thread")]
async fn without_io_uring_linux_aio_reads_the_same_bytes() -> Result<()> {
    let Some((dir, lab)) = lab(&contents(1, 16 * MIB), |_| {}, &[])? else { return Ok(()) };
    for errno in ["ENOSYS", "EPERM"] {
        lab.guest.sh(&format!(
            "mkdir -p /etc/systemd/system/hotadd-agent.service.d && \
             printf '[Service]\\nSystemCallFilter=~io_uring_setup:{errno}\\n' \
             > /etc/systemd/system/hotadd-agent.service.d/refuse.conf && \
             systemctl daemon-reload && systemctl restart hotadd-agent"
        ))?;
        let out = dir.path().join(errno);
        let run = backup(&lab, &out, &[])?;
        assert_eq!(run.code, 0, "{}\n{}", run.stderr, lab.journal()?);
        assert!(run.stdout.contains("linux-aio"), "{}", run.stdout);
        assert!(run.stdout.contains(&format!("({errno})")), "the refusal is told: {}", run.stdout);
        assert_eq!(images_equal_sources(&lab, &out)?, 1);
    }
    nothing_is_left(&lab).await
}
