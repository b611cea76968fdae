//! Man pages and shell completions of a program, made from its own command line, so that they can't tell another story.
//! Both programs write theirs by the hidden command `manual`; only the packaging calls it.
#![forbid(unsafe_code)]
use std::{fs, io, path::Path};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Writes `dir`/man1, a page for the program and one for each of its commands, and `dir`/completions.
///
/// `prose`: sections of the program's own page in the language of man(7), the first of them DESCRIPTION. It stands before
/// the options, the others come after the commands.
///
/// # Errors
/// When a file or folder can't be written.
pub fn write(program: Command, prose: &str, dir: &Path) -> io::Result<()> {
    let (pages, completions) = (dir.join("man1"), dir.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let mut completed = program.clone();
    let name = program.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut completed, &name, &completions)?;
    }
    clap_mangen::generate_to(program.clone(), &pages)?;
    let man = Man::new(program.disable_help_subcommand(true));
    fs::write(pages.join(man.get_filename()), page(&man, prose)?)
}

/// The program's own page, in place of the one that has no prose.
fn page(man: &Man, prose: &str) -> io::Result<Vec<u8>> {
    let second = prose.find("\n.SH ").map_or(prose.len(), |at| at + 1);
    let (description, others) = prose.split_at(second);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    text.extend_from_slice(description.as_bytes());
    man.render_options_section(&mut text)?;
    man.render_subcommands_section(&mut text)?;
    text.extend_from_slice(others.as_bytes());
    man.render_version_section(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::{Arg, Command};

    const PROSE: &str = ".SH DESCRIPTION\nWhat it is for.\n.SH FILES\nWhere it looks.\n.SH NOTES\nHow it ends.\n";

    fn program() -> Command {
        let run = Command::new("run").arg(Arg::new("speed").long("speed"));
        Command::new("program").version("1.2").subcommand(run).subcommand(Command::new("secret").hide(true))
    }

    #[test]
    fn every_command_but_a_hidden_one_has_a_page() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        super::write(program(), PROSE, dir.path())?;
        let page = fs::read_to_string(dir.path().join("man1/program-run.1"))?;
        assert!(page.contains(r"\-\-speed"), "{page}");
        assert!(!page.contains("What it is for."), "{page}");
        assert!(!dir.path().join("man1/program-secret.1").exists());
        for file in ["program.bash", "_program"] {
            let text = fs::read_to_string(dir.path().join("completions").join(file))?;
            assert!(text.contains("--speed"), "{file}: {text}");
        }
        Ok(())
    }

    #[test]
    fn the_prose_stands_around_options_and_commands() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        super::write(program(), PROSE, dir.path())?;
        let page = fs::read_to_string(dir.path().join("man1/program.1"))?;
        let heads: Vec<&str> = page.lines().filter(|line| line.starts_with(".SH ")).collect();
        let expected = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SUBCOMMANDS", "FILES", "NOTES", "VERSION"];
        assert_eq!(heads, expected.map(|head| format!(".SH {head}")), "{page}");
        assert!(page.contains("What it is for.\n") && page.contains("How it ends.\n"), "{page}");
        Ok(())
    }
}
