//! The double is strict: what the real plug-in would refuse, misread or carry out in clear text does not pass it.

use std::process::{Command, Stdio};

use hotadd_harness::binary;

/// What the agent says, up to the library's folder and the password.
const GOOD: [&str; 18] = [
    "-f",
    "--exit-with-parent",
    "-U",
    "/s",
    "--readonly",
    "--filter=noextents",
    "vddk",
    "libdir=/none",
    "server=s",
    "user=u",
    "thumbprint=t",
    "vm=moref=vm-1",
    "snapshot=snapshot-1",
    "transports=nbdssl",
    "compression=none",
    "config=/c",
    "password=-3",
    "file=f",
];

fn said(arguments: &[&str]) -> String {
    let mut command = Command::new(binary("hotadd-vddk-double").unwrap());
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_is_wrong_on_the_command_line_ends_it() {
    assert!(said(&GOOD).contains("libvixDiskLib"), "good up to the library: {}", said(&GOOD));
    for (old, new, expected) in [
        ("--readonly", "--tls=off", "unrecognized"),
        ("-f", "-v", "unrecognized"),
        ("--filter=noextents", "--filter=cache", "unrecognized"),
        ("server=s", "--filter=noextents", "after the plug-in"),
        ("server=s", "create=true", "unknown parameter 'create'"),
        ("server=s", "user=v", "given twice"),
        ("thumbprint=t", "port=1", "missing parameter: thumbprint"),
        ("transports=nbdssl", "transports=nbd", "transports"),
        ("transports=nbdssl", "transports=nbdssl:nbd", "transports"),
        ("vm=moref=vm-1", "vm=web", "moref"),
        ("compression=none", "compression=lzma", "compression"),
    ] {
        let changed = GOOD.map(|word| if word == old { new } else { word });
        assert!(said(&changed).contains(expected), "{new}: {}", said(&changed));
    }
}

#[test]
fn a_password_comes_by_descriptor_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("double.json"), "{}").unwrap();
    let libdir = format!("libdir={}", dir.path().display());
    for (password, expected) in [
        ("password=x", "on the command line"),
        ("password=+/f", "in a file"),
        ("password=-", "on the command line"),
        ("password=-0", "stdin/stdout/stderr"),
        ("password=-99", "descriptor"),
    ] {
        let words = GOOD.map(|word| match word {
            "libdir=/none" => libdir.as_str(),
            "password=-3" => password,
            same => same,
        });
        assert!(said(&words).contains(expected), "{password}: {}", said(&words));
    }
}
