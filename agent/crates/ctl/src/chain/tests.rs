//! Chains that hold and chains that do not: each flaw has one reason; what a disk comes to is what it was.
use std::fs;

use super::{
    compose::Composer,
    draw::draw,
    effective::Source,
    testing::{B, Backups, CAPACITY, KEY},
    *,
};

/// Data over data, data over a hole, zero over data, and the short block at the end; the second goes over the first.
fn chain() -> Backups {
    let mut backups = Backups::full();
    backups.incremental(&[(1, 0x11), (2, 0), (20, 0x22)]);
    backups.incremental(&[(2, 0x33), (20, 0), (32, 0x44)]);
    backups
}

fn load(backups: &Backups, name: &str) -> Result<Chain, Failure> {
    Chain::load(Stored::open(&backups.manifest(name)).unwrap(), Exit::VerifyFailed)
}

#[track_caller]
fn refused(backups: &Backups, code: reasons::Code) {
    let failure = load(backups, "inc2").unwrap_err();
    assert_eq!((failure.exit, failure.code.as_str()), (Exit::VerifyFailed, code.id), "{}", failure.message);
}

fn composed(chain: &Chain, piece: usize) -> Result<Vec<u8>, Failure> {
    let mut composer = Composer::open(&chain.disks().next().unwrap())?;
    let mut bytes = vec![0xee; usize::try_from(CAPACITY).unwrap()];
    for (index, part) in bytes.chunks_mut(piece).enumerate() {
        composer.read((index * piece) as u64, part)?;
    }
    Ok(bytes)
}

#[test]
fn a_disk_comes_to_what_it_was_and_every_byte_comes_from_one_image() {
    let backups = chain();
    let chain = load(&backups, "inc2").unwrap();
    assert_eq!(chain.layers().len(), 3);
    for piece in [512, 64 << 10, 100_000, 1 << 20] {
        assert!(composed(&chain, piece).unwrap() == backups.disk, "in pieces of {piece}");
    }
    let disk = chain.disks().next().unwrap();
    let mut due = 0;
    for segment in disk.effective() {
        assert_eq!(segment.offset, due);
        due += segment.length;
    }
    assert_eq!(due, CAPACITY);
}

#[test]
fn zeros_end_where_data_begins() {
    let backups = chain();
    let chain = load(&backups, "inc2").unwrap();
    let composer = Composer::open(&chain.disks().next().unwrap()).unwrap();
    assert_eq!(composer.zeros_until(16 * B), 32 * B);
    assert_eq!(composer.zeros_until(2 * B), 2 * B);
}

#[test]
fn a_disk_that_stands_alone_does_not_look_at_its_base() {
    let backups = chain();
    backups.edit("inc1", |manifest| {
        let disk = &mut manifest.disks[0];
        disk.scope = Scope::Allocated;
        disk.zero.append(&mut disk.base);
        disk.root = disk.compute_root();
    });
    backups.relink("inc2", "inc1");
    let chain = load(&backups, "inc2").unwrap();
    assert_eq!(chain.layers().len(), 3);
    let disk = chain.disks().next().unwrap();
    assert_eq!((disk.layers.len(), disk.root().scope), (2, Scope::Allocated));
}

#[test]
fn a_missing_base_is_found() {
    let backups = chain();
    fs::remove_file(backups.manifest("full")).unwrap();
    refused(&backups, reasons::CHAIN_MISSING);
    fs::create_dir(backups.manifest("full")).unwrap();
    refused(&backups, reasons::CHAIN_MISSING);
}

#[test]
fn a_changed_base_is_found_even_if_it_reads_well_or_not_at_all() {
    let backups = chain();
    backups.edit("full", |manifest| manifest.created.push('x'));
    refused(&backups, reasons::CHAIN_CHANGED);
    fs::write(backups.manifest("full"), "{").unwrap();
    refused(&backups, reasons::CHAIN_CHANGED);
}

#[test]
fn a_circle_is_found() {
    let backups = chain();
    backups.edit("inc1", |manifest| manifest.base.as_mut().unwrap().file = "../inc2/manifest.json".into());
    backups.relink("inc2", "inc1");
    refused(&backups, reasons::CHAIN_CIRCLE);
    backups.edit("inc2", |manifest| manifest.base.as_mut().unwrap().file = "manifest.json".into());
    refused(&backups, reasons::CHAIN_CIRCLE);
}

#[test]
fn a_base_of_another_vm_disk_size_state_or_job_is_found() {
    type Change = fn(&mut Manifest);
    let changes: [Change; 6] = [
        |manifest| manifest.vm_moref = "vm-43".into(),
        |manifest| manifest.disks[0].uuid = "6000c30".into(),
        |manifest| manifest.disks[0].change_id = "52 bb/1".into(),
        |manifest| manifest.disks[0].device_key = KEY + 1,
        |manifest| manifest.job_id = "another".into(),
        |manifest| {
            let disk = &mut manifest.disks[0];
            disk.base.last_mut().unwrap().1 += 512;
            disk.capacity_bytes += 512;
            disk.root = disk.compute_root();
        },
    ];
    for change in changes {
        let backups = chain();
        backups.edit("inc1", change);
        backups.relink("inc2", "inc1");
        refused(&backups, reasons::CHAIN_MISFIT);
    }
    let backups = chain();
    backups.edit("inc2", |manifest| manifest.disks[0].base_change_id.clear());
    refused(&backups, reasons::CHAIN_MISFIT);
}

#[test]
fn a_damaged_block_of_any_layer_is_not_given_out() {
    // Block 0 is the full backup's, 1 the first incremental's, 32 the second's.
    for (name, offset) in [("full", 5), ("inc1", B + 1), ("inc2", CAPACITY - 1)] {
        let backups = chain();
        backups.flip(name, offset);
        let failure = composed(&load(&backups, "inc2").unwrap(), 1 << 20).unwrap_err();
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::VerifyFailed, reasons::MISMATCH.id));
        assert!(failure.message.contains(&backups.image(name).display().to_string()), "{}", failure.message);
    }
}

#[test]
fn drawn_blocks_are_true_and_the_seed_decides() {
    let backups = chain();
    let chain = load(&backups, "inc2").unwrap();
    let disk = chain.disks().next().unwrap();
    let drawn = draw(&disk, 7, 16_384);
    for block in &drawn {
        let (from, to) = (block.offset, block.offset + u64::from(block.length));
        let bytes = &backups.disk[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()];
        assert_eq!(block.blake3, blake3::hash(bytes).as_bytes(), "{from}");
    }
    // Everything can be drawn here: blocks 1 to 3 of 256 KiB and the end; block 0 is no longer of one piece.
    let of = |length| drawn.iter().filter(move |block| u64::from(block.length) == length).map(|block| block.offset / B);
    assert_eq!(of(4 * B).collect::<Vec<_>>(), [4, 8, 12, 16, 24, 28]);
    assert_eq!(of(512).collect::<Vec<_>>(), [32]);
    assert_eq!(of(B).collect::<Vec<_>>(), [1, 2, 20]);
    let draws = |seed| draw(&disk, seed, 4);
    assert_eq!((draws(7).len(), draws(7) == draws(7)), (4, true));
    assert!((1..9).any(|seed| draws(seed) != draws(seed + 1)));
    assert!(draws(3).windows(2).all(|pair| pair[0].offset < pair[1].offset));
}

#[test]
fn zeros_are_drawn_as_a_quarter_if_there_is_data_enough() {
    let backups = chain();
    let chain = load(&backups, "inc2").unwrap();
    let disk = chain.disks().next().unwrap();
    let zero: Vec<_> = disk.effective().into_iter().filter(|s| matches!(s.source, Source::Zero { .. })).collect();
    for seed in 1..20 {
        let is_zero = |offset| zero.iter().any(|s| (s.offset..s.offset + s.length).contains(&offset));
        let zeros = draw(&disk, seed, 4).iter().filter(|block| is_zero(block.offset)).count();
        assert_eq!(zeros, 1);
    }
}
