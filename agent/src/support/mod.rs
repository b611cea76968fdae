//! `hotadd-agent support-bundle`: what support needs to know of a proxy, as one tar.gz, without a secret. Takes no lock, changes nothing, and
//! works beside a running agent. What can't be had is a line in `MISSING.txt`, never a failure.
//!
//! ```text
//! settings (allow list) │ files │ journal │ log │ findings │ host │ disks │ vCenter ──▶ cap ──▶ scrub ──▶ bundle (0600, new, fsync'd)
//! ```
//! The allow lists keep secrets out; [`scrub`] is the second net and knows the secrets themselves ([`known`]). Every part has its bound
//! ([`bound`]): whoever needs a bundle has a host or a vCenter that hangs often enough.
mod bound;
mod bundle;
mod disks;
mod files;
mod host;
mod known;
mod new_file;
mod programs;
mod records;
mod scrub;
mod settings;
mod unescape;
mod vcenter;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::signal::ctrl_c;

use self::{bound::within, bundle::Bundle, known::Known, new_file::NewFile, settings::Settings};
use crate::{
    config::Config,
    discover::Platform,
    error::{Error, Result},
    reason,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration; the bundle is made without it, too.
    #[arg(long, default_value = "/etc/hotadd/agent.toml")]
    config: PathBuf,
    /// The bundle: a new file, in a folder that exists.
    #[arg(long, value_name = "FILE.tar.gz")]
    out: PathBuf,
    /// Does not log in to vCenter: for an account that one more refused login would lock.
    #[arg(long)]
    no_vcenter: bool,
}

/// A part, or why it can't be had, for `MISSING.txt`.
type Got = std::result::Result<String, String>;

/// Collects, writes, and says in a line what is in it and what is not.
///
/// # Errors
/// [`reason::SUP_OUT`]: the file can't be written. Nothing else is one.
pub async fn make(args: &Args, platform: Arc<dyn Platform>) -> Result<()> {
    let failed = |e: io::Error| Error::new(&reason::SUP_OUT, args.out.display().to_string()).with_source(e);
    // Before anything is asked: a name that is taken costs no login.
    let out = NewFile::create(&args.out).map_err(failed)?;
    let bundle = tokio::select! {
        bundle = collect(args, platform) => bundle,
        // The file goes with `out`.
        _ = ctrl_c() => return Err(failed(io::ErrorKind::Interrupted.into())),
    };
    let told = bundle.told();
    let written = within(bound::WRITING, move || bundle.write(out).map_err(|e| e.to_string())).await;
    written.map_err(|why| failed(io::Error::other(why)))?;
    // A reader that went away is no reason to say that there is no bundle.
    let _ = writeln!(io::stdout(), "{}: {told}", args.out.display());
    Ok(())
}

async fn collect(args: &Args, platform: Arc<dyn Platform>) -> Bundle {
    let Known { settings, state_dir, scrubber, blind } = known::look(&args.config).await;
    let mut bundle = Bundle::new(scrubber);
    blind.into_iter().for_each(|why| bundle.miss("search for secrets", &why));
    bundle.add("agent.toml", settings.as_ref().map_err(Clone::clone).and_then(Settings::shown));
    let (faults, config) = judged(&args.config, &settings).await;
    bundle.add("check-config.txt", faults);
    bundle.add("files.txt", files_told(args.config.clone(), settings, state_dir.clone()).await);
    let dir = state_dir.clone();
    bundle.add("journal.jsonl", within(bound::PART, move || records::all(&dir)).await);
    bundle.add("duties.jsonl", within(bound::PART, move || records::open(&state_dir)).await);
    bundle.add("kernel.txt", within(bound::PART, host::kernel).await);
    bundle.add("os-release", within(bound::PART, || host::file("/etc/os-release")).await);
    bundle.add("scsi-hosts.txt", within(bound::PART, disks::scsi_hosts).await);
    bundle.add("udev.txt", within(bound::PART, disks::udev_database).await);
    let host = platform.clone();
    bundle.add("disks.txt", within(bound::PART, move || disks::seen(&*host)).await);
    let host = platform.clone();
    bundle.add("findings.txt", within(bound::PART, move || Ok(host::findings(&*host))).await);
    bundle.add("unit.txt", programs::unit().await);
    let log = match (programs::log().await, bundle.scrubber().clone()) {
        (Ok(log), scrubber) => within(bound::PART, move || Ok(scrubber.lines(&log))).await,
        (Err(why), _) => Err(why),
    };
    bundle.add("log.txt", log);
    let (vcenter, facts) = match config {
        _ if args.no_vcenter => neither("not asked (--no-vcenter)"),
        Ok(config) => vcenter::ask(&config, within(bound::PART, move || vcenter::identity(&*platform)).await).await,
        Err(why) => neither(&why),
    };
    bundle.add("versions.txt", Ok(host::versions(vcenter.as_deref().unwrap_or("unknown"))));
    bundle.add("vcenter.txt", facts);
    bundle
}

fn neither(why: &str) -> (Got, Got) {
    (Err(why.to_owned()), Err(why.to_owned()))
}

/// What check-config would say, by keys, since its words repeat values; and what is needed to ask vCenter, which faults of the rest do not hinder.
async fn judged(
    path: &Path,
    settings: &std::result::Result<Settings, String>,
) -> (Got, std::result::Result<Config, String>) {
    if let Err(why) = settings {
        return (Err(why.clone()), Err(why.clone()));
    }
    let path = path.to_owned();
    let load = move || {
        let faults = Config::load(&path).map_or_else(|faults| settings::keys(&faults), |_| "none".to_owned());
        let config = Config::load_to_settle(&path)
            .map_err(|faults| format!("the configuration has faults: {}", settings::keys(&faults)));
        Ok((faults, config))
    };
    match within(bound::PART, load).await {
        Ok((faults, config)) => (Ok(format!("faults: {faults}\n")), config),
        Err(why) => (Err(why.clone()), Err(why)),
    }
}

async fn files_told(config: PathBuf, settings: std::result::Result<Settings, String>, state_dir: PathBuf) -> Got {
    within(bound::PART, move || Ok(files::told(&config, settings.as_ref().ok(), &state_dir))).await
}
