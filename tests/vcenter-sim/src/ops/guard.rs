//! Methods switched off by AuthorizationManager.DisableMethods (urn:internalvim25, not in the public interface).
//!
//! A method is disabled per object and source. Disabling one that is disabled already, by whomever, the same source included,
//! is MethodAlreadyDisabledFault (UNVERIFIED: VDDK's sample waits on that fault for a Storage vMotion's own guard). A call is
//! all or nothing. Enabling what the source had not disabled is no error. That one user enables what another has disabled under
//! the same source is UNVERIFIED: a switch. It outlives sessions and restarts, unless `sessionScope` was set (UNVERIFIED: ends
//! with the session).

use crate::collector::moref;
use crate::fault::{Fault, Res};
use crate::permit;
use crate::render::Ctx;
use crate::schema::SCHEMA;
use crate::state::{Disabled, ROOT, State, Vm};
use crate::value::MoRef;
use crate::xml::Node;

/// What a user without the privilege at vCenter level is told: something about licences.
fn need(s: &State, ctx: &Ctx, privilege: &str) -> Res<()> {
    let denied = |_| Fault::new("NotEnoughLicenses", "The host is not licensed for this feature.");
    permit::need(s, &ctx.user, MoRef::new("Folder", ROOT), privilege).map_err(denied)
}

fn entities(s: &State, body: &Node) -> Res<Vec<String>> {
    let refs = body.all("entity").filter_map(moref);
    let found: Res<Vec<String>> =
        refs.map(|r| {
            if r.ty == "VirtualMachine" { s.vm(&r.id).map(|v| v.id.clone()) } else { Err(Fault::argument("entity")) }
        })
        .collect();
    found.and_then(|l| if l.is_empty() { Err(Fault::argument("entity")) } else { Ok(l) })
}

/// A misspelt name must not look like a guard.
fn known(method: &str) -> Res<String> {
    let of = |owner| SCHEMA.method(owner, method).is_some();
    if of("VirtualMachine") || of("VirtualMachineSnapshot") {
        Ok(method.to_owned())
    } else {
        Err(Fault::argument("method"))
    }
}

fn word(body: &Node, name: &str) -> String {
    body.str(name).unwrap_or("").trim().to_owned()
}

pub(crate) fn disable(s: &mut State, body: &Node, ctx: &Ctx) -> Res<()> {
    need(s, ctx, "Global.DisableMethods")?;
    let (vms, source) = (entities(s, body)?, word(body, "sourceId"));
    let scope = ctx.session.as_deref().filter(|_| body.bool("sessionScope") == Some(true)).map(str::to_owned);
    let mut wanted = Vec::new();
    for m in body.all("method") {
        let (method, reason) = (known(&word(m, "method"))?, word(m, "reasonId"));
        let (source, user, session) = (source.clone(), ctx.user.clone(), scope.clone());
        wanted.push(Disabled { method, source, user, reason, session });
    }
    for vm in &vms {
        let all = &s.vm(vm)?.disabled;
        if let Some(d) = all.iter().find(|d| wanted.iter().any(|w| w.method == d.method)) {
            let text = format!("The method is already disabled by '{}'", d.source);
            return Err(Fault::new("MethodAlreadyDisabledFault", text).with("sourceId", d.source.as_str()));
        }
    }
    for vm in &vms {
        s.vm_mut(vm)?.disabled.extend(wanted.iter().cloned());
    }
    Ok(())
}

pub(crate) fn enable(s: &mut State, body: &Node, ctx: &Ctx) -> Res<()> {
    need(s, ctx, "Global.EnableMethods")?;
    let (vms, source) = (entities(s, body)?, word(body, "sourceId"));
    let methods: Res<Vec<String>> = body.all("method").map(|m| known(m.text.trim())).collect();
    let (methods, across) = (methods?, s.knobs.enable_across);
    let stays = |d: &Disabled| d.source != source || !methods.contains(&d.method) || (!across && d.user != ctx.user);
    for vm in &vms {
        s.vm_mut(vm)?.disabled.retain(stays);
    }
    Ok(())
}

/// Refuses a call that somebody disabled.
pub(crate) fn check(vm: &Vm, method: &str) -> Res<()> {
    match vm.disabled.iter().find(|d| d.method == method) {
        Some(d) => {
            let text = format!("The method is disabled by '{}'", d.source);
            Err(Fault::new("MethodDisabled", text).with("source", d.source.as_str()))
        }
        None => Ok(()),
    }
}
