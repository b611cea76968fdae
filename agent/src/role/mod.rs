//! `hotadd-agent role check`: asks vCenter what the agent's account may do, and says what is missing and what is too much. The command and
//! what it prints; what is right is in [`judge`].
mod judge;

use std::process::ExitCode;

use hotadd_privileges::{DANGEROUS, Feature, NEEDED, Part};
use serde::Serialize;

use self::judge::{Verdict, judge};
use crate::{
    config::{Config, GuardPolicy},
    discover::Platform,
    error::{Error, Result},
    hypervisor::{Hypervisor as _, vsphere::Vsphere},
    reason,
};

/// Exit status when vCenter could not be asked.
pub const UNANSWERED: u8 = 2;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A VM that is backed up: exact name, moref or UUID; again for more.
    #[arg(long, value_name = "VM")]
    vm: Vec<String>,
    /// Features whose privileges must be there too; those that the configuration asks for are.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    feature: Vec<Feature>,
    /// Which part the account of the configuration holds; without it, all.
    #[arg(long, value_enum, value_name = "NAME")]
    part: Option<Part>,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    format: &'static str,
    account: String,
    passed: bool,
    objects: Vec<Verdict>,
}

/// Asks and prints; the exit status is 1 when something is missing or too much.
///
/// # Errors
/// When vCenter can't be asked.
pub async fn check(args: &Args, config: Config, platform: &dyn Platform) -> Result<ExitCode> {
    let host = platform.identity().map_err(|e| Error::new(&reason::CFG_IDENTITY, "DMI").with_source(e))?;
    let vsphere = Vsphere::connect(&config.vcenter, &config.deadlines, None).await?;
    let asked = look(args, &vsphere, &host).await;
    vsphere.logout().await;
    let features = features(args, &config);
    let objects: Vec<Verdict> = asked?.iter().map(|object| judge(object, &features, args.part)).collect();
    let passed = objects.iter().all(Verdict::passed);
    let report = Report { format: "hotadd-role/1", account: config.vcenter.user, passed, objects };
    print(&report, args.json)?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look(
    args: &Args,
    vsphere: &Vsphere,
    host: &crate::discover::HostIdentity,
) -> Result<Vec<crate::hypervisor::granted::Granted>> {
    let proxy = vsphere.identify(host).await?;
    let mut targets = Vec::new();
    for vm in &args.vm {
        targets.push(vsphere.find_target(vm).await?.moref);
    }
    let needed = NEEDED.iter().map(|privilege| privilege.id);
    let mut asked: Vec<&str> = needed.chain(DANGEROUS.iter().map(|privilege| privilege.id)).collect();
    asked.sort_unstable();
    asked.dedup();
    vsphere.granted(&proxy, &targets, &asked).await
}

/// What has to work: what every job needs, what the configuration turns on, and what was asked for.
fn features(args: &Args, config: &Config) -> Vec<Feature> {
    let mut features = args.feature.clone();
    features.extend(config.export.most.is_some().then_some(Feature::Export));
    features.extend((config.guards == GuardPolicy::Refuse).then_some(Feature::Guards));
    features
}

fn print(report: &Report, json: bool) -> Result<()> {
    if json {
        let text = serde_json::to_string_pretty(report)
            .map_err(|e| Error::new(&reason::INTERNAL, "the result as JSON").with_source(e))?;
        println!("{text}");
        return Ok(());
    }
    println!("account {}", report.account);
    for object in &report.objects {
        print!("{object}");
    }
    println!("role check: {}", if report.passed { "passed" } else { "FAILED" });
    Ok(())
}
