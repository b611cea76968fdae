//! Vital product data pages as sysfs gives them (`vpd_pg80`, `vpd_pg83`: raw bytes, SPC-4 §7.8). Pure.

/// Page 0x80: the unit serial number, trimmed. `None` for anything that is not such a page, or an empty serial.
#[must_use]
pub fn serial(page: &[u8]) -> Option<String> {
    let text: String = body(page, 0x80)?.iter().map(|&b| char::from(b)).collect();
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned();
    (!text.is_empty()).then_some(text)
}

/// Page 0x83: binary NAA designators of the logical unit (association 0, type 3).
#[must_use]
pub fn designators(page: &[u8]) -> Vec<Vec<u8>> {
    let Some(mut rest) = body(page, 0x83) else { return Vec::new() };
    let mut found = Vec::new();
    while let [code_set, kind, _, length, tail @ ..] = rest {
        let length = usize::from(*length);
        let Some(value) = tail.get(..length) else { break };
        let binary = code_set & 0x0f == 1;
        let logical_unit = kind & 0x30 == 0;
        let naa = kind & 0x0f == 3;
        if binary && logical_unit && naa && !value.is_empty() {
            found.push(value.to_vec());
        }
        rest = &tail[length..];
    }
    found
}

fn body(page: &[u8], code: u8) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    (page[1] == code).then(|| page.get(4..4 + length))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Page 0x83 of an ESXi virtual disk's shape: one 16-byte NAA designator of type 6.
    fn vmware_page() -> Vec<u8> {
        let uuid = [0x60, 0x00, 0xc2, 0x9a, 0xbc, 0xde, 0xf0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0x12];
        let mut page = vec![0x00, 0x83, 0x00, 0x14, 0x01, 0x03, 0x00, 0x10];
        page.extend(uuid);
        page
    }

    #[test]
    fn a_sixteen_byte_designator_is_read_whole() {
        let found = designators(&vmware_page());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].len(), 16);
        assert_eq!(found[0][..4], [0x60, 0, 0xc2, 0x9a]);
    }

    #[test]
    fn qemu_pages_with_text_and_port_designators_give_only_the_naa() {
        let mut page = vec![0x00, 0x83, 0, 0];
        page.extend([0x02, 0x00, 0x00, 0x04, b'a', b'b', b'c', b'd']); // vendor text
        page.extend([0x01, 0x03, 0x00, 0x08, 0x60, 0, 0xc2, 0x9a, 1, 2, 3, 4]);
        page.extend([0x61, 0x93, 0x00, 0x08, 9, 9, 9, 9, 9, 9, 9, 9]); // NAA of a target port
        page[3] = u8::try_from(page.len() - 4).unwrap();
        assert_eq!(designators(&page), [vec![0x60, 0, 0xc2, 0x9a, 1, 2, 3, 4]]);
    }

    #[test]
    fn serials_are_trimmed_and_empty_ones_are_none() {
        assert_eq!(serial(b"\x00\x80\x00\x056000 "), Some("6000".into()));
        assert_eq!(serial(b"\x00\x80\x00\x02  "), None);
        assert_eq!(serial(b"\x00\x80\x00\x00"), None);
        assert_eq!(serial(b"\x00\x83\x00\x01x"), None);
    }

    #[test]
    fn cut_pages_are_not_believed() {
        let page = vmware_page();
        for cut in 0..page.len() {
            assert!(designators(&page[..cut]).is_empty(), "cut at {cut}");
        }
        assert!(serial(&[]).is_none());
    }
}
