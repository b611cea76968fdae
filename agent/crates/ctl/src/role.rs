//! `role print`: the table of privileges, which is part of the program. Asks neither an agent nor a vCenter.
use hotadd_privileges::Args;

use crate::output::Output;

pub(crate) fn print(args: &Args, out: &Output) {
    out.event(|| args.json());
    out.answer(&args.text());
}
