//! The VM's hardware on its way from vCenter through a job into the manifest and the OVA.
use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use hotadd_harness::{Content, Run, Scene, scene::TARGET};
use serde_json::{Value, json};

use crate::support::{MIB, control, nothing_is_left, scene};

fn efi() -> Result<(tempfile::TempDir, Scene)> {
    scene(&[Content::new(2 * MIB, 1), Content::new(3 * MIB, 2)], |spec| {
        spec.target().efi = true;
        spec.target().extra_config.insert("guestinfo.secret".into(), "hush".into());
    })
}

fn backup(scene: &Scene, out: &Path) -> Result<Run> {
    scene.ctl(&["--json", "backup", "--vm", TARGET, "--out", out.to_str().context("path")?])
}

fn manifest(out: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(out.join("manifest.json"))?)?)
}

/// The descriptor of the OVA that comes of a backup.
fn descriptor(scene: &Scene, dir: &Path, out: &Path) -> Result<String> {
    let (manifest, ova) = (out.join("manifest.json"), dir.join("a.ova"));
    let run = scene.ctl(&["export", manifest.to_str().context("path")?, "--ova", ova.to_str().context("path")?])?;
    ensure!(run.code == 0, "{run:?}");
    let tar = Command::new("tar").arg("-xOf").arg(&ova).args(["--wildcards", "*.ovf"]).output()?;
    ensure!(tar.status.success(), "{tar:?}");
    Ok(String::from_utf8(tar.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_keeps_the_hardware_and_its_ova_has_it() -> Result<()> {
    let (dir, scene) = efi()?;
    let out = dir.path().join("out");
    let run = backup(&scene, &out)?;
    ensure!(run.code == 0, "{run:?}");
    let manifest = manifest(&out)?;
    let expected = json!({
        "cpus": 2, "cores_per_socket": 1, "memory_mib": 2048, "guest_id": "other5xLinux64Guest",
        "firmware": "efi", "secure_boot": true, "nvram": "not included", "hardware_version": "vmx-19",
        "controllers": [{"key": 1000, "kind": "pvscsi", "bus": 0}],
        "disks": [{"device_key": 2000, "controller_key": 1000, "unit": 0},
            {"device_key": 2001, "controller_key": 1000, "unit": 1}],
        "adapters": [{"kind": "VirtualVmxnet3", "network": "VM Network"}],
    });
    assert_eq!(manifest["vm_config"], expected);
    let text = manifest.to_string();
    ensure!(!text.contains("hush") && !text.contains("guestinfo") && !text.contains(".vmx\""), "{text}");

    let ovf = descriptor(&scene, dir.path(), &out)?;
    for told in [
        "vmw:osType=\"other5xLinux64Guest\"",
        "<vssd:VirtualSystemType>vmx-19</vssd:VirtualSystemType>",
        "<rasd:VirtualQuantity>2</rasd:VirtualQuantity>",
        "<rasd:VirtualQuantity>2048</rasd:VirtualQuantity>",
        "vmw:key=\"firmware\" vmw:value=\"efi\"",
        "<rasd:AddressOnParent>1</rasd:AddressOnParent>",
    ] {
        ensure!(ovf.contains(told), "{told} is not in {ovf}");
    }
    nothing_is_left(&scene).await
}

/// The disks matter more than their description.
#[tokio::test(flavor = "multi_thread")]
async fn hardware_that_is_not_shown_costs_no_backup_and_is_said() -> Result<()> {
    let (dir, scene) = efi()?;
    control(&scene, json!({"cmd": "deny_properties", "paths": ["config.hardware.numCPU"]})).await?;
    let out = dir.path().join("out");
    let run = backup(&scene, &out)?;
    ensure!(run.code == 0, "{run:?}");
    assert_eq!(manifest(&out)?["vm_config"], Value::Null);
    let told = format!("{run:?}");
    ensure!(told.contains("the manifest will not tell the VM's hardware: HA-VC-004"), "{told}");
    ensure!(descriptor(&scene, dir.path(), &out)?.contains("<rasd:VirtualQuantity>1024</rasd:VirtualQuantity>"));
    nothing_is_left(&scene).await
}
