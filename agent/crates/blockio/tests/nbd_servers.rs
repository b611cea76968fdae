//! The NBD client against servers that others wrote: nbdkit with its plugins and filters, and qemu-nbd.
#![allow(clippy::cast_possible_truncation, reason = "numbers of tests are small")]
#![allow(clippy::unwrap_used, reason = "test")]
use std::{
    fs::File,
    io::{Seek as _, SeekFrom, Write as _},
    ops::{ControlFlow, Range},
    os::unix::fs::FileExt as _,
    sync::atomic::AtomicBool,
};

use hotadd_blockio::{
    Arena, FullSpeed, ReadEngine as _, ReadError, ReadRequest, ReadStats,
    engine::ReadOp,
    nbd::{Headers, Limits, NbdEngine, NbdError, Options},
    reader,
};

mod nbd_support;
use nbd_support::{Certificates, have, nbdkit, nbdkit_at, nbdkit_tcp, qemu_nbd};

const BLOCK: u32 = 64 << 10;

/// nbdkit's pattern plugin: every 8 bytes are their offset, big-endian.
fn pattern(at: u64) -> u8 {
    (at & !7).to_be_bytes()[(at & 7) as usize]
}

fn read(
    engine: &mut NbdEngine,
    ranges: &[Range<u64>],
    check: &mut dyn FnMut(u64, &[u8]),
) -> Result<ReadStats, ReadError> {
    let arena = Arena::new(2 * engine.depth() as u32, BLOCK as usize).unwrap();
    let never = AtomicBool::new(false);
    let request = ReadRequest::new(ranges, BLOCK, &never);
    let source = std::sync::Arc::clone(engine.source());
    let result = reader::read(&source, engine, &arena, &request, &mut FullSpeed, &mut |block| {
        check(block.offset, block.data.as_ref());
        ControlFlow::Continue(())
    });
    assert_eq!(engine.in_flight(), 0);
    assert_eq!(arena.available(), arena.slots() as usize, "a buffer was lost");
    result
}

fn is_pattern(at: u64, data: &[u8]) {
    assert!(data.iter().zip(at..).all(|(&byte, at)| byte == pattern(at)), "at {at}");
}

fn whole_pattern(engine: &mut NbdEngine) {
    let size = engine.export().size;
    let mut bytes = 0;
    let stats = read(engine, &[0..size], &mut |at, data| {
        assert_eq!(at, bytes, "in order");
        bytes += data.len() as u64;
        is_pattern(at, data);
    });
    assert_eq!((bytes, stats.unwrap().bytes), (size, size));
}

fn kind(result: Result<NbdEngine, NbdError>) -> &'static str {
    result.map_or_else(|error| error.kind(), |_| "open")
}

#[test]
fn every_way_to_a_server_gives_its_bytes() {
    if !have("nbdkit", "ways") {
        return;
    }
    let options = Options::default();
    for args in [
        &["pattern", "8M"][..],
        &["--no-sr", "pattern", "8M"],
        &["--filter=delay", "pattern", "8M", "rdelay=2ms"],
        &["--filter=noparallel", "pattern", "8M"],
        &["--filter=multi-conn", "pattern", "8M", "multi-conn-mode=disable"],
    ] {
        for server in [nbdkit(args), nbdkit_tcp(args)] {
            let mut engine = server.open(&options, 16).unwrap();
            let simple = engine.export().headers == Headers::Simple;
            assert_eq!(simple, args.contains(&"--no-sr"));
            assert_eq!(engine.connections() > 1, !args.contains(&"multi-conn-mode=disable"), "{args:?}");
            whole_pattern(&mut engine);
        }
    }
}

/// nbdkit closes what it has open only if its client leaves in order, with all replies taken.
#[test]
fn a_read_that_is_given_up_leaves_in_order() {
    if !have("nbdkit", "leaving") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let logfile = format!("logfile={}", log.display());
    let server = nbdkit(&["--filter=log", "--filter=delay", "pattern", "64M", "rdelay=20ms", &logfile]);
    let count = |what: &str| std::fs::read_to_string(&log).unwrap_or_default().matches(what).count();
    for (round, stopped) in [(1, false), (2, true)] {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let options = Options { connections: 1, stop: Some(std::sync::Arc::clone(&stop)), ..Options::default() };
        let mut engine = server.open(&options, 8).unwrap();
        let arena = Arena::new(8, 1 << 20).unwrap();
        for n in 0..8 {
            engine.submit(ReadOp { offset: n << 20, length: 1 << 20, buffer: arena.try_take().unwrap() }).unwrap();
        }
        stop.store(stopped, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(engine.complete().is_err(), stopped);
        drop(engine);
        nbd_support::until("the disk is closed", || count(" Disconnect ") == round);
    }
    assert_eq!(count(" Connect "), 2, "the same nbdkit served both");
}

#[test]
fn a_size_that_is_no_multiple_of_anything_is_read_to_its_last_byte() {
    if !have("nbdkit", "odd size") {
        return;
    }
    let server = nbdkit(&["pattern", "1000003"]);
    whole_pattern(&mut server.open(&Options::default(), 4).unwrap());
}

#[test]
fn the_servers_block_sizes_are_kept() {
    if !have("nbdkit", "block sizes") {
        return;
    }
    let server = nbdkit(&[
        "--filter=blocksize-policy",
        "pattern",
        "1M",
        "blocksize-minimum=4096",
        "blocksize-preferred=8192",
        "blocksize-maximum=12288",
        "blocksize-error-policy=error",
    ]);
    let mut engine = server.open(&Options::default(), 4).unwrap();
    assert_eq!((engine.export().minimum, engine.export().maximum), (4096, 12288));
    whole_pattern(&mut engine);
    let arena = Arena::new(1, 4096).unwrap();
    let unaligned = ReadOp { offset: 512, length: 512, buffer: arena.try_take().unwrap() };
    assert_eq!(engine.submit(unaligned).unwrap_err().error.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn tls_is_all_or_nothing() {
    if !have("nbdkit", "tls") {
        return;
    }
    let (ours, theirs) = (Certificates::new(), Certificates::new());
    let with = |tls| Options { tls: Some(tls), ..Options::default() };
    for server in [
        nbdkit(&["--tls=require", &ours.argument(), "pattern", "4M"]),
        nbdkit_tcp(&["--tls=require", &ours.argument(), "pattern", "4M"]),
    ] {
        let mut engine = server.open(&with(ours.tls(false, Some("disk.example.org"))), 8).unwrap();
        whole_pattern(&mut engine);
        assert_eq!(kind(server.open(&with(theirs.tls(false, Some("disk.example.org"))), 8)), "tls", "a strange CA");
        assert_eq!(kind(server.open(&with(ours.tls(false, Some("other.example.org"))), 8)), "tls", "another name");
        assert_eq!(kind(server.open(&Options::default(), 8)), "tls-config", "nothing to trust");
        let clear = server.uri.replace("nbds", "nbd").parse().unwrap();
        assert_eq!(kind(NbdEngine::open(&clear, &Options::default(), 8)), "tls-required");
    }
    let server = nbdkit_tcp(&["--tls=require", "--tls-verify-peer", &ours.argument(), "pattern", "4M"]);
    whole_pattern(&mut server.open(&with(ours.tls(true, None)), 8).unwrap());
    assert_ne!(kind(server.open(&with(ours.tls(false, None)), 8)), "open", "no certificate of ours");
    let server = nbdkit(&["pattern", "4M"]);
    let secure = server.uri.replace("nbd+", "nbds+").parse().unwrap();
    let options = with(ours.tls(false, Some("disk.example.org")));
    assert_eq!(kind(NbdEngine::open(&secure, &options, 8)), "tls-refused");
    assert_eq!(kind(server.open(&options, 8)), "tls-config", "TLS that the URI does not ask for");
}

#[test]
fn an_error_is_that_read_only() {
    if !have("nbdkit", "error filter") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let trigger = dir.path().join("fail");
    let file = format!("error-file={}", trigger.display());
    let server = nbdkit(&["--filter=error", "pattern", "1M", "error=EIO", "error-rate=100%", &file]);
    let mut engine = server.open(&Options::default(), 4).unwrap();
    let arena = Arena::new(4, BLOCK as usize).unwrap();
    let mut one = |wanted: Option<i32>| {
        let buffer = arena.try_take().unwrap();
        engine.submit(ReadOp { offset: 0, length: BLOCK, buffer }).unwrap();
        let done = engine.complete().unwrap().unwrap();
        assert_eq!(done.result.as_ref().err().and_then(std::io::Error::raw_os_error), wanted);
        assert_eq!(done.op.buffer.as_ref().len(), if wanted.is_some() { 0 } else { BLOCK as usize });
    };
    one(None);
    File::create(&trigger).unwrap();
    one(Some(nix::errno::Errno::EIO as i32));
    std::fs::remove_file(&trigger).unwrap();
    one(None);
}

#[test]
fn a_bad_sector_is_named() {
    if !have("nbdkit", "bad sector") {
        return;
    }
    // The sector at 300032 can't be read, alone or with others.
    let pread = "pread=if [ $4 -le 300032 ] && [ $(($4 + $3)) -gt 300032 ]; then echo EIO bad >&2; exit 1; fi; \
                 head -c $3 /dev/zero";
    let server = nbdkit(&["eval", "get_size=echo 1048576", pread]);
    let mut engine = server.open(&Options::default(), 4).unwrap();
    let size = engine.export().size;
    let mut delivered = 0;
    let result = read(&mut engine, &[0..size], &mut |_, data| delivered += data.len() as u64);
    match result {
        Err(ReadError::Media { lba, offset, source }) => {
            assert_eq!((lba, offset), (586, 300_032));
            assert_eq!(source.raw_os_error(), Some(nix::errno::Errno::EIO as i32));
        }
        other => panic!("{other:?}"),
    }
    assert!(delivered <= 300_032);
}

#[test]
fn block_status_tells_data_from_holes() {
    if !have("nbdkit", "block status") {
        return;
    }
    let options = Options::default();
    let server = nbdkit(&["data", "@65536 1*65536 @1048576 2*32768 @4194303 0"]);
    let mut engine = server.open(&options, 4).unwrap();
    let map = engine.extents(0..4 << 20, 1000).unwrap();
    let data: Vec<_> = map.iter().filter(|extent| !extent.zero).map(|extent| extent.range.clone()).collect();
    assert_eq!(data, [65536..131_072, 1_048_576..1_081_344]);
    assert!(map.windows(2).all(|w| w[0].range.end == w[1].range.start));
    assert_eq!((map[0].range.start, map[map.len() - 1].range.end), (0, 4 << 20));
    assert_eq!(engine.extents(65536..131_072, 1000).unwrap().len(), 1);
    assert_eq!(engine.extents(0..1, 1).unwrap_err().kind(), "bad-range");
    let mut read_it = 0;
    read(&mut engine, &data, &mut |_, data| read_it += data.iter().filter(|&&byte| byte != 0).count()).unwrap();
    assert_eq!(read_it, 65536 + 32768);

    for args in [&["--filter=noextents", "pattern", "1M"][..], &["--no-sr", "pattern", "1M"]] {
        let server = nbdkit(args);
        let mut engine = server.open(&options, 4).unwrap();
        match engine.extents(0..1 << 20, 10) {
            Ok(map) => assert!(map.len() == 1 && !map[0].zero && !map[0].hole),
            Err(error) => assert_eq!(error.kind(), "no-block-status"),
        }
    }
    let mut engine = server.open(&Options { block_status: false, ..options }, 4).unwrap();
    assert_eq!(engine.extents(0..1 << 20, 10).unwrap_err().kind(), "no-block-status");
}

#[test]
fn qemu_nbd_gives_bytes_and_holes() {
    if !have("qemu-nbd", "qemu-nbd") {
        return;
    }
    let mut file = tempfile::Builder::new().tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.as_file().set_len(8 << 20).unwrap();
    file.seek(SeekFrom::Start(2 << 20)).unwrap();
    file.write_all(&(0..1_u64 << 20).map(pattern).collect::<Vec<_>>()).unwrap();
    file.as_file().sync_all().unwrap();
    for clients in [1, 4] {
        let server = qemu_nbd(file.path(), clients);
        let mut engine = server.open(&Options::default(), 8).unwrap();
        assert_ne!(engine.export().headers, Headers::Simple);
        assert_eq!(engine.connections(), clients as usize);
        let size = engine.export().size;
        let stats = read(&mut engine, &[0..size], &mut |at, data| {
            let mut expected = vec![0; data.len()];
            file.as_file().read_exact_at(&mut expected, at).unwrap();
            assert!(data == expected, "at {at}");
        });
        assert_eq!(stats.unwrap().bytes, 8 << 20);
        let map = engine.extents(0..size, 1000).unwrap();
        let data: Vec<_> = map.iter().filter(|extent| !extent.zero).map(|extent| extent.range.clone()).collect();
        assert_eq!(data, [2 << 20..3 << 20]);
        let wrong = server.uri.replace("/disk?", "/nodisk?").parse().unwrap();
        drop(engine);
        assert_eq!(kind(NbdEngine::open(&wrong, &Options::default(), 1)), "refused");
    }
}

/// Reads 8 MiB of pattern; after a quarter the server is killed and another takes its place on the same socket.
fn replaced(then: &[&str]) -> Result<ReadStats, ReadError> {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nbd.sock");
    let mut server = nbdkit_at(&socket, &["--filter=delay", "pattern", "8M", "rdelay=1ms"]);
    let limits = Limits { backoff: std::time::Duration::from_millis(10), ..Limits::default() };
    let mut engine = server.open(&Options { limits, ..Options::default() }, 8).unwrap();
    let (size, mut next) = (engine.export().size, 0);
    let result = read(&mut engine, &[0..size], &mut |at, data| {
        assert_eq!(at, next);
        next += data.len() as u64;
        is_pattern(at, data);
        if at == size / 4 {
            server.kill();
            server = nbdkit_at(&socket, then);
        }
    });
    assert_eq!(result.is_ok(), next == size);
    result
}

#[test]
fn a_server_that_comes_back_is_read_on() {
    if !have("nbdkit", "reconnect") {
        return;
    }
    assert_eq!(replaced(&["pattern", "8M"]).unwrap().bytes, 8 << 20);
    for (then, wanted) in [
        (&["pattern", "9M"][..], "changed"),
        (&["--filter=multi-conn", "pattern", "8M", "multi-conn-mode=disable"], "changed"),
    ] {
        match replaced(then) {
            Err(ReadError::Engine { source, .. }) => assert_eq!(NbdError::of(&source).unwrap().kind(), wanted),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nobody_there_is_told_as_that() {
    let uri = "nbd+unix:///?socket=/nonexistent/nbd.sock".parse().unwrap();
    assert_eq!(kind(NbdEngine::open(&uri, &Options::default(), 1)), "connect");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let uri = format!("nbd://127.0.0.1:{port}/").parse().unwrap();
    assert_eq!(kind(NbdEngine::open(&uri, &Options::default(), 1)), "connect");
}
