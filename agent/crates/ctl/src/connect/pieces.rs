//! Bytes in the pieces that they came in: cut, walked over and hashed without being copied into one buffer. Knows nothing of
//! what they mean.
use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// A piece below this size costs more than its bytes: so many in a row are joined.
const SMALL: usize = 4 << 10;
const MOST_SMALL: usize = 64;

/// No piece is empty.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    pieces: VecDeque<Bytes>,
    length: usize,
    /// Small ones at the end.
    small: usize,
}

impl Pieces {
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.length += piece.len();
        self.small = if piece.len() < SMALL { self.small + 1 } else { 0 };
        self.pieces.push_back(piece);
        if self.small.min(self.pieces.len()) >= MOST_SMALL {
            self.join_small();
        }
    }

    /// A peer that sends byte by byte does not make us keep a list that is larger than what it sent.
    fn join_small(&mut self) {
        let tail = self.pieces.split_off(self.pieces.len() - MOST_SMALL);
        let mut joined = BytesMut::with_capacity(tail.iter().map(Bytes::len).sum());
        tail.iter().for_each(|piece| joined.extend_from_slice(piece));
        self.small = usize::from(joined.len() < SMALL);
        self.pieces.push_back(joined.freeze());
    }

    /// The first `length` bytes; `None`: there are not so many.
    pub fn cut(&mut self, length: usize) -> Option<Self> {
        if length > self.length {
            return None;
        }
        let mut taken = Self::default();
        while taken.length < length {
            let first = self.pieces.front_mut()?;
            let piece = first.split_to(first.len().min(length - taken.length));
            if first.is_empty() {
                self.pieces.pop_front();
            }
            self.length -= piece.len();
            taken.length += piece.len();
            taken.pieces.push_back(piece);
        }
        Some(taken)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter()
    }

    #[must_use]
    pub fn blake3(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for piece in self.iter() {
            hasher.update(piece);
        }
        hasher.finalize()
    }

    /// All in one buffer; a copy only where it is more than one piece.
    #[must_use]
    pub fn join(mut self) -> Bytes {
        let length = self.length;
        self.copy_to_bytes(length)
    }
}

impl From<Bytes> for Pieces {
    fn from(piece: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(piece);
        pieces
    }
}

impl From<Vec<u8>> for Pieces {
    fn from(piece: Vec<u8>) -> Self {
        Bytes::from(piece).into()
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, count: usize) {
        assert!(self.cut(count).is_some(), "advanced over the end");
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        let Some(mut taken) = self.cut(length) else { panic!("advanced over the end") };
        if taken.pieces.len() == 1 {
            return taken.pieces.pop_front().unwrap_or_default();
        }
        let mut all = BytesMut::with_capacity(length);
        taken.iter().for_each(|piece| all.extend_from_slice(piece));
        all.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_peer_that_sends_byte_by_byte_costs_what_it_sends() {
        let mut pieces = Pieces::default();
        for byte in 0..1_000_000_u32 {
            pieces.push(Bytes::copy_from_slice(&byte.to_le_bytes()[..1]));
        }
        assert_eq!(pieces.len(), 1_000_000);
        assert!(pieces.pieces.len() < 1_000_000 / SMALL * 2 + 2 * MOST_SMALL, "{} pieces", pieces.pieces.len());
        assert_eq!(pieces.join(), (0..1_000_000_u32).map(|byte| byte.to_le_bytes()[0]).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn pieces_are_their_bytes(cuts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..200), at in any::<prop::sample::Index>()) {
            let all = cuts.concat();
            let mut pieces = Pieces::default();
            cuts.into_iter().for_each(|cut| pieces.push(cut.into()));
            prop_assert_eq!(pieces.blake3(), blake3::hash(&all));
            prop_assert!(pieces.clone().cut(all.len() + 1).is_none());
            let at = at.index(all.len() + 1);
            let head = pieces.cut(at).unwrap();
            prop_assert_eq!((head.len(), pieces.len()), (at, all.len() - at));
            prop_assert_eq!(head.join(), &all[..at]);
            pieces.push(Bytes::from_static(b"more"));
            prop_assert_eq!(pieces.join(), [&all[at..], b"more"].concat());
        }
    }
}
