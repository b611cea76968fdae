//! `hotadd-agent support-bundle`: what support needs to know of a proxy, as one tar.gz, without a secret. Takes no lock, changes nothing, and
//! works beside a running agent. What can't be had is a line in `MISSING.txt`, never a failure.
//!
//! ```text
//! settings (allow list) │ files │ journal │ log │ findings │ host │ disks │ vCenter ──▶ scrub ──▶ cap ──▶ bundle (0600, new, fsync'd)
//! ```
//! The allow lists keep secrets out; [`scrub`] is the second net and knows the secrets themselves.
mod bundle;
mod disks;
mod files;
mod host;
mod programs;
mod records;
mod scrub;
mod settings;
mod vcenter;

use std::path::PathBuf;

use self::{bundle::Bundle, scrub::Scrubber, settings::Settings};
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
    /// The bundle, a new file.
    #[arg(long, value_name = "FILE.tar.gz")]
    out: PathBuf,
}

/// Why a part can't be had, for `MISSING.txt`.
type Got = std::result::Result<String, String>;

/// Collects and writes.
///
/// # Errors
/// [`reason::SUP_OUT`]: the file can't be written. Nothing else is one.
pub async fn make(args: &Args, platform: &dyn Platform) -> Result<()> {
    let failed = |e| Error::new(&reason::SUP_OUT, args.out.display().to_string()).with_source(e);
    // Before anything is asked: a name that is taken costs no login.
    let out = bundle::create(&args.out).map_err(failed)?;
    let bundle = collect(args, platform).await;
    bundle.write(out, &args.out).map_err(failed)?;
    println!("{}", args.out.display());
    Ok(())
}

async fn collect(args: &Args, platform: &dyn Platform) -> Bundle {
    let settings = Settings::read(&args.config);
    let read = settings.as_ref().ok();
    let state_dir = read.map_or_else(settings::default_state_dir, Settings::state_dir);
    let mut scrubber = Scrubber::default();
    scrubber.environment(std::env::vars_os());
    read.iter().flat_map(|settings| settings.secret_files()).for_each(|path| scrubber.file(&path));
    records::logins(&state_dir).iter().for_each(|login| scrubber.secret(login));
    let mut bundle = Bundle::new(scrubber);
    bundle.add("agent.toml", settings.as_ref().map(Settings::shown).map_err(Clone::clone));
    bundle.add("files.txt", read.map(files::told).ok_or_else(|| "the configuration can't be read".to_owned()));
    bundle.add("journal.jsonl", records::all(&state_dir));
    bundle.add("duties.jsonl", records::open(&state_dir));
    bundle.add("findings.txt", Ok(host::findings(platform)));
    bundle.add("kernel.txt", host::kernel());
    bundle.add("os-release", host::file("/etc/os-release"));
    bundle.add("scsi-hosts.txt", disks::scsi_hosts());
    bundle.add("udev.txt", disks::udev_database());
    bundle.add("disks.txt", disks::seen(platform));
    bundle.add("unit.txt", programs::unit().await);
    bundle.add("log.txt", programs::log().await.map(|log| bundle.scrubber().lines(&log)));
    let (vcenter, facts) = match Config::load(&args.config) {
        Ok(config) => vcenter::ask(&config, platform).await,
        // The faults name values; the keys are enough, and check-config tells the rest.
        Err(faults) => {
            let unread = settings.as_ref().err().cloned();
            let why = unread.unwrap_or_else(|| {
                format!("the configuration has faults ({}); see check-config", settings::keys(&faults))
            });
            (Err(why.clone()), Err(why))
        }
    };
    bundle.add("versions.txt", Ok(host::versions(vcenter.as_deref().unwrap_or("unknown"))));
    bundle.add("vcenter.txt", facts);
    bundle
}
