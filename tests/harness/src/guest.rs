//! A lab guest: QEMU with real vmw_pvscsi, udev and systemd. To come with the lab tests.
#[derive(Debug)]
pub struct Guest;
