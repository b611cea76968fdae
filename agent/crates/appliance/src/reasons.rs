//! Why the appliance is not configured (HA-APP-nnn). A number is never used again. docs/appliance.md holds the same table, each has
//! a page in docs/reasons (one without does not compile); tests keep them equal.

pub use hotadd_reasons::Code;

hotadd_reasons::registry! {
    NO_ENVIRONMENT = "HA-APP-001", "the guest was given no OVF properties",
        "answer the questions on the console; or deploy the OVA through vCenter and power on there (with ovftool on a bare host: --X:injectOvfEnv --powerOn)";
    UNREADABLE = "HA-APP-002", "the OVF properties can't be read",
        "power the VM off and on by vCenter; if it stays, deploy the OVA anew";
    MISSING = "HA-APP-003", "a required property has no value",
        "set it in the vApp options of the powered-off VM, then power on";
    INVALID = "HA-APP-004", "a property has a value that can't be used",
        "correct it in the vApp options of the powered-off VM, then power on";
    REFUSED = "HA-APP-005", "the agent refuses the configuration that the properties make",
        "correct what it names in the vApp options of the powered-off VM, then power on";
    WRITE = "HA-APP-006", "a file of the appliance can't be written",
        "check the system disk on the console (df, dmesg), then power off and on";
    NOT_BLANKED = "HA-APP-007", "the passwords could not be blanked in the guest's view of the properties",
        "clear them in the vApp options; any process in the guest and who may read the VM's settings sees them until then";
    NO_MATCH = "HA-APP-008", "a property of this appliance is not known",
        "correct its name; the value was left out";
    COPY = "HA-APP-009", "this virtual machine is a copy of another appliance",
        "take disks that are not its own off this VM before anything else, never deleting them; then delete the VM, or set the properties that it shall have and another number in hotadd.generation, and power on";
    OWN_DISKS = "HA-APP-010", "the system disk was not named to udev: attached disks are not kept apart, and the agent refuses them",
        "see why with journalctl -u hotadd-own-disks, put the system disk back to SCSI(0:0), then power off and on";
}

/// One cause, as it is shown and kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fault {
    pub code: String,
    pub message: String,
    pub next: String,
}

impl Fault {
    /// Messages hold names and reasons, never a value of a property: one of them may be a password in a wrong field.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code.id.to_owned(), message: message.into(), next: code.next.to_owned() }
    }
}

/// The table of docs/appliance.md.
#[must_use]
pub fn table() -> String {
    let rows = ALL.iter().map(|Code { id, meaning, next }| format!("| `{id}` | {meaning} | {next} |\n"));
    format!("| code | meaning | next step |\n|---|---|---|\n{}", rows.collect::<String>())
}
