//! The parser beside tonic's way (prost over one buffer): the same events out of the same bytes, however they are cut, and
//! never a panic.
use hotadd_api::v1::{DiskProgress, DiskResult, PhaseEvent};
use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

/// A message as it lies on the wire.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat()
}

/// Hands `bytes` over in pieces that end at `cuts`, and takes every message.
fn received(bytes: &[u8], cuts: &[Index]) -> Result<Vec<Pieces>, Flaw> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
    ends.sort_unstable();
    let (mut inbox, mut messages, mut at) = (Inbox::default(), Vec::new(), 0);
    for end in ends {
        inbox.push(Bytes::copy_from_slice(&bytes[at..end]));
        while let Some(message) = inbox.next()? {
            messages.push(message);
        }
        at = end;
    }
    assert_eq!(inbox.is_empty(), inbox.due.is_none() && inbox.came.is_empty());
    Ok(messages)
}

/// As prost would have it.
fn plain(event: Option<Event>) -> Option<Item> {
    Some(match event? {
        Event::Told(item) => *item,
        Event::Frame(frame) => Item::Frame(v1::Frame {
            device_key: frame.device_key,
            offset: frame.offset,
            length: frame.length,
            zero: frame.zero,
            data: frame.data.join(),
            blake3: frame.blake3,
            compression: frame.compression.into(),
        }),
    })
}

fn frame() -> impl Strategy<Value = Item> {
    (any::<(i32, u64, u32, bool)>(), vec(any::<u8>(), 0..300), vec(any::<u8>(), 0..40), 0..3_i32).prop_map(
        |((device_key, offset, length, zero), data, blake3, compression)| {
            let (data, blake3) = (data.into(), blake3.into());
            Item::Frame(v1::Frame { device_key, offset, length, zero, data, blake3, compression })
        },
    )
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        4 => frame(),
        1 => any::<String>().prop_map(Item::JobId),
        1 => (any::<u64>(), any::<String>()).prop_map(|(duration_us, note)| {
            Item::Phase(PhaseEvent { duration_us, note, ..PhaseEvent::default() })
        }),
        1 => any::<(i32, u64)>().prop_map(|(device_key, bytes_read)| {
            Item::Progress(DiskProgress { device_key, bytes_read, ..DiskProgress::default() })
        }),
        1 => any::<u64>().prop_map(|bytes_sent| Item::DiskRead(DiskResult { bytes_sent, ..DiskResult::default() })),
    ]
}

/// Fields that nobody knows, of each kind that proto3 has.
fn stranger() -> impl Strategy<Value = Vec<u8>> {
    (100..200_u32, 0..4_u8, any::<u64>(), vec(any::<u8>(), 0..50)).prop_map(|(tag, kind, number, bytes)| {
        let mut out = Vec::new();
        let wires = [WireType::Varint, WireType::SixtyFourBit, WireType::ThirtyTwoBit, WireType::LengthDelimited];
        encode_key(tag, wires[usize::from(kind)], &mut out);
        match kind {
            0 => encode_varint(number, &mut out),
            1 => out.put_u64(number),
            2 => out.put_u32(7),
            _ => {
                encode_varint(bytes.len() as u64, &mut out);
                out.extend(bytes);
            }
        }
        out
    })
}

/// Several events' fields one after the other, which is one message to Protocol Buffers, with strangers between and in them.
fn message() -> impl Strategy<Value = Vec<u8>> {
    vec((item(), stranger(), any::<bool>()), 0..4).prop_map(|parts| {
        let mut out = Vec::new();
        for (item, stranger, inside) in parts {
            match item {
                Item::Frame(frame) if inside => {
                    let fields = [stranger, frame.encode_to_vec()].concat();
                    encode_key(FRAME, WireType::LengthDelimited, &mut out);
                    encode_varint(fields.len() as u64, &mut out);
                    out.extend(fields);
                }
                item => {
                    out.extend(stranger);
                    out.extend(JobEvent { item: Some(item) }.encode_to_vec());
                }
            }
        }
        out
    })
}

proptest! {
    #[test]
    fn the_same_events_as_prosts_however_the_bytes_are_cut(messages in vec(message(), 1..5), cuts in vec(any::<Index>(), 0..30)) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
        let got = received(&bytes, &cuts).unwrap();
        prop_assert_eq!(got.len(), messages.len());
        for (ours, message) in got.into_iter().zip(&messages) {
            prop_assert_eq!(plain(event(ours).unwrap()), JobEvent::decode(&message[..]).unwrap().item);
        }
    }

    #[test]
    fn damaged_events_are_refused_as_prost_refuses_them(message in message(), at in any::<Index>(), byte in any::<u8>(), cut in any::<Index>()) {
        let mut message = message;
        if !message.is_empty() {
            let at = at.index(message.len());
            message[at] = byte;
            message.truncate(cut.index(message.len() + 1).max(at));
        }
        let (ours, prosts) = (event(message.clone().into()), JobEvent::decode(&message[..]));
        match (ours, prosts) {
            (Ok(ours), Ok(prosts)) => prop_assert_eq!(plain(ours), prosts.item),
            // Groups, which prost skips, and methods that it takes as a number.
            (Err(Flaw::Field | Flaw::Method(_)), _) | (Err(_), Err(_)) => {}
            (ours, prosts) => prop_assert!(false, "{ours:?} {prosts:?}"),
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..400), cuts in vec(any::<Index>(), 0..10)) {
        for message in received(&bytes, &cuts).into_iter().flatten() {
            let _ = event(message);
        }
        let _ = event(bytes.into());
    }
}

#[test]
fn a_payload_is_not_copied() {
    let data = Bytes::from(vec![7; 100_000]);
    let wire =
        framed(&JobEvent { item: Some(Item::Frame(v1::Frame { data, ..v1::Frame::default() })) }.encode_to_vec());
    let (first, second) = (Bytes::copy_from_slice(&wire[..60_000]), Bytes::copy_from_slice(&wire[60_000..]));
    let mut inbox = Inbox::default();
    inbox.push(first.clone());
    assert!(inbox.next().unwrap().is_none());
    inbox.push(second.clone());
    let Some(Event::Frame(frame)) = event(inbox.next().unwrap().unwrap()).unwrap() else { panic!("a frame") };
    let ends: Vec<_> = frame.data.iter().map(|piece| piece.as_ptr_range().end).collect();
    assert_eq!(ends, [first.as_ptr_range().end, second.as_ptr_range().end]);
    assert_eq!(frame.data.len(), 100_000);
}

#[test]
fn headers_that_lie_are_refused_before_anything_is_kept() {
    let header = |flag: u8, length: u32| [&[flag][..], &length.to_be_bytes()].concat();
    let limit = u32::try_from(MAX_MESSAGE_BYTES).unwrap();
    for length in [limit + 1, u32::MAX] {
        assert_eq!(received(&header(0, length), &[]).unwrap_err(), Flaw::TooLong(length as usize));
    }
    assert!(received(&header(0, limit), &[]).unwrap().is_empty());
    for flag in [1, 2, 255] {
        assert_eq!(received(&header(flag, 3), &[]).unwrap_err(), Flaw::Flag(flag));
    }
}

#[test]
fn the_last_data_and_the_last_member_hold() {
    let said = |data: &'static [u8], offset| {
        let frame = v1::Frame { data: data.into(), offset, ..v1::Frame::default() };
        JobEvent { item: Some(Item::Frame(frame)) }.encode_to_vec()
    };
    let id = JobEvent { item: Some(Item::JobId("job".into())) }.encode_to_vec();
    let Some(Event::Frame(merged)) = event([said(b"first", 7), said(b"last", 0)].concat().into()).unwrap() else {
        panic!("a frame")
    };
    assert_eq!((merged.data.join(), merged.offset), ("last".into(), 7));
    let Some(Event::Frame(anew)) = event([said(b"a", 7), id.clone(), said(b"b", 0)].concat().into()).unwrap() else {
        panic!("a frame")
    };
    assert_eq!((anew.data.join(), anew.offset), ("b".into(), 0));
    assert!(matches!(event([said(b"a", 7), id].concat().into()), Ok(Some(Event::Told(_)))));
}

#[test]
fn a_method_that_is_not_known_never_passes_as_none() {
    let frame = v1::Frame { compression: 9, ..v1::Frame::default() };
    let message = JobEvent { item: Some(Item::Frame(frame)) }.encode_to_vec();
    assert_eq!(event(message.into()).unwrap_err(), Flaw::Method(9));
}
