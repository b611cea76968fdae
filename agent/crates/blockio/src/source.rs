//! What the reader needs to know of the thing that it reads, whoever brings the bytes: a block device or an NBD server.
//! Facts only; the bytes come through a [`ReadEngine`].
use std::{fmt, io, os::unix::fs::FileExt as _, sync::Arc};

use crate::{Arena, Device, ReadEngine, engine::ReadOp};

/// A disk that can be read in blocks.
pub trait Source: fmt::Debug + Send + Sync {
    /// Size in bytes when it was opened.
    fn size(&self) -> u64;
    /// Unit of offsets and lengths in bytes: the sector of a device, the minimum block of a server.
    fn logical_block(&self) -> u32;
    /// Whether it still is what was opened.
    fn is_present(&self) -> bool;
    /// Read commands that it was sent since it appeared; `None`: unknown.
    fn commands(&self) -> Option<u64> {
        None
    }
    /// After a read failed or came back short: the first unit of it that fails again, and how. `None` when all of it
    /// can be read now, or reading again would tell nothing. `op` is what failed; its buffer may be used. What else is
    /// in flight in `engine` may be thrown away.
    fn first_bad(
        &self,
        engine: &mut dyn ReadEngine,
        op: ReadOp,
        result: &io::Result<usize>,
    ) -> Option<(u64, io::Error)>;
}

impl<T: Source + ?Sized> Source for Arc<T> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn logical_block(&self) -> u32 {
        (**self).logical_block()
    }

    fn is_present(&self) -> bool {
        (**self).is_present()
    }

    fn commands(&self) -> Option<u64> {
        (**self).commands()
    }

    fn first_bad(
        &self,
        engine: &mut dyn ReadEngine,
        op: ReadOp,
        result: &io::Result<usize>,
    ) -> Option<(u64, io::Error)> {
        (**self).first_bad(engine, op, result)
    }
}

impl Source for Device {
    fn commands(&self) -> Option<u64> {
        self.commands()
    }

    fn size(&self) -> u64 {
        self.size()
    }

    fn logical_block(&self) -> u32 {
        self.logical_block()
    }

    fn is_present(&self) -> bool {
        self.is_present()
    }

    /// Reads the failed piece again, one logical block at a time, past the engine; the first that fails is named.
    fn first_bad(&self, _: &mut dyn ReadEngine, op: ReadOp, _: &io::Result<usize>) -> Option<(u64, io::Error)> {
        let unit = self.logical_block();
        let arena = Arena::new(1, unit as usize).ok()?;
        let mut buffer = arena.try_take()?;
        (op.offset..op.offset + u64::from(op.length)).step_by(unit as usize).find_map(|at| {
            match self.file().read_at(buffer.spare(unit as usize), at) {
                Ok(0) => Some((at, io::Error::from_raw_os_error(libc::ENODEV))),
                Ok(_) => None,
                Err(error) => Some((at, error)),
            }
        })
    }
}
