//! Inflating one grain: output bounded to a grain, checksum compared, nothing left over.

use flate2::{Decompress, FlushDecompress, Status};

use super::error::StreamError;

/// An inflater that is used again for each grain.
pub(super) struct Inflater(Decompress);

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inflater")
    }
}

impl Inflater {
    pub(super) fn new() -> Inflater {
        Inflater(Decompress::new(true))
    }

    /// Inflates `input`, a whole zlib stream, into at most `grain` bytes. The last grain of a disk may stop at
    /// `least`, where the disk ends.
    pub(super) fn grain(&mut self, lba: u64, input: &[u8], grain: usize, least: usize) -> Result<Vec<u8>, StreamError> {
        let bad = |why| StreamError::Grain { lba, why };
        let mut out = vec![0; grain];
        self.0.reset(true);
        let status = self.0.decompress(input, &mut out, FlushDecompress::Finish);
        let (took, gave) = (self.0.total_in(), self.0.total_out());
        match status {
            Ok(Status::StreamEnd) => {}
            Ok(_) if gave >= out.len() as u64 => return Err(bad("it inflates to more than a grain")),
            Ok(_) => return Err(bad("its content is cut off")),
            Err(_) => return Err(bad("its content is damaged")),
        }
        if took != input.len() as u64 {
            return Err(bad("bytes behind its content"));
        }
        if gave < least as u64 {
            return Err(bad("it inflates to less than a grain"));
        }
        out.truncate(least);
        Ok(out)
    }
}
