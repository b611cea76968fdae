//! Both writers do the same, whatever the chunks, the depth, and the file.
use std::{
    fs::{self, OpenOptions},
    process::Command,
};

use proptest::{collection::vec, prelude::*};

use super::*;

const BOTH: [WriterKind; 2] = [WriterKind::IoUring, WriterKind::Pwritev];

fn writer(file: File, kind: WriterKind, depth: u32) -> FileWriter {
    let writer = FileWriter::new(file, kind, depth);
    assert_eq!(writer.kind(), kind, "{:?}", writer.refusal());
    writer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_file_holds_what_was_handed_over(pieces in vec(vec(vec(any::<u8>(), 0..3000), 0..8), 0..12), depth in 1..9_u32, gap in 0..5000_u64) {
        for kind in BOTH {
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut writer = writer(file.reopen().unwrap(), kind, depth);
            let (mut expected, mut offset) = (Vec::new(), 0);
            for chunks in &pieces {
                writer.write(chunks.iter().cloned().map(Bytes::from).collect(), offset).unwrap();
                let content = chunks.concat();
                if !content.is_empty() {
                    expected.resize(usize::try_from(offset).unwrap(), 0);
                    expected.extend(&content);
                }
                offset += content.len() as u64 + gap;
            }
            writer.finish().unwrap();
            prop_assert_eq!(fs::read(file.path()).unwrap(), expected);
        }
    }
}

#[test]
fn more_chunks_than_one_call_takes_are_written() {
    let chunks: Vec<Bytes> = (0..5000_u32).map(|n| Bytes::copy_from_slice(&n.to_le_bytes())).collect();
    for kind in BOTH {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = writer(file.reopen().unwrap(), kind, 2);
        writer.write(chunks.clone(), 0).unwrap();
        writer.finish().unwrap();
        assert_eq!(fs::read(file.path()).unwrap(), chunks.concat());
    }
}

#[test]
fn what_is_written_is_forgotten_and_the_rest_stays() {
    for written in 0..=7 {
        let chunks = vec![Bytes::from_static(b"abc"), Bytes::from_static(b"d"), Bytes::from_static(b"efg")];
        let mut piece = Piece { offset: 10, chunks };
        piece.advance(written);
        assert_eq!((piece.offset, piece.chunks.concat()), (10 + written as u64, b"abcdefg"[written..].to_vec()));
        assert_eq!(piece.chunks.is_empty(), written == 7);
    }
}

#[test]
fn a_full_device_is_told_with_its_offset_and_again() {
    for kind in BOTH {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut writer = writer(full, kind, 4);
        let error = (0..100).find_map(|n| writer.write(vec![Bytes::from_static(&[7; 512])], n * 512).err());
        let error = error.unwrap_or_else(|| panic!("{kind}: a full device took everything"));
        assert!(matches!(error, WriteError::Write { offset: 0, .. }), "{kind}: {error}");
        assert_eq!(error.io().raw_os_error(), Some(libc::ENOSPC), "{kind}");
        let again = writer.write(vec![Bytes::from_static(b"x")], 9).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
        assert_eq!(writer.finish().unwrap_err().to_string(), error.to_string());
    }
}

#[test]
fn an_error_of_the_last_write_is_told_by_the_end() {
    for kind in BOTH {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut writer = writer(full, kind, 4);
        let early = writer.write(vec![Bytes::from_static(b"x")], 0).is_err();
        assert_eq!(writer.settle().unwrap_err().io().raw_os_error(), Some(libc::ENOSPC), "{kind}");
        assert_eq!(writer.finish().unwrap_err().io().raw_os_error(), Some(libc::ENOSPC), "{kind}");
        assert_eq!(early, kind == WriterKind::Pwritev);
    }
}

/// A file that is not open for writing.
#[test]
fn a_file_that_refuses_is_an_error() {
    for kind in BOTH {
        let mut writer = writer(File::open("/etc/passwd").unwrap(), kind, 1);
        let _ = writer.write(vec![Bytes::from_static(b"x")], 0);
        assert_eq!(writer.finish().unwrap_err().io().raw_os_error(), Some(libc::EBADF), "{kind}");
    }
}

/// Needs root, like every test here that needs a file system of its own.
#[test]
fn a_file_system_that_is_too_small_is_told_and_never_called_written() {
    let folder = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| Command::new(args[0]).args(&args[1..]).arg(folder.path()).status().unwrap().success();
    assert!(mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]));
    let mut seen = Vec::new();
    for kind in BOTH {
        let path = folder.path().join(kind.to_string());
        let mut writer = writer(File::create(&path).unwrap(), kind, 4);
        let block = Bytes::from(vec![7; 64 << 10]);
        let early = (0..32_u64).find_map(|n| writer.write(vec![block.clone(); 1], n << 16).err());
        seen.push((kind, early.or_else(|| writer.finish().err()).map(|error| error.io().raw_os_error())));
        fs::remove_file(path).unwrap();
    }
    assert!(mount(&["umount"]));
    assert_eq!(seen, BOTH.map(|kind| (kind, Some(Some(libc::ENOSPC)))));
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing_in_flight() {
    for kind in BOTH {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = writer(file.reopen().unwrap(), kind, 8);
        for n in 0..8 {
            writer.write(vec![Bytes::from(vec![7; 1 << 20])], n << 20).unwrap();
        }
        drop(writer);
        assert_eq!(fs::read(file.path()).unwrap(), vec![7; 8 << 20], "{kind}");
    }
}

#[test]
fn without_a_ring_it_is_pwritev_and_says_why() {
    for code in [libc::ENOSYS, libc::EPERM, libc::ENOMEM] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = FileWriter::over(Err(io::Error::from_raw_os_error(code)), file.reopen().unwrap());
        assert_eq!((writer.kind(), writer.refusal().unwrap().raw_os_error()), (WriterKind::Pwritev, Some(code)));
        writer.write(vec![Bytes::from_static(b"here")], 0).unwrap();
        writer.finish().unwrap();
        assert_eq!(fs::read(file.path()).unwrap(), b"here");
    }
}

#[test]
fn other_bytes_than_were_handed_over_are_an_error() {
    for kind in BOTH {
        let mut writer = writer(tempfile::tempfile().unwrap(), kind, 1);
        writer.write(vec![Bytes::from_static(b"here")], 0).unwrap();
        writer.handed_over += 1;
        let error = writer.finish().unwrap_err();
        assert!(matches!(error, WriteError::Lost { acknowledged: 4, handed_over: 5 }), "{error}");
    }
}
