//! The program `hotaddctl`. Everything is in the library; here is only the way in and the exit code.
#![forbid(unsafe_code)]
use std::process::ExitCode;

fn main() -> ExitCode {
    hotaddctl::run(std::env::args_os())
}
