//! The roles as a PowerCLI script. Source: PowerCLI's reference of New-VIRole, Get-VIPrivilege and New-VIPermission.
use std::fmt::Write as _;

use crate::{Privilege, Scope};

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

pub(crate) fn script(privileges: &[&Privilege]) -> String {
    let mut out = HEAD.to_owned();
    for scope in Scope::ALL {
        let ids: Vec<String> = privileges.iter().filter(|p| p.scope == scope).map(|p| format!("'{}'", p.id)).collect();
        if ids.is_empty() {
            continue;
        }
        let (entities, propagate) = entities(scope);
        let _ = writeln!(out, "\n# {}", scope.place());
        if let Some(role) = scope.role() {
            let list = ids.join(",\n  ");
            let _ =
                writeln!(out, "New-VIRole -Name '{role}' -Privilege (Get-VIPrivilege -Id @(\n  {list}\n)) | Out-Null");
        }
        let role = scope.role().unwrap_or("ReadOnly");
        let _ = writeln!(
            out,
            "foreach ($entity in {entities}) {{ New-VIPermission -Entity $entity -Principal $principal -Role (Get-VIRole -Name '{role}') -Propagate ${propagate} }}"
        );
    }
    out
}
