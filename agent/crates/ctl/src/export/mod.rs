//! `export`: not there yet.
use crate::{cli::ExportArgs, error::Failure, exit::Exit, output::Output};
pub fn run(_: &ExportArgs, _: &Output) -> Result<Exit, Failure> {
    Err(Failure::internal("not there yet"))
}
