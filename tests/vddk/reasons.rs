//! Each way not to start or not to open has its reason, with what nbdkit said last, and leaves nothing.

use std::{fs, time::Duration};

use hotadd_agent::{error::Error, id::Moref, transport::vddk::thumbprint_of};
use secrecy::SecretString;
use serde_json::json;

use super::lab::{Lab, entries, open};

async fn refused(lab: &Lab, code: &str, part: &str) {
    let error = lab.start().await.expect_err(code);
    assert_eq!(error.reason().code, code, "{error}");
    assert!(error.message().contains(part), "{error}");
    assert_eq!(entries(&lab.runtime), [""; 0]);
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let mut lab = Lab::new().await;
    let (libdir, double) = (lab.settings.libdir.clone(), lab.settings.nbdkit_program.clone());
    lab.settings.libdir = libdir.join("none");
    refused(&lab, "HA-VDK-001", "none").await;
    lab.settings.libdir = libdir;
    lab.settings.nbdkit_program = "/nowhere/nbdkit".into();
    refused(&lab, "HA-VDK-002", "/nowhere/nbdkit").await;
    let plugin = "/usr/lib/x86_64-linux-gnu/nbdkit/plugins/nbdkit-vddk-plugin.so";
    if !fs::exists(plugin).unwrap() {
        lab.settings.nbdkit_program = "nbdkit".into();
        refused(&lab, "HA-VDK-003", "cannot open plugin 'vddk'").await;
    }
    lab.settings.nbdkit_program = double;
    lab.cue(json!({"say": ["one", "two"], "exit": "VixDiskLib_InitEx: licence"}));
    refused(&lab, "HA-VDK-004", "exit status: 1); nbdkit: error: VixDiskLib_InitEx: licence").await;
    lab.cue(json!({"exit": "lib64/libvixDiskLib.so.8: wrong ELF class"}));
    refused(&lab, "HA-VDK-001", "wrong ELF class").await;
    lab.settings.start_deadline = Duration::from_millis(300);
    lab.cue(json!({"hang": true, "say": ["loading"]}));
    refused(&lab, "HA-VDK-005", "loading").await;
    lab.settings.nfc_buffers = 17;
    refused(&lab, "HA-VDK-008", "16777216").await;
    lab.end().await;
}

#[tokio::test]
async fn what_vcenter_refuses_is_met_by_the_client() {
    let lab = Lab::new().await;
    let good = lab.spec.clone();
    let mut wrong = vec![(good.clone(), "Insufficient permissions"); 5];
    wrong[0].0.user = "somebody".into();
    wrong[1] = (good.clone(), "Unknown error");
    wrong[1].0.thumbprint = thumbprint_of(b"another");
    wrong[2] = (good.clone(), "not found");
    wrong[2].0.snapshot = Moref::new("snapshot-999");
    wrong[3] = (good.clone(), "not found");
    wrong[3].0.vm = Moref::new("vm-999");
    for (n, (spec, said)) in wrong.into_iter().enumerate() {
        let password = SecretString::from(if n == 4 { "other" } else { super::lab::PASSWORD });
        let running =
            hotadd_agent::transport::vddk::start(&lab.settings, spec, &password, &lab.runtime, None).await.unwrap();
        let cause = open(&running.socket).await.expect_err(said);
        super::lab::until("VDDK's text", || running.open_refused(0, &cause).message().contains(said)).await;
        let error: Error = running.open_refused(0, cause);
        assert_eq!(error.reason().code, "HA-VDK-007", "{error}");
        assert!(running.alive());
        running.stop().await;
    }
    lab.end().await;
}
