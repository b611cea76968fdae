//! The conformance suite: every engine is held to the same contract (src/engine/mod.rs), through the trait only.
//! The NBD engine is, over a Unix socket, over TCP with several connections, and over TLS, with nbdkit behind it.
#![allow(clippy::unwrap_used, reason = "test")]
use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{ErrorKind, Write as _},
    ops::ControlFlow,
    sync::{Arc, atomic::AtomicBool},
};

use hotadd_blockio::{
    Arena, Device, EngineKind, FullSpeed, ReadEngine, ReadError, ReadRequest, Source, Tuning,
    engine::{self, ReadOp},
    nbd::Options,
    reader,
};

mod nbd_support;
use nbd_support::{Certificates, have, nbdkit, nbdkit_tcp};

const BLOCK: u32 = 64 << 10;
const BLOCKS: u64 = 40;
/// The file ends in the middle of a block.
const TAIL: u64 = 512;

struct Bench {
    device: Arc<dyn Source>,
    arena: Arena,
    file: tempfile::NamedTempFile,
}

fn content(offset: u64) -> u8 {
    (offset / 512 % 251) as u8 ^ (offset % 7) as u8
}

fn file() -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bytes: Vec<u8> = (0..u64::from(BLOCK) * BLOCKS + TAIL).map(content).collect();
    file.write_all(&bytes).unwrap();
    file.as_file().sync_all().unwrap();
    file
}

fn bench(slots: u32) -> (Bench, Arc<Device>) {
    let file = file();
    let device = Arc::new(Device::open(file.path()).unwrap());
    (Bench { device: Arc::clone(&device) as _, arena: Arena::new(slots, BLOCK as usize).unwrap(), file }, device)
}

fn op(bench: &Bench, block: u64) -> ReadOp {
    ReadOp { offset: block * u64::from(BLOCK), length: BLOCK, buffer: bench.arena.try_take().unwrap() }
}

/// Runs `check` on every engine. On a kernel that refuses one, that is an error here: these tests prove engines.
fn each(depth: u32, slots: u32, check: impl Fn(&Bench, &mut dyn ReadEngine)) {
    let plain = EngineKind::PREFERENCE.map(|kind| (kind, Tuning::from(depth)));
    for (kind, tuning) in plain.into_iter().chain([(EngineKind::IoUring, Tuning { depth, sqpoll: true })]) {
        let (bench, device) = bench(slots);
        let mut engine = engine::make(kind, &device, &bench.arena, tuning).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(engine.kind(), kind);
        check(&bench, engine.as_mut());
        drop(engine);
        assert_eq!(bench.arena.available(), slots as usize, "{kind}: a buffer was lost");
    }
    if have("nbdkit", "conformance") {
        for way in ["unix", "tcp", "tls"] {
            each_nbd(way, depth, slots, &check);
        }
    }
}

fn each_nbd(way: &str, depth: u32, slots: u32, check: &impl Fn(&Bench, &mut dyn ReadEngine)) {
    let file = file();
    let path = file.path().display().to_string();
    let certificates = Certificates::new();
    let mut options = Options::default();
    let server = match way {
        "unix" => nbdkit(&["-r", "file", &path]),
        "tcp" => nbdkit_tcp(&["-r", "file", &path]),
        _ => {
            options.tls = Some(certificates.tls(false, Some("disk.example.org")));
            nbdkit(&["-r", "--tls=require", &certificates.argument(), "file", &path])
        }
    };
    let mut engine = server.open(&options, depth).unwrap_or_else(|e| panic!("{way}: {e}"));
    assert_eq!(engine.kind(), EngineKind::Nbd);
    assert_eq!(engine.connections(), depth.min(4) as usize, "nbdkit's file plugin says multi-conn");
    let bench =
        Bench { device: Arc::clone(engine.source()) as _, arena: Arena::new(slots, BLOCK as usize).unwrap(), file };
    check(&bench, &mut engine);
    drop(engine);
    assert_eq!(bench.arena.available(), slots as usize, "nbd {way}: a buffer was lost");
}

#[test]
fn every_block_has_its_own_content() {
    each(8, 8, |bench, engine| {
        let mut seen = HashSet::new();
        let mut next = 0;
        while (seen.len() as u64) < BLOCKS {
            while next < BLOCKS && engine.in_flight() < engine.depth() {
                engine.submit(op(bench, next)).unwrap();
                next += 1;
            }
            let done = engine.complete().unwrap().unwrap();
            assert_eq!(done.result.unwrap(), BLOCK as usize);
            let data = done.op.buffer.as_ref();
            assert!(data.iter().zip(done.op.offset..).all(|(&b, at)| b == content(at)), "at {}", done.op.offset);
            assert!(seen.insert(done.op.offset));
        }
        assert!(engine.complete().unwrap().is_none());
    });
}

#[test]
fn more_than_depth_is_rejected_and_the_buffer_comes_back() {
    each(2, 4, |bench, engine| {
        engine.submit(op(bench, 0)).unwrap();
        engine.submit(op(bench, 1)).unwrap();
        let rejected = engine.submit(op(bench, 2)).unwrap_err();
        assert_eq!(rejected.error.kind(), ErrorKind::WouldBlock);
        assert_eq!(rejected.op.offset, 2 * u64::from(BLOCK));
        assert_eq!(engine.in_flight(), 2);
    });
}

#[test]
fn a_buffer_that_is_too_small_is_rejected() {
    each(2, 2, |bench, engine| {
        let big = ReadOp { length: BLOCK + 4096, ..op(bench, 0) };
        assert_eq!(engine.submit(big).unwrap_err().error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn the_end_of_the_file_is_short_and_beyond_it_is_zero() {
    each(2, 2, |bench, engine| {
        engine.submit(op(bench, BLOCKS)).unwrap();
        let last = engine.complete().unwrap().unwrap();
        assert_eq!(last.result.unwrap() as u64, TAIL);
        assert_eq!(last.op.buffer.as_ref().len() as u64, TAIL);
        drop(last.op);
        engine.submit(op(bench, BLOCKS + 1)).unwrap();
        assert_eq!(engine.complete().unwrap().unwrap().result.unwrap(), 0);
    });
}

#[test]
fn a_read_error_is_that_completion_only() {
    for kind in EngineKind::PREFERENCE {
        let (bench, _) = bench(4);
        let write_only = OpenOptions::new().write(true).open(bench.file.path()).unwrap();
        let device = Arc::new(Device::from_file(write_only).unwrap());
        let mut engine = engine::make(kind, &device, &bench.arena, 4).unwrap();
        // io_submit refuses a descriptor that is not readable at once; the others answer in the completion.
        match engine.submit(op(&bench, 0)) {
            Err(rejected) => assert_eq!(rejected.error.raw_os_error(), Some(libc_ebadf()), "{kind}"),
            Ok(()) => {
                let done = engine.complete().unwrap().unwrap();
                assert_eq!(done.result.unwrap_err().raw_os_error(), Some(libc_ebadf()), "{kind}");
                assert!(done.op.buffer.as_ref().is_empty(), "{kind}: a failed read shows no bytes");
            }
        }
        assert_eq!(engine.in_flight(), 0);
    }
}

fn libc_ebadf() -> i32 {
    nix::errno::Errno::EBADF as i32
}

#[test]
fn dropping_with_reads_in_flight_returns_every_buffer() {
    each(8, 8, |bench, engine| {
        for block in 0..8 {
            engine.submit(op(bench, block)).unwrap();
        }
    });
}

#[test]
fn the_reader_delivers_in_order_and_only_what_was_asked() {
    each(8, 12, |bench, engine| {
        let end = bench.device.size();
        let unit = u64::from(BLOCK);
        let ranges = [512..1024, unit - 512..5 * unit + 512, 7 * unit..end];
        let mut got = Vec::new();
        let never = AtomicBool::new(false);
        let request = ReadRequest::new(&ranges, BLOCK, &never);
        let stats = reader::read(&bench.device, engine, &bench.arena, &request, &mut FullSpeed, &mut |block| {
            let data = block.data.as_ref();
            assert!(data.iter().zip(block.offset..).all(|(&b, at)| b == content(at)));
            got.push(block.offset..block.offset + data.len() as u64);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(got.windows(2).all(|w| w[0].end <= w[1].start));
        assert_eq!(stats.bytes, ranges.iter().map(|r| r.end - r.start).sum::<u64>());
        assert_eq!(got.iter().map(|r| r.end - r.start).sum::<u64>(), stats.bytes);
        assert!(!stats.stopped);
    });
}

#[test]
fn in_any_order_each_byte_still_comes_once() {
    each(8, 8, |bench, engine| {
        let end = bench.device.size();
        let ranges = [0..u64::from(BLOCK) * 3, u64::from(BLOCK) * 4 + 512..end];
        let mut got = Vec::new();
        let never = AtomicBool::new(false);
        let request = ReadRequest { any_order: true, ..ReadRequest::new(&ranges, BLOCK, &never) };
        let stats = reader::read(&bench.device, engine, &bench.arena, &request, &mut FullSpeed, &mut |block| {
            let data = block.data.as_ref();
            assert!(data.iter().zip(block.offset..).all(|(&b, at)| b == content(at)));
            got.push(block.offset..block.offset + data.len() as u64);
            ControlFlow::Continue(())
        })
        .unwrap();
        got.sort_by_key(|range| range.start);
        let gaps = got.windows(2).filter(|pair| pair[0].end != pair[1].start);
        assert_eq!(gaps.count(), 1, "between the two ranges: {got:?}");
        let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        assert_eq!((stats.bytes, got.iter().map(|range| range.end - range.start).sum::<u64>()), (total, total));
    });
}

#[test]
fn a_file_that_shrank_is_gone_never_a_short_success() {
    each(4, 8, |bench, engine| {
        let size = bench.device.size();
        OpenOptions::new().write(true).open(bench.file.path()).unwrap().set_len(size / 2).unwrap();
        let whole = [0..size];
        let never = AtomicBool::new(false);
        let request = ReadRequest::new(&whole, BLOCK, &never);
        let mut bytes = 0;
        let result = reader::read(&bench.device, engine, &bench.arena, &request, &mut FullSpeed, &mut |block| {
            bytes += block.data.as_ref().len() as u64;
            ControlFlow::Continue(())
        });
        // A server keeps its size and answers EIO for what its file lost.
        match (engine.kind(), &result) {
            (EngineKind::Nbd, Err(ReadError::Media { offset, .. })) => assert!(*offset >= size / 2 - 512),
            (EngineKind::Nbd, other) => panic!("{other:?}"),
            (_, result) => assert!(matches!(result, Err(ReadError::Gone { .. })), "{result:?}"),
        }
        assert!(bytes <= size / 2);
        assert_eq!(engine.in_flight(), 0);
    });
}

#[test]
fn a_sink_that_breaks_and_a_cancel_stop_the_read() {
    each(4, 8, |bench, engine| {
        let whole = [0..bench.device.size()];
        let cancel = AtomicBool::new(false);
        let request = ReadRequest::new(&whole, BLOCK, &cancel);
        let mut blocks = 0;
        let stats = reader::read(&bench.device, engine, &bench.arena, &request, &mut FullSpeed, &mut |_| {
            blocks += 1;
            if blocks == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert!(stats.stopped);
        assert_eq!(blocks, 3);
        cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        let stats = reader::read(&bench.device, engine, &bench.arena, &request, &mut FullSpeed, &mut |_| {
            ControlFlow::Continue(())
        });
        assert!(stats.unwrap().stopped);
        assert_eq!(engine.in_flight(), 0);
    });
}

#[test]
fn a_consumer_that_keeps_buffers_stops_the_reader_without_losing_one() {
    each(4, 4, |bench, engine| {
        let whole = [0..bench.device.size()];
        let (keep, kept) = std::sync::mpsc::sync_channel::<hotadd_blockio::Block>(64);
        let cancel = AtomicBool::new(false);
        let total = std::thread::scope(|scope| {
            let slow = scope.spawn(move || kept.iter().map(|block| block.data.as_ref().len() as u64).sum::<u64>());
            let request = ReadRequest::new(&whole, BLOCK, &cancel);
            let arena = &bench.arena;
            reader::read(&bench.device, engine, arena, &request, &mut FullSpeed, &mut |block| {
                if keep.send(block).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .unwrap();
            drop(keep);
            slow.join().unwrap()
        });
        assert_eq!(total, bench.device.size());
    });
}

#[test]
fn bad_requests_are_refused_before_any_read() {
    each(2, 2, |bench, engine| {
        let size = bench.device.size();
        for ranges in
            [vec![0..0], vec![0..size + 512], vec![1..512], vec![1024..2048, 0..512], vec![0..1024, 512..2048]]
        {
            let never = AtomicBool::new(false);
            let request = ReadRequest::new(&ranges, BLOCK, &never);
            let result = reader::read(&bench.device, engine, &bench.arena, &request, &mut FullSpeed, &mut |_| {
                panic!("nothing may be delivered")
            });
            assert!(matches!(result, Err(ReadError::BadRange { .. })), "{ranges:?}");
        }
        let never = AtomicBool::new(false);
        let request = ReadRequest::new(&[], BLOCK * 2, &never);
        let result = reader::read(&bench.device, engine, &bench.arena, &request, &mut FullSpeed, &mut |_| {
            ControlFlow::Continue(())
        });
        assert!(matches!(result, Err(ReadError::BadBlock { .. })));
    });
}

#[test]
fn selection_takes_the_first_that_works_and_says_why_not_the_others() {
    let (bench, device) = bench(4);
    let selected = engine::select(&EngineKind::PREFERENCE, &device, &bench.arena, 4).unwrap();
    assert_eq!(selected.engine.kind(), EngineKind::IoUring);
    assert!(selected.refused.is_empty());
    let write_only: File = OpenOptions::new().write(true).open(bench.file.path()).unwrap();
    let unreadable = Arc::new(Device::from_file(write_only).unwrap());
    let refused = engine::select(&EngineKind::PREFERENCE, &unreadable, &bench.arena, 4).unwrap_err();
    assert_eq!(refused.len(), 3);
    assert!(refused.iter().all(|r| r.to_string().contains("EBADF")), "{refused:?}");
}
