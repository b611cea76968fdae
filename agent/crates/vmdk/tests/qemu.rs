//! The writer before a judge that is not ours: qemu-img reads what it wrote and finds the same disk.
#![allow(clippy::unwrap_used, reason = "tests")]
use std::{fs, path::Path, process::Command};

use hotadd_vmdk::{GRAIN, Head, Writer};

const G: u64 = GRAIN as u64;

fn judge() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: qemu-img is not installed");
    }
    found
}

fn qemu_img(args: &[&str], files: &[&Path]) -> bool {
    Command::new("qemu-img").args(args).args(files).output().unwrap().status.success()
}

/// Bytes that deflate can't shrink, from a seed.
fn noise(length: usize, mut state: u64) -> Vec<u8> {
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// Writes these pieces as VMDK and as raw, and lets qemu-img compare.
#[track_caller]
fn same(capacity: u64, pieces: &[(u64, Vec<u8>)]) {
    let folder = tempfile::tempdir().unwrap();
    let (raw, vmdk) = (folder.path().join("a.raw"), folder.path().join("a.vmdk"));
    let image = fs::File::create(&raw).unwrap();
    image.set_len(capacity).unwrap();
    let head = Head { capacity_bytes: capacity, file_name: "a.vmdk", content_id: 0x1234_5678 };
    let mut writer = Writer::new(fs::File::create(&vmdk).unwrap(), &head).unwrap();
    for (offset, bytes) in pieces {
        writer.write(*offset, bytes).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&image, bytes, *offset).unwrap();
    }
    let (written, _) = writer.finish().unwrap();
    assert_eq!(fs::metadata(&vmdk).unwrap().len(), written.bytes);
    assert!(qemu_img(&["check", "-f", "vmdk"], &[&vmdk]));
    assert!(qemu_img(&["compare", "-f", "raw", "-F", "vmdk"], &[&raw, &vmdk]));
    // And a difference would be seen.
    let first = image_byte(&raw);
    std::os::unix::fs::FileExt::write_all_at(&image, &[first ^ 1], 0).unwrap();
    assert!(!qemu_img(&["compare", "-f", "raw", "-F", "vmdk"], &[&raw, &vmdk]));
}

fn image_byte(raw: &Path) -> u8 {
    use std::io::Read as _;
    let mut byte = [0];
    fs::File::open(raw).unwrap().read_exact(&mut byte).unwrap();
    byte[0]
}

#[test]
fn qemu_reads_the_same_disk() {
    if !judge() {
        return;
    }
    same(16 * G, &[(0, noise(3 * GRAIN, 7)), (5 * G, vec![0; GRAIN]), (15 * G, vec![9; GRAIN])]);
    // The last grain is short.
    same(4 * G + 512, &[(4 * G, noise(512, 3))]);
    // Three tables, the second without a grain, the edges of tables written.
    let edges = [(0, noise(GRAIN, 1)), (511 * G, noise(GRAIN, 2)), (1024 * G, noise(2 * GRAIN, 3))];
    same(1200 * G, &edges);
    same(600 * G, &[]);
}

#[test]
fn qemu_reads_the_end_of_a_large_disk() {
    if !judge() {
        return;
    }
    let (folder, capacity) = (tempfile::tempdir().unwrap(), 3u64 << 40);
    let vmdk = folder.path().join("a.vmdk");
    let head = Head { capacity_bytes: capacity, file_name: "a.vmdk", content_id: 1 };
    let mut writer = Writer::new(fs::File::create(&vmdk).unwrap(), &head).unwrap();
    writer.write(capacity - G, &vec![9; GRAIN]).unwrap();
    writer.finish().unwrap();
    let reads = |pattern: u8, offset: u64| {
        let command = format!("read -P {pattern} {offset} {GRAIN}");
        let output = Command::new("qemu-io").args(["-f", "vmdk", "-r", "-c", &command]).arg(&vmdk).output().unwrap();
        output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("failed")
    };
    assert!(reads(9, capacity - G) && reads(0, capacity - 2 * G) && reads(0, 0));
    assert!(!reads(8, capacity - G));
}
