//! The `traceparent` of a request (W3C Trace Context, level 1, 3.2), which comes from a client: anything else than exactly what the standard
//! allows is as if there were none, and never a reason to refuse the work.
use tonic::metadata::MetadataMap;

const NAME: &str = "traceparent";
/// Length of version 00, which every later version begins with.
const LENGTH: usize = 55;

/// The span of the client that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    /// Whether the client records its part; if not, we don't record ours.
    pub(super) sampled: bool,
}

impl Parent {
    /// `None`: none was sent, more than one, or none that the standard allows.
    #[must_use]
    pub fn of(metadata: &MetadataMap) -> Option<Self> {
        let mut all = metadata.get_all(NAME).iter();
        let only = all.next()?;
        let parsed = if all.next().is_some() { None } else { parse(only.as_bytes()) };
        if parsed.is_none() {
            tracing::debug!("a request's traceparent is not one, and is ignored");
        }
        parsed
    }
}

/// `VERSION-TRACE-SPAN-FLAGS`, and of versions to come perhaps `-MORE`.
fn parse(text: &[u8]) -> Option<Parent> {
    let version: [u8; 1] = hex(text.get(..2)?)?;
    let whole = match version {
        [0xff] => false,
        [0] => text.len() == LENGTH,
        _ => text.len() == LENGTH || text.get(LENGTH) == Some(&b'-'),
    };
    let dashes = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
    if !whole || !dashes {
        return None;
    }
    let (trace, span) = (hex(text.get(3..35)?)?, hex(text.get(36..52)?)?);
    let [flags]: [u8; 1] = hex(text.get(53..LENGTH)?)?;
    let nothing = trace == [0; 16] || span == [0; 8];
    (!nothing).then_some(Parent { trace, span, sampled: flags & 1 == 1 })
}

/// Lower case only, as the standard says.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |c: &u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::metadata::{AsciiMetadataValue, MetadataMap};

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn of(values: &[&[u8]]) -> Option<Parent> {
        let mut metadata = MetadataMap::new();
        for value in values {
            metadata.append(NAME, AsciiMetadataValue::try_from(*value).unwrap());
        }
        Parent::of(&metadata)
    }

    #[test]
    fn what_the_standard_allows_is_taken() {
        let parent = of(&[GOOD.as_bytes()]).unwrap();
        assert_eq!((parent.trace[0], parent.trace[15], parent.span[0], parent.span[7]), (0x0a, 0x9c, 0xb7, 0x31));
        assert!(parent.sampled);
        assert!(!of(&[GOOD.replace("-01", "-00").as_bytes()]).unwrap().sampled);
        assert!(of(&[GOOD.replace("-01", "-ff").as_bytes()]).unwrap().sampled, "flags to come are ignored");
        assert_eq!(of(&[GOOD.replacen("00", "01", 1).as_bytes()]), Some(parent), "a version to come");
        assert_eq!(of(&[(GOOD.replacen("00", "cc", 1) + "-more").as_bytes()]), Some(parent));
    }

    #[test]
    fn what_it_does_not_allow_is_as_none() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[GOOD.as_bytes(), GOOD.as_bytes()]), None, "two of them");
        let wrong = [
            String::new(),
            "00".into(),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replacen("00", "0x", 1),
            GOOD.replace('-', "_"),
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            GOOD.replace("b7ad6b7169203331", "b7ad6b716920333g"),
            GOOD[..54].into(),
            format!("{GOOD}-more"),
            format!("{GOOD}0"),
            GOOD.replacen("00", "01", 1) + "more",
            format!(" {GOOD}"),
            format!("{GOOD},{GOOD}"),
            "0".repeat(1 << 16),
        ];
        for text in wrong {
            assert_eq!(of(&[text.as_bytes()]), None, "{text:.80}");
        }
        assert_eq!(of(&["00-é".as_bytes()]), None, "not ASCII");
    }

    proptest! {
        #[test]
        fn whatever_bytes_come_nothing_breaks(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(parse(&bytes).is_none_or(|parent| parent.trace != [0; 16] && parent.span != [0; 8]));
        }

        #[test]
        fn one_wrong_byte_is_seen_or_another_valid_one(at in 0..55usize, byte in any::<u8>()) {
            let mut text = GOOD.as_bytes().to_vec();
            text[at] = byte;
            let lower = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte) || byte == b'-';
            prop_assert!(lower || parse(&text).is_none());
        }
    }
}
