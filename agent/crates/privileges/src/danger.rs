//! Privileges that the account must not have: nothing of ours needs them, and with them a stolen password or a bug could do what can't be
//! undone.
use serde::Serialize;

use crate::Scope;

/// One privilege too much, on these kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Dangerous {
    pub id: &'static str,
    /// As the vSphere Client shows it.
    pub name: &'static str,
    pub scopes: &'static [Scope],
    /// What it lets somebody do.
    pub why: &'static str,
}

const VMS: &[Scope] = &[Scope::Target, Scope::Proxy];
const STORES: &[Scope] = &[Scope::Datastore];
const ROOT: &[Scope] = &[Scope::Vcenter];

/// What is looked for, worst first.
pub const DANGEROUS: &[Dangerous] = &[
    Dangerous {
        id: "VirtualMachine.Inventory.Delete",
        name: "Edit Inventory: Remove",
        scopes: VMS,
        why: "destroys the VM with its disks; of the proxy also the disks of others that are attached to it",
    },
    Dangerous {
        id: "Datastore.FileManagement",
        name: "Datastore: Low level file operations",
        scopes: STORES,
        why: "reads, overwrites and deletes any file of the datastore",
    },
    Dangerous {
        id: "Datastore.DeleteFile",
        name: "Datastore: Remove file",
        scopes: STORES,
        why: "deletes files of the datastore; with it removing a disk can also delete its file",
    },
    Dangerous {
        id: "VirtualMachine.State.RevertToSnapshot",
        name: "Snapshot management: Revert to snapshot",
        scopes: VMS,
        why: "throws away everything that the VM wrote since",
    },
    Dangerous {
        id: "VirtualMachine.Provisioning.DiskRandomAccess",
        name: "Provisioning: Allow disk access",
        scopes: VMS,
        why: "writes into the VM's disks from outside",
    },
    Dangerous {
        id: "VirtualMachine.Provisioning.PutVmFiles",
        name: "Provisioning: Allow virtual machine files upload",
        scopes: VMS,
        why: "overwrites the VM's files",
    },
    Dangerous {
        id: "VirtualMachine.GuestOperations.Execute",
        name: "Guest operations: Guest operation program execution",
        scopes: VMS,
        why: "runs programs in the guest, with an account of it",
    },
    Dangerous {
        id: "VirtualMachine.Interact.PowerOff",
        name: "Interaction: Power off",
        scopes: VMS,
        why: "stops the VM",
    },
    Dangerous {
        id: "VirtualMachine.Config.EditDevice",
        name: "Change Configuration: Modify device settings",
        scopes: &[Scope::Proxy],
        why: "makes a disk that is attached for reading one that keeps what is written",
    },
    Dangerous {
        id: "VirtualMachine.Inventory.Unregister",
        name: "Edit Inventory: Unregister",
        scopes: VMS,
        why: "takes the VM out of the inventory, and what is owed to it out of sight",
    },
    Dangerous {
        id: "Authorization.ModifyPermissions",
        name: "Permissions: Modify permission",
        scopes: ROOT,
        why: "gives itself every privilege",
    },
    Dangerous {
        id: "Authorization.ModifyRoles",
        name: "Permissions: Modify role",
        scopes: ROOT,
        why: "adds every privilege to its own role",
    },
    Dangerous {
        id: "Sessions.ImpersonateUser",
        name: "Sessions: Impersonate user",
        scopes: ROOT,
        why: "acts as any other user",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NEEDED;

    #[test]
    fn nothing_that_is_needed_is_called_dangerous_there() {
        for bad in DANGEROUS {
            let wanted = NEEDED.iter().find(|good| good.id == bad.id && bad.scopes.contains(&good.scope));
            assert_eq!(wanted, None, "{}", bad.id);
        }
    }
}
