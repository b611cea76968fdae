//! Finding objects: by UUID, by name, and the datacenter above an object.

use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::moref::MoRef;
use crate::session::Scoped;
use crate::soap::Request;

/// Deepest folder nesting followed upwards.
const MAX_ANCESTORS: usize = 64;

impl Client {
    /// Finds VMs by BIOS UUID, or by instance UUID (vSphere API, SearchIndex.FindAllByUuid).
    ///
    /// A BIOS UUID may belong to several VMs (clones); an instance UUID is unique within a vCenter.
    pub async fn find_vms_by_uuid(&self, uuid: &str, instance: bool) -> Result<Vec<MoRef>, Error> {
        let op = "FindAllByUuid";
        let s = &self.session;
        let index = s.content.search_index.as_ref();
        let index = index.ok_or_else(|| Error::new(ErrorKind::Unsupported, op, "the server has no search index"))?;
        let request = Request::read(op, index, |w| {
            w.text("uuid", uuid);
            w.value("vmSearch", true);
            w.value("instanceUuid", instance);
        });
        let response = s.call(&request, s.timeout).await?;
        response.morefs().map_err(|e| Error::shape(op, e))
    }

    /// Finds VMs by exact name. vCenter writes `%`, `/` and `\` in names as `%25`, `%2f`, `%5c`; `name` is the decoded form.
    ///
    /// Names need not be unique, and only VMs that the user may see are found.
    pub async fn find_vms_by_name(&self, name: &str) -> Result<Vec<MoRef>, Error> {
        match self.look_by_name(name).await {
            // A view ends with the login that made it, and that may end between two calls.
            Err(e) if e.is_not_found() => self.look_by_name(name).await,
            other => other,
        }
    }

    async fn look_by_name(&self, name: &str) -> Result<Vec<MoRef>, Error> {
        self.session.sweep().await;
        let view = self.container_view("VirtualMachine").await?;
        let scoped = Scoped::new(&self.session, view.clone());
        let all = self.view_properties(&view, "VirtualMachine", &["name"]).await;
        scoped.discard().await;
        let matches = |p: &crate::property::Properties| p.get("name").is_some_and(|n| decode_name(&n.text) == name);
        Ok(all?.into_iter().filter(matches).map(|p| p.object).collect())
    }

    /// The datacenter that holds an object; `None` when there is none above it that the user may see.
    pub async fn datacenter_of(&self, object: &MoRef) -> Result<Option<MoRef>, Error> {
        let mut at = object.clone();
        for _ in 0..MAX_ANCESTORS {
            if at.type_name == "Datacenter" {
                return Ok(Some(at));
            }
            // A VM inside a vApp has no folder of its own.
            let paths: &[&str] = if at.type_name == "VirtualMachine" { &["parent", "parentVApp"] } else { &["parent"] };
            let props = self.properties(&at, paths).await?;
            let shape = |e| Error::shape("RetrievePropertiesEx", e);
            let up = match props.moref("parent").map_err(shape)? {
                Some(parent) => Some(parent),
                None => props.moref("parentVApp").map_err(shape)?,
            };
            match up {
                Some(parent) => at = parent,
                None => return Ok(None),
            }
        }
        Err(Error::protocol("RetrievePropertiesEx", format!("more than {MAX_ANCESTORS} objects above {object}")))
    }

    pub(crate) async fn container_view(&self, type_name: &str) -> Result<MoRef, Error> {
        let op = "CreateContainerView";
        let s = &self.session;
        let manager = s.content.view_manager.as_ref();
        let manager =
            manager.ok_or_else(|| Error::new(ErrorKind::Unsupported, op, "the server has no view manager"))?;
        let request = Request::read(op, manager, |w| {
            w.moref("container", &s.content.root_folder);
            w.text("type", type_name);
            w.value("recursive", true);
        });
        s.call_value(&request, s.timeout).await?.moref().map_err(|e| Error::shape(op, e))
    }
}

/// Undoes vCenter's escapes of entity names; any other percent sign stays as it is.
pub(crate) fn decode_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        let decoded = tail.get(1..3).and_then(|hex| match hex.to_ascii_lowercase().as_str() {
            "25" => Some('%'),
            "2f" => Some('/'),
            "5c" => Some('\\'),
            _ => None,
        });
        match decoded {
            Some(c) => {
                out.push(c);
                rest = &tail[3..];
            }
            None => {
                out.push('%');
                rest = &tail[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::decode_name;

    #[test]
    fn names_are_decoded_once() {
        assert_eq!(decode_name("a%2fb%5Cc%25d"), "a/b\\c%d");
        assert_eq!(decode_name("%252f"), "%2f");
        assert_eq!(decode_name("100%"), "100%");
        assert_eq!(decode_name("5%2"), "5%2");
        assert_eq!(decode_name("é%é%2f"), "é%é/");
        assert_eq!(decode_name(""), "");
    }
}
