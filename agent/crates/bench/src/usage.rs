//! What a process and a device spent: CPU time of this process and its children (getrusage(2)), read commands of a block device
//! (Documentation/block/stat.rst of the kernel).
use std::{fs, io, os::unix::fs::MetadataExt as _, time::Duration};

use hotadd_blockio::Device;
use nix::sys::{
    resource::{UsageWho, getrusage},
    stat::{major, minor},
    time::TimeValLike as _,
};

/// User and system time of all threads of this process, ended ones too.
///
/// # Errors
/// Of getrusage(2).
pub fn own_cpu() -> io::Result<Duration> {
    of(UsageWho::RUSAGE_SELF)
}

/// Of the children that were waited for.
///
/// # Errors
/// Of getrusage(2).
pub fn children_cpu() -> io::Result<Duration> {
    of(UsageWho::RUSAGE_CHILDREN)
}

fn of(who: UsageWho) -> io::Result<Duration> {
    let usage = getrusage(who)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

/// Read commands that the device has completed so far, of whoever asked; `None` where the kernel does not count.
#[must_use]
pub fn read_commands(device: &Device) -> Option<u64> {
    let number = device.file().metadata().ok()?.rdev();
    let path = format!("/sys/dev/block/{}:{}/stat", major(number), minor(number));
    first_number(&fs::read_to_string(path).ok()?)
}

fn first_number(stat: &str) -> Option<u64> {
    stat.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_field_is_the_reads() {
        assert_eq!(first_number("   1812        3    90 4 0 0\n"), Some(1812));
        assert_eq!(first_number(""), None);
    }

    #[test]
    fn work_costs_cpu_time() {
        let before = own_cpu().unwrap();
        let mut sum = 0_u64;
        while own_cpu().unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(own_cpu().unwrap() > before && children_cpu().is_ok());
    }
}
