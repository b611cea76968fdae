//! The NBD client against a server that lies, floods, drips, or goes away: always a typed error, always every buffer
//! back, never a byte called read that was not.
#![allow(clippy::cast_possible_truncation, reason = "numbers of tests are small")]
#![allow(clippy::unwrap_used, reason = "test")]
use std::{
    io,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hotadd_blockio::{
    Arena, Block, FullSpeed, ReadEngine as _, ReadError, ReadRequest, ReadStats, Source as _,
    nbd::{Headers, Limits, NbdEngine, NbdError, Options},
    reader,
};

mod nbd_support;
use nbd_support::{
    Certificates,
    fake::{CONTEXT, Fake, Offer, Peer, Request, Script, content},
};

const BLOCK: u32 = 64 << 10;

/// Short where a test waits for their end, long where it must not come.
fn impatient() -> Options {
    let limits = Limits {
        connect: Duration::from_secs(20),
        handshake: Duration::from_secs(3),
        idle: Duration::from_millis(200),
        reply: Duration::from_millis(600),
        reconnects: 2,
        backoff: Duration::from_millis(5),
    };
    Options { limits, connections: 1, ..Options::default() }
}

fn script(run: impl FnOnce(&mut Peer) -> io::Result<()> + Send + 'static) -> Script {
    Box::new(run)
}

fn open_kind(options: &Options, run: impl FnOnce(&mut Peer) -> io::Result<()> + Send + 'static) -> &'static str {
    let fake = Fake::start(vec![script(run)]);
    NbdEngine::open(&fake.target, options, 4).map_or_else(|error| error.kind(), |_| "open")
}

fn read_all(engine: &mut NbdEngine) -> Result<ReadStats, ReadError> {
    let arena = Arena::new(8, BLOCK as usize).unwrap();
    let source = Arc::clone(engine.source());
    let whole = [0..source.size()];
    let never = AtomicBool::new(false);
    let request = ReadRequest::new(&whole, BLOCK, &never);
    let result =
        reader::read(&source, engine, &arena, &request, &mut FullSpeed, &mut |Block { offset, data, .. }| {
            assert!(data.as_ref().iter().zip(offset..).all(|(&byte, at)| byte == content(at)), "at {offset}");
            ControlFlow::Continue(())
        });
    assert_eq!(engine.in_flight(), 0);
    assert_eq!(arena.available(), 8, "a buffer was lost");
    if matches!(result, Err(ReadError::Engine { .. })) {
        assert!(!source.is_present(), "a lost server is no longer there");
    }
    result
}

/// The kind of the error that ends a read of everything, when connection n is served by script n.
fn read_kind(offer: Offer, scripts: Vec<Script>) -> &'static str {
    let fake = Fake::start(scripts);
    let mut engine = NbdEngine::open(&fake.target, &impatient(), 4).unwrap();
    assert_eq!(engine.export().size, offer.size);
    match read_all(&mut engine) {
        Ok(stats) => {
            assert_eq!(stats.bytes, offer.size);
            "ok"
        }
        Err(ReadError::Engine { source, .. }) => NbdError::of(&source).unwrap().kind(),
        Err(other) => panic!("{other}"),
    }
}

/// One connection; `lie` answers the first request.
fn lie(lie: impl FnOnce(&mut Peer, Request) -> io::Result<()> + Send + 'static) -> &'static str {
    let offer = Offer::default();
    read_kind(
        offer,
        vec![script(move |peer| {
            peer.negotiate(offer)?;
            let request = peer.request()?;
            lie(peer, request)?;
            peer.until_gone()
        })],
    )
}

fn good(offer: Offer) -> Script {
    script(move |peer| {
        peer.negotiate(offer)?;
        peer.serve().map(drop)
    })
}

#[test]
fn an_honest_script_is_read() {
    for (extended, structured) in [(false, true), (true, true)] {
        let offer = Offer { extended, structured, ..Offer::default() };
        assert_eq!(read_kind(offer, vec![good(offer)]), "ok");
    }
}

#[test]
fn what_is_no_server_is_refused() {
    let options = impatient();
    assert_eq!(open_kind(&options, |peer| peer.put(b"HTTP/1.1 400 Bad Request\r\n\r\n")), "not-nbd");
    assert_eq!(open_kind(&options, |peer| peer.put(b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53oldstyle")), "not-nbd");
    assert_eq!(open_kind(&options, |peer| peer.put(b"NBDMAGICIHAVEOPT\0\0 and more")), "not-nbd");
    assert_eq!(open_kind(&options, |peer| peer.put(b"NBDMA")), "closed");
    assert_eq!(open_kind(&options, Peer::until_gone), "timeout", "silence");
    let drip = |peer: &mut Peer| {
        for &byte in b"NBDMAGICIHAVEOPT\0\x03" {
            peer.put(&[byte])?;
            std::thread::sleep(Duration::from_millis(20));
        }
        peer.until_gone()
    };
    assert_eq!(open_kind(&options, drip), "timeout", "one byte now and then");
}

#[test]
fn options_are_bounded() {
    let options = impatient();
    let after_go = |run: fn(&mut Peer) -> io::Result<()>| {
        open_kind(&impatient(), move |peer| {
            peer.greet()?;
            loop {
                match peer.option()?.0 {
                    7 => return run(peer),
                    other => peer.reply(other, (1 << 31) + 1, &[])?,
                }
            }
        })
    };
    let endless = |peer: &mut Peer| -> io::Result<()> {
        loop {
            peer.reply(7, 3, &[0, 1, b'x'])?;
        }
    };
    assert_eq!(after_go(endless), "too-much", "replies without end");
    assert_eq!(after_go(|peer| peer.reply_of(7, 3, u32::MAX, &[0, 1])), "too-much", "a huge string");
    assert_eq!(after_go(|peer| peer.reply_of(7, (1 << 31) + 6, 1 << 20, b"no")), "too-much", "a huge refusal");
    assert_eq!(after_go(|peer| peer.reply(7, (1 << 31) + 6, b"no such\n export")), "refused");
    assert_eq!(after_go(|peer| peer.reply(9, 1, &[])), "protocol", "another option");
    assert_eq!(after_go(|peer| peer.put(&[7; 40])), "protocol", "another magic number");
    assert_eq!(after_go(|peer| peer.reply(7, 1, &[])), "protocol", "no size");
    assert_eq!(after_go(|peer| peer.reply(7, 3, &[0, 0, 1])), "protocol", "a short size");
    let offers = |offer: Offer| open_kind(&impatient(), move |peer| peer.negotiate(offer));
    assert_eq!(offers(Offer { size: u64::MAX, ..Offer::default() }), "too-much");
    assert_eq!(offers(Offer { flags: 0, ..Offer::default() }), "protocol");
    for blocks in [(0, 4096, 4096), (3, 4096, 4096), (1 << 20, 1 << 20, 1 << 20), (512, 256, 4096), (512, 512, 0)] {
        assert_eq!(offers(Offer { blocks: Some(blocks), ..Offer::default() }), "protocol", "{blocks:?}");
    }
    let odd = Offer { size: 4097, blocks: Some((4096, 4096, 4096)), ..Offer::default() };
    assert_eq!(offers(odd), "protocol", "an end that can't be asked for");
    let strange = |peer: &mut Peer| {
        peer.greet()?;
        loop {
            match peer.option()?.0 {
                8 => peer.reply(8, 1, &[])?,
                10 => return peer.reply(10, 4, b"\0\0\0\x01base:dirty"),
                other => peer.reply(other, (1 << 31) + 1, &[])?,
            }
        }
    };
    assert_eq!(open_kind(&options, strange), "protocol", "a context that nobody asked for");
}

#[test]
fn tls_is_never_talked_down() {
    let certificates = Certificates::new();
    let options = Options { tls: Some(certificates.tls(false, Some("disk.example.org"))), ..impatient() };
    let open = |run: fn(&mut Peer) -> io::Result<()>| {
        let fake = Fake::start(vec![script(run)]);
        let mut target = fake.target.clone();
        target.tls = true;
        NbdEngine::open(&target, &options, 4).map_or_else(|error| error.kind(), |_| "open")
    };
    let refuses = |peer: &mut Peer| {
        peer.greet()?;
        assert_eq!(peer.option()?.0, 5, "the first option");
        peer.reply(5, (1 << 31) + 2, b"no")?;
        assert!(peer.option().is_err(), "nothing is said in the clear");
        Ok(())
    };
    assert_eq!(open(refuses), "tls-refused");
    let pretends = |peer: &mut Peer| {
        peer.greet()?;
        peer.option()?;
        peer.reply(5, 1, &[])?;
        // What a man in the middle would say before the client's TLS begins.
        peer.reply(8, 1, &[])?;
        peer.until_gone()
    };
    assert_eq!(open(pretends), "tls");
    let silent = |peer: &mut Peer| {
        peer.greet()?;
        peer.option()?;
        peer.reply(5, 1, &[])?;
        peer.until_gone()
    };
    assert_eq!(open(silent), "timeout");
    assert_eq!(
        open(|peer| {
            peer.greet()?;
            peer.option()?;
            peer.reply(5, 1, b"extra")
        }),
        "protocol"
    );
}

#[test]
fn lies_in_replies_end_the_read() {
    assert_eq!(lie(|peer, r| peer.data(Request { cookie: r.cookie + 99, ..r }, r.offset, 512, true)), "protocol");
    assert_eq!(lie(|peer, _| peer.put(&[0x55; 64])), "protocol", "no header");
    assert_eq!(lie(|peer, r| peer.data(r, r.offset, r.length + 1, true)), "protocol", "longer than asked");
    assert_eq!(lie(|peer, r| peer.data(r, r.offset + 512, r.length, true)), "protocol", "beyond what was asked");
    assert_eq!(lie(|peer, r| peer.chunk(r, 1, true, &[0xff; 10])), "protocol", "offsets that wrap");
    let hole = |peer: &mut Peer, r: Request| {
        let mut payload = (r.offset + 512).to_be_bytes().to_vec();
        payload.extend([0xff; 4]);
        peer.chunk(r, 2, true, &payload)
    };
    assert_eq!(lie(hole), "protocol", "a hole beyond what was asked");
    assert_eq!(lie(|peer, r| peer.data(r, r.offset, 512, true)), "protocol", "a short read called done");
    assert_eq!(lie(|peer, r| peer.chunk(r, 0, true, &[])), "protocol", "nothing called done");
    assert_eq!(
        lie(|peer, r| peer.chunk_of(r, 1, true, u32::MAX.into(), &[])),
        "protocol",
        "a length that fits nothing"
    );
    assert_eq!(lie(|peer, r| peer.chunk(r, 2, true, &[0; 11])), "protocol", "a hole of a wrong length");
    assert_eq!(lie(|peer, r| peer.chunk(r, 5, true, &[0; 12])), "protocol", "block status for a read");
    assert_eq!(lie(|peer, r| peer.chunk(r, 99, true, &[])), "protocol", "a kind that is not known");
    assert_eq!(lie(|peer, r| peer.error(r, 0)), "protocol", "an error that is none");
    assert_eq!(lie(|peer, r| peer.chunk_of(r, 1 << 15 | 1, true, 1 << 30, &[])), "too-much", "a huge message");
    let overlap = |peer: &mut Peer, r: Request| {
        peer.data(r, r.offset, 1024, false)?;
        peer.data(r, r.offset + 512, r.length - 512, true)
    };
    assert_eq!(lie(overlap), "protocol", "bytes that come twice");
    let torn =
        |peer: &mut Peer, r: Request| (0..r.length / 2).try_for_each(|i| peer.data(r, r.offset + 2 * i, 1, false));
    assert_eq!(lie(torn), "protocol", "a reply in crumbs");
    let errors = |peer: &mut Peer, r: Request| -> io::Result<()> {
        loop {
            peer.chunk(r, 1 << 15 | 1, false, &[0, 0, 0, 5, 0, 0])?;
        }
    };
    assert_eq!(lie(errors), "protocol", "errors without end");
    let twice = |peer: &mut Peer, r: Request| {
        peer.data(r, r.offset, r.length, true)?;
        peer.data(r, r.offset, r.length, true)
    };
    assert_eq!(lie(twice), "protocol", "the same reply twice");
}

#[test]
fn a_server_that_hangs_is_left_and_given_up() {
    let offer = Offer::default();
    let hang = move || {
        script(move |peer: &mut Peer| {
            peer.negotiate(offer)?;
            peer.until_gone()
        })
    };
    assert_eq!(read_kind(offer, vec![hang(), hang(), hang()]), "gave-up");
    assert_eq!(read_kind(offer, vec![hang(), good(offer)]), "ok", "the second connection serves");
    let drip = move || {
        script(move |peer: &mut Peer| {
            peer.negotiate(offer)?;
            let request = peer.request()?;
            peer.chunk_of(request, 1, true, 8 + request.length, &request.offset.to_be_bytes())?;
            loop {
                peer.put(&[0])?;
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    assert_eq!(read_kind(offer, vec![drip(), drip(), drip()]), "gave-up", "a byte now and then is no reply");
}

#[test]
fn what_was_in_flight_is_asked_again() {
    let offer = Offer::default();
    let breaks = move || {
        script(move |peer: &mut Peer| {
            peer.negotiate(offer)?;
            let first = peer.request()?;
            peer.data(first, first.offset, first.length, true)?;
            let second = peer.request()?;
            peer.data(second, second.offset, 512, false)?;
            peer.chunk_of(second, 1, true, 8 + 512, &(second.offset + 512).to_be_bytes())
        })
    };
    let leaves = move || {
        script(move |peer: &mut Peer| {
            peer.negotiate(offer)?;
            let request = peer.request()?;
            peer.error(request, 108)?;
            peer.until_gone()
        })
    };
    let scripts = (0..12).map(|_| breaks()).chain([leaves(), good(offer)]).collect();
    assert_eq!(read_kind(offer, scripts), "ok", "each connection brings one reply further");
    // Nobody listens after the last script.
    assert_eq!(read_kind(offer, vec![breaks()]), "gave-up");
}

#[test]
fn another_disk_after_reconnecting_is_refused() {
    let offer = Offer::default();
    let gone = || script(move |peer: &mut Peer| peer.negotiate(offer));
    for now in [
        Offer { size: 2 << 20, ..offer },
        Offer { flags: 3 | 1 << 7, ..offer },
        Offer { blocks: Some((4096, 4096, 1 << 20)), ..offer },
        Offer { status: false, ..offer },
    ] {
        assert_eq!(read_kind(offer, vec![gone(), good(now)]), "changed", "{now:?}");
    }
    let simple = Offer { structured: false, status: false, ..offer };
    let first = Offer { status: false, ..offer };
    let gone = script(move |peer: &mut Peer| peer.negotiate(first));
    let serves_simply = script(move |peer: &mut Peer| {
        peer.negotiate(simple)?;
        loop {
            let request = peer.request()?;
            let mut out = 0x6744_6698_u32.to_be_bytes().to_vec();
            out.extend([0; 4]);
            out.extend(request.cookie.to_be_bytes());
            out.extend((request.offset..request.offset + request.length).map(content));
            peer.put(&out)?;
        }
    });
    assert_eq!(read_kind(first, vec![gone, serves_simply]), "ok", "other headers are no other disk");
}

#[test]
fn several_connections_take_over_from_each_other() {
    let offer = Offer { flags: 3 | 1 << 8, ..Offer::default() };
    let dies = script(move |peer: &mut Peer| {
        peer.negotiate(offer)?;
        peer.request().map(drop)
    });
    let fake = Fake::start(vec![good(offer), dies, good(offer)]);
    let mut engine = NbdEngine::open(&fake.target, &Options { connections: 2, ..impatient() }, 4).unwrap();
    assert_eq!(engine.connections(), 2);
    assert_eq!(read_all(&mut engine).unwrap().bytes, offer.size);
}

#[test]
fn fewer_connections_than_wanted_are_enough() {
    let offer = Offer { flags: 3 | 1 << 8, ..Offer::default() };
    let fake = Fake::start(vec![good(offer), script(|_| Ok(()))]);
    let mut engine = NbdEngine::open(&fake.target, &Options { connections: 4, ..impatient() }, 4).unwrap();
    assert_eq!(engine.connections(), 1);
    assert_eq!(read_all(&mut engine).unwrap().bytes, offer.size);
}

#[test]
fn the_client_says_good_bye() {
    let offer = Offer::default();
    let (tell, told) = std::sync::mpsc::channel();
    let fake = Fake::start(vec![script(move |peer| {
        peer.negotiate(offer)?;
        tell.send(peer.serve().unwrap_or(false)).unwrap();
        Ok(())
    })]);
    let mut engine = NbdEngine::open(&fake.target, &impatient(), 4).unwrap();
    read_all(&mut engine).unwrap();
    drop(engine);
    assert!(told.recv().unwrap());
}

#[test]
fn a_wish_to_stop_ends_every_wait() {
    let stop = Arc::new(AtomicBool::new(false));
    let patient = Options { limits: Limits::default(), stop: Some(Arc::clone(&stop)), ..impatient() };
    let offer = Offer::default();
    let flag = Arc::clone(&stop);
    let fake = Fake::start(vec![
        script(move |peer| {
            peer.negotiate(offer)?;
            peer.request()?;
            flag.store(true, Ordering::Relaxed);
            peer.until_gone()
        }),
        script(Peer::until_gone),
    ]);
    let mut engine = NbdEngine::open(&fake.target, &patient, 4).unwrap();
    assert!(read_all(&mut engine).unwrap().stopped);
    assert_eq!(NbdEngine::open(&fake.target, &patient, 4).unwrap_err().kind(), "stopped");
    let asked = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&asked);
    let silent = Fake::start(vec![script(move |peer| {
        flag.store(true, Ordering::Relaxed);
        peer.until_gone()
    })]);
    let patient = Options { stop: Some(asked), ..patient };
    assert_eq!(NbdEngine::open(&silent.target, &patient, 4).unwrap_err().kind(), "stopped");
}

/// The kind of the error that ends a question for block status.
fn status_kind(offer: Offer, answer: fn(&mut Peer, Request) -> io::Result<()>) -> &'static str {
    let fake = Fake::start(vec![script(move |peer| {
        peer.negotiate(offer)?;
        loop {
            let request = peer.request()?;
            answer(peer, request)?;
        }
    })]);
    let mut engine = NbdEngine::open(&fake.target, &impatient(), 4).unwrap();
    engine.extents(0..offer.size, 100).map_or_else(|error| error.kind(), |_| "ok")
}

fn status(peer: &mut Peer, request: Request, context: u32, extents: &[(u64, u64)]) -> io::Result<()> {
    let mut data = context.to_be_bytes().to_vec();
    if peer.extended {
        data.extend((extents.len() as u32).to_be_bytes());
    }
    for &(length, state) in extents {
        if peer.extended {
            data.extend([length.to_be_bytes(), state.to_be_bytes()].concat());
        } else {
            data.extend([(length as u32).to_be_bytes(), (state as u32).to_be_bytes()].concat());
        }
    }
    peer.chunk(request, if peer.extended { 6 } else { 5 }, true, &data)
}

#[test]
fn block_status_is_bounded_and_checked() {
    let offer = Offer::default();
    let extended = Offer { extended: true, ..offer };
    for offer in [offer, extended] {
        let kind = |answer| status_kind(offer, answer);
        assert_eq!(kind(|peer, r| status(peer, r, CONTEXT, &[(512 << 10, 0), (1 << 30, 3)])), "ok");
        assert_eq!(kind(|peer, r| status(peer, r, CONTEXT, &[(512, r.offset / 512 % 2)])), "too-much", "crumbs");
        assert_eq!(kind(|peer, r| status(peer, r, CONTEXT, &[(0, 0)])), "protocol", "no progress");
        assert_eq!(kind(|peer, r| status(peer, r, CONTEXT, &[])), "protocol", "nothing");
        assert_eq!(kind(|peer, r| status(peer, r, CONTEXT, &[(100, 0)])), "protocol", "not aligned");
        assert_eq!(kind(|peer, r| status(peer, r, CONTEXT + 1, &[(1 << 20, 0)])), "protocol", "another context");
        assert_eq!(kind(|peer, r| status(peer, r, CONTEXT, &[(1 << 20, 0), (1, 0)])), "protocol", "beyond");
        assert_eq!(kind(|peer, r| peer.chunk(r, 0, true, &[])), "protocol", "an empty answer");
        assert_eq!(kind(|peer, r| peer.chunk_of(r, if peer.extended { 6 } else { 5 }, true, 1 << 30, &[])), "too-much");
        assert_eq!(kind(|peer, r| peer.chunk(r, if peer.extended { 5 } else { 6 }, true, &[0; 24])), "protocol");
        assert_eq!(kind(|peer, r| peer.error(r, 22)), "block-status");
    }
}

#[test]
fn extended_headers_are_used_where_they_are_offered() {
    let offer = Offer { extended: true, ..Offer::default() };
    let fake = Fake::start(vec![script(move |peer| {
        peer.negotiate(offer)?;
        let map = peer.request()?;
        assert_eq!(map.command, 7);
        status(peer, map, CONTEXT, &[(512 << 10, 3), (1 << 40, 0)])?;
        // Data and a hole, in pieces, last first.
        let request = peer.request()?;
        peer.data(request, request.offset + 1024, request.length - 1024, false)?;
        let mut hole = request.offset.to_be_bytes().to_vec();
        hole.extend(1024_u32.to_be_bytes());
        peer.chunk(request, 2, false, &hole)?;
        peer.chunk(request, 0, true, &[])?;
        // The echo of the offset is part of the protocol.
        let request = peer.request()?;
        peer.data(Request { offset: request.offset + 512, ..request }, request.offset, request.length, true)
    })]);
    let mut engine = NbdEngine::open(&fake.target, &impatient(), 4).unwrap();
    assert_eq!(engine.export().headers, Headers::Extended);
    let map = engine.extents(0..offer.size, 10).unwrap();
    assert_eq!(
        map.iter().map(|e| (e.range.start, e.range.end, e.zero)).collect::<Vec<_>>(),
        [(0, 512 << 10, true), (512 << 10, 1 << 20, false)]
    );
    let arena = Arena::new(1, BLOCK as usize).unwrap();
    let op = |offset| hotadd_blockio::engine::ReadOp { offset, length: BLOCK, buffer: arena.try_take().unwrap() };
    engine.submit(op(0)).unwrap();
    let done = engine.complete().unwrap().unwrap();
    assert_eq!(done.result.unwrap(), BLOCK as usize);
    let expected = (0..u64::from(BLOCK)).map(|at| if at < 1024 { 0 } else { content(at) });
    assert!(done.op.buffer.as_ref().iter().copied().eq(expected));
    drop(done.op);
    engine.submit(op(u64::from(BLOCK))).unwrap();
    assert_eq!(NbdError::of(&engine.complete().unwrap_err()).unwrap().kind(), "protocol");
    assert_eq!(engine.submit(op(0)).unwrap_err().error.kind(), io::ErrorKind::BrokenPipe);
}
