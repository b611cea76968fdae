//! Where the password comes from: a file, a descriptor, or a person at a terminal. It goes into [`SecretString`] and nowhere else.
use std::{
    fs::File,
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret as _, SecretString};

use crate::args::VcenterArgs;

/// Longer than any password; a file by mistake is not read whole.
const LONGEST: u64 = 4096;

/// The password that the options name.
///
/// # Errors
/// What is wrong with its source, for a person. Never the text that was read.
pub(crate) fn password(args: &VcenterArgs, user: &str) -> Result<SecretString, String> {
    let secret = match (&args.password_file, args.password_fd) {
        (Some(path), _) => private(path)?,
        (None, Some(number)) => {
            let path = format!("/proc/self/fd/{number}");
            line(File::open(&path).map_err(|e| format!("--password-fd {number}: {e}"))?, &path)?
        }
        (None, None) => typed(user)?,
    };
    if secret.expose_secret().is_empty() { Err("the password is empty".into()) } else { Ok(secret) }
}

/// Of a file that nobody but its owner may read.
fn private(path: &Path) -> Result<SecretString, String> {
    let shown = path.display().to_string();
    let file = File::open(path).map_err(|e| format!("{shown}: {e}"))?;
    let mode = file.metadata().map_err(|e| format!("{shown}: {e}"))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!("{shown} is open to others (mode {:o}); chmod 0600 it", mode & 0o7777));
    }
    line(file, &shown)
}

fn line(from: impl io::Read, shown: &str) -> Result<SecretString, String> {
    let mut text = String::new();
    from.take(LONGEST + 1).read_to_string(&mut text).map_err(|e| format!("{shown}: {e}"))?;
    let text = SecretString::from(text);
    if text.expose_secret().len() as u64 > LONGEST {
        return Err(format!("{shown} holds more than {LONGEST} bytes: no password"));
    }
    Ok(SecretString::from(text.expose_secret().trim_end_matches(['\r', '\n'])))
}

fn typed(user: &str) -> Result<SecretString, String> {
    if !io::stdin().is_terminal() {
        return Err("no terminal to ask for the password: give --password-file or --password-fd".into());
    }
    let ask = || {
        eprint!("Password of {}: ", crate::clean(user));
        io::stderr().flush()?;
        let _silent = Silent::begin()?;
        let mut text = String::new();
        io::stdin().lock().read_line(&mut text)?;
        Ok(SecretString::from(text))
    };
    let text = ask().map_err(|e: io::Error| format!("the terminal: {e}"))?;
    Ok(SecretString::from(text.expose_secret().trim_end_matches(['\r', '\n'])))
}

/// The terminal without echo, until this goes out of scope.
struct Silent(Termios);

impl Silent {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // The terminal may be gone; then nobody types on it.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
        eprintln!();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_file_must_be_its_owners_alone_and_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        fs::write(&path, "a b \r\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(private(&path).unwrap_err().contains("open to others"));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(private(&path).unwrap().expose_secret(), "a b ");
        fs::write(&path, "x".repeat(5000)).unwrap();
        let told = private(&path).unwrap_err();
        assert!(told.contains("no password") && !told.contains("xx"), "{told}");
    }
}
