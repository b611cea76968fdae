//! hotadd-doctor: what hot-add and snapshot backups leave behind in a vCenter, whoever's they are. Works from anywhere with
//! access to vCenter, with `System.Read` alone, and needs neither agent nor proxy.
//!
//! ```text
//! args ─▶ connect (trust, password) ─▶ gather ─▶ facts ─▶ rules (pure) ─▶ finding ─▶ text │ json, exit code
//!                                                                     └─ feature `fix`: fix (hotaddctl only)
//! ```
//!
//! Looking and changing are apart: everything but [`fix`](self) reads through [`connect::Vcenter`], which has no call that changes
//! anything; `fix` is compiled for hotaddctl alone, and the program `hotadd-doctor` has no way to it.
#![forbid(unsafe_code)]

pub mod args;
pub mod codes;
pub mod connect;
pub mod facts;
pub mod finding;
#[cfg(feature = "fix")]
pub mod fix;
mod gather;
mod marker;
mod products;
pub mod rules;
mod secret;
mod show;

use args::{Args, Limits};
use connect::{Trouble, Vcenter};
use finding::Report;

pub use show::{clean, quoted};

/// Looks at everything once and judges it.
///
/// # Errors
/// [`Trouble`] when nothing could be looked at. What could not be looked at beside that is in the report.
pub async fn look(args: &Args) -> Result<Report, Trouble> {
    let vcenter = Vcenter::open(&args.vcenter).await?;
    let report = report(&vcenter, &args.limits).await;
    vcenter.close().await;
    report
}

/// As [`look`], over a connection that is open.
///
/// # Errors
/// As [`look`].
pub async fn report(vcenter: &Vcenter, limits: &Limits) -> Result<Report, Trouble> {
    let estate = gather::estate(vcenter).await?;
    Ok(rules::judge(&estate, limits))
}
