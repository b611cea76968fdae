//! The name of a certificate as VDDK wants it.
use sha1::{Digest as _, Sha1};

/// SHA-1 of the certificate (DER), 20 pairs of hexadecimal digits with colons (nbdkit-vddk-plugin(1), THUMBPRINTS). Not a
/// judgement of ours: the certificate was believed by CA or SHA-256 before, this only names it to VDDK, which knows nothing else.
#[must_use]
pub fn thumbprint_of(der: &[u8]) -> String {
    let pairs: Vec<String> = Sha1::digest(der).iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

/// Whether `text` has that form, in either case.
pub(super) fn is_thumbprint(text: &str) -> bool {
    let pair = |p: &str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
    text.split(':').count() == 20 && text.split(':').all(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sha_1_in_pairs() {
        // FIPS 180-1, appendix A.
        let abc = thumbprint_of(b"abc");
        assert_eq!(abc, "A9:99:3E:36:47:06:81:6A:BA:3E:25:71:78:50:C2:6C:9C:D0:D8:9D");
        assert!(is_thumbprint(&abc) && is_thumbprint(&abc.to_lowercase()));
        for wrong in
            ["", "A9", &abc[1..], &abc[..56], &format!("{abc}:00"), &abc.replace('E', "G"), &abc.replace(':', "-")]
        {
            assert!(!is_thumbprint(wrong), "{wrong}");
        }
    }
}
