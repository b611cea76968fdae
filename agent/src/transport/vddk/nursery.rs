//! The thread that starts children. `--exit-with-parent` is PR_SET_PDEATHSIG, which on Linux is about the *thread* that
//! forked (prctl(2)): a child of a thread of tokio's blocking pool would end after ten idle seconds. This thread never ends.
use std::{
    io,
    process::Command as StdCommand,
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

struct Birth {
    command: StdCommand,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

static THREAD: Mutex<Option<mpsc::Sender<Birth>>> = Mutex::new(None);

/// Starts `command` on behalf of the current runtime; the child is killed when its handle is dropped.
pub(super) async fn spawn(command: StdCommand) -> io::Result<Child> {
    let (answer, child) = oneshot::channel();
    sender()?
        .send(Birth { command, runtime: Handle::current(), answer })
        .map_err(|_| io::Error::other("the thread that starts children is gone"))?;
    child.await.map_err(io::Error::other)?
}

fn sender() -> io::Result<mpsc::Sender<Birth>> {
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = thread.as_ref() {
        return Ok(sender.clone());
    }
    let (sender, births) = mpsc::channel::<Birth>();
    thread::Builder::new().name("nursery".into()).spawn(move || {
        for Birth { command, runtime, answer } in births {
            let _inside = runtime.enter();
            let mut command = Command::from(command);
            // An answer that nobody takes is a child that is dropped, and so killed.
            _ = answer.send(command.kill_on_drop(true).spawn());
        }
    })?;
    *thread = Some(sender.clone());
    Ok(sender)
}
