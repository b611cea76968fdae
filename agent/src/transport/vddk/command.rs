//! The command line of nbdkit, its environment, and what may go into them. Pure.
//!
//! Source of every key: nbdkit-vddk-plugin(1) of nbdkit 1.32 to 1.42, and the plug-in's source where the page is silent.
use std::{ffi::OsString, path::Path, process::Command};

use secrecy::{ExposeSecret as _, SecretString};

use super::{DiskSpec, VddkSettings, thumbprint::is_thumbprint};
use crate::{
    error::{Error, Result},
    hypervisor::views::Build,
    reason,
};

/// Where the child finds its password. nbdkit refuses 0 to 2.
pub(super) const PASSWORD_FD: i32 = 3;
/// Above what any directory takes, below what a pipe holds without a reader.
const PASSWORD_MOST: usize = 2048;
/// Files of which one must be there (VDDK 6.5 to 9; the number is the major version).
const LIBRARY: &str = "libvixDiskLib.so";

/// What can be told before anything is started.
pub(super) fn check(settings: &VddkSettings, spec: &DiskSpec, password: &SecretString) -> Result<()> {
    if let Some(why) = settings.session_fault() {
        return Err(Error::new(&reason::VDK_MEMORY, why));
    }
    library(settings)?;
    let refuse = |what: &str| Err(Error::new(&reason::VDK_VALUE, what.to_owned()));
    let (port, secret) = (spec.port.unwrap_or(443), password.expose_secret());
    let values =
        [spec.vm.as_str(), spec.snapshot.as_str(), spec.file.as_str(), &spec.server, &spec.user, &spec.thumbprint];
    if values.iter().any(|value| value.is_empty() || value.chars().any(char::is_control)) || port == 0 {
        return refuse("VM, snapshot, file, server, user or thumbprint is empty or has a control character");
    }
    if !is_thumbprint(&spec.thumbprint) {
        return refuse("the thumbprint is not 20 pairs of hexadecimal digits");
    }
    // nbdkit reads one line, and C ends it at a NUL: VDDK would log in with a part of it, and vCenter would lock the account.
    if secret.is_empty() || secret.contains(['\n', '\0']) || secret.len() > PASSWORD_MOST {
        return refuse("the password is empty, too long, or has a line end or a NUL");
    }
    Ok(())
}

/// With the library's folder as it really is: the plug-in compares resolved paths.
pub(super) fn resolved(mut settings: VddkSettings) -> VddkSettings {
    settings.libdir = std::fs::canonicalize(&settings.libdir).unwrap_or(settings.libdir);
    settings
}

/// The library's release, as far as a file name tells it (`libvixDiskLib.so.8.0.2`).
pub(super) fn library(settings: &VddkSettings) -> Result<Option<Build>> {
    let libdir = &settings.libdir;
    let entries = ["lib64", "."].iter().filter_map(|folder| std::fs::read_dir(libdir.join(folder)).ok());
    let names = entries.flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let found: Vec<String> = names.filter(|name| name.starts_with(LIBRARY)).collect();
    if found.is_empty() {
        return Err(Error::new(&reason::VDK_LIBRARY, format!("no lib64/{LIBRARY}.* in {}", libdir.display())));
    }
    let release = |name: &String| Build::parse(name.strip_prefix(LIBRARY)?.strip_prefix('.')?, "0");
    Ok(found.iter().filter_map(release).max())
}

/// Arguments after the program's name. Options and filters come before the plug-in, its keys after it.
pub(super) fn arguments(settings: &VddkSettings, spec: &DiskSpec, socket: &Path, config: &Path) -> Vec<OsString> {
    // In the foreground, or it would not be our child; SIGTERM when the thread that started it ends.
    let mut all: Vec<OsString> = vec!["-f".into(), "--exit-with-parent".into(), "-U".into(), socket.into()];
    all.push("--readonly".into());
    if !settings.extents {
        // VDDK's guide: QueryAllocatedBlocks must be called in the thread that opened the disk. nbdkit's plug-in asks from another.
        all.push("--filter=noextents".into());
    }
    all.push("vddk".into());
    let key = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        let mut argument = OsString::from(name);
        argument.push("=");
        argument.push(value.as_ref());
        argument
    };
    all.push(key("libdir", &settings.libdir));
    all.push(key("server", &spec.server));
    if let Some(port) = spec.port.filter(|port| *port != 443) {
        all.push(key("port", &port.to_string()));
    }
    all.push(key("user", &spec.user));
    all.push(key("thumbprint", &spec.thumbprint));
    all.push(key("vm", &format!("moref={}", spec.vm)));
    all.push(key("snapshot", &spec.snapshot.as_str()));
    // Bare `nbd` leaves the data in clear text after the login (VDDK's guide, NBD transport).
    all.push(key("transports", &"nbdssl"));
    all.push(key("compression", &settings.compression.as_str()));
    all.push(key("config", &config));
    all.push(key("password", &format!("-{PASSWORD_FD}")));
    all.push(key("file", &spec.file.as_str()));
    all
}

/// The child without arguments: an environment of its own, so that nothing of ours is in it.
///
/// `LD_LIBRARY_PATH` must name VDDK's folder, or the plug-in sets it and executes itself anew, and hands the password over
/// in a file in /tmp (unlinked, but on a disk). It looks for the resolved path, which `libdir` is by now.
pub(super) fn program(settings: &VddkSettings) -> Command {
    let mut command = Command::new(&settings.nbdkit_program);
    let mut libraries = settings.libdir.join("lib64").into_os_string();
    libraries.push(":");
    libraries.push(&settings.libdir);
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    command.env_clear().env("PATH", path).env("LANG", "C.UTF-8").env("LD_LIBRARY_PATH", libraries);
    // VDDK writes logs and lock files where these point.
    command.env("HOME", &settings.tmp_dir).env("TMPDIR", &settings.tmp_dir);
    command
}

/// VDDK's configuration file (Virtual Disk Programming Guide, VixDiskLib_InitEx). `product` and `version` tell VMware who
/// calls, as its terms ask for.
pub(super) fn config_file(settings: &VddkSettings, product: &str, version: &str) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "tmpDirectory=\"{}\"\nvixDiskLib.nfcAio.Session.BufSizeIn64KB={}\nvixDiskLib.nfcAio.Session.BufCount={}\n",
        settings.tmp_dir.display(),
        settings.nfc_buffer_64k,
        settings.nfc_buffers,
    );
    for (key, value) in [("ProductName", product), ("ProductVersion", version)] {
        // Letters, digits, `_`, `-`, `.` and blanks: with another character VDDK's initialisation fails (its release notes).
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
        if !value.is_empty() && value.chars().all(legal) {
            // Writing to a String can't fail.
            _ = writeln!(text, "vixDiskLib.phoneHome.{key}=\"{value}\"");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{BackingPath, Moref};

    fn spec() -> DiskSpec {
        DiskSpec {
            vm: Moref::new("vm-16"),
            snapshot: Moref::new("snapshot-17"),
            file: BackingPath::new("[ds 1] a=b/ü 'x'.vmdk"),
            server: "vcenter.example".into(),
            port: None,
            user: "DOMAIN\\back up".into(),
            thumbprint: super::super::thumbprint_of(b"der"),
            session: "s".into(),
        }
    }

    fn words(settings: &VddkSettings, spec: &DiskSpec) -> Vec<String> {
        let all = arguments(settings, spec, Path::new("/run/x/nbd.sock"), Path::new("/run/x/vddk.conf"));
        all.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn the_command_line_word_for_word() {
        let mut settings = VddkSettings::new("/opt/vddk");
        let spec = spec();
        let thumbprint = format!("thumbprint={}", spec.thumbprint);
        let plugin = [
            "vddk",
            "libdir=/opt/vddk",
            "server=vcenter.example",
            "user=DOMAIN\\back up",
            &thumbprint,
            "vm=moref=vm-16",
            "snapshot=snapshot-17",
            "transports=nbdssl",
            "compression=none",
            "config=/run/x/vddk.conf",
            "password=-3",
            "file=[ds 1] a=b/ü 'x'.vmdk",
        ];
        let options = ["-f", "--exit-with-parent", "-U", "/run/x/nbd.sock", "--readonly", "--filter=noextents"];
        assert_eq!(words(&settings, &spec), [&options[..], &plugin[..]].concat());
        settings.extents = true;
        assert_eq!(words(&settings, &spec), [&options[..5], &plugin[..]].concat());
        let elsewhere = words(&settings, &DiskSpec { port: Some(8443), ..spec });
        assert!(elsewhere.contains(&"port=8443".to_owned()), "{elsewhere:?}");
    }

    #[test]
    fn the_config_file_and_only_legal_names_in_it() {
        let mut settings = VddkSettings::new("/opt/vddk");
        settings.nfc_buffers = 8;
        let text = config_file(&settings, "hotadd-proxy", "1.0.0");
        assert_eq!(
            text,
            "tmpDirectory=\"/var/lib/hotadd/vddk\"\nvixDiskLib.nfcAio.Session.BufSizeIn64KB=16\n\
             vixDiskLib.nfcAio.Session.BufCount=8\nvixDiskLib.phoneHome.ProductName=\"hotadd-proxy\"\n\
             vixDiskLib.phoneHome.ProductVersion=\"1.0.0\"\n"
        );
        for wrong in ["", "a\"b", "a/b", "1.0+dev", "ä", "a\nb"] {
            assert_eq!(config_file(&settings, wrong, wrong).lines().count(), 3, "{wrong}");
        }
    }

    #[test]
    fn the_child_gets_an_environment_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("vddk-8.0.3");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("vddk")).unwrap();
        let command = program(&resolved(VddkSettings::new(dir.path().join("vddk"))));
        let library =
            command.get_envs().find(|(key, _)| *key == "LD_LIBRARY_PATH").and_then(|(_, value)| value).unwrap();
        let real = std::fs::canonicalize(&real).unwrap();
        assert!(library.to_str().unwrap().starts_with(&format!("{}/lib64:", real.display())), "{library:?}");
        assert_eq!(command.get_envs().count(), 5);
    }

    #[test]
    fn what_cannot_be_handed_over_is_refused_before_the_start() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lib64")).unwrap();
        let mut settings = VddkSettings::new(dir.path());
        let good = SecretString::from("\"' $ äöü\\\t");
        let code = |settings: &VddkSettings, spec: &DiskSpec, password: &SecretString| {
            check(settings, spec, password).map_or_else(|error| error.reason().code, |()| "good")
        };
        assert_eq!(code(&settings, &spec(), &good), "HA-VDK-001");
        std::fs::write(dir.path().join("lib64/libvixDiskLib.so.8"), "").unwrap();
        assert_eq!(code(&settings, &spec(), &good), "good");
        assert_eq!(library(&settings).unwrap(), None);
        std::fs::write(dir.path().join("lib64/libvixDiskLib.so.8.0.2"), "").unwrap();
        assert_eq!(library(&settings).unwrap(), Some(Build::new([8, 0, 2], 0)));
        for wrong in ["", "a\nb", "a\0", &"x".repeat(3000)] {
            assert_eq!(code(&settings, &spec(), &SecretString::from(wrong)), "HA-VDK-009", "{wrong:?}");
        }
        for wrong in [
            DiskSpec { thumbprint: "ab".into(), ..spec() },
            DiskSpec { user: String::new(), ..spec() },
            DiskSpec { server: "a\nb".into(), ..spec() },
            DiskSpec { file: BackingPath::new("a\0b"), ..spec() },
        ] {
            assert_eq!(code(&settings, &wrong, &good), "HA-VDK-009");
        }
        settings.nfc_buffers = 17;
        assert_eq!(code(&settings, &spec(), &good), "HA-VDK-008");
    }
}
