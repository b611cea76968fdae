//! The roles as a PowerCLI script. Source: PowerCLI's reference of New-VIRole, Get-VIPrivilege and New-VIPermission.
use std::fmt::Write as _;

use crate::{Part, Privilege, Scope, table::Role};

const HEAD: &str = "# Creates the roles of hotadd-proxy and gives them to one account. Fill in the names; Connect-VIServer as an administrator first.
$ErrorActionPreference = 'Stop'
$principal = 'VSPHERE.LOCAL\\hotadd'
$datacenters = Get-Datacenter -Name 'DC0'                # each datacenter with targets, the proxy or their datastores
$targets = Get-Folder -Type VM -Name 'targets'           # folders of VMs, or VMs
$proxy = Get-VM -Name 'proxy01'
$datastores = Get-Datastore -Name 'ds1'
";

fn entities(scope: Scope) -> (&'static str, bool) {
    match scope {
        Scope::Vcenter => ("(Get-Folder -NoRecursion)", false),
        Scope::Everywhere => ("$datacenters", true),
        Scope::Target => ("$targets", true),
        Scope::Proxy => ("$proxy", false),
        Scope::Datastore => ("$datastores", false),
    }
}

pub(crate) fn script(privileges: &[&'static Privilege], part: Option<Part>) -> String {
    let mut out = HEAD.to_owned();
    out = match part {
        None => out,
        Some(Part::Stored) => out.replace("VSPHERE.LOCAL\\hotadd'", "VSPHERE.LOCAL\\hotadd-stored'"),
        Some(Part::Job) => out.replace("VSPHERE.LOCAL\\hotadd'", "VSPHERE.LOCAL\\hotadd-jobs'"),
    };
    for role in Role::all(privileges, part) {
        let (entities, propagate) = entities(role.scope);
        let _ = writeln!(out, "\n# {}", role.scope.place());
        if let Some(name) = role.name {
            let ids: Vec<String> = role.ids().iter().map(|id| format!("'{id}'")).collect();
            let list = ids.join(",\n  ");
            let _ =
                writeln!(out, "New-VIRole -Name '{name}' -Privilege (Get-VIPrivilege -Id @(\n  {list}\n)) | Out-Null");
        }
        let name = role.name.unwrap_or("ReadOnly");
        let _ = writeln!(
            out,
            "foreach ($entity in {entities}) {{ New-VIPermission -Entity $entity -Principal $principal -Role (Get-VIRole -Name '{name}') -Propagate ${propagate} }}"
        );
    }
    out
}
