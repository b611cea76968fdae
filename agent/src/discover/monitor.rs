//! The udev thread. libudev handles stay on it; owned events leave it. It acts on events that udev sends after its
//! rules have run, so a device is read-only by the time it is announced.
use std::{io, os::fd::AsFd as _, sync::mpsc, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::DeviceEvent;

/// How often the thread looks whether somebody still listens.
const LISTENER_POLL_MS: u16 = 1000;

/// Starts the thread; it is listening when this returns.
pub(super) fn start() -> io::Result<mpsc::Receiver<DeviceEvent>> {
    let (events, inbox) = mpsc::channel();
    let (started, up) = mpsc::sync_channel(1);
    thread::Builder::new().name("udev".into()).spawn(move || {
        match udev::MonitorBuilder::new()
            .and_then(|builder| builder.match_subsystem_devtype("block", "disk"))
            .and_then(udev::MonitorBuilder::listen)
        {
            Ok(socket) => {
                if started.send(Ok(())).is_ok() {
                    serve(&socket, &events);
                }
            }
            // The starter is gone only if it gave up; nothing is left to tell.
            Err(error) => drop(started.send(Err(error))),
        }
    })?;
    up.recv().map_err(|_| io::ErrorKind::BrokenPipe)??;
    Ok(inbox)
}

fn serve(socket: &udev::MonitorSocket, events: &mpsc::Sender<DeviceEvent>) {
    // An empty event finds out whether the receiver still exists.
    let alive = || events.send(DeviceEvent::Changed(String::new())).is_ok();
    loop {
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(LISTENER_POLL_MS)) {
            Ok(0) => {
                if !alive() {
                    return;
                }
            }
            Ok(_) => {
                for event in socket.iter() {
                    if events.send(owned(&event)).is_err() {
                        return;
                    }
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "the udev monitor failed; devices are found by enumeration only");
                return;
            }
        }
    }
}

fn owned(event: &udev::Event) -> DeviceEvent {
    let path = event.syspath().display().to_string();
    match event.event_type() {
        udev::EventType::Add => DeviceEvent::Added(path),
        udev::EventType::Remove => DeviceEvent::Removed(path),
        _ => DeviceEvent::Changed(path),
    }
}
