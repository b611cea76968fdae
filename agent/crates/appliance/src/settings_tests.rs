//! Values that people type and values that nobody should.
#![allow(clippy::unwrap_used, reason = "tests")]
use proptest::prelude::*;

use super::*;
use crate::{certificate, config};

fn environment(properties: &[(&str, &str)]) -> Environment {
    let one = |(key, value): &(&str, &str)| {
        let value = quick_xml::escape::escape(*value).replace('\n', "&#10;").replace('\r', "&#13;");
        format!("<Property key=\"hotadd.{key}\" value=\"{value}\"/>")
    };
    let all: String = properties.iter().map(one).collect();
    let text = format!("<Environment><PropertySection>{all}</PropertySection></Environment>");
    Environment::parse(text.as_bytes()).unwrap()
}

fn pem() -> String {
    certificate::create("ca", None).unwrap().certificate
}

/// Enough for the service, with changes: an empty value leaves a property out.
fn changed(changes: &[(&str, &str)]) -> Settings {
    let (ca, pin) = (pem(), "ab".repeat(32));
    let mut all: BTreeMap<&str, &str> = BTreeMap::from([
        (p::VCENTER, "vcenter.example"),
        (p::VCENTER_PIN, &*pin),
        (p::USER, "hotadd@vsphere.local"),
        (p::PASSWORD, "p"),
        (p::CLIENT_CA, &*ca),
    ]);
    all.extend(changes.iter().copied());
    read(&environment(&all.into_iter().collect::<Vec<_>>()))
}

#[track_caller]
fn faults(changes: &[(&str, &str)], expected: &[(reasons::Code, &str)]) {
    let settings = changed(changes);
    let found: Vec<_> = settings.faults.iter().map(|fault| (&*fault.code, &*fault.message)).collect();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((code, message), (wanted, part)) in found.iter().zip(expected) {
        assert!(*code == wanted.id && message.contains(part), "{code} {message}: {part}");
    }
    assert_eq!(settings.service.is_none(), expected.iter().any(|(code, _)| *code != reasons::NO_MATCH));
}

#[test]
fn the_least_is_enough() {
    let settings = changed(&[]);
    assert_eq!(settings.faults, []);
    assert_eq!((&*settings.hostname, settings.generation), (DEFAULT_HOSTNAME, 1));
    assert_eq!(settings.network, Network::default());
    let service = settings.service.unwrap();
    assert_eq!((service.port, &*service.vcenter), (DEFAULT_PORT, "https://vcenter.example"));
    assert_eq!(CertificateDer::pem_slice_iter(service.client_ca.as_bytes()).filter_map(Result::ok).count(), 1);
}

#[test]
fn everything_that_is_missing_is_told_at_once() {
    let settings = read(&Environment::default());
    let codes: Vec<_> = settings.faults.iter().map(|fault| &*fault.code).collect();
    assert_eq!(codes, vec![reasons::MISSING.id; 5], "{:?}", settings.faults);
    assert!(settings.service.is_none());
}

#[test]
fn bad_values_are_named_without_being_repeated() {
    use reasons::{INVALID, MISSING, NO_MATCH};
    let cases = [
        (p::ADDRESS, "192.0.2.300/24"),
        (p::ADDRESS, "198.51.100.7"),
        (p::ADDRESS, "192.0.2.1/33"),
        (p::ADDRESS, "0.0.0.0/0"),
        (p::GATEWAY, "192.0.2.1"),
        (p::DNS, "192.0.2.1, example"),
        (p::HOSTNAME, "-x"),
        (p::HOSTNAME, "a b"),
        (p::HOSTNAME, "a\nExecStart=/bin/sh"),
        (p::NTP, "a b=c"),
        (p::SEARCH, "example.org\nDNS=192.0.2.66"),
        (p::VCENTER, "user:pw@vcenter"),
        (p::VCENTER, "vcenter:port"),
        (p::VCENTER, "vcenter/../x"),
        (p::USER, "a\nb"),
        (p::PASSWORD, "a\nb"),
        (p::CONSOLE, "x\nroot2:y"),
        (p::PORT, "0"),
        (p::PORT, "65536"),
        (p::CLIENT_CA, "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"),
        (p::CLIENT_CA, "-----BEGIN PRIVATE KEY-----AAAA-----END PRIVATE KEY-----"),
        (p::VCENTER_PIN, "ab"),
        (p::READS, "-1"),
        (p::GENERATION, "x"),
    ];
    for (key, value) in cases {
        faults(&[(key, value)], &[(INVALID, key)]);
        let told = changed(&[(key, value)]).faults[0].message.clone();
        assert!(value.len() < 6 || !told.contains(value), "{told}");
    }
    faults(&[(p::VCENTER_PIN, "")], &[(MISSING, p::VCENTER_CA)]);
    faults(&[(p::VCENTER_CA, &pem())], &[(INVALID, "not both")]);
    faults(&[("vcenter_pasword", "x")], &[(NO_MATCH, "hotadd.vcenter_pasword")]);
}

#[test]
fn one_wrong_line_of_the_network_means_dhcp_for_all_of_it() {
    let settings = changed(&[(p::ADDRESS, "192.0.2.10/24"), (p::GATEWAY, "2001:db8::1"), (p::DNS, "192.0.2.53")]);
    assert_eq!(settings.network, Network::default());
    assert!(settings.service.is_none());
}

#[test]
fn certificates_come_back_whole_from_one_line() {
    let two = pem() + &pem();
    for text in
        [two.clone(), two.replace('\n', " "), two.replace('\n', ""), format!("  {}\r\n", two.replace('\n', "\r\n"))]
    {
        let service = changed(&[(p::CLIENT_CA, &text)]).service.unwrap();
        assert_eq!(CertificateDer::pem_slice_iter(service.client_ca.as_bytes()).filter_map(Result::ok).count(), 2);
    }
}

#[test]
fn addresses_of_vcenter_become_urls() {
    for (text, expected) in [
        ("VCenter.Example", "https://vcenter.example"),
        ("https://vcenter.example:8443/sdk", "https://vcenter.example:8443"),
        ("192.0.2.7", "https://192.0.2.7"),
        ("192.0.2.7:444", "https://192.0.2.7:444"),
        ("2001:db8::7", "https://[2001:db8::7]"),
        ("[2001:db8::7]", "https://[2001:db8::7]"),
        ("[2001:db8::7]:444", "https://[2001:db8::7]:444"),
    ] {
        assert_eq!(url(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn the_network_file_holds_what_was_asked() {
    let all = [
        (p::ADDRESS, "192.0.2.10/24"),
        (p::GATEWAY, "192.0.2.1"),
        (p::DNS, "192.0.2.53,192.0.2.54"),
        (p::SEARCH, "example.org"),
        (p::NTP, "ntp.example"),
    ];
    let text = config::network(&changed(&all).network);
    let body = text.split_once("[Network]\n").unwrap().1;
    let expected = "Address=192.0.2.10/24\nIPv6AcceptRA=no\nGateway=192.0.2.1\nDNS=192.0.2.53\nDNS=192.0.2.54\nDomains=example.org\nNTP=ntp.example\n";
    assert_eq!(body, expected);
    assert!(config::network(&Network::default()).contains("DHCP=yes\n"));
}

#[test]
fn agent_toml_holds_what_was_asked() {
    let user = "a\"b'c\\d";
    let service =
        changed(&[(p::USER, user), (p::READS, "8"), (p::BYTES, "1000000"), (p::PORT, "17443")]).service.unwrap();
    let table: toml::Table = config::agent(&service, "/etc/hotadd").unwrap().parse().unwrap();
    assert_eq!(table["listen"].as_str(), Some("[::]:17443"));
    assert_eq!(table["vcenter"]["user"].as_str(), Some(user));
    assert_eq!(table["vcenter"]["password_file"].as_str(), Some("/etc/hotadd/vcenter-password"));
    assert_eq!(table["limits"]["reads"].as_integer(), Some(8));
    assert_eq!(table["pace"]["agent"]["bytes_per_second"].as_integer(), Some(1_000_000));
    assert!(table["vcenter"].get("ca_file").is_none());
}

#[test]
fn what_a_new_agent_toml_would_not_hold_is_found() {
    // All that can be asked is known, and nothing of it is taken for a person's own.
    let numbers = [p::PARALLEL_READS, p::READS, p::MEMORY, p::SNAPSHOTS, p::BYTES].map(|key| (key, "7"));
    let ca = pem();
    let trusts: [&[(&str, &str)]; 2] = [&[], &[(p::VCENTER_CA, &ca), (p::VCENTER_PIN, "")]];
    let mut written = 0;
    for trust in trusts {
        let service = changed(&[&numbers[..], trust].concat()).service.unwrap();
        let text = config::agent(&service, "/etc/hotadd").unwrap();
        assert_eq!(config::beyond(&text.parse().unwrap()), [""; 0], "{text}");
        written += text.lines().filter(|line| line.contains(" = ")).count();
    }
    assert_eq!(written, 2 * 13);
    let text = "listen = 'x'\nown_disks = ['a']\n[tls]\ncrl_file = '/crl'\nkey_file = '/k'\n[pace]\nagent.reads_per_second = 1\n\
                [limits]\nclient = { calls = 1 }\nreads = 1\n[[client]]\nsan = 'a'\n[vddk]\n";
    let expected = ["client", "limits.client.calls", "own_disks", "pace.agent.reads_per_second", "tls.crl_file"];
    let mut found = config::beyond(&text.parse().unwrap());
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(config::beyond(&"tls = 1".parse().unwrap()), ["tls"]);
}

proptest! {
    /// Whatever is typed into any field: no file gets a line or a key that was not meant.
    #[test]
    fn no_value_can_say_more_than_a_value(field in 0..p::ALL.len(), value in any::<String>()) {
        let value: String = value.chars().filter(|c| !c.is_control() || "\n\r\t".contains(*c)).collect();
        let settings = changed(&[(p::ALL[field].key, &value)]);
        let keys = ["DHCP", "Address", "Gateway", "DNS", "Domains", "NTP", "ClientIdentifier", "Type"];
        for line in config::network(&settings.network).lines() {
            let known = line.is_empty() || line.starts_with(['#', '[']) || line.split_once('=').is_some_and(|(key, _)| keys.contains(&key));
            prop_assert!(known, "{}", line);
        }
        prop_assert_eq!(config::hosts(&settings.hostname).lines().count(), 3);
        if let Some(service) = &settings.service {
            let table: toml::Table = config::agent(service, "/e").unwrap().parse().unwrap();
            let known = ["listen", "tls", "vcenter", "limits", "pace"];
            prop_assert!(table.keys().all(|key| known.contains(&key.as_str())));
            prop_assert_eq!(table["vcenter"]["user"].as_str(), Some(&*service.user));
            prop_assert!(!service.password.contains(['\n', '\r']));
        }
    }
}
