//! Which parts of an export hold data: `NBD_CMD_BLOCK_STATUS` of `base:allocation`, page by page.
use std::ops::Range;

use super::{
    NbdEngine, NbdError,
    reply::Part,
    wire::{Command, STATE_HOLE, STATE_ZERO},
};
use crate::ReadEngine as _;

/// Bytes asked for at once: a multiple of every legal minimum block, and fits 32 bits.
const PAGE: u64 = 1 << 30;

/// A stretch of equal state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    pub range: Range<u64>,
    /// Not allocated.
    pub hole: bool,
    /// Reads as zeros. Only this says anything about content: a hole alone may read as anything.
    pub zero: bool,
}

impl NbdEngine {
    /// The extents of `range`, ascending and without a gap; neighbours of equal state are one. `most`: extents that
    /// the server may send for it, which bounds both memory and time.
    ///
    /// # Errors
    /// [`NbdError::NoBlockStatus`], [`NbdError::BadRange`], [`NbdError::Busy`] and [`NbdError::BlockStatus`] leave the
    /// engine usable; all others end it.
    pub fn extents(&mut self, range: Range<u64>, most: usize) -> Result<Vec<Extent>, NbdError> {
        self.check(&range)?;
        let mut map: Vec<Extent> = Vec::new();
        let (mut at, mut seen) = (range.start, 0_usize);
        while at < range.end {
            let page = self.page(at, (range.end - at).min(PAGE))?;
            seen = seen.saturating_add(page.len());
            if seen > most {
                return self.end(NbdError::TooMuch { what: "extents", got: seen as u64, most: most as u64 });
            }
            for (length, state) in page {
                let end = at.saturating_add(length).min(range.end);
                let (hole, zero) = (state & STATE_HOLE != 0, state & STATE_ZERO != 0);
                match map.last_mut() {
                    Some(last) if last.hole == hole && last.zero == zero => last.range.end = end,
                    _ => map.push(Extent { range: at..end, hole, zero }),
                }
                at = end;
            }
            if !at.is_multiple_of(self.export().minimum.into()) {
                return self.end(NbdError::Protocol("extents that are no multiple of the smallest block"));
            }
        }
        Ok(map)
    }

    fn check(&self, range: &Range<u64>) -> Result<(), NbdError> {
        let export = self.export();
        let (size, align) = (export.size, export.minimum);
        let aligned = range.start.is_multiple_of(align.into()) && range.end.is_multiple_of(align.into());
        if range.start >= range.end || range.end > size || !aligned {
            return Err(NbdError::BadRange { start: range.start, end: range.end, size, align });
        }
        if export.allocation.is_none() {
            return Err(NbdError::NoBlockStatus);
        }
        match (self.is_over(), self.in_flight()) {
            (true, _) => Err(NbdError::Closed),
            (false, 0) => Ok(()),
            (false, _) => Err(NbdError::Busy),
        }
    }

    /// One request; its extents cover at least one byte.
    fn page(&mut self, at: u64, length: u64) -> Result<Vec<(u64, u64)>, NbdError> {
        let length = u32::try_from(length).unwrap_or(1 << 30);
        self.answer = None;
        self.enqueue(Part::new(Command::BlockStatus, at, length, usize::MAX, 0));
        let part = loop {
            if let Some(part) = self.answer.take() {
                break part;
            }
            if let Err(error) = self.turn() {
                return self.end(error);
            }
        };
        match (part.error, part.extents) {
            (Some(errno), _) => Err(NbdError::BlockStatus(std::io::Error::from_raw_os_error(errno))),
            // The assembler lets no answer without extents through.
            (None, extents) => Ok(extents.unwrap_or_default()),
        }
    }

    fn end<T>(&mut self, error: NbdError) -> Result<T, NbdError> {
        self.fail(&error);
        Err(error)
    }
}
