//! The options of the survey. Parsing only; nothing is opened or called here.
use std::path::PathBuf;

use clap::Args as ClapArgs;
use hotadd_doctor::args::VcenterArgs;

/// Without `--go` nothing is changed.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    pub vcenter: VcenterArgs,
    /// Moref (vm-42) of the VM to look at; with --go the VM that is given for it
    #[arg(long, value_name = "MOREF")]
    pub vm: Option<String>,
    /// Its exact name, once more: this VM may be lost
    #[arg(long, value_name = "NAME", requires = "vm")]
    pub sacrificial: Option<String>,
    /// Carry the plan out: takes a snapshot of that VM and removes it
    #[arg(long, requires_all = ["vm", "sacrificial"])]
    pub go: bool,
    /// Also when the VM is powered on; it stands still for a moment
    #[arg(long, requires = "go")]
    pub powered_on_ok: bool,
    /// Writes the document here, without names of the site; a file that exists is not replaced
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
