//! The roles as a shell script of govc commands. Source: govc's own usage texts of `role.create` and `permissions.set`.
//!
//! System.Anonymous, System.View and System.Read are not listed: vCenter adds them to every role.
use std::fmt::Write as _;

use crate::{Part, Privilege, Scope, table::Role};

const HEAD: &str = "#!/bin/bash
# Creates the roles of hotadd-proxy and gives them to one account. Fill in the names; GOVC_URL and an administrator's login as always.
set -eu
principal='hotadd@vsphere.local'
datacenters=('/DC0')                     # each datacenter with targets, the proxy or their datastores
targets=('/DC0/vm/targets')              # folders of VMs, or VMs
proxy='/DC0/vm/proxy01'
datastores=('/DC0/datastore/ds1')
";

fn paths(scope: Scope) -> (&'static str, bool) {
    match scope {
        Scope::Vcenter => ("/", false),
        Scope::Everywhere => ("\"${datacenters[@]}\"", true),
        Scope::Target => ("\"${targets[@]}\"", true),
        Scope::Proxy => ("\"$proxy\"", false),
        Scope::Datastore => ("\"${datastores[@]}\"", false),
    }
}

pub(crate) fn script(privileges: &[&'static Privilege], part: Option<Part>) -> String {
    let mut out = HEAD.to_owned();
    out = match part {
        None => out,
        Some(Part::Stored) => out.replace("hotadd@vsphere.local", "hotadd-stored@vsphere.local"),
        Some(Part::Job) => out.replace("hotadd@vsphere.local", "hotadd-jobs@vsphere.local"),
    };
    for role in Role::all(privileges, part) {
        let (paths, propagate) = paths(role.scope);
        let _ = writeln!(out, "\n# {}", role.scope.place());
        if let Some(name) = role.name {
            let _ = writeln!(out, "govc role.create {name} \\\n  {}", role.ids().join(" \\\n  "));
        }
        let name = role.name.unwrap_or("ReadOnly");
        let _ =
            writeln!(out, "govc permissions.set -principal \"$principal\" -role {name} -propagate={propagate} {paths}");
    }
    out
}
