//! One thread a disk: believes a frame, writes it, and syncs at the end. Knows one file and one disk.
//!
//! ```text
//! collector ─ Frame… ─ Finish ─▶ bounded queue ─▶ thread: Coverage::accept → write (data only) → … → fsync ─▶ Written
//!                 closed without Finish: the disk was given up, the thread ends
//! ```
//! The queue is the back-pressure: when the disk here is slow the collector waits, then the HTTP/2 window closes, then
//! the agent's reads stop; with io_uring a few blocks more are in the kernel's hands. The file was made sparse and zero, so zero frames cost nothing.
use std::thread;

use hotadd_api::v1::Frame;
use hotadd_blockio::sink::WriteError;
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot,
};

use super::{
    areas::Areas,
    coverage::{Coverage, Flaw, Format},
    image::{Image, Sink},
    progress::DiskProgress,
};
use crate::{error::Failure, exit::Exit, reasons};

/// Bytes that may wait for one disk.
const QUEUE_BYTES: usize = 8 << 20;

/// A writer that works.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Sender<Item>,
    done: oneshot::Receiver<Result<Coverage, Failure>>,
}

#[derive(Debug)]
enum Item {
    Frame(Frame),
    Finish,
}

/// What to write and how to name it.
#[derive(Debug)]
pub struct Spec {
    /// For messages: "Hard disk 1 (2000)".
    pub disk: String,
    pub areas: Areas,
    pub format: Format,
}

impl Writer {
    /// Starts the thread. `faults` hears of a failure at once, whatever else the collector waits for.
    ///
    /// # Errors
    /// Exit 1 when there is no thread to be had.
    pub fn start(
        image: Image,
        spec: Spec,
        mut progress: DiskProgress,
        faults: mpsc::Sender<Failure>,
    ) -> Result<Self, Failure> {
        let depth = (QUEUE_BYTES / spec.format.block as usize).max(2);
        let (queue, mut items) = mpsc::channel(depth);
        let (tell, done) = oneshot::channel();
        let work = move || {
            let ended = write(image.open(), &spec, &mut items, &mut progress);
            let Some(ended) = ended else { return };
            if let Err(failure) = &ended {
                // Full: another disk failed first and its failure is enough.
                let _ = faults.try_send(failure.clone());
            }
            let _ = tell.send(ended);
        };
        thread::Builder::new()
            .name("disk-writer".to_owned())
            .spawn(work)
            .map_err(|error| Failure::internal(format!("no thread for a disk: {error}")))?;
        Ok(Self { queue, done })
    }

    /// Hands a frame over; waits while the queue is full.
    ///
    /// # Errors
    /// The failure of the thread.
    pub async fn frame(&mut self, frame: Frame) -> Result<(), Failure> {
        self.send(Item::Frame(frame)).await
    }

    /// Says that all frames were handed over.
    ///
    /// # Errors
    /// The failure of the thread.
    pub async fn finish(&mut self) -> Result<(), Failure> {
        self.send(Item::Finish).await
    }

    /// Waits until the image is whole and on the medium.
    ///
    /// # Errors
    /// The failure of the thread.
    pub async fn written(self) -> Result<Coverage, Failure> {
        drop(self.queue);
        self.done.await.unwrap_or_else(|_| Err(Failure::internal("a writer ended without a word")))
    }

    async fn send(&mut self, item: Item) -> Result<(), Failure> {
        if self.queue.send(item).await.is_ok() {
            return Ok(());
        }
        match (&mut self.done).await {
            Ok(Err(failure)) => Err(failure),
            // It ended well before the last frame, or not at all: both are defects.
            _ => Err(Failure::internal("a writer ended before its disk did")),
        }
    }
}

/// `None`: given up by the collector.
fn write(
    mut sink: Sink,
    spec: &Spec,
    items: &mut mpsc::Receiver<Item>,
    progress: &mut DiskProgress,
) -> Option<Result<Coverage, Failure>> {
    sink.refusal().into_iter().for_each(|why| progress.remark(&why));
    let mut coverage = Coverage::new(spec.areas.clone(), spec.format);
    loop {
        let item = match items.try_recv() {
            Ok(item) => item,
            Err(TryRecvError::Disconnected) => return None,
            // Nothing else tells of a write that failed while none comes.
            Err(TryRecvError::Empty) => match sink.settle() {
                Ok(()) => items.blocking_recv()?,
                Err(error) => return Some(Err(not_written(spec, &error))),
            },
        };
        match item {
            Item::Frame(frame) => {
                let (length, zero) = (frame.length, frame.zero);
                if let Err(failure) = one(&mut sink, spec, &mut coverage, frame) {
                    return Some(Err(failure));
                }
                progress.advance(u64::from(length), zero);
            }
            Item::Finish => return Some(end(sink, spec, coverage)),
        }
    }
}

fn one(sink: &mut Sink, spec: &Spec, coverage: &mut Coverage, frame: Frame) -> Result<(), Failure> {
    let offset = frame.offset;
    let Some(content) = coverage.accept(frame).map_err(|flaw| disbelieve(spec, &flaw))? else { return Ok(()) };
    sink.write(content, offset).map_err(|error| not_written(spec, &error))
}

fn end(sink: Sink, spec: &Spec, coverage: Coverage) -> Result<Coverage, Failure> {
    coverage.finish().map_err(|flaw| disbelieve(spec, &flaw))?;
    sink.finish().map_err(|error| not_written(spec, &error))?;
    Ok(coverage)
}

fn not_written(spec: &Spec, error: &WriteError) -> Failure {
    Failure::write(&format!("{}: {error}", spec.disk), &error.io())
}

fn disbelieve(spec: &Spec, flaw: &Flaw) -> Failure {
    let code = match flaw {
        Flaw::Hash { .. } => reasons::HASH,
        Flaw::Twice { .. } | Flaw::Missing { .. } | Flaw::Outside { .. } | Flaw::Grid { .. } => reasons::COVERAGE,
        Flaw::Payload { .. } | Flaw::ZeroPayload { .. } | Flaw::Method { .. } | Flaw::Packed { .. } => {
            reasons::CONTRACT
        }
    };
    Failure::new(Exit::JobFailed, code, format!("{}: {flaw}", spec.disk)).cleanup(hotadd_api::v1::Cleanup::Unspecified)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, OpenOptions},
        os::unix::fs::MetadataExt as _,
    };

    use hotadd_api::v1::Compression;

    use super::*;
    use crate::output::Output;

    const BLOCK: u32 = 64 << 10;
    const B: u64 = BLOCK as u64;

    fn data(offset: u64) -> Frame {
        let data = vec![7; BLOCK as usize];
        let blake3 = blake3::hash(&data).as_bytes().to_vec().into();
        Frame { device_key: 1, offset, length: BLOCK, zero: false, data: data.into(), blake3, ..Frame::default() }
    }

    fn zero(offset: u64) -> Frame {
        let blake3 = blake3::hash(&[0; BLOCK as usize]).as_bytes().to_vec().into();
        Frame { device_key: 1, offset, length: BLOCK, zero: true, blake3, ..Frame::default() }
    }

    fn writer(file: File, blocks: u64) -> (Writer, mpsc::Receiver<Failure>) {
        let (faults, heard) = mpsc::channel(1);
        let format = Format { block: BLOCK, compression: Compression::Unspecified };
        let spec = Spec { disk: "Hard disk 1 (1)".into(), areas: Areas::whole(blocks * B), format };
        let progress = DiskProgress::new(&Output::new(false, true), 1, "Hard disk 1", blocks * B);
        (Writer::start(Image::File(file, None), spec, progress, faults).unwrap(), heard)
    }

    #[tokio::test]
    async fn an_image_is_sparse_and_equal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let file = File::create(&path).unwrap();
        file.set_len(64 * B).unwrap();
        let (mut writer, _heard) = writer(file, 64);
        writer.frame(data(0)).await.unwrap();
        for block in 1..63 {
            writer.frame(zero(block * B)).await.unwrap();
        }
        writer.frame(data(63 * B)).await.unwrap();
        writer.finish().await.unwrap();
        assert_eq!(writer.written().await.unwrap().data_bytes(), 2 * B);
        let image = std::fs::read(&path).unwrap();
        assert_eq!(image.len() as u64, 64 * B);
        let (head, rest) = image.split_at(BLOCK as usize);
        let (middle, tail) = rest.split_at(rest.len() - BLOCK as usize);
        assert!(head.iter().chain(tail).all(|&b| b == 7) && middle.iter().all(|&b| b == 0));
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 8 * B, "zero frames must stay holes");
    }

    #[tokio::test]
    async fn a_full_file_system_is_heard_at_once() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (mut writer, mut heard) = writer(full, 4);
        writer.frame(data(0)).await.unwrap();
        let failure = heard.recv().await.unwrap();
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::WriteFailed, reasons::NO_SPACE.id));
        // The queue reports the same failure, not a defect.
        let mut next = Ok(());
        for block in 1..200 {
            next = writer.frame(data(block * B)).await;
            if next.is_err() {
                break;
            }
        }
        assert_eq!(next.unwrap_err(), failure);
    }

    #[tokio::test]
    async fn a_gap_at_the_end_is_a_failure() {
        let (mut writer, mut heard) = writer(tempfile::tempfile().unwrap(), 4);
        writer.frame(data(0)).await.unwrap();
        writer.finish().await.unwrap();
        let failure = writer.written().await.unwrap_err();
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::JobFailed, reasons::COVERAGE.id));
        assert_eq!(heard.recv().await.unwrap(), failure);
    }

    #[tokio::test]
    async fn a_writer_that_is_given_up_ends_without_a_fault() {
        let (mut writer, mut heard) = writer(tempfile::tempfile().unwrap(), 4);
        writer.frame(data(0)).await.unwrap();
        drop(writer);
        assert_eq!(heard.recv().await, None);
    }
}
