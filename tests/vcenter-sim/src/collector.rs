//! PropertyCollector: filter specs, traversal, paging, and updates with versions that mean something.
//!
//! A collector keeps for each filter what the client was told at the current version and at the one before, so that a client
//! whose answer got lost may ask again with its older version. Any other version is InvalidCollectorVersion.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::fault::{Fault, Res};
use crate::permit;
use crate::render::{self, Ctx};
use crate::schema::SCHEMA;
use crate::state::State;
use crate::value::{MoRef, Obj, Val};
use crate::xml::Node;

/// vCenter's own page limit when the client names none.
const PAGE: usize = 100;

#[derive(Clone, Debug)]
pub(crate) struct PropSpec {
    ty: String,
    all: bool,
    paths: Vec<String>,
}

#[derive(Clone, Debug)]
struct Traversal {
    ty: String,
    path: String,
    skip: bool,
    next: Vec<Select>,
}

#[derive(Clone, Debug)]
enum Select {
    Named(String),
    Inline(Traversal),
}

#[derive(Clone, Debug)]
struct ObjectSpec {
    obj: MoRef,
    skip: bool,
    select: Vec<Select>,
    named: HashMap<String, Traversal>,
}

#[derive(Clone, Debug)]
pub(crate) struct FilterSpec {
    props: Vec<PropSpec>,
    objects: Vec<ObjectSpec>,
    report_missing: bool,
}

type Told = BTreeMap<MoRef, BTreeMap<String, Option<Val>>>;

#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub id: String,
    spec: FilterSpec,
    before: Told,
    told: Told,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct PcState {
    pub session: String,
    pub filters: Vec<Filter>,
    pub version: u64,
    /// Raised by CancelWaitForUpdates; a waiter that sees it change ends.
    pub cancels: u64,
}

#[derive(Debug)]
struct Row {
    obj: MoRef,
    props: Vec<(String, Val)>,
    missing: Vec<(String, Fault)>,
}

pub(crate) fn moref(n: &Node) -> Option<MoRef> {
    Some(MoRef::new(n.attr("type")?, n.text.trim()))
}

/// The default collector belongs to the session that uses it.
pub(crate) fn pc_id(id: &str, ctx: &Ctx) -> String {
    if id == "propertyCollector" {
        format!("propertyCollector#{}", ctx.session.as_deref().unwrap_or(""))
    } else {
        id.into()
    }
}

impl FilterSpec {
    pub(crate) fn parse(n: &Node) -> Res<FilterSpec> {
        let props = n.all("propSet").map(|p| PropSpec {
            ty: type_name(p.str("type").unwrap_or("")),
            all: p.bool("all").unwrap_or(false),
            paths: p.all("pathSet").map(|x| x.text.trim().to_owned()).collect(),
        });
        let mut objects = Vec::new();
        for o in n.all("objectSet") {
            let obj = o.kid("obj").and_then(moref).ok_or_else(|| Fault::argument("objectSet"))?;
            let mut named = HashMap::new();
            let select = selects(o, &mut named);
            objects.push(ObjectSpec { obj, skip: o.bool("skip").unwrap_or(false), select, named });
        }
        let spec = FilterSpec {
            props: props.collect(),
            objects,
            report_missing: n.bool("reportMissingObjectsInResults").unwrap_or(false),
        };
        for p in &spec.props {
            if !SCHEMA.is_managed(&p.ty)
                && !["ManagedObject", "Network", "VirtualApp", "ClusterComputeResource"].contains(&p.ty.as_str())
            {
                return Err(Fault::argument("specSet.propSet.type"));
            }
        }
        Ok(spec)
    }

    /// Paths that no object of the named type can have are refused even when no such object is selected.
    fn check_paths(&self, ctx: &Ctx) -> Res<()> {
        for p in self.props.iter().filter(|p| SCHEMA.is_managed(&p.ty)) {
            for path in &p.paths {
                let head = path.split(['.', '[']).next().unwrap_or("");
                if SCHEMA.prop(&p.ty, head).is_none_or(|x| x.since > ctx.ver) {
                    return Err(Fault::new("InvalidProperty", format!("A property name '{path}' is not valid"))
                        .with("name", path.as_str()));
                }
            }
        }
        Ok(())
    }
}

fn type_name(t: &str) -> String {
    t.trim().rsplit([':', '.']).next().unwrap_or("").to_owned()
}

fn selects(n: &Node, named: &mut HashMap<String, Traversal>) -> Vec<Select> {
    let mut out = Vec::new();
    for x in n.all("selectSet") {
        let name = x.str("name").map(|t| t.trim().to_owned());
        if x.kid("path").is_none() {
            out.extend(name.map(Select::Named));
            continue;
        }
        let next = selects(x, named);
        let t = Traversal {
            ty: type_name(x.str("type").unwrap_or("")),
            path: x.str("path").unwrap_or("").trim().to_owned(),
            skip: x.bool("skip").unwrap_or(false),
            next,
        };
        if let Some(name) = name {
            named.insert(name, t.clone());
        }
        out.push(Select::Inline(t));
    }
    out
}

fn select_objects(s: &State, o: &ObjectSpec, ctx: &Ctx) -> Res<Vec<MoRef>> {
    let mut out = Vec::new();
    let mut visited = BTreeSet::new();
    if !o.skip {
        out.push(o.obj.clone());
    }
    let mut queue: Vec<(MoRef, Select)> = o.select.iter().map(|x| (o.obj.clone(), x.clone())).collect();
    while let Some((from, sel)) = queue.pop() {
        let t = match sel {
            Select::Inline(t) => t,
            Select::Named(n) => o.named.get(&n).cloned().ok_or_else(|| Fault::argument("selectSet"))?,
        };
        if !SCHEMA.is_a(&from.ty, &t.ty) || !visited.insert((from.clone(), t.path.clone())) {
            continue;
        }
        for r in refs(render::property(s, &from, &t.path, ctx)?) {
            if !t.skip && !out.contains(&r) {
                out.push(r.clone());
            }
            queue.extend(t.next.iter().map(|x| (r.clone(), x.clone())));
        }
    }
    Ok(out)
}

fn refs(v: Option<Val>) -> Vec<MoRef> {
    match v {
        Some(Val::Typed(_, inner)) => refs(Some(*inner)),
        Some(Val::Ref(r)) => vec![r],
        Some(Val::List(l)) => l.into_iter().flat_map(|v| refs(Some(v))).collect(),
        _ => Vec::new(),
    }
}

fn collect(s: &State, spec: &FilterSpec, ctx: &Ctx) -> Res<Vec<Row>> {
    spec.check_paths(ctx)?;
    let mut rows = Vec::new();
    for o in &spec.objects {
        if !render::exists(s, &o.obj) || crate::export::is_hidden(s, &o.obj, ctx) {
            if spec.report_missing {
                continue;
            }
            return Err(Fault::gone(&o.obj));
        }
        if ctx.session.is_none() {
            rows.extend(
                spec.props.iter().rfind(|p| SCHEMA.is_a(&o.obj.ty, &p.ty)).map(|p| of_nobody(o.obj.clone(), p)),
            );
            continue;
        }
        permit::need(s, &ctx.user, o.obj.clone(), "System.View")?;
        for obj in select_objects(s, o, ctx)? {
            // What one may not see is not there.
            if !permit::may(s, &ctx.user, &obj, "System.View") {
                continue;
            }
            let Some(p) = spec.props.iter().rfind(|p| SCHEMA.is_a(&obj.ty, &p.ty)) else { continue };
            if let Some(row) = row(s, obj, p, ctx)? {
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

/// What vCenter answers without a session (govmomi, `simulator/property_collector.go`).
fn of_nobody(obj: MoRef, p: &PropSpec) -> Row {
    let missing = p.paths.iter().map(|path| (path.clone(), Fault::not_authenticated())).collect();
    Row { obj, props: Vec::new(), missing }
}

fn row(s: &State, obj: MoRef, p: &PropSpec, ctx: &Ctx) -> Res<Option<Row>> {
    let all: Vec<String> =
        SCHEMA.props(&obj.ty).iter().filter(|x| x.since <= ctx.ver).map(|x| x.name.to_owned()).collect();
    let (mut props, mut missing) = (Vec::new(), Vec::new());
    let readable = permit::may(s, &ctx.user, &obj, "System.Read");
    for path in if p.all { &all } else { &p.paths } {
        if !readable || s.denied.contains(path.as_str()) {
            missing.push((path.clone(), Fault::no_permission(obj.clone(), "System.Read")));
            continue;
        }
        match render::property(s, &obj, path, ctx) {
            Ok(Some(v)) => props.push((path.clone(), v)),
            Ok(None) => {}
            Err(f) if f.ty() == "ManagedObjectNotFound" => return Ok(None),
            Err(f) => return Err(f),
        }
    }
    Ok(Some(Row { obj, props, missing }))
}

fn missing_set(missing: &[(String, Fault)]) -> Option<Vec<Obj>> {
    let list: Vec<Obj> = missing
        .iter()
        .map(|(p, f)| Obj::new("MissingProperty").with("path", p.as_str()).with("fault", f.localized()))
        .collect();
    (!list.is_empty()).then_some(list)
}

fn content(row: Row) -> Obj {
    let props: Vec<Obj> =
        row.props.into_iter().map(|(n, v)| Obj::new("DynamicProperty").with("name", n).with("val", v)).collect();
    Obj::new("ObjectContent")
        .with("obj", row.obj)
        .with("propSet", (!props.is_empty()).then_some(props))
        .with("missingSet", missing_set(&row.missing))
}

pub(crate) fn retrieve_all(s: &State, body: &Node, ctx: &Ctx) -> Res<Vec<Obj>> {
    let mut out = Vec::new();
    for spec in body.all("specSet") {
        out.extend(collect(s, &FilterSpec::parse(spec)?, ctx)?.into_iter().map(content));
    }
    Ok(out)
}

/// A page of `objects`; the rest waits under a token.
pub(crate) fn page(s: &mut State, mut objects: Vec<Obj>, max: Option<usize>) -> Option<Obj> {
    if objects.is_empty() {
        return None;
    }
    let limit = max.unwrap_or(PAGE).min(s.page_max).max(1);
    let mut result = Obj::new("RetrieveResult");
    if objects.len() > limit {
        let rest = objects.split_off(limit);
        let token = s.next().to_string();
        s.tokens.insert(token.clone(), (limit, rest));
        result = result.with("token", token);
    }
    Some(result.with("objects", objects))
}

pub(crate) fn create_filter(s: &mut State, pc: &str, body: &Node, ctx: &Ctx) -> Res<MoRef> {
    let spec = FilterSpec::parse(body.kid("spec").ok_or_else(|| Fault::argument("spec"))?)?;
    collect(s, &spec, ctx)?;
    let session = ctx.session.clone().unwrap_or_default();
    let n = s.next();
    let state = s.pcs.entry(pc.into()).or_insert_with(|| PcState { session: session.clone(), ..PcState::default() });
    let id = format!("session[{session}]{n}");
    state.filters.push(Filter { id: id.clone(), spec, before: Told::new(), told: Told::new() });
    Ok(MoRef::new("PropertyFilter", id))
}

/// What changed since `version`; None when nothing did. Moves the collector's version on.
pub(crate) fn updates(
    s: &mut State,
    pc: &str,
    version: &str,
    max_objects: Option<usize>,
    ctx: &Ctx,
) -> Res<Option<Obj>> {
    let Some(mut state) = s.pcs.get(pc).cloned() else { return Ok(None) };
    match version.trim() {
        "" => {
            for f in &mut state.filters {
                f.told.clear();
                f.before.clear();
            }
        }
        v if v == state.version.to_string() => {}
        v if state.version > 0 && v == (state.version - 1).to_string() => {
            for f in &mut state.filters {
                f.told = f.before.clone();
            }
        }
        _ => return Err(Fault::new("InvalidCollectorVersion", "A collector version is not valid.")),
    }
    let (mut sets, mut truncated, mut budget) = (Vec::new(), false, max_objects.unwrap_or(usize::MAX));
    for f in &mut state.filters {
        let (told, list, cut) = diff(s, f, ctx, &mut budget)?;
        truncated |= cut;
        f.before = std::mem::replace(&mut f.told, told);
        if !list.is_empty() {
            let filter = MoRef::new("PropertyFilter", f.id.clone());
            sets.push(Obj::new("PropertyFilterUpdate").with("filter", filter).with("objectSet", list));
        }
    }
    if sets.is_empty() {
        return Ok(None);
    }
    state.version += 1;
    let set = Obj::new("UpdateSet")
        .with("version", state.version.to_string())
        .with("filterSet", sets)
        .with("truncated", truncated);
    s.pcs.insert(pc.into(), state);
    Ok(Some(set))
}

type Diff = (Told, Vec<Obj>, bool);

fn diff(s: &State, f: &Filter, ctx: &Ctx, budget: &mut usize) -> Res<Diff> {
    let rows = match collect(s, &f.spec, ctx) {
        Ok(rows) => rows,
        Err(e) if e.ty() == "ManagedObjectNotFound" => Vec::new(),
        Err(e) => return Err(e),
    };
    let (mut told, mut list) = (f.told.clone(), Vec::new());
    let present: BTreeSet<MoRef> = rows.iter().map(|r| r.obj.clone()).collect();
    for row in rows {
        let now: BTreeMap<String, Option<Val>> = row.props.into_iter().map(|(n, v)| (n, Some(v))).collect();
        let (kind, changes) = match f.told.get(&row.obj) {
            None => ("enter", now.iter().map(|(n, v)| change(n, v.as_ref())).collect::<Vec<_>>()),
            Some(old) => ("modify", changes(old, &now)),
        };
        if kind == "modify" && changes.is_empty() {
            continue;
        }
        if *budget == 0 {
            return Ok((told, list, true));
        }
        *budget -= 1;
        let update = Obj::new("ObjectUpdate")
            .with("kind", kind)
            .with("obj", row.obj.clone())
            .with("changeSet", (!changes.is_empty()).then_some(changes))
            .with("missingSet", missing_set(&row.missing));
        list.push(update);
        told.insert(row.obj, now);
    }
    for obj in f.told.keys().filter(|o| !present.contains(o)) {
        list.push(Obj::new("ObjectUpdate").with("kind", "leave").with("obj", obj.clone()));
        told.remove(obj);
    }
    Ok((told, list, false))
}

fn changes(old: &BTreeMap<String, Option<Val>>, now: &BTreeMap<String, Option<Val>>) -> Vec<Obj> {
    let mut out: Vec<Obj> =
        now.iter().filter(|(n, v)| old.get(*n) != Some(*v)).map(|(n, v)| change(n, v.as_ref())).collect();
    out.extend(old.keys().filter(|n| !now.contains_key(*n)).map(|n| change(n, None)));
    out
}

/// An optional property that became unset is assigned nothing.
fn change(name: &str, val: Option<&Val>) -> Obj {
    Obj::new("PropertyChange").with("name", name).with("op", "assign").with("val", val.cloned())
}
