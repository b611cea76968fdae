//! Files that hold a secret. Their text goes into [`SecretString`] and nowhere else.
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use secrecy::{ExposeSecret as _, SecretString};

/// A file that nobody but its owner may read.
///
/// # Errors
/// What is wrong with it, for a person.
pub(super) fn read(path: &Path) -> Result<SecretString, String> {
    let shown = path.display();
    let mode = fs::metadata(path).map_err(|e| format!("{shown}: {e}"))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!("{shown} is open to others (mode {:o}); chmod 0600 it", mode & 0o7777));
    }
    fs::read_to_string(path).map(SecretString::from).map_err(|e| format!("{shown}: {e}"))
}

/// The same without its line end.
pub(super) fn line(path: &Path) -> Result<SecretString, String> {
    read(path).map(|text| SecretString::from(text.expose_secret().trim_end_matches(['\r', '\n'])))
}
