//! Man pages and shell completions of a program, made from its own command line, so that they can't tell another story.
//! Both programs write theirs by the hidden command `manual`; only the packaging calls it.
#![forbid(unsafe_code)]
use std::{fs, io, path::Path};

use clap::Command;
use clap_complete::Shell;

/// Writes `dir`/man1, a page for the program and one for each of its commands, and `dir`/completions.
///
/// # Errors
/// When a file or folder can't be written.
pub fn write(program: Command, dir: &Path) -> io::Result<()> {
    let (pages, completions) = (dir.join("man1"), dir.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let mut completed = program.clone();
    let name = program.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut completed, &name, &completions)?;
    }
    clap_mangen::generate_to(program, &pages)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::{Arg, Command};

    #[test]
    fn every_command_but_a_hidden_one_has_a_page() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let run = Command::new("run").arg(Arg::new("speed").long("speed"));
        let program = Command::new("program").subcommand(run).subcommand(Command::new("secret").hide(true));
        super::write(program, dir.path())?;
        let page = fs::read_to_string(dir.path().join("man1/program-run.1"))?;
        assert!(page.contains(r"\-\-speed"), "{page}");
        assert!(!dir.path().join("man1/program-secret.1").exists());
        for file in ["program.bash", "_program"] {
            let text = fs::read_to_string(dir.path().join("completions").join(file))?;
            assert!(text.contains("--speed"), "{file}: {text}");
        }
        Ok(())
    }
}
