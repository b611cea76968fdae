//! Threads beside the one that reads, for looking at blocks where that takes longer than reading them: compression. What goes in comes
//! out in the same order.
//!
//! ```text
//! put ─▶ bounded queue ─▶ worker │ worker │ … ─▶ done, by number ─▶ the next in order
//! ```
//! At most two blocks a worker are inside, and never more than half of the buffers that the reader has: it hands over blocks only while it
//! gets some, so that what is inside must not be all. A crew that is dropped ends with what it is at.
use std::{
    collections::VecDeque,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::framer::{Looked, Recipe};

/// See the module.
#[derive(Debug)]
pub(super) struct Crew {
    queue: Sender<(u64, u64, Bytes)>,
    /// `None`: the worker panicked over it.
    done: Receiver<(u64, Option<Looked>)>,
    /// From the number `first` on; `None`: still with a worker.
    inside: VecDeque<Option<Looked>>,
    first: u64,
    most: usize,
}

impl Crew {
    /// `None`: no workers are wanted, or no thread is to be had: then the reader's own thread has to do. `buffers`: of the reader.
    pub(super) fn start(recipe: &Arc<Recipe>, workers: usize, buffers: u32) -> Option<Self> {
        let most = (workers * 2).min(buffers as usize / 2).max(1);
        let (queue, jobs) = bounded::<(u64, u64, Bytes)>(most);
        let (tell, done) = unbounded();
        let started = (0..workers.min(most)).filter(|_| {
            let (recipe, jobs, tell) = (Arc::clone(recipe), jobs.clone(), tell.clone());
            let work = move || {
                let mut scratch = Vec::new();
                for (number, offset, data) in jobs {
                    let look = AssertUnwindSafe(|| recipe.look(offset, data, &mut scratch));
                    let looked = catch_unwind(look).ok();
                    if tell.send((number, looked)).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new().name("frame".to_owned()).spawn(work).is_ok()
        });
        let inside = VecDeque::with_capacity(most);
        (started.count() > 0).then_some(Self { queue, done, inside, first: 0, most })
    }

    /// Takes a block, and gives what is next in order. Breaks when a worker is gone.
    pub(super) fn put(&mut self, offset: u64, data: Bytes) -> ControlFlow<(), Vec<Looked>> {
        let number = self.first + self.inside.len() as u64;
        self.inside.push_back(None);
        if self.queue.send((number, offset, data)).is_err() {
            return ControlFlow::Break(());
        }
        let mut ready = Vec::new();
        loop {
            while let Ok(done) = self.done.try_recv() {
                self.note(done)?;
            }
            while let Some(Some(_)) = self.inside.front() {
                ready.extend(self.pop());
            }
            if self.inside.len() < self.most {
                return ControlFlow::Continue(ready);
            }
            self.wait()?;
        }
    }

    /// The next in order; waits for it. `None`: nothing is inside.
    pub(super) fn next(&mut self) -> ControlFlow<(), Option<Looked>> {
        while let Some(None) = self.inside.front() {
            self.wait()?;
        }
        ControlFlow::Continue(self.pop())
    }

    fn wait(&mut self) -> ControlFlow<()> {
        let Ok(done) = self.done.recv() else { return ControlFlow::Break(()) };
        self.note(done)
    }

    fn note(&mut self, (number, looked): (u64, Option<Looked>)) -> ControlFlow<()> {
        let Some(looked) = looked else { return ControlFlow::Break(()) };
        let place = usize::try_from(number - self.first).ok().and_then(|index| self.inside.get_mut(index));
        if let Some(place) = place {
            *place = Some(looked);
        }
        ControlFlow::Continue(())
    }

    fn pop(&mut self) -> Option<Looked> {
        let looked = self.inside.pop_front()?;
        self.first += 1;
        looked
    }
}

#[cfg(test)]
mod tests {
    use hotadd_api::{compress::expand, v1::Compression};
    use hotadd_blockio::{Arena, Device, EngineKind, FullSpeed, ReadRequest, engine, reader};

    use super::*;

    const BLOCK: u32 = 64 << 10;
    const BLOCKS: u64 = 64;

    /// Blocks of very different content, so that workers take very different times for them.
    fn content(block: u64) -> Vec<u8> {
        let mut state = block * 7 + 1;
        let mut noise = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        let plain = u8::try_from(block).unwrap();
        (0..BLOCK).map(|_| if block.is_multiple_of(3) { noise() } else { plain }).collect()
    }

    #[test]
    fn what_goes_in_comes_out_in_order_whatever_each_takes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), (0..BLOCKS).flat_map(content).collect::<Vec<_>>()).unwrap();
        let device = Arc::new(Device::open(file.path()).unwrap());
        let arena = Arena::new(4, BLOCK as usize).unwrap();
        let mut engine = engine::make(EngineKind::Preadv, &device, &arena, 4).unwrap();
        let recipe = Arc::new(Recipe::new(BLOCK, Compression::Zstd));
        let mut crew = Crew::start(&recipe, 3, 4).unwrap();
        let (whole, never) = ([0..device.size()], std::sync::atomic::AtomicBool::new(false));
        let request = ReadRequest::new(&whole, BLOCK, &never);
        // As a stream does: what is taken is copied, and its buffer goes back.
        let taken = |looked: Looked| Looked { data: bytes::Bytes::copy_from_slice(&looked.data), ..looked };
        let mut out = Vec::new();
        reader::read(&device, engine.as_mut(), &arena, &request, &mut FullSpeed, &mut |block| {
            out.extend(crew.put(block.offset, block.data.into())?.into_iter().map(taken));
            ControlFlow::Continue(())
        })
        .unwrap();
        while let ControlFlow::Continue(Some(looked)) = crew.next() {
            out.push(taken(looked));
        }
        assert_eq!(out.len() as u64, BLOCKS);
        for (block, looked) in (0..).zip(out) {
            let expected = content(block);
            assert_eq!((looked.offset, looked.length), (block * u64::from(BLOCK), BLOCK));
            assert_eq!(
                looked.blake3[..],
                blake3::hash(&expected).as_bytes()[..],
                "of the content, not of what is sent"
            );
            let noise = block.is_multiple_of(3);
            assert_eq!(looked.compression, if noise { Compression::Unspecified } else { Compression::Zstd }, "{block}");
            match looked.compression {
                Compression::Unspecified => assert_eq!(looked.data, expected),
                method if block > 0 => assert_eq!(expand(method, &looked.data, BLOCK as usize).unwrap(), expected),
                _ => {}
            }
        }
        assert_eq!(arena.available(), 4, "a buffer was lost");
    }

    #[test]
    fn a_worker_that_panics_ends_the_read() {
        let arena = Arena::new(2, BLOCK as usize).unwrap();
        let recipe = Arc::new(Recipe::new(BLOCK, Compression::Zstd));
        let mut crew = Crew::start(&recipe, 1, 2).unwrap();
        crew.inside.push_back(None);
        assert_eq!(crew.note((0, None)), ControlFlow::Break(()));
        // One that is whole still goes through.
        let mut crew = Crew::start(&recipe, 1, 4).unwrap();
        assert!(crew.put(0, arena.try_take().unwrap().into()).is_continue());
        assert!(matches!(crew.next(), ControlFlow::Continue(Some(_))));
        assert!(matches!(crew.next(), ControlFlow::Continue(None)));
    }
}
