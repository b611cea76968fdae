//! ServiceInstance, SessionManager, tasks, views: objects that are no inventory.

use super::{Ctx, obj, shown_name};
use crate::state::{ROOT, Session, State, Task, TaskState};
use crate::value::{MoRef, Obj, Val};

pub(crate) fn about(s: &State) -> Obj {
    let short: Vec<&str> = s.api_text.split('.').take(3).collect();
    let mut version = short.join(".");
    while version.split('.').count() < 3 {
        version.push_str(".0");
    }
    let version = s.profile.version.clone().unwrap_or(version);
    let build = s.profile.build.as_deref().unwrap_or("22617221");
    obj("AboutInfo")
        .with("name", "VMware vCenter Server")
        .with("fullName", format!("VMware vCenter Server {version} build-{build}"))
        .with("vendor", "VMware, Inc.")
        .with("version", version.as_str())
        .with("patchLevel", "00100")
        .with("build", build)
        .with("localeVersion", "INTL")
        .with("localeBuild", "000")
        .with("osType", "linux-x64")
        .with("productLineId", "vpx")
        .with("apiType", "VirtualCenter")
        .with("apiVersion", s.api_text.as_str())
        .with("instanceUuid", s.instance_uuid.as_str())
        .with("licenseProductName", "VMware VirtualCenter Server")
        .with("licenseProductVersion", version.split('.').take(2).collect::<Vec<_>>().join("."))
}

pub(crate) fn service_content(s: &State) -> Obj {
    obj("ServiceContent")
        .with("rootFolder", MoRef::new("Folder", ROOT))
        .with("propertyCollector", MoRef::new("PropertyCollector", "propertyCollector"))
        .with("viewManager", MoRef::new("ViewManager", "ViewManager"))
        .with("about", about(s))
        .with("sessionManager", MoRef::new("SessionManager", "SessionManager"))
        .with("authorizationManager", MoRef::new("AuthorizationManager", "AuthorizationManager"))
        .with("eventManager", MoRef::new("EventManager", "EventManager"))
        .with("taskManager", MoRef::new("TaskManager", "TaskManager"))
        .with("searchIndex", MoRef::new("SearchIndex", "SearchIndex"))
}

pub(crate) fn session_info(x: &Session) -> Obj {
    obj("UserSession")
        .with("key", x.key.as_str())
        .with("userName", x.user.as_str())
        .with("fullName", x.user.as_str())
        .with("loginTime", x.login.as_str())
        .with("lastActiveTime", crate::state::now())
        .with("locale", "en")
        .with("messageLocale", "en")
        .with("extensionSession", false)
        .with("ipAddress", "127.0.0.1")
        .with("userAgent", x.user_agent.as_str())
        .with("callCount", x.calls)
}

pub(crate) fn task_info(t: Option<&Task>) -> Obj {
    let Some(t) = t else { return obj("TaskInfo") };
    let state = match t.state {
        TaskState::Queued => "queued",
        TaskState::Running => "running",
        TaskState::Success => "success",
        TaskState::Error => "error",
    };
    obj("TaskInfo")
        .with("key", t.id.as_str())
        .with("task", MoRef::new("Task", t.id.clone()))
        .with("name", t.name)
        .with("descriptionId", t.description.as_str())
        .with("entity", t.entity.clone())
        .with("entityName", shown_name(&t.entity_name))
        .with("state", state)
        .with("cancelled", t.cancelled)
        .with("cancelable", t.cancelable)
        .with("error", t.error.as_ref().map(crate::fault::Fault::localized))
        .with("result", t.result.clone())
        .with("progress", t.progress)
        .with("reason", obj("TaskReasonUser").with("userName", t.user.as_str()))
        .with("queueTime", t.queued.as_str())
        .with("startTime", t.started.as_deref())
        .with("completeTime", t.completed.as_deref())
        .with("eventChainId", 1)
}

pub(crate) fn top(s: &State, r: &MoRef, name: &str, ctx: &Ctx) -> Option<Val> {
    match (r.ty.as_str(), name) {
        ("ServiceInstance", "content") => Some(Val::Obj(service_content(s))),
        ("ServiceInstance", "serverClock") => Some(Val::Str(crate::state::now())),
        ("SessionManager", "currentSession") => {
            ctx.session.as_ref().and_then(|k| s.sessions.get(k)).map(|x| Val::Obj(session_info(x)))
        }
        ("SessionManager", "sessionList") => {
            Some(Val::List(s.sessions.values().map(|x| Val::Obj(session_info(x))).collect()))
        }
        ("SessionManager", "defaultLocale") => Some(Val::Str("en".into())),
        ("SessionManager", "supportedLocaleList" | "messageLocaleList") => Some(Val::List(vec![Val::Str("en".into())])),
        ("TaskManager", "recentTask") => {
            let recent = s.tasks.values().rev().take(32).map(|t| Val::Ref(MoRef::new("Task", t.id.clone())));
            Some(Val::List(recent.collect()))
        }
        ("EventManager", "maxCollector") => Some(Val::Int(32)),
        ("EventManager", "latestEvent") => s.events.last().map(|e| Val::Obj(crate::ops::events::event(s, e, true))),
        ("ContainerView", "view") => {
            Some(Val::List(crate::soap::view_members(s, &r.id).into_iter().map(Val::Ref).collect()))
        }
        ("ContainerView", "container") => {
            let (container, ..) = s.views.get(&r.id)?;
            Some(Val::Ref(MoRef::new(crate::soap::entity_type(s, container), container.clone())))
        }
        ("ContainerView", "type") => {
            s.views.get(&r.id).map(|(_, t, _)| Val::List(t.iter().map(|t| Val::Str(t.clone())).collect()))
        }
        ("ContainerView", "recursive") => s.views.get(&r.id).map(|v| Val::Bool(v.2.starts_with('r'))),
        ("PropertyCollector", "filter") => {
            let pc = s.pcs.get(&crate::collector::pc_id(&r.id, ctx))?;
            Some(Val::List(pc.filters.iter().map(|f| Val::Ref(MoRef::new("PropertyFilter", f.id.clone()))).collect()))
        }
        _ => None,
    }
}
