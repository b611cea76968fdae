//! Writing one file from buffers that are owned until the kernel is done with them: io_uring with several writes in flight, or
//! pwritev one after the other. Knows offsets and bytes, nothing of what they mean.
//!
//! ```text
//! write(chunks, offset) ─▶ free slot ─▶ in flight ─▶ completion: short → the rest again │ all → slot free │ error → final
//!                            └ none: waits for a completion
//! finish ─▶ every completion ─▶ acknowledged = handed over? ─▶ fsync
//! ```
//! An error is told by the next call, with its offset, and by every one after it: nothing is known of the file then.
mod plain;
mod uring;

use std::{fmt, fs::File, io};

use bytes::Bytes;

use self::{plain::Plain, uring::Uring};

/// Of one system call (Linux UIO_MAXIOV).
const MOST_CHUNKS: usize = 1024;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriterKind {
    IoUring,
    Pwritev,
}

impl fmt::Display for WriterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Pwritev => "pwritev",
        })
    }
}

/// Why nothing is known of the file any more; final.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("write at byte {offset}")]
    Write { offset: u64, source: io::Error },
    #[error("sync")]
    Sync(#[source] io::Error),
    #[error("{acknowledged} bytes were acknowledged of {handed_over} that were written")]
    Lost { acknowledged: u64, handed_over: u64 },
}

impl WriteError {
    /// What the operating system said.
    #[must_use]
    pub fn io(&self) -> io::Error {
        let (Self::Write { source, .. } | Self::Sync(source)) = self else { return io::ErrorKind::WriteZero.into() };
        source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error)
    }

    fn again(&self) -> Self {
        match *self {
            Self::Write { offset, .. } => Self::Write { offset, source: self.io() },
            Self::Sync(_) => Self::Sync(self.io()),
            Self::Lost { acknowledged, handed_over } => Self::Lost { acknowledged, handed_over },
        }
    }
}

/// Chunks for one place of the file.
#[derive(Debug)]
struct Piece {
    offset: u64,
    chunks: Vec<Bytes>,
}

impl Piece {
    fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// Forgets what was written.
    fn advance(&mut self, mut written: usize) {
        self.offset += written as u64;
        let whole = self.chunks.iter().take_while(|chunk| {
            let fits = chunk.len() <= written;
            written -= if fits { chunk.len() } else { 0 };
            fits
        });
        let whole = whole.count();
        self.chunks.drain(..whole);
        if let Some(first) = self.chunks.first_mut() {
            drop(first.split_to(written.min(first.len())));
        }
    }
}

#[derive(Debug)]
enum Way {
    Uring(Box<Uring>),
    Plain(Plain),
}

/// Writes one file. Dropped before its end it waits for the kernel, or leaks what the kernel may still read.
#[derive(Debug)]
pub struct FileWriter {
    way: Way,
    refusal: Option<io::Error>,
    handed_over: u64,
    failed: Option<WriteError>,
}

impl FileWriter {
    /// At most `depth` writes in flight. Where the kernel has no ring for us it is pwritev, and [`Self::refusal`] says why.
    #[must_use]
    pub fn new(file: File, kind: WriterKind, depth: u32) -> Self {
        match kind {
            WriterKind::IoUring => Self::over(Uring::ring(depth), file),
            WriterKind::Pwritev => Self::by(Way::Plain(Plain::new(file)), None),
        }
    }

    fn over(ring: io::Result<io_uring::IoUring>, file: File) -> Self {
        match ring {
            Ok(ring) => Self::by(Way::Uring(Box::new(Uring::new(ring, file))), None),
            Err(error) => Self::by(Way::Plain(Plain::new(file)), Some(error)),
        }
    }

    fn by(way: Way, refusal: Option<io::Error>) -> Self {
        Self { way, refusal, handed_over: 0, failed: None }
    }

    #[must_use]
    pub fn kind(&self) -> WriterKind {
        match self.way {
            Way::Uring(_) => WriterKind::IoUring,
            Way::Plain(_) => WriterKind::Pwritev,
        }
    }

    /// Why there is no ring, if one was asked for.
    #[must_use]
    pub fn refusal(&self) -> Option<&io::Error> {
        self.refusal.as_ref()
    }

    /// Takes `chunks` to be written one after the other from `offset` on. Waits while as many writes as allowed are in flight.
    ///
    /// # Errors
    /// Of this or an earlier write.
    pub fn write(&mut self, chunks: Vec<Bytes>, offset: u64) -> Result<(), WriteError> {
        self.unless_failed(|this| {
            let (mut offset, mut chunks) = (offset, chunks);
            chunks.retain(|chunk| !chunk.is_empty());
            while !chunks.is_empty() {
                let later = chunks.split_off(chunks.len().min(MOST_CHUNKS));
                let piece = Piece { offset, chunks: std::mem::replace(&mut chunks, later) };
                offset += piece.len() as u64;
                this.handed_over += piece.len() as u64;
                match &mut this.way {
                    Way::Uring(uring) => uring.write(piece)?,
                    Way::Plain(plain) => plain.write(piece)?,
                }
            }
            Ok(())
        })
    }

    /// Waits for every write, so that a failure is heard of although nothing more is handed over.
    ///
    /// # Errors
    /// Of any write.
    pub fn settle(&mut self) -> Result<(), WriteError> {
        self.unless_failed(|this| match &mut this.way {
            Way::Uring(uring) => uring.drain().map(drop),
            Way::Plain(_) => Ok(()),
        })
    }

    /// Waits for every write and brings the file to its medium.
    ///
    /// # Errors
    /// Of any write, or of the sync; [`WriteError::Lost`] when the kernel acknowledged other bytes than it was given.
    pub fn finish(mut self) -> Result<(), WriteError> {
        self.unless_failed(|this| {
            let (file, acknowledged) = match &mut this.way {
                Way::Uring(uring) => uring.drain()?,
                Way::Plain(plain) => plain.drain(),
            };
            if acknowledged != this.handed_over {
                return Err(WriteError::Lost { acknowledged, handed_over: this.handed_over });
            }
            // Delayed allocation tells of a full file system only here.
            file.sync_all().map_err(WriteError::Sync)
        })
    }

    fn unless_failed(&mut self, work: impl FnOnce(&mut Self) -> Result<(), WriteError>) -> Result<(), WriteError> {
        if let Some(failed) = &self.failed {
            return Err(failed.again());
        }
        work(self).inspect_err(|error| self.failed = Some(error.again()))
    }
}

#[cfg(test)]
mod tests;
