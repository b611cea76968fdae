//! Tests of [`super`]: which names get which role, and what is refused.
use super::*;

fn rules(list: &[(&str, Role)]) -> Rules {
    let of = |(text, role): &(&str, Role)| match text.contains('*') {
        true => Rule::wildcard(text, *role).unwrap(),
        false => Rule::exactly(text, *role).unwrap(),
    };
    Rules::new(list.iter().map(of).collect())
}

fn role(list: &[(&str, Role)], names: &[Name]) -> Option<(String, Role)> {
    rules(list).judge(names).map(|(name, role)| (name.to_string(), role))
}

#[test]
fn a_name_has_the_highest_role_that_a_rule_gives_it() {
    let list = [
        ("DNS:*.backup.example.com", Role::Reader),
        ("DNS:b1.backup.example.com", Role::Operator),
        ("URI:spiffe://example.com/backup/*", Role::Operator),
        ("email:*@example.com", Role::Reader),
        ("CN:Root Of All", Role::Admin),
        ("IP:2001:db8::1", Role::Reader),
    ];
    let one = |kind, value: &str| role(&list, &[Name::new(kind, value)]).map(|(_, role)| role);
    assert_eq!(one(Kind::Dns, "B1.Backup.example.com"), Some(Role::Operator));
    assert_eq!(one(Kind::Dns, "b2.backup.example.com"), Some(Role::Reader));
    assert_eq!(one(Kind::Uri, "spiffe://example.com/backup/7"), Some(Role::Operator));
    assert_eq!(one(Kind::Email, "Ann@EXAMPLE.com"), Some(Role::Reader));
    assert_eq!(one(Kind::Cn, "Root Of All"), Some(Role::Admin));
    assert_eq!(one(Kind::Ip, "2001:db8::1"), Some(Role::Reader));
    let both = [Name::new(Kind::Dns, "b2.backup.example.com"), Name::new(Kind::Uri, "spiffe://example.com/backup/7")];
    assert_eq!(role(&list, &both), Some(("URI:spiffe://example.com/backup/7".into(), Role::Operator)));
    let same = [Name::new(Kind::Dns, "b3.backup.example.com"), Name::new(Kind::Dns, "b2.backup.example.com")];
    assert_eq!(role(&list, &same).unwrap().0, "DNS:b3.backup.example.com", "the first of the certificate");
}

#[test]
fn a_name_that_only_resembles_one_gets_nothing() {
    let list = [
        ("DNS:b1.example.com", Role::Admin),
        ("DNS:*.backup.example.com", Role::Admin),
        ("URI:spiffe://example.com/backup/*", Role::Admin),
        ("email:ann@example.com", Role::Admin),
    ];
    for (kind, value) in [
        (Kind::Cn, "b1.example.com"),
        (Kind::Dns, "b1.example.com."),
        (Kind::Dns, "b1.example.com\0.evil.org"),
        (Kind::Dns, "xb1.example.com"),
        (Kind::Uri, "b1.example.com"),
        (Kind::Dns, "*.backup.example.com"),
        (Kind::Dns, ".backup.example.com"),
        (Kind::Dns, "a.b.backup.example.com"),
        (Kind::Dns, "backup.example.com"),
        (Kind::Uri, "spiffe://example.com/backup/"),
        (Kind::Uri, "spiffe://example.com/backup/a/b"),
        (Kind::Uri, "SPIFFE://example.com/backup/a"),
        (Kind::Email, "ANN@example.com"),
        (Kind::Email, "ann@example.com@evil.org"),
    ] {
        assert_eq!(role(&list, &[Name::new(kind, value)]), None, "{kind:?} {value:?}");
    }
    assert_eq!(rules(&[]).judge(&[]), None);
}

#[test]
fn rules_that_say_too_much_are_refused() {
    for text in ["b1.example.com", "DNS:", "dns:b1", "DNS:a b", "DNS:a\n", "IP:300.1.1.1", "DNS:*.example.com"] {
        assert!(Rule::exactly(text, Role::Reader).is_err(), "{text:?}");
    }
    for text in [
        "DNS:b1.example.com",
        "DNS:*",
        "DNS:*.com",
        "DNS:*.*.example.com",
        "DNS:b*.example.com",
        "URI:*",
        "URI:*://example.com/x",
        "email:ann@*",
        "CN:*",
        "IP:*",
    ] {
        assert!(Rule::wildcard(text, Role::Reader).is_err(), "{text:?}");
    }
}

#[test]
fn names_in_a_log_are_one_line_and_never_look_alike() {
    let shown = |value: &str| Name::new(Kind::Dns, value).to_string();
    let told = shown("a\nrole=admin\u{1b}[2J\u{202e}x\\u{a}");
    assert!(told.chars().all(|c| !c.is_control()) && !told.contains('\u{202e}'), "{told}");
    assert_ne!(shown("a\n"), shown("a\\u{a}"));
    assert_eq!(shown("bäckup.example.com"), "DNS:bäckup.example.com");
}
