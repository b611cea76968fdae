//! Where the journal is, out of a configuration whose other faults do not matter: who removes the package asks for nothing else.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The state directory that a file says; the usual one without a file, or without a word of it.
///
/// # Errors
/// A file that can't be read, that is no TOML, or that says something else than a path: nobody knows where the journal is.
pub fn of(config: &Path) -> Result<PathBuf, String> {
    let wrong = |why: &str| format!("{}: {why}; the state directory is unknown", config.display());
    let text = match fs::read_to_string(config) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(super::default_state_dir()),
        read => read.map_err(|error| wrong(&error.to_string()))?,
    };
    let table: toml::Table = text.parse().map_err(|_| wrong("no TOML"))?;
    match table.get("state_dir") {
        None => Ok(super::default_state_dir()),
        Some(toml::Value::String(path)) => Ok(path.into()),
        Some(_) => Err(wrong("state_dir is no text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_found_however_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        assert_eq!(of(&path), Ok(PathBuf::from("/var/lib/hotadd")));
        for (text, expected) in [
            ("# nothing\n[tls]\n", "/var/lib/hotadd"),
            ("state_dir = '/srv/a'\n", "/srv/a"),
            ("state_dir\t=\t\"/srv/a\" # '/srv/b'\n", "/srv/a"),
            ("\"state_dir\" = '''/srv/a'''\n[vcenter]\nurl = 5\n", "/srv/a"),
            ("[vcenter]\nstate_dir = '/srv/a'\n", "/var/lib/hotadd"),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(of(&path), Ok(PathBuf::from(expected)), "{text}");
        }
        for text in ["state_dir = 5\n", "state_dir = '/srv\n", "broken"] {
            fs::write(&path, text).unwrap();
            assert!(of(&path).unwrap_err().contains("the state directory is unknown"), "{text}");
        }
    }
}
