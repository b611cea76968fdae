//! Environments as vCenter makes them, and as nobody should.
#![allow(clippy::unwrap_used, reason = "tests")]
use proptest::prelude::*;

use super::*;

/// As vCenter writes it, with a sibling VM of the same vApp.
const WHOLE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Environment
     xmlns="http://schemas.dmtf.org/ovf/environment/1"
     xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
     xmlns:oe="http://schemas.dmtf.org/ovf/environment/1"
     xmlns:ve="http://www.vmware.com/schema/ovfenv"
     oe:id="" ve:vCenterId="vm-42">
   <PlatformSection><Kind>VMware ESXi</Kind><Version>7.0.3</Version></PlatformSection>
   <PropertySection>
      <Property oe:key="hotadd.hostname" oe:value="proxy&amp;&#x31;"/>
      <Property oe:key="hotadd.vcenter_password" oe:value="a &quot;secret&quot; &lt;&amp;&gt;"></Property>
      <Property oe:key="hotadd.vcenter_user" oe:value=""/>
      <Property oe:key="hotadd.network_dns" oe:value="null"/>
      <Property oe:key="other.hostname" oe:value="x"/>
   </PropertySection>
   <Entity oe:id="sibling"><PropertySection>
      <Property oe:key="hotadd.grpc_port" oe:value="1"/>
      <Property oe:key="hotadd.console_password" oe:value="the sibling's"/>
   </PropertySection></Entity>
</Environment>
"#;

fn parse(text: &str) -> Result<Environment, Refused> {
    Environment::parse(text.as_bytes())
}

fn with(properties: &str) -> String {
    format!("<Environment><PropertySection>{properties}</PropertySection></Environment>")
}

#[test]
fn properties_of_this_machine_are_read_and_no_others() {
    let environment = parse(WHOLE).unwrap();
    assert_eq!(environment.get("hostname"), Some("proxy&1"));
    assert_eq!(environment.get("vcenter_password"), Some("a \"secret\" <&>"));
    // Empty, and what a bare host writes for empty.
    assert_eq!((environment.get("vcenter_user"), environment.get("network_dns")), (None, None));
    assert_eq!(environment.get("grpc_port"), None);
    let blank = |key| environment.is_blank(key);
    assert!(blank("vcenter_user") && blank("network_dns") && !blank("hostname") && !blank("grpc_port"));
    assert_eq!(environment.keys().collect::<Vec<_>>(), ["hostname", "vcenter_password"]);
    assert!(!format!("{environment:?}").contains("secret\""));
}

#[test]
fn hostile_documents_are_refused_as_a_whole() {
    let bomb = "<!DOCTYPE Environment [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><Environment/>";
    assert_eq!(parse(bomb), Err(Refused::DocType));
    assert_eq!(parse("<!DOCTYPE x SYSTEM \"file:///etc/shadow\"><Environment/>"), Err(Refused::DocType));
    assert_eq!(parse(&with(&"<a>".repeat(100))), Err(Refused::Deep));
    let many: String = (0..600).map(|n| format!("<Property key=\"k{n}\" value=\"v\"/>")).collect();
    assert_eq!(parse(&with(&many)), Err(Refused::Many));
    assert_eq!(parse(&" ".repeat(MAX_BYTES + 1)), Err(Refused::Large));
    assert_eq!(Environment::parse(b"<Environment>\xff</Environment>"), Err(Refused::NotText));
    for empty in ["", " \n", "\0"] {
        assert_eq!(parse(empty), Err(Refused::Empty));
    }
    for root in ["<Envelope/>", "<Environment/><Environment/>", "<!-- nothing -->"] {
        assert_eq!(parse(root), Err(Refused::Root), "{root}");
    }
    let twice = with("<Property key=\"hotadd.a\" value=\"1\"/><Property key=\"hotadd.a\" value=\"2\"/>");
    assert_eq!(parse(&twice), Err(Refused::Twice("hotadd.a".to_owned())));
}

#[test]
fn broken_documents_are_refused() {
    let entity = with("<Property key=\"hotadd.a\" value=\"&unknown;\"/>");
    let doubled = with("<Property key=\"a\" key=\"b\" value=\"\"/>");
    for text in ["<Environment>", "<Environment></Other>", "no xml", "<Environment", &entity, &doubled] {
        let refused = parse(text).unwrap_err();
        assert!(matches!(refused, Refused::Malformed(_) | Refused::Root), "{text}: {refused:?}");
        // It is shown and kept: a password may be in a wrong place.
        assert!(
            !["unknown", "Other", "doubled", "no xml"].iter().any(|word| refused.to_string().contains(word)),
            "{refused}"
        );
    }
}

#[test]
fn redaction_takes_the_secrets_and_leaves_the_rest() {
    let clean = redacted(WHOLE.as_bytes()).unwrap().unwrap();
    assert!(!clean.contains("secret") && !clean.contains("sibling's"), "{clean}");
    let (before, after) = (parse(WHOLE).unwrap(), parse(&clean).unwrap());
    assert_eq!(after.get("vcenter_password"), None);
    assert_eq!(after.get("hostname"), before.get("hostname"));
    assert!(clean.contains("ve:vCenterId=\"vm-42\"") && clean.contains("other.hostname"));
    assert_eq!(redacted(clean.as_bytes()), Ok(None));
    // A comment may hold what an element held before.
    let comment = with("<!-- old: hunter2 --><Property key=\"hotadd.vcenter_password\" value=\"x\"/>");
    assert!(!redacted(comment.as_bytes()).unwrap().unwrap().contains("hunter2"));
}

proptest! {
    #[test]
    fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Environment::parse(&bytes);
        let _ = redacted(&bytes);
    }

    #[test]
    fn nothing_near_an_environment_breaks_it(at in 0..WHOLE.len(), cut in 0usize..80, put in "[<>&;\"'a-z/!\\[\\]-]{0,12}") {
        let (head, tail) = (WHOLE.get(..at).unwrap_or(""), WHOLE.get(at + cut..).unwrap_or(""));
        let text = format!("{head}{put}{tail}");
        let _ = parse(&text);
        // What was blanked has nothing left to blank, whatever it was.
        if let Ok(Some(clean)) = redacted(text.as_bytes()) {
            prop_assert_eq!(redacted(clean.as_bytes()), Ok(None));
        }
    }

    #[test]
    fn a_value_comes_back_as_it_was_written(value in "[ -~äö€]{1,40}") {
        let raw = quick_xml::escape::escape(&value);
        let environment = parse(&with(&format!("<Property key=\"hotadd.hostname\" value=\"{raw}\"/>"))).unwrap();
        let expected = (!value.trim().is_empty() && value != "null").then_some(value.as_str());
        prop_assert_eq!(environment.get("hostname"), expected);
    }

    #[test]
    fn a_password_never_survives(value in "[!-~]{6,40}") {
        let raw = quick_xml::escape::escape(&value);
        let text = with(&format!("<Property key=\"hotadd.vcenter_password\" value=\"{raw}\"/>"));
        let clean = redacted(text.as_bytes()).unwrap().unwrap();
        let (rest, left) = (with("<Property key=\"hotadd.vcenter_password\" value=\"\"/>"), clean);
        prop_assert_eq!(left, rest);
    }
}
