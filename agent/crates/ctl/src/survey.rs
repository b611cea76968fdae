//! `survey`: hotadd-survey with hotaddctl's output, signals and exit codes. Neither questions nor vSphere live here.
use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use hotadd_api::v1::Cleanup;
use hotadd_survey::{
    Outcome, Way,
    args::Args,
    codes::{self, End},
    document::Document,
    plan,
    stop::Stop,
};
use serde_json::{Value, json};

use crate::{
    error::Failure,
    exit::Exit,
    interrupt::{Interrupt, interrupted},
    output::Output,
};

pub(crate) async fn run(args: &Args, out: &Output) -> Result<Exit, Failure> {
    let way = hotadd_survey::way(args).map_err(|why| failure(&why))?;
    let mut interrupt = Interrupt::install()?;
    // Before anything is asked: a survey whose result can't be kept is not begun.
    let file = args.out.as_deref().map(Target::create).transpose()?;
    if args.go {
        plan::lines().iter().for_each(|line| out.line(line));
    }
    let outcome = guarded(way, args, out, &mut interrupt).await?;
    tell(&outcome.document, args, out);
    let kept = file.map_or(Ok(()), |file| file.keep(&outcome.document));
    // What may be left in vCenter is worse than a file that is not written.
    if let Some(failed) = &outcome.failure {
        if let Err(lost) = &kept {
            out.warning(&lost.to_string());
        }
        return Err(failure(failed));
    }
    kept?;
    if outcome.stopped {
        return Err(ended_early("a signal"));
    }
    Ok(if outcome.document.not_read.is_empty() { Exit::Ok } else { Exit::NotLookedAt })
}

/// The survey until its end, or until nothing of it could be left. The first signal lets it undo what it did, a second one leaves it.
async fn guarded(way: Way, args: &Args, out: &Output, interrupt: &mut Interrupt) -> Result<Outcome, Failure> {
    let stop = Stop::default();
    let step = |text: &str| {
        out.event(|| json!({"event": "survey_step", "message": text}));
        out.line(text);
    };
    let survey = hotadd_survey::survey(way, args, &stop, &step);
    tokio::pin!(survey);
    let mut asked = false;
    loop {
        let signal = tokio::select! {
            ended = &mut survey => return ended.map_err(|why| failure(&why)),
            signal = interrupt.wait() => signal,
        };
        match stop.owed() {
            None => return Err(ended_early(signal)),
            Some(_) if !asked => {
                asked = true;
                stop.ask();
                out.warning(&format!("{signal}: the survey undoes what it did; a second signal leaves it"));
            }
            Some(owed) => return Err(left(&owed)),
        }
    }
}

fn tell(document: &Document, args: &Args, out: &Output) {
    out.event(|| {
        let mut told = json!({"event": "survey", "document": document});
        if !args.go {
            told["plan"] = plan::lines().into();
        }
        told
    });
    out.answer(&document.text());
    if !args.go {
        out.answer(&format!("{}\nnothing was changed; --vm, --sacrificial and --go do it", plan::lines().join("\n")));
    }
}

fn failure(why: &codes::Failure) -> Failure {
    let (exit, cleanup) = match why.end {
        End::Usage => (Exit::Usage, Cleanup::Done),
        End::Unreachable => (Exit::Unreachable, Cleanup::Done),
        End::Refused => (Exit::Refused, Cleanup::Done),
        End::Failed => (Exit::JobFailed, Cleanup::Done),
        End::Left => (Exit::CleanupOwed, Cleanup::Owed),
    };
    Failure {
        exit,
        code: why.code.to_owned(),
        message: why.message.clone(),
        next: why.next.to_owned(),
        detail: None,
        cleanup,
    }
}

fn left(owed: &str) -> Failure {
    let (code, next) = (codes::LEFT.id.to_owned(), codes::LEFT.next.to_owned());
    Failure {
        exit: Exit::CleanupOwed,
        code,
        message: format!("left by a signal: {owed}"),
        next,
        detail: None,
        cleanup: Cleanup::Owed,
    }
}

fn ended_early(signal: &str) -> Failure {
    Failure { next: "run the survey again".to_owned(), ..interrupted(signal) }
}

/// A file that is there only with its document.
struct Target {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Target {
    fn create(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|e| Failure::write(&path.display().to_string(), &e))?;
        Ok(Self { path: path.to_owned(), file, kept: false })
    }

    fn keep(mut self, document: &Document) -> Result<(), Failure> {
        let value: Value = json!(document);
        let written = self.file.write_all(format!("{value:#}\n").as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|e| Failure::write(&self.path.display().to_string(), &e))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}
