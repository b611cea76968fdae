//! The read engines behind one trait, and the probe that chooses among them at run time.
//!
//! Contract (the conformance suite in `tests/engines.rs` holds every engine to it): operations are owned; a buffer
//! comes back with its completion, and also when a submission is rejected; completions may come in any order; an
//! engine that is dropped with operations in flight waits for the kernel or leaks their memory, it never frees it.
mod aio;
mod pread;
mod uring;

use std::{fmt, io, sync::Arc};

use crate::{Arena, Buffer, Device};

pub use self::{aio::LinuxAio, pread::Preadv, uring::IoUring};

/// Which way the kernel is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    IoUring,
    LinuxAio,
    Preadv,
    /// A server on the network is asked instead; see [`crate::nbd`].
    Nbd,
}

impl EngineKind {
    /// The engines of devices, best first. The stock kernels of EL 8.3 (4.18) and SLES 15 SP1 (4.12) have no io_uring, so Linux AIO is what
    /// many installations run.
    pub const PREFERENCE: [Self; 3] = [Self::IoUring, Self::LinuxAio, Self::Preadv];

    /// Name in logs, metrics, configuration and API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::LinuxAio => "linux-aio",
            Self::Preadv => "preadv",
            Self::Nbd => "nbd",
        }
    }

    /// The engine of devices with this [`EngineKind::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::PREFERENCE.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One read: `length` bytes at `offset`, both multiples of the device's logical block.
#[derive(Debug)]
pub struct ReadOp {
    pub offset: u64,
    pub length: u32,
    pub buffer: Buffer,
}

/// The answer to one [`ReadOp`]. On success the buffer's filled part is what was read, possibly less than asked.
#[derive(Debug)]
pub struct Completion {
    pub op: ReadOp,
    pub result: io::Result<usize>,
}

/// A submission that was not taken; the operation comes back.
#[derive(Debug)]
pub struct Rejected {
    pub op: ReadOp,
    pub error: io::Error,
}

/// See the module's contract.
pub trait ReadEngine: fmt::Debug + Send {
    fn kind(&self) -> EngineKind;
    /// Most operations that may be in flight.
    fn depth(&self) -> usize;
    /// Operations submitted and not yet completed.
    fn in_flight(&self) -> usize;
    /// Queues one read. It may wait for others, to be given to the kernel together with them by [`Self::complete`].
    ///
    /// # Errors
    /// [`Rejected`] with `WouldBlock` when `depth` operations are in flight, `InvalidInput` for a buffer that is too
    /// small, or the kernel's error.
    #[allow(clippy::result_large_err, reason = "the operation has to come back")]
    fn submit(&mut self, op: ReadOp) -> Result<(), Rejected>;
    /// Waits for one completion; `None` when nothing is in flight.
    ///
    /// # Errors
    /// Of the waiting itself, never of a read; the engine is of no use afterwards.
    fn complete(&mut self) -> io::Result<Option<Completion>>;
    /// One completion that is there already: what comes together is refilled together.
    fn poll(&mut self) -> Option<Completion>;
}

/// How an engine is made.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Most reads in flight.
    pub depth: u32,
    /// io_uring: a thread of the kernel's takes submissions without a system call, and burns a CPU for it (IORING_SETUP_SQPOLL).
    pub sqpoll: bool,
}

impl From<u32> for Tuning {
    fn from(depth: u32) -> Self {
        Self { depth, sqpoll: false }
    }
}

/// An engine that could not be used here, and why.
#[derive(Debug)]
pub struct Refusal {
    pub kind: EngineKind,
    pub error: io::Error,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.error.raw_os_error().map(|code| format!(" ({:?})", nix::errno::Errno::from_raw(code)));
        write!(f, "{}: {}{}", self.kind, self.error, name.unwrap_or_default())
    }
}

/// The engine that passed the probe, and those that did not.
#[derive(Debug)]
pub struct Selected {
    pub engine: Box<dyn ReadEngine>,
    pub refused: Vec<Refusal>,
}

/// Makes one engine of the given kind for a device.
///
/// # Errors
/// The kernel's refusal: ENOSYS (old kernel), EPERM (sysctl, seccomp), ENOMEM (locked-memory limit), …
pub fn make(
    kind: EngineKind,
    device: &Arc<Device>,
    arena: &Arena,
    tuning: impl Into<Tuning>,
) -> io::Result<Box<dyn ReadEngine>> {
    let Tuning { depth, sqpoll } = tuning.into();
    Ok(match kind {
        EngineKind::IoUring => Box::new(IoUring::new(device, arena, depth, sqpoll)?),
        EngineKind::LinuxAio => Box::new(LinuxAio::new(device, depth)?),
        EngineKind::Preadv => Box::new(Preadv::new(device, depth)?),
        EngineKind::Nbd => return Err(io::Error::new(io::ErrorKind::Unsupported, "NBD reads servers, not devices")),
    })
}

/// Tries the kinds in order; an engine is chosen only after it has read the first logical block of this device. Any
/// refusal means "next".
///
/// # Errors
/// The last refusal when every kind refused (then the device itself can't be read).
pub fn select(
    kinds: &[EngineKind],
    device: &Arc<Device>,
    arena: &Arena,
    tuning: impl Into<Tuning>,
) -> Result<Selected, Vec<Refusal>> {
    let (tuning, mut refused) = (tuning.into(), Vec::new());
    for &kind in kinds {
        match make(kind, device, arena, tuning).and_then(|engine| probe(engine, device, arena)) {
            Ok(engine) => return Ok(Selected { engine, refused }),
            Err(error) => refused.push(Refusal { kind, error }),
        }
    }
    Err(refused)
}

fn probe(mut engine: Box<dyn ReadEngine>, device: &Device, arena: &Arena) -> io::Result<Box<dyn ReadEngine>> {
    if device.size() == 0 {
        return Ok(engine);
    }
    let buffer = arena.try_take().ok_or(io::ErrorKind::OutOfMemory)?;
    let op = ReadOp { offset: 0, length: device.logical_block(), buffer };
    engine.submit(op).map_err(|rejected| rejected.error)?;
    match engine.complete()? {
        // A media error on the first block says nothing about the engine; the reader will report it with its LBA.
        Some(Completion { result: Err(error), .. }) if error.raw_os_error() == Some(libc::EIO) => Ok(engine),
        Some(Completion { result, .. }) => result.map(|_| engine),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// What every engine refuses before it asks the kernel.
#[allow(clippy::result_large_err, reason = "the operation has to come back")]
pub(crate) fn admit(op: ReadOp, in_flight: usize, depth: usize) -> Result<ReadOp, Rejected> {
    if in_flight >= depth {
        return Err(Rejected { op, error: io::ErrorKind::WouldBlock.into() });
    }
    if op.length as usize > op.buffer.capacity() || op.length == 0 {
        return Err(Rejected { op, error: io::ErrorKind::InvalidInput.into() });
    }
    Ok(op)
}

/// Turns a kernel result (count or negative errno) into a completion.
fn completed(mut op: ReadOp, result: i64) -> Completion {
    let result = match usize::try_from(result) {
        Ok(count) => Ok(count),
        Err(_) => Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO))),
    };
    op.buffer.set_filled(*result.as_ref().unwrap_or(&0));
    Completion { op, result }
}
