//! What a disk comes to over its layers: for each byte the one image that has it, or that it is zero. Pure.
use hotadd_api::manifest::{Content, Digest};

use super::ChainDisk;

/// A run of the disk that comes from one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub offset: u64,
    pub length: u64,
    pub source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Of the data block that begins at `block` in the image of this layer.
    Data { layer: usize, block: u64, hash: Digest },
    /// Zero, as this layer says.
    Zero { layer: usize },
}

impl ChainDisk<'_> {
    /// Segments in order of offset; together `[0, capacity)`, each byte once, since every layer covers it once.
    #[must_use]
    pub fn effective(&self) -> Vec<Segment> {
        let mut wanted = vec![(0, self.top().capacity_bytes)];
        let mut segments = Vec::new();
        for (layer, (_, disk)) in self.layers.iter().enumerate() {
            let (mut below, extents, mut at) = (Vec::new(), disk.extents(), 0);
            for (start, end) in wanted {
                while let Some(extent) = extents.get(at).filter(|extent| extent.offset < end) {
                    let stop = extent.offset + extent.length;
                    let (from, to) = (extent.offset.max(start), stop.min(end));
                    let source = match extent.content {
                        Content::Data(hash) => Some(Source::Data { layer, block: extent.offset, hash }),
                        Content::Zero => Some(Source::Zero { layer }),
                        Content::Base => None,
                    };
                    match source {
                        _ if from >= to => {}
                        Some(source) => segments.push(Segment { offset: from, length: to - from, source }),
                        None => below.push((from, to)),
                    }
                    if stop > end {
                        break;
                    }
                    at += 1;
                }
            }
            wanted = below;
        }
        segments.sort_unstable_by_key(|segment| segment.offset);
        segments
    }
}
