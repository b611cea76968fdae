//! A VM's snapshots as the settler needs them. Pure.
use crate::{
    error::{Error, Result},
    id::Moref,
    reason,
};

/// Every snapshot of ours is named so, and its duty's id after it.
pub const SNAPSHOT_NAME: &str = "hotadd-agent ";

/// All snapshots of a VM at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotTree {
    pub nodes: Vec<SnapshotNode>,
    /// A task on the VM is queued or running: what it will do is not in `nodes` yet.
    pub busy: bool,
    /// Deltas without a snapshot exist (VirtualMachineRuntimeInfo.consolidationNeeded).
    pub consolidation_needed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotNode {
    pub moref: Moref,
    pub name: String,
    pub parent: Option<Moref>,
}

impl SnapshotTree {
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<Moref> {
        self.nodes.iter().filter(|node| node.name == name).map(|node| node.moref.clone()).collect()
    }

    /// Whether it is there under its name.
    ///
    /// # Errors
    /// [`reason::SNAP_DOUBT`]: it is there under another name.
    pub fn holds(&self, snapshot: &Moref, name: &str) -> Result<bool> {
        match self.nodes.iter().find(|node| node.moref == *snapshot) {
            Some(node) if node.name != name => {
                let detail = format!("not touched: {snapshot} is named {:?}, not {name:?}", node.name);
                Err(Error::new(&reason::SNAP_DOUBT, detail))
            }
            found => Ok(found.is_some()),
        }
    }

    /// Names of the snapshots of others that were taken after this one and stand on it.
    #[must_use]
    pub fn younger_foreign(&self, snapshot: &Moref) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![snapshot];
        while let Some(parent) = open.pop() {
            for node in self.nodes.iter().filter(|node| node.parent.as_ref() == Some(parent)) {
                open.push(&node.moref);
                if !node.name.starts_with(SNAPSHOT_NAME) {
                    found.push(node.name.clone());
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(moref: &str, name: &str, parent: Option<&str>) -> SnapshotNode {
        SnapshotNode { moref: Moref::new(moref), name: name.into(), parent: parent.map(Moref::new) }
    }

    #[test]
    fn only_what_stands_on_ours_is_younger() {
        let nodes = vec![
            node("s-1", "before the update", None),
            node("s-2", "hotadd-agent a", Some("s-1")),
            node("s-3", "theirs", Some("s-2")),
            node("s-4", "hotadd-agent b", Some("s-3")),
            node("s-5", "deep", Some("s-4")),
            node("s-6", "beside", Some("s-1")),
        ];
        let tree = SnapshotTree { nodes, busy: false, consolidation_needed: false };
        assert_eq!(tree.younger_foreign(&Moref::new("s-2")), ["theirs", "deep"]);
        assert!(tree.younger_foreign(&Moref::new("s-6")).is_empty());
        assert_eq!(tree.named("hotadd-agent b"), [Moref::new("s-4")]);
    }

    #[test]
    fn a_snapshot_under_another_name_is_doubt() {
        let nodes = vec![node("s-1", "renamed", None)];
        let tree = SnapshotTree { nodes, busy: false, consolidation_needed: false };
        let doubt = tree.holds(&Moref::new("s-1"), "hotadd-agent a").unwrap_err();
        assert_eq!(doubt.reason().code, "HA-SNP-006");
        assert!(!tree.holds(&Moref::new("s-2"), "x").unwrap());
    }
}
