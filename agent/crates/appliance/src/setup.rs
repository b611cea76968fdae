//! `hotadd-agent setup`: the questions of the OVA as a dialogue on a terminal, for a proxy that got no properties. Nothing is written before
//! the last answer; what the agent refuses changes nothing.
//!
//! ```text
//! questions ─▶ faults? asked again, with the answers so far ─▶ summary, "write?" ─▶ files, the agent's check ─▶ agent.toml
//!                ▲─────────────────────────── refused ◀──────────────────────────────────┘
//! ```
use std::{collections::BTreeMap, fs, io, io::Read as _, path::Path};

use hotadd_ova::{Property, PropertyKind};

use crate::{
    apply::Host,
    environment::Environment,
    properties as p,
    settings::{self, Settings},
};

/// Where the dialogue takes place.
pub trait Terminal {
    /// # Errors
    /// A terminal that is gone.
    fn say(&mut self, text: &str) -> io::Result<()>;
    /// One line without its end; `None`: there will be no more. `secret`: not shown while it is typed.
    ///
    /// # Errors
    /// A terminal that is gone.
    fn line(&mut self, secret: bool) -> io::Result<Option<String>>;
}

/// A PEM file is not larger.
const PEM_BYTES: u64 = 1 << 20;

/// Asks, and configures what was answered. `appliance`: network, host name and the password of root are asked and set too.
///
/// # Errors
/// An end of input before the last answer, `Interrupted` when the person declined, or a file that can't be written.
pub fn run(terminal: &mut dyn Terminal, host: &Host, name: &str, appliance: bool) -> io::Result<()> {
    let mut dialogue = Dialogue { terminal, answers: BTreeMap::new() };
    dialogue.answers.insert(p::HOSTNAME, name.to_owned());
    if host.has_settings() {
        let question =
            "There is a configuration. The new one replaces it; the old one stays as agent.toml.old. Go on? [y/N] ";
        dialogue.agree(question)?;
    }
    loop {
        let settings = dialogue.ask(appliance)?;
        let Some(service) = &settings.service else { continue };
        dialogue.summary(appliance)?;
        dialogue.agree("Write this configuration? [y/N] ")?;
        match host.set_up(&settings, service, appliance)? {
            None => return dialogue.terminal.say("The configuration is written.\n"),
            Some(why) => dialogue.terminal.say(&format!("The agent refuses it: {why}\nOnce more:\n"))?,
        }
    }
}

struct Dialogue<'a> {
    terminal: &'a mut dyn Terminal,
    answers: BTreeMap<&'static str, String>,
}

fn asked(property: &Property, appliance: bool) -> bool {
    let elsewhere = [p::ADDRESS, p::GATEWAY, p::DNS, p::SEARCH, p::NTP, p::CONSOLE];
    property.key != p::GENERATION && (appliance || !elsewhere.contains(&property.key))
}

fn is_pem(property: &Property) -> bool {
    [p::VCENTER_CA, p::CLIENT_CA].contains(&property.key)
}

impl Dialogue<'_> {
    fn answered(&mut self, secret: bool) -> io::Result<String> {
        self.terminal.line(secret)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn agree(&mut self, question: &str) -> io::Result<()> {
        self.terminal.say(question)?;
        match self.answered(false)?.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::Interrupted, "nothing was written")),
        }
    }

    /// Every question; a fault of several answers together, or a missing one, is told, and `service` is `None`.
    fn ask(&mut self, appliance: bool) -> io::Result<Settings> {
        let mut category = "";
        for property in p::ALL.iter().filter(|property| asked(property, appliance)) {
            if property.category != category {
                category = property.category;
                self.terminal.say(&format!("\n{category}\n"))?;
            }
            self.one(property)?;
        }
        let settings = settings::read(&Environment::of(&self.answers));
        for fault in &settings.faults {
            self.terminal.say(&format!("  {} {}\n", fault.code, fault.message))?;
        }
        Ok(settings)
    }

    /// One question, until its answer can be used.
    fn one(&mut self, property: &Property) -> io::Result<()> {
        loop {
            let now = self.answers.get(property.key).map_or(property.default, String::as_str);
            let now = match (property.kind == PropertyKind::Password || is_pem(property), now) {
                (_, "") => String::new(),
                (true, _) => " [as before]".to_owned(),
                (false, now) => format!(" [{now}]"),
            };
            let how = if is_pem(property) { " A file, or paste it and end with an empty line." } else { "" };
            self.terminal.say(&format!("{} ({}).{how}{now}: ", property.label, property.description))?;
            let answer = self.answered(property.kind == PropertyKind::Password)?;
            match answer.trim() {
                "" => return Ok(()),
                // To take an answer back.
                "-" => drop(self.answers.remove(property.key)),
                _ => match if is_pem(property) { self.pem(answer) } else { Ok(answer) } {
                    Ok(answer) => drop(self.answers.insert(property.key, answer)),
                    Err(error) => {
                        self.terminal.say(&format!("  {error}\n"))?;
                        continue;
                    }
                },
            }
            // What another answer may heal is looked at in the end.
            let alone =
                BTreeMap::from_iter(self.answers.get_key_value(property.key).map(|(key, value)| (*key, value.clone())));
            let mark = format!("{}.{}:", p::CLASS, property.key);
            let faults = settings::read(&Environment::of(&alone)).faults;
            let Some(fault) = faults.iter().find(|fault| fault.message.starts_with(&mark)) else { return Ok(()) };
            if property.key == p::GATEWAY {
                return Ok(());
            }
            self.answers.remove(property.key);
            self.terminal.say(&format!("  {}\n", fault.message))?;
        }
    }

    fn pem(&mut self, first: String) -> io::Result<String> {
        let mut text = String::new();
        if !first.trim_start().starts_with("-----BEGIN") {
            let path = Path::new(first.trim());
            let file =
                fs::File::open(path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
            file.take(PEM_BYTES).read_to_string(&mut text)?;
            return Ok(text);
        }
        let mut line = first;
        while !line.trim().is_empty() {
            text.push_str(line.trim());
            text.push('\n');
            line = self.terminal.line(false)?.unwrap_or_default();
        }
        Ok(text)
    }

    fn summary(&mut self, appliance: bool) -> io::Result<()> {
        self.terminal.say("\n")?;
        for property in p::ALL.iter().filter(|property| asked(property, appliance)) {
            let value = match self.answers.get(property.key) {
                None => continue,
                Some(_) if property.kind == PropertyKind::Password => "(hidden)",
                Some(_) if is_pem(property) => "(given)",
                Some(value) => value,
            };
            self.terminal.say(&format!("  {}: {value}\n", property.label))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "setup_tests.rs"]
mod tests;
