//! A double of nbdkit with its vddk plug-in and VDDK behind it, for tests without VMware's library: it is set as `nbdkit_program`.
//!
//! It takes exactly the command line that we mean to give, and refuses the rest in nbdkit's words and with its exit status;
//! reads the password from its descriptor; checks VDDK's configuration file; asks the simulated vCenter whether all is true
//! (`vddk_open`); then it *becomes* the real nbdkit, with the file plug-in over a raw copy of the snapshot's disk. As with VDDK, what vCenter refuses
//! is met by the NBD client only.
//!
//! Where the simulator is stands in `double.json` in the library's folder: `control` (its socket), and cues: `say` (lines
//! for standard error), `exit` (a last line, then status 1), `hang` (never serves), `refuse` (VDDK can't open the disk),
//! `linger` (seconds from SIGTERM to its end).
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{ffi::OsStrExt as _, net::UnixStream, process::CommandExt as _},
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

/// Keys of the plug-in that we use (nbdkit-vddk-plugin(1)); all of them but `port` are needed.
const KEYS: [&str; 12] = [
    "libdir",
    "server",
    "port",
    "user",
    "thumbprint",
    "vm",
    "snapshot",
    "transports",
    "compression",
    "config",
    "password",
    "file",
];

fn main() -> ExitCode {
    match run() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("nbdkit: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The command line in parts.
struct Line {
    /// What nbdkit itself gets, the socket included.
    options: Vec<String>,
    keys: BTreeMap<String, String>,
}

impl Line {
    fn key(&self, name: &str) -> &str {
        self.keys.get(name).map_or("", String::as_str)
    }
}

fn run() -> Result<std::convert::Infallible> {
    let all: Vec<String> = std::env::args().skip(1).collect();
    let line = parse(&all)?;
    let libdir = Path::new(line.key("libdir"));
    let double: Value = serde_json::from_str(
        &fs::read_to_string(libdir.join("double.json")).context("libvixDiskLib.so.8: cannot open")?,
    )?;
    let password = password(line.key("password"))?;
    library_path(libdir)?;
    config_file(Path::new(line.key("config")))?;
    for said in double["say"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("{said}");
    }
    if let Some(last) = double["exit"].as_str() {
        bail!("{last}");
    }
    if double["hang"] == true {
        loop {
            std::thread::park();
        }
    }
    let flat = libdir.join(format!("flat-{}", std::process::id()));
    let answer =
        ask(Path::new(double["control"].as_str().context("double.json: no control")?), &line, &password, &flat)?;
    let mut nbdkit = Command::new("nbdkit");
    nbdkit.args(&line.options);
    // Tells whether each disk that was opened was closed.
    nbdkit.arg("--filter=log");
    let refused = double["refuse"].as_str().or_else(|| answer["error"].as_str().filter(|_| answer["ok"] != true));
    if let Some(why) = refused {
        let script = format!("echo 'EIO {}' >&2; exit 1", why.replace('\'', ""));
        nbdkit.args(["eval".to_owned(), format!("open={script}"), "get_size=echo 0".to_owned()]);
        nbdkit.arg("logfile=/dev/null");
        return Err(nbdkit.exec().into());
    }
    // Stays where it is, for the test's folder to take along: nbdkit resolves the name, so an unlinked file can't be served.
    nbdkit.arg("file").arg(format!("file={}", flat.display()));
    nbdkit.arg(format!("logfile={}", libdir.join("connections.log").display())).arg("logappend=true");
    match double["linger"].as_f64() {
        None => Err(nbdkit.exec().into()),
        Some(seconds) => Err(lingering(&nbdkit, seconds).exec().into()),
    }
}

/// The same under a shell that is in no hurry when it is told to end.
fn lingering(nbdkit: &Command, seconds: f64) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"wait=$1; shift; trap 'sleep "$wait"; exit 0' TERM; "$@" & wait"#, "sh"]);
    shell.arg(seconds.to_string()).arg(nbdkit.get_program()).args(nbdkit.get_args());
    shell
}

fn parse(all: &[String]) -> Result<Line> {
    let words: Vec<&str> = all.iter().map(String::as_str).collect();
    let at = words.iter().position(|word| *word == "vddk").context("no plug-in")?;
    let (options, keys) = (&words[..at], &words[at + 1..]);
    let filters = match options {
        ["-f", "--exit-with-parent", "-U", socket, "--readonly", filters @ ..] if !socket.starts_with('-') => filters,
        _ => bail!("unrecognized options {options:?}"),
    };
    ensure!(filters.is_empty() || filters == ["--filter=noextents"], "unrecognized options {filters:?}");
    let mut parsed = BTreeMap::new();
    for word in keys {
        ensure!(!word.starts_with('-'), "option '{word}' after the plug-in");
        let (key, value) = word.split_once('=').with_context(|| format!("expecting key=value: {word}"))?;
        ensure!(KEYS.contains(&key), "unknown parameter '{key}'");
        ensure!(parsed.insert(key.to_owned(), value.to_owned()).is_none(), "'{key}' is given twice");
    }
    let line = Line { options: all[..at].to_vec(), keys: parsed };
    for key in KEYS.iter().filter(|key| **key != "port") {
        ensure!(!line.key(key).is_empty(), "remote connection requested, missing parameter: {key}");
    }
    ensure!(
        line.key("transports") == "nbdssl",
        "transports={}: not encrypted, or not over the network",
        line.key("transports")
    );
    ensure!(line.key("vm").starts_with("moref="), "vm={}: not a moref", line.key("vm"));
    let compression = line.key("compression");
    ensure!(["none", "zlib", "fastlz", "skipz"].contains(&compression), "unknown compression type: {compression}");
    Ok(line)
}

/// As nbdkit_read_password(3) reads it: one line, from a descriptor that is none of the first three.
fn password(value: &str) -> Result<String> {
    let fd: u32 =
        value.strip_prefix('-').and_then(|fd| fd.parse().ok()).context("password on the command line, or in a file")?;
    ensure!(fd > 2, "cannot use password -FD for stdin/stdout/stderr");
    let mut all = String::new();
    File::open(format!("/proc/self/fd/{fd}")).context("password descriptor")?.read_to_string(&mut all)?;
    ensure!(!all.contains(['\n', '\0']), "the plug-in would take a part of this password");
    Ok(all)
}

/// Else the plug-in executes itself anew and writes the password into a file in /tmp (its reexec.c).
fn library_path(libdir: &Path) -> Result<()> {
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let lib64 = fs::canonicalize(libdir)?.join("lib64");
    let named = path.as_bytes().split(|byte| *byte == b':').any(|part| part == lib64.as_os_str().as_bytes());
    ensure!(named, "LD_LIBRARY_PATH lacks {}: the plug-in would write the password into a file", lib64.display());
    Ok(())
}

fn config_file(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let mut keys: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    ensure!(keys.len() == text.lines().count(), "configuration file: not key=value, or a key twice");
    let mut take = |key: &str| keys.remove(key).with_context(|| format!("configuration file: {key} missing"));
    let tmp = take("tmpDirectory")?.trim_matches('"').to_owned();
    ensure!(Path::new(&tmp).is_dir(), "tmpDirectory {tmp} is no folder");
    let size: u64 = take("vixDiskLib.nfcAio.Session.BufSizeIn64KB")?.parse()?;
    let count: u64 = take("vixDiskLib.nfcAio.Session.BufCount")?.parse()?;
    ensure!((1..=256).contains(&(size * count)), "NFC AIO session: more than 16 MiB");
    for key in ["ProductName", "ProductVersion"] {
        let value = take(&format!("vixDiskLib.phoneHome.{key}"))?;
        let legal = |c: char| c.is_ascii_alphanumeric() || "_-. \"".contains(c);
        ensure!(value.chars().all(legal), "VDDK_PhoneHome: illegal character in {key}");
    }
    ensure!(keys.is_empty(), "configuration file: unknown {keys:?}");
    Ok(())
}

fn ask(control: &Path, line: &Line, password: &str, out: &Path) -> Result<Value> {
    let request = json!({"cmd": "vddk_open", "server": line.key("server"), "user": line.key("user"), "password": password,
        "thumbprint": line.key("thumbprint"), "vm": line.key("vm").trim_start_matches("moref="),
        "snapshot": line.key("snapshot"), "file": line.key("file"), "out": out});
    let mut stream = UnixStream::connect(control).context("the simulator's control socket")?;
    writeln!(stream, "{request}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
