//! Values of the interface and how they are written: xsd order, versions and xsi:type come from the schema table.

use crate::schema::{SCHEMA, Ver};
use crate::xml::escape;

/// A managed object reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MoRef {
    pub ty: String,
    pub id: String,
}

impl MoRef {
    pub(crate) fn new(ty: &str, id: impl Into<String>) -> MoRef {
        MoRef { ty: ty.into(), id: id.into() }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Val {
    Bool(bool),
    Int(i64),
    Str(String),
    Ref(MoRef),
    Obj(Obj),
    List(Vec<Val>),
    /// A value for an anyType place, with the type that it was declared with.
    Typed(&'static str, Box<Val>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Obj {
    pub ty: &'static str,
    pub fields: Vec<(&'static str, Val)>,
}

impl Obj {
    pub(crate) fn new(ty: &'static str) -> Obj {
        Obj { ty, fields: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &'static str, val: impl IntoVal) -> Obj {
        if let Some(v) = val.into_val() {
            self.fields.push((name, v));
        }
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Val> {
        self.fields.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }
}

/// None means "unset": the element is left out.
pub(crate) trait IntoVal {
    fn into_val(self) -> Option<Val>;
}

macro_rules! into_val {
    ($($t:ty => $e:expr),* $(,)?) => {$(
        impl IntoVal for $t { fn into_val(self) -> Option<Val> { let f: fn($t) -> Val = $e; Some(f(self)) } }
    )*};
}
into_val! {
    bool => Val::Bool,
    i32 => |v| Val::Int(v.into()),
    u32 => |v| Val::Int(v.into()),
    i64 => Val::Int,
    u64 => |v| Val::Int(i64::try_from(v).unwrap_or(i64::MAX)),
    String => Val::Str,
    &str => |v| Val::Str(v.to_owned()),
    MoRef => Val::Ref,
    Obj => Val::Obj,
    Val => |v| v,
}
impl<T: IntoVal> IntoVal for Option<T> {
    fn into_val(self) -> Option<Val> {
        self.and_then(IntoVal::into_val)
    }
}
impl<T: IntoVal> IntoVal for Vec<T> {
    fn into_val(self) -> Option<Val> {
        Some(Val::List(self.into_iter().filter_map(IntoVal::into_val).collect()))
    }
}

/// Writes values for one negotiated version.
#[derive(Debug)]
pub(crate) struct Writer {
    pub out: String,
    pub ver: Ver,
    /// Differences between what the code built and what the table allows; a test insists on none.
    pub problems: Vec<String>,
}

impl Writer {
    pub(crate) fn new(ver: Ver) -> Writer {
        Writer { out: String::new(), ver, problems: Vec::new() }
    }

    /// Writes `<tag …>val</tag>`; `declared` is the static type of the place.
    pub(crate) fn write(&mut self, tag: &str, declared: &'static str, val: &Val) {
        if declared == "anyType" {
            return self.write_any(tag, val);
        }
        if let Some(item) = declared.strip_suffix("[]") {
            if let Val::List(items) = val {
                for v in items {
                    self.write(tag, item, v);
                }
                return;
            }
            self.problems.push(format!("{tag}: {declared} needs a list"));
            return;
        }
        if let Val::Typed(_, v) = val {
            return self.write(tag, declared, v);
        }
        self.write_one(tag, declared, val, false);
    }

    fn write_any(&mut self, tag: &str, val: &Val) {
        match val {
            Val::Typed(ty, inner) => match ty.strip_suffix("[]") {
                Some(item) => {
                    let (array, element) = array_names(item);
                    self.open(tag, Some(&array), None);
                    self.write(&element, ty_static(ty), inner);
                    self.close(tag);
                }
                None => self.write_one(tag, ty, inner, true),
            },
            Val::List(_) => self.problems.push(format!("{tag}: a list in anyType needs a type")),
            v => {
                let ty = match v {
                    Val::Bool(_) => "boolean",
                    Val::Int(_) => "int",
                    Val::Obj(o) => o.ty,
                    Val::Ref(_) => "ref:ManagedObject",
                    _ => "string",
                };
                self.write_one(tag, ty, v, true);
            }
        }
    }

    fn write_one(&mut self, tag: &str, declared: &'static str, val: &Val, dynamic: bool) {
        match val {
            Val::Obj(o) => {
                let fault_place = declared == "MethodFault" && tag != "fault" && o.ty != "LocalizedMethodFault";
                if fault_place {
                    self.problems.push(format!("{tag}: a fault needs LocalizedMethodFault"));
                }
                let ty = (dynamic || (o.ty != declared && !self.localized(declared, o.ty))).then_some(o.ty);
                self.open(tag, ty, None);
                self.fields(o);
                self.close(tag);
            }
            Val::Ref(r) => {
                self.open(tag, dynamic.then_some("ManagedObjectReference"), Some(&r.ty));
                escape(&r.id, &mut self.out);
                self.close(tag);
            }
            Val::Bool(_) | Val::Int(_) | Val::Str(_) => {
                let text = match val {
                    Val::Bool(b) => b.to_string(),
                    Val::Int(i) => i.to_string(),
                    Val::Str(s) => s.clone(),
                    _ => String::new(),
                };
                let xsd = xsd_name(declared);
                self.open(tag, dynamic.then_some(xsd.as_str()), None);
                escape(&text, &mut self.out);
                self.close(tag);
            }
            Val::List(_) | Val::Typed(..) => self.problems.push(format!("{tag}: a list where {declared} is declared")),
        }
    }

    /// A property declared MethodFault travels as LocalizedMethodFault (vSphere API 8.0, LocalizedMethodFault).
    fn localized(&self, declared: &str, actual: &str) -> bool {
        declared == "MethodFault" && actual == "LocalizedMethodFault"
    }

    pub(crate) fn fields(&mut self, o: &Obj) {
        let props = SCHEMA.props(o.ty);
        for (name, _) in &o.fields {
            if !props.iter().any(|p| p.name == *name) {
                self.problems.push(format!("{}.{name} is unknown", o.ty));
            }
        }
        for p in props {
            if p.since > self.ver {
                continue;
            }
            match o.get(p.name) {
                Some(Val::Obj(v)) if p.ty == "MethodFault" && v.ty == "LocalizedMethodFault" => {
                    self.open(p.name, None, None);
                    self.fields(v);
                    self.close(p.name);
                }
                Some(v) => self.write(p.name, p.ty, v),
                None if p.required && !p.ty.ends_with("[]") => {
                    self.problems.push(format!("{}.{} is missing", o.ty, p.name))
                }
                None => {}
            }
        }
    }

    fn open(&mut self, tag: &str, xsi: Option<&str>, moref: Option<&str>) {
        self.out.push('<');
        self.out.push_str(tag);
        if let Some(t) = moref {
            self.out.push_str(" type=\"");
            self.out.push_str(t);
            self.out.push('"');
        }
        if let Some(t) = xsi {
            self.out.push_str(" xsi:type=\"");
            self.out.push_str(t);
            self.out.push('"');
        }
        self.out.push('>');
    }

    fn close(&mut self, tag: &str) {
        self.out.push_str("</");
        self.out.push_str(tag);
        self.out.push('>');
    }
}

fn ty_static(ty: &'static str) -> &'static str {
    ty
}

/// `VirtualDevice` → (`ArrayOfVirtualDevice`, `VirtualDevice`); `string` → (`ArrayOfString`, `string`).
fn array_names(item: &str) -> (String, String) {
    if item.starts_with("ref:") {
        return ("ArrayOfManagedObjectReference".into(), "ManagedObjectReference".into());
    }
    let element = match item {
        "MethodName" | "TypeName" | "PropertyPath" => "string",
        other => other,
    };
    let mut cs = element.chars();
    let first = cs.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    (format!("ArrayOf{first}{}", cs.as_str()), element.into())
}

fn xsd_name(declared: &str) -> String {
    match declared {
        "int" | "long" | "short" | "byte" | "boolean" | "string" | "dateTime" | "double" | "float" | "base64Binary" => {
            format!("xsd:{declared}")
        }
        "PropertyPath" | "MethodName" | "TypeName" | "anyURI" | "anyType" => "xsd:string".into(),
        other => other.into(),
    }
}
