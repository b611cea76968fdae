//! Faults as vSphere sends them: a type of the schema with its fields and the server's text.

use crate::value::{IntoVal, MoRef, Obj};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub obj: Obj,
    pub text: String,
}

pub(crate) type Res<T> = Result<T, Fault>;

impl Fault {
    pub(crate) fn new(ty: &'static str, text: impl Into<String>) -> Fault {
        Fault { obj: Obj::new(ty), text: text.into() }
    }

    pub(crate) fn with(mut self, name: &'static str, val: impl IntoVal) -> Fault {
        self.obj = self.obj.with(name, val);
        self
    }

    pub(crate) fn ty(&self) -> &'static str {
        self.obj.ty
    }

    /// As `<error>` of a task: LocalizedMethodFault.
    pub(crate) fn localized(&self) -> Obj {
        Obj::new("LocalizedMethodFault").with("fault", self.obj.clone()).with("localizedMessage", self.text.as_str())
    }

    pub(crate) fn bad_request(why: impl Into<String>) -> Fault {
        Fault::new("InvalidRequest", why)
    }

    pub(crate) fn gone(r: &MoRef) -> Fault {
        let text =
            format!("The object 'vim.{}:{}' has already been deleted or has not been completely created", r.ty, r.id);
        Fault::new("ManagedObjectNotFound", text).with("obj", r.clone())
    }

    pub(crate) fn not_authenticated() -> Fault {
        Fault::new("NotAuthenticated", "The session is not authenticated.")
            .with("object", MoRef::new("Folder", "group-d1"))
            .with("privilegeId", "System.View")
    }

    pub(crate) fn no_permission(object: MoRef, privilege: &str) -> Fault {
        Fault::new("NoPermission", "Permission to perform this operation was denied.")
            .with("object", object)
            .with("privilegeId", privilege)
    }

    pub(crate) fn argument(name: &str) -> Fault {
        Fault::new("InvalidArgument", format!("A specified parameter was not correct: {name}"))
            .with("invalidProperty", name)
    }

    /// InvalidDeviceSpec family: `index` is the position in spec.deviceChange (vSphere API 8.0, InvalidDeviceSpec).
    pub(crate) fn device(ty: &'static str, index: usize) -> Fault {
        let i = i32::try_from(index).unwrap_or(i32::MAX);
        Fault::new(ty, format!("Invalid configuration for device '{i}'."))
            .with("property", format!("virtualDeviceSpec[{i}].device"))
            .with("deviceIndex", i)
    }

    pub(crate) fn file_locked(path: &str) -> Fault {
        Fault::new("FileLocked", format!("Unable to access file {path} since it is locked")).with("file", path)
    }

    pub(crate) fn vm_config(text: &str) -> Fault {
        Fault::new("GenericVmConfigFault", text).with("reason", text)
    }
}
