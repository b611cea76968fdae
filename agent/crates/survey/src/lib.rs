//! hotadd-survey: what a vCenter and its ESXi really answer where the documents are silent, asked of a VM that somebody gives for it.
//!
//! ```text
//! args ─▶ connect ─▶ gather (reads) ─▶ ask (wrong questions) ── without --go: the end, and the plan
//!                                                            └─ fit? ─▶ run: snapshot ─▶ read ─▶ undo ─▶ proof
//!                    every text goes through redact ─▶ document (JSON without names) ─▶ show
//! ```
//! Rules that hold everywhere here: nothing is changed without `--go`; what is not known counts as a refusal; the one thing that is made is a snapshot
//! with a name of its own, and only what bears that name is removed, after every end; a name of the site gets into the document by no
//! other way than [`redact`]. How to reach vCenter is the doctor's.
#![forbid(unsafe_code)]

mod answers;
pub mod args;
mod ask;
pub mod codes;
pub mod document;
mod fit;
mod gather;
pub mod plan;
mod redact;
mod run;
mod show;
pub mod stop;
mod undo;

use std::time::Duration;

use hotadd_doctor::connect::{Trouble, config, refused};
use hotadd_vsphere::{Client, Config, MoRef};

use args::Args;
use codes::Failure;
use document::Document;
use gather::Site;
use stop::Stop;

/// What a survey gave, also one that failed on its way.
#[derive(Debug)]
pub struct Outcome {
    pub document: Document,
    /// Why it did not come to its end.
    pub failure: Option<Failure>,
    /// A signal ended it early; what it had done is undone.
    pub stopped: bool,
}

/// Address, account, password and trust.
#[derive(Debug)]
pub struct Way(Config);

/// Reads what leads to vCenter; a password that no option names is asked for on the terminal, where signals must still end the program.
///
/// # Errors
/// Options or files that can't be used.
pub fn way(args: &Args) -> Result<Way, Failure> {
    config(&args.vcenter).map(Way).map_err(Failure::from)
}

/// Surveys a vCenter, and with `--go` the VM that is given for it. `tell` gets a line for each step.
///
/// # Errors
/// When nothing could be read. What fails later is in the outcome.
pub async fn survey(way: Way, args: &Args, stop: &Stop, tell: &(dyn Fn(&str) + Sync)) -> Result<Outcome, Failure> {
    let Way(config) = way;
    let names = [config.user.clone(), config.url.clone()];
    let client = Client::connect(config).await.map_err(|e| Failure::from(refused(&e)))?;
    let ended = look(&client, args, &names, stop, tell).await;
    // The session would end by itself.
    let _ = tokio::time::timeout(Duration::from_secs(10), client.logout()).await;
    ended
}

async fn look(
    client: &Client,
    args: &Args,
    names: &[String],
    stop: &Stop,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Outcome, Failure> {
    let trouble = |e: hotadd_vsphere::Error| Failure::from(Trouble::of(&e));
    let vm = args.vm.as_ref().map(|moref| MoRef::new("VirtualMachine", moref));
    let mut site = Site::new(client, names);
    site.gather(vm.as_ref()).await.map_err(trouble)?;
    ask::nothing(&mut site).await.map_err(trouble)?;
    let (mut failure, mut stopped) = (None, false);
    if let (true, Some(vm)) = (args.go, &vm) {
        match run::run(&mut site, vm, args, stop, tell).await {
            Ok(run::Ended::Whole) => {}
            Ok(run::Ended::Early) => stopped = true,
            Err(why) => failure = Some(why),
        }
    }
    let document = answers::answered(site.finish(args.go));
    Ok(Outcome { document, failure, stopped })
}
