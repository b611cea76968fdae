//! Tests of the allow list.
use super::*;

fn shown(text: &str) -> String {
    Settings(text.parse().unwrap()).shown().unwrap()
}

#[test]
fn known_keys_stay_and_nothing_else() {
    let text = shown(
        "# canary\nlisten = '0.0.0.0:7443'\ncanary = 'canary'\nown_disks = ['6000c29a', { canary = 1 }]\n[canary_table]\nx = 'canary'\n\
         [vcenter]\nurl = 'https://u:canary@vc/sdk?canary'\nuser = 'backup'\npassword_file = 'canary'\npassword = 'canary'\n\
         ca_file = '/etc/ca.pem'\nuser_canary = { canary = 'canary' }\n[pace.datastores.ds1]\nreads_per_second = 5\ncanary = 1\n\
         [pace.canary]\nx = 1\n[[client]]\nsan = 'DNS:b1'\nrole = 'admin'\ncanary = 'canary'\n[limits]\ndepth = { x = 'canary' }\nreads = 'canary'\n",
    );
    assert!(!text.contains("canary"), "{text}");
    for kept in
        ["0.0.0.0:7443", "6000c29a", "https://vc/sdk", "backup", "/etc/ca.pem", "reads_per_second = 5", "DNS:b1"]
    {
        assert!(text.contains(kept), "{kept} missing in {text}");
    }
    assert!(text.starts_with("# left out: 10 "), "{text}");
}

#[test]
fn faults_and_syntax_tell_the_place_only() {
    let faults = Faults(vec!["vcenter.url: \"canary\" does not".into(), "canary: x".into(), "limits.depth: 0".into()]);
    assert_eq!(keys(&faults), "vcenter.url, another, limits.depth");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, "listen = 'x'\ncanary canary\n").unwrap();
    let why = Settings::read(&path).0.err().unwrap();
    assert!(why.ends_with("line 2: not TOML"), "{why}");
}

#[test]
fn secret_files_are_known_even_if_the_text_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    let text = "broken\nvcenter = { user_file = '/u', password_file = '/p' } # of vCenter\nca_file = '/c'\n\
                nbd.\"key_file\"=\"/k\"\nkey_file = 'beside'\n";
    std::fs::write(&path, text).unwrap();
    let (settings, files) = Settings::read(&path);
    assert!(settings.is_err());
    let expected = ["/k".into(), dir.path().join("beside"), "/p".into()];
    assert!(expected.iter().all(|file| files.contains(file)), "{files:?}");
    assert!(!files.iter().any(|file| file == Path::new("/c") || file == Path::new("/u")), "{files:?}");
}

#[test]
fn secrets_are_found_where_setup_and_the_first_boot_put_them() {
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path();
    std::fs::create_dir(etc.join("files-3")).unwrap();
    let mut expected = ["server.key", "files-3/server.key", "files-3/vcenter-password"].map(|name| etc.join(name));
    expected.iter().for_each(|path| std::fs::write(path, "x").unwrap());
    let mut found = secrets_below(etc);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(secrets_below(&etc.join("absent")).is_empty());
}

#[test]
fn a_login_in_a_url_goes() {
    for url in
        ["https://u:canary@vc/sdk", "https://vc/sdk?canary", "https://u:can?ary@vc/sdk", "u:canary@https://vc/sdk"]
    {
        let shown = without_login(url);
        assert!(!shown.contains("ary") && shown.contains("vc/sdk"), "{url}: {shown}");
    }
}

#[test]
fn of_a_collector_the_host_stays() {
    for url in ["https://u:canary@c.example:4317", "https://c.example:4317/canary/x", "https://c.example:4317?canary"] {
        let text = shown(&format!("[traces]\nendpoint = '{url}'\nca_file = '/etc/c.pem'\nheaders = 'canary'\n"));
        assert!(text.contains("https://c.example:4317") && text.contains("/etc/c.pem"), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
}

#[test]
fn secret_files_are_known_even_if_the_rest_is_wrong() {
    let settings = Settings("[vcenter]\npassword_file = '/p'\n[tls]\nkey_file = '/k'\n".parse().unwrap());
    assert_eq!(settings.secret_files(Path::new("/c/agent.toml")), [PathBuf::from("/k"), PathBuf::from("/p")]);
    let dir = tempfile::tempdir().unwrap();
    let beside = Settings("[vcenter]\npassword_file = 'p'\n".parse().unwrap());
    let expected = [dir.path().join("p")];
    assert_eq!(beside.secret_files(&dir.path().join("agent.toml")), expected, "nowhere: to be told as unknown");
    std::fs::write(&expected[0], "x").unwrap();
    assert_eq!(beside.secret_files(&dir.path().join("agent.toml")), expected);
    assert_eq!(settings.state_dir(), default_state_dir());
}

/// What serde tells of an unknown key is the list of the known ones: a new key has to be put into the allow list, or left out knowingly.
#[test]
fn every_key_of_the_configuration_is_known_here() {
    const TABLES: [&str; 20] = [
        "",
        "tls",
        "client",
        "audit",
        "vcenter",
        "limits",
        "limits.client",
        "deadlines",
        "plan",
        "pace",
        "pace.agent",
        "pace.disk",
        "pace.datastores.ds1",
        "reading",
        "nbd",
        "vddk",
        "export",
        "quarantine",
        "metrics",
        "traces",
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    let mut seen = 0;
    for table in TABLES {
        let head = match table {
            "" => String::new(),
            "client" => "[[client]]\n".to_owned(),
            table => format!("[{table}]\n"),
        };
        std::fs::write(&path, format!("{head}zzz = 1\n")).unwrap();
        let told = crate::config::Config::load(&path).unwrap_err().to_string();
        let (_, expected) = told.split_once("expected ").unwrap_or_else(|| panic!("{table}: {told}"));
        for key in expected.split('`').skip(1).step_by(2) {
            let below = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
            let known = kept(table).is_some_and(|names| has(names, key)) || leads(&below) || below == "pace.datastores";
            assert!(known, "{below} is not in the allow list");
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} keys only");
}
