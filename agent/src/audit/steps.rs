//! Entries for what is done on vCenter: whom a duty is for, and what it is about.
use super::{Entry, Task, Who};
use crate::{
    attach::ProxyVm,
    error::Error,
    id::SessionId,
    journal::{Duty, DutyKind},
};

impl ProxyVm {
    /// The client for whom this session or job is, or was; the agent itself for what nobody asked for.
    #[must_use]
    pub fn client_of(&self, session: SessionId) -> Who {
        if let Some(who) = self.audit.client(session) {
            return who;
        }
        let state = self.journal.state();
        let jobs = state.history().jobs().map(|past| (past.began.session, &past.began.owner));
        let sessions = state.history().sessions().map(|past| (past.began.session, &past.began.owner));
        let owner = jobs.chain(sessions).find(|(known, owner)| *known == session && !owner.is_empty());
        owner.map_or_else(Who::agent, |(_, owner)| Who { name: owner.clone(), ..Who::default() })
    }

    /// A step for this duty, and the tasks that vCenter made of it, into the audit log and the trace. `why`: it did not succeed.
    pub fn audit_duty(&self, what: &'static str, duty: &Duty, tasks: &[Task], why: Option<&Error>) {
        self.traces.tasks(duty.session, what, tasks, why);
        let entry = Entry {
            what,
            session: duty.session.to_string(),
            vm: duty.vm_name.clone(),
            moref: duty.vm.to_string(),
            about: about(duty),
            outcome: "ok",
            ..Entry::default()
        }
        .by(tasks);
        let entry = match why {
            Some(error) => entry.failed(error),
            None => entry,
        };
        self.audit.tell(&self.client_of(duty.session), entry);
    }
}

fn about(duty: &Duty) -> Vec<String> {
    let some = |moref: &Option<crate::id::Moref>| moref.as_ref().map(ToString::to_string);
    match &duty.kind {
        DutyKind::Attach(attach) => vec![attach.backing.to_string(), attach.uuid.to_string(), attach.slot.to_string()],
        DutyKind::Snapshot(snapshot) => std::iter::once(snapshot.name.clone()).chain(some(&snapshot.moref)).collect(),
        DutyKind::Guard(guard) => guard.methods.clone(),
        DutyKind::Export(export) => std::iter::once(export.snapshot.to_string()).chain(some(&export.moref)).collect(),
    }
}
