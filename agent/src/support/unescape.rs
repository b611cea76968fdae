//! Texts with their escapes undone: a secret that was escaped by somebody, in whatever way and as far as they liked, is the secret again.
//! What is no escape stays; nothing here fails.

/// The text itself, and what two rounds of undoing make of it: JSON in XML, a URL in JSON.
pub(super) fn views(text: &str) -> Vec<String> {
    let mut views = vec![text.to_owned()];
    let mut from = 0;
    for _ in 0..2 {
        let until = views.len();
        for at in from..until {
            let undone =
                [percent(&views[at], false), percent(&views[at], true), backslash(&views[at]), entities(&views[at])];
            for view in undone.into_iter().flatten() {
                if !views.contains(&view) {
                    views.push(view);
                }
            }
        }
        from = until;
    }
    views
}

/// `%C3`; `form`: and `+` is a blank.
fn percent(text: &str, form: bool) -> Option<String> {
    undone(text, if form { b"+%" } else { b"%" }, |rest| match rest {
        [b'+', ..] => Some((vec![b' '], 1)),
        [b'%', high, low, ..] => Some((vec![number(&[*high, *low], 16)?.try_into().ok()?], 3)),
        _ => None,
    })
}

/// `\"`, `\n`, `\xc3`, `\303`, `\u00e4`, `\u{e4}`.
fn backslash(text: &str) -> Option<String> {
    undone(text, b"\\", |rest| {
        let escape = *rest.get(1)?;
        let digits = |from: usize, many: usize, radix| number(rest.get(from..from + many)?, radix);
        let byte = |value: Option<u32>, length| Some((vec![value?.try_into().ok()?], length));
        match escape {
            b'n' => Some((vec![b'\n'], 2)),
            b't' => Some((vec![b'\t'], 2)),
            b'r' => Some((vec![b'\r'], 2)),
            b'x' => byte(digits(2, 2, 16), 4),
            b'0'..=b'3' => byte(digits(1, 3, 8), 4),
            b'u' if rest.get(2) == Some(&b'{') => {
                let many = rest.get(3..)?.iter().take(7).position(|byte| *byte == b'}')?;
                Some((character(digits(3, many, 16)?)?, many + 4))
            }
            b'u' => Some((character(digits(2, 4, 16)?)?, 6)),
            other if other.is_ascii_punctuation() => Some((vec![other], 2)),
            _ => None,
        }
    })
}

/// `&amp;`, `&#228;`, `&#xe4;`.
fn entities(text: &str) -> Option<String> {
    undone(text, b"&", |rest| {
        let end = rest.iter().take(10).position(|byte| *byte == b';')?;
        let bytes = match rest.get(1..end)? {
            b"amp" => vec![b'&'],
            b"lt" => vec![b'<'],
            b"gt" => vec![b'>'],
            b"quot" => vec![b'"'],
            b"apos" => vec![b'\''],
            [b'#', b'x' | b'X', digits @ ..] => character(number(digits, 16)?)?,
            [b'#', digits @ ..] => character(number(digits, 10)?)?,
            _ => return None,
        };
        Some((bytes, end + 1))
    })
}

/// `None`: there is nothing to undo. `one`: what stands for an escape at the beginning, and its length.
fn undone(text: &str, marks: &[u8], one: impl Fn(&[u8]) -> Option<(Vec<u8>, usize)>) -> Option<String> {
    if !text.bytes().any(|byte| marks.contains(&byte)) {
        return None;
    }
    let (bytes, mut at, mut out) = (text.as_bytes(), 0, Vec::with_capacity(text.len()));
    while let Some(byte) = bytes.get(at) {
        let escape = marks.contains(byte).then(|| one(bytes.get(at..).unwrap_or_default())).flatten();
        if let Some((value, length)) = escape {
            out.extend(value);
            at += length;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    // A sign is no digit.
    if !digits.iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

fn character(code: u32) -> Option<Vec<u8>> {
    Some(char::from_u32(code)?.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "p\"s' wörd<&>%\\";

    #[test]
    fn every_way_to_escape_is_undone() {
        for escaped in [
            "p%22s%27%20w%c3%B6rd%3C%26%3E%25%5C",
            "p%22s'+w%C3%B6rd%3C&%3E%25\\",
            r#"p\"s' wörd<&>%\\"#,
            r#"p\"s\' w\u{f6}rd<&>%\\"#,
            r#"p\"s\u0027 w\u00f6rd\u003c\u0026\u003e%\\"#,
            r"p\x22s' w\xc3\xb6rd<&>%\\",
            r"p\042s' w\303\266rd<&>%\\",
            "p&quot;s&apos; wörd&lt;&amp;&gt;%\\",
            "p\"s&#39; w&#xF6;rd&lt;&amp;>%\\",
            "p\\&quot;s' wörd&lt;&amp;&gt;%\\\\",
        ] {
            let views = views(&format!("x {escaped} y"));
            assert!(views.iter().any(|view| view.contains(TEXT)), "{escaped}: {views:#?}");
        }
    }

    #[test]
    fn what_is_no_escape_stays() {
        for text in
            ["", "plain", "100 % and 5%", "a\\", "\\u{", "\\u{}", "\\u12", "& &; &unknown; &#x110000;", "%+1", "\\x+1"]
        {
            assert!(views(text).iter().all(|view| view.len() <= text.len()), "{text}");
            assert_eq!(views(text)[0], text);
        }
        assert_eq!(views("a + b"), ["a + b", "a   b"]);
    }
}
