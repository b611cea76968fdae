//! Linux AIO by its four system calls. On a device opened with O_DIRECT it is truly asynchronous, on every kernel
//! that we support; on a buffered file it works but each submission blocks.
use std::{io, os::fd::AsRawFd as _, sync::Arc};

use super::{Completion, EngineKind, ReadEngine, ReadOp, Rejected, admit, completed};
use crate::Device;

const IOCB_CMD_PREAD: u16 = 0;

/// `struct iocb` of `linux/aio_abi.h`, little-endian layout.
#[repr(C)]
#[derive(Debug, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    reqprio: i16,
    fildes: u32,
    buf: u64,
    nbytes: u64,
    offset: i64,
    reserved2: u64,
    flags: u32,
    resfd: u32,
}

/// `struct io_event` of `linux/aio_abi.h`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// See [`super::ReadEngine`].
#[derive(Debug)]
pub struct LinuxAio {
    context: libc::c_ulong,
    slots: Vec<Option<ReadOp>>,
    free: Vec<usize>,
    /// Not yet given to the kernel.
    queued: Vec<Iocb>,
    events: Vec<IoEvent>,
    device: Arc<Device>,
}

impl LinuxAio {
    /// # Errors
    /// Of `io_setup`: EAGAIN above `fs.aio-max-nr`, ENOSYS, EPERM under seccomp.
    pub fn new(device: &Arc<Device>, depth: u32) -> io::Result<Self> {
        let depth = depth.max(1);
        let mut context: libc::c_ulong = 0;
        // SAFETY: io_setup writes one aio_context_t, which is an unsigned long, to the given address.
        check(unsafe { libc::syscall(libc::SYS_io_setup, libc::c_long::from(depth), &raw mut context) })?;
        let slots = depth as usize;
        Ok(Self {
            context,
            slots: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            queued: Vec::with_capacity(slots),
            events: Vec::with_capacity(slots),
            device: Arc::clone(device),
        })
    }

    fn reap(&mut self) -> Option<Completion> {
        let event = self.events.pop()?;
        let index = usize::try_from(event.data).ok()?;
        let op = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        Some(completed(op, event.res))
    }

    /// Gives the kernel what is queued. What it refuses completes with its error.
    fn flush(&mut self) {
        while !self.queued.is_empty() {
            let mut list: Vec<*mut Iocb> = self.queued.iter_mut().map(|iocb| &raw mut *iocb).collect();
            let count = libc::c_long::try_from(list.len()).unwrap_or(libc::c_long::MAX);
            // SAFETY: the kernel copies the iocbs before the call returns; each points to a buffer that stays in `slots`
            // until its event was reaped; the file lives in `device`.
            let taken = check(unsafe { libc::syscall(libc::SYS_io_submit, self.context, count, list.as_mut_ptr()) });
            match taken {
                Ok(taken) if taken > 0 => {
                    self.queued.drain(..self.queued.len().min(usize::try_from(taken).unwrap_or(0)));
                }
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // No room now: as long as the kernel works on others, one of them makes it.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && self.in_kernel() > 0 => return,
                refused => {
                    let errno = refused.err().and_then(|error| error.raw_os_error()).unwrap_or(libc::EIO);
                    let first = self.queued.remove(0);
                    self.events.push(IoEvent { data: first.data, res: -i64::from(errno), ..IoEvent::default() });
                }
            }
        }
    }

    fn in_kernel(&self) -> usize {
        self.in_flight() - self.queued.len() - self.events.len()
    }

    fn wait(&mut self) -> io::Result<()> {
        let most = self.slots.len();
        self.events.resize(most, IoEvent::default());
        // SAFETY: `events` has room for `most` entries; the context is ours and alive.
        let count = check(unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                1 as libc::c_long,
                most as libc::c_long,
                self.events.as_mut_ptr(),
                std::ptr::null_mut::<libc::timespec>(),
            )
        });
        self.events.truncate(usize::try_from(*count.as_ref().unwrap_or(&0)).unwrap_or(0));
        match count {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            other => other.map(drop),
        }
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl ReadEngine for LinuxAio {
    fn kind(&self) -> EngineKind {
        EngineKind::LinuxAio
    }

    fn depth(&self) -> usize {
        self.slots.len()
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn submit(&mut self, op: ReadOp) -> Result<(), Rejected> {
        let mut op = admit(op, self.in_flight(), self.depth())?;
        let (Ok(fildes), Ok(offset)) = (u32::try_from(self.device.file().as_raw_fd()), i64::try_from(op.offset)) else {
            return Err(Rejected { op, error: io::ErrorKind::InvalidInput.into() });
        };
        let Some(index) = self.free.pop() else {
            return Err(Rejected { op, error: io::ErrorKind::WouldBlock.into() });
        };
        let iocb = Iocb {
            data: index as u64,
            opcode: IOCB_CMD_PREAD,
            fildes,
            buf: op.buffer.as_mut_ptr() as u64,
            nbytes: u64::from(op.length),
            offset,
            ..Iocb::default()
        };
        self.queued.push(iocb);
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(op);
        }
        Ok(())
    }

    fn complete(&mut self) -> io::Result<Option<Completion>> {
        while self.in_flight() > 0 {
            self.flush();
            if let Some(completion) = self.reap() {
                return Ok(Some(completion));
            }
            self.wait()?;
        }
        Ok(None)
    }

    fn poll(&mut self) -> Option<Completion> {
        self.reap()
    }
}

impl Drop for LinuxAio {
    fn drop(&mut self) {
        // SAFETY: the context is ours; io_destroy returns only after every operation has ended, so the buffers in
        // `slots`, which are freed after this, are no longer written.
        let result = check(unsafe { libc::syscall(libc::SYS_io_destroy, self.context) });
        if let Err(error) = result
            && self.in_flight() > 0
        {
            tracing::error!(%error, "io_destroy failed with reads in flight; their buffers are leaked");
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(Arc::clone(&self.device));
        }
    }
}
