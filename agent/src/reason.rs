//! The registry of reasons: every refusal and failure that a user can meet has one stable code here, with the gRPC
//! code it maps to and the next step for a person. Codes are never re-used. Each has a page in `docs/reasons` with evidence,
//! causes and the fix: one without does not compile, and a test keeps the heads of the pages equal to this table.
use tonic::Code;

/// One entry of the registry.
#[derive(Debug)]
pub struct ReasonCode {
    /// `HA-xxx-nnn`.
    pub code: &'static str,
    pub grpc: Code,
    /// What it means, one line.
    pub summary: &'static str,
    /// What a person can do.
    pub next_step: &'static str,
}

impl PartialEq for ReasonCode {
    fn eq(&self, other: &Self) -> bool {
        self.code == other.code
    }
}

macro_rules! registry {
    ($($name:ident = $code:literal, $grpc:ident, $summary:literal, $next:literal;)+) => {
        $(#[doc = $summary] pub static $name: ReasonCode =
            ReasonCode { code: $code, grpc: Code::$grpc, summary: $summary, next_step: $next };)+
        // Read for the compiler's complaint alone; the pages themselves are hotadd-reasons'.
        $(const _: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reasons/", $code, ".md"));)+
        /// Every reason, in order of its code's area.
        pub static ALL: &[&ReasonCode] = &[$(&$name),+];
    };
}

registry! {
    CFG_INVALID = "HA-CFG-001", InvalidArgument, "the configuration has faults", "correct the listed keys of agent.toml; `hotadd-agent check-config` tests it";
    CFG_IDENTITY = "HA-CFG-002", FailedPrecondition, "the agent can't tell which VM it runs in", "run it in a VMware VM with a unique BIOS UUID that this vCenter manages; a cloned proxy needs a new UUID or distinct MACs";
    CFG_SECOND = "HA-CFG-003", FailedPrecondition, "another agent runs on this proxy", "stop one of them: two agents would choose the same slots";
    CFG_SETUP = "HA-CFG-004", Aborted, "the setup dialogue ended before a configuration was written", "run `hotadd-agent setup` again, as root on a terminal; nothing was changed unless the message names a file";

    AUT_NONE = "HA-AUT-001", PermissionDenied, "the client's certificate has no role on this agent", "add a [[client]] with one of the certificate's names to agent.toml and restart the agent, or use a certificate that has one";
    AUT_OWNER = "HA-AUT-002", PermissionDenied, "this belongs to another client", "use the certificate of the client that began it, or one whose role is admin";
    AUT_ROLE = "HA-AUT-003", PermissionDenied, "the client's role does not allow this call", "use a certificate with the role that the message names, or give this one that role in agent.toml";
    AUT_OUT = "HA-AUT-004", Unauthenticated, "the client's certificate holds no longer", "renew the certificate, connect with it, and begin again";
    AUT_FILES = "HA-AUT-005", FailedPrecondition, "the files of the table tls can't be used", "correct the file that the message names (`hotadd-agent check-config` tests all), then `systemctl reload hotadd-agent`";

    LIM_CLIENT = "HA-LIM-001", ResourceExhausted, "the client is over its limits on this agent", "wait as long as RetryInfo says, then do the same again; if a controller meets it in honest work, raise what the message names in [limits.client]";

    AUD_FILE = "HA-AUD-001", FailedPrecondition, "the audit log can't be written", "see to the file and its disk; the next line is tried by itself, and nothing new is begun meanwhile where audit.required is set";

    VC_UNREACHABLE = "HA-VC-001", Unavailable, "vCenter can't be reached", "check address, port 443, DNS and routing from the proxy; the agent retries";
    VC_TLS = "HA-VC-002", Unavailable, "vCenter's certificate is not trusted", "set vcenter.ca_file to the issuing CA, or vcenter.pin_sha256 to the certificate's fingerprint";
    VC_LOGIN = "HA-VC-003", Unauthenticated, "vCenter refused user name or password", "correct vcenter.user and the password file, then restart the agent; at run time it reads the file again by itself";
    VC_PRIVILEGE = "HA-VC-004", PermissionDenied, "a vSphere privilege is missing", "grant the named privilege on the named object to the agent's role";
    VC_PROTOCOL = "HA-VC-005", Internal, "vCenter's answer could not be understood", "report the message with vCenter's build number";
    VC_UNKNOWN_OUTCOME = "HA-VC-006", Unavailable, "the reply of a vSphere call was lost", "nothing: the agent reads the state back and settles it";
    VC_FAULT = "HA-VC-007", FailedPrecondition, "vCenter refused an operation", "see the fault's text; the vSphere Client shows the task";
    VC_DEADLINE = "HA-VC-008", DeadlineExceeded, "a vSphere task did not end in time", "look at the task in the vSphere Client; the agent goes on settling it";
    VC_STALE = "HA-VC-009", Unavailable, "vCenter does not have a VM's facts now", "look at the VM and its host in the vSphere Client; the agent goes on asking";
    VC_OTHER = "HA-VC-010", FailedPrecondition, "duties are open that were begun under another vCenter or proxy VM", "point the agent at the vCenter and VM that the message names, or detach there by hand and move the journal away";
    VC_BUSY = "HA-VC-011", Unavailable, "another task holds the VM", "wait for the task that the vSphere Client shows; the agent tries again";
    VC_LOGIN_HELD = "HA-VC-012", Unavailable, "vCenter refuses the agent's login; the agent waits before it tries again, so that the account is not locked", "write the right password into vcenter.password_file: the agent tries a changed one at once";
    VC_TICKET = "HA-VC-013", Unauthenticated, "vCenter did not take the request's clone ticket", "acquire a new ticket (SessionManager.AcquireCloneTicket) right before the request: it serves once and not for long";
    VC_TICKET_OVER = "HA-VC-014", Unauthenticated, "the vCenter session that was cloned from the request's ticket has ended", "see who ended it (the administrator's list of sessions, a restart of vCenter); run the job again with a new ticket";
    VC_TICKET_VDDK = "HA-VC-015", FailedPrecondition, "VDDK is not used for a request with a clone ticket, since it logs in with the account of the configuration", "name NBD servers in the request, or send it without a ticket";
    VC_TICKET_BACK = "HA-VC-016", PermissionDenied, "the agent's account could not give back what the request's ticket would begin", "grant the named privilege on the named object to the account on the proxy (`hotaddctl role print --part stored`)";

    VM_UNKNOWN = "HA-VM-001", NotFound, "no such VM", "give the exact name, the UUID or the moref of a VM in this vCenter";
    VM_AMBIGUOUS = "HA-VM-002", FailedPrecondition, "more than one VM has this name or UUID", "give the moref (vm-…) instead";
    VM_NO_DISKS = "HA-VM-003", FailedPrecondition, "the VM has no disk that can be backed up", "check the VM's disks; independent and physical RDM disks have no snapshot";
    VM_IS_PROXY = "HA-VM-004", FailedPrecondition, "the VM is this proxy itself", "back the proxy up from another proxy while it holds no disks";
    VM_DISK_UNKNOWN = "HA-VM-005", NotFound, "the VM has no disk with this device key", "the preflight of `hotaddctl backup` shows the keys of its disks";

    SNAP_QUIESCE = "HA-SNP-001", FailedPrecondition, "the guest could not be quiesced", "check VMware Tools in the guest, or allow a crash-consistent snapshot (prefer_app)";
    SNAP_FAILED = "HA-SNP-002", FailedPrecondition, "the snapshot could not be taken", "see the fault's text; remove or consolidate old snapshots if it names them";
    SNAP_REMOVE = "HA-SNP-003", FailedPrecondition, "our snapshot could not be removed yet", "the agent retries; check for a backup or migration that locks the VM";
    SNAP_UNKNOWN = "HA-SNP-004", NotFound, "the given snapshot does not exist", "give the moref of a snapshot of this VM";
    SNAP_CONSOLIDATE = "HA-SNP-005", FailedPrecondition, "the VM needs consolidation after the snapshot was removed", "consolidate the VM's disks in the vSphere Client";
    SNAP_DOUBT = "HA-SNP-006", FailedPrecondition, "a snapshot of ours can't be told from others", "look at the VM's snapshots; remove the one named `hotadd-agent …` by hand if it is left over";
    SNAP_AGE = "HA-SNP-007", ResourceExhausted, "our snapshot became too old or its delta too large", "back the VM up when it writes less, or raise limits.snapshot_max_age_seconds or limits.delta_max_bytes";
    SNAP_SPACE = "HA-SNP-008", ResourceExhausted, "the datastore of our snapshot's delta is nearly full", "free space on the named datastore";

    SNAP_HELD = "HA-SNP-009", FailedPrecondition, "another VM holds a file of the VM whose snapshot is to be removed", "end the backup or replication that holds it, or detach the disk from the VM that the message names";
    SNAP_TURN = "HA-SNP-010", ResourceExhausted, "as many of our snapshots as are allowed stand on a datastore of the VM", "wait: the oldest request gets the next place; end what keeps snapshots (ListDuties), or raise limits.snapshots_per_datastore";

    GUARD_REFUSED = "HA-GRD-001", FailedPrecondition, "methods of a VM could not be disabled", "grant Global.DisableMethods and Global.EnableMethods at the vCenter, or set guards = \"warn\"";
    GUARD_OTHERS = "HA-GRD-002", FailedPrecondition, "another product has disabled methods of the VM", "wait for its backup or for a Storage vMotion to end; a leftover of a dead product is enabled by that product";

    PLAN_KIND = "HA-PLAN-001", FailedPrecondition, "this kind of disk can't be hot-added", "use another transport for this disk";
    PLAN_INDEPENDENT = "HA-PLAN-002", FailedPrecondition, "an independent disk is not part of snapshots", "make the disk dependent, or back it up inside the guest";
    PLAN_DATASTORE = "HA-PLAN-003", FailedPrecondition, "the disk's datastore can't be reached from the proxy's host", "mount the datastore on the proxy's host or move the proxy";
    PLAN_SHARED = "HA-PLAN-004", FailedPrecondition, "a shared (multi-writer or bus-shared) disk has no snapshot", "back the disk up inside one of its guests";
    PLAN_NO_UUID = "HA-PLAN-005", FailedPrecondition, "vCenter gives no UUID for this disk, so it could not be proven in the guest", "check the VMDK's descriptor (ddb.uuid)";
    PLAN_IN_USE = "HA-PLAN-006", FailedPrecondition, "another disk with the same UUID is on this proxy now", "wait until the other session is closed, or use another proxy";
    PLAN_RDM_PHYSICAL = "HA-PLAN-007", FailedPrecondition, "a physical raw device mapping is not part of snapshots", "back the LUN up inside the guest or on the array, or convert the mapping to virtual mode";
    PLAN_RDM_VIRTUAL = "HA-PLAN-008", FailedPrecondition, "a virtual raw device mapping is not hot-added", "use another transport for this disk";
    PLAN_VSAN = "HA-PLAN-009", FailedPrecondition, "the disk is on vSAN and the proxy's home is not", "move the proxy's home to the vSAN datastore, or use another transport for this disk";
    PLAN_VVOL_CLONE = "HA-PLAN-010", FailedPrecondition, "a linked clone on vVol is never hot-added: the proxy VM can become invalid", "use another transport for this disk, or make the VM a full clone";
    PLAN_SESPARSE = "HA-PLAN-011", FailedPrecondition, "an SE-sparse disk on VMFS or NFS can't be hot-added to a proxy on vSAN before vSphere 7.0", "update the proxy's host to 7.0, or use a proxy whose home is on VMFS or NFS";
    PLAN_NFS3 = "HA-PLAN-012", FailedPrecondition, "an NFS 3 disk of a VM on another host would stun that VM when its snapshot is removed", "run the proxy on the VM's host, mount the export by NFS 4.1, or update both hosts to ESXi 8.0 U2b";
    PLAN_DATACENTER = "HA-PLAN-013", FailedPrecondition, "the proxy is in another datacenter than the VM", "use a proxy in the VM's datacenter";
    PLAN_VCENTER = "HA-PLAN-014", FailedPrecondition, "the VM belongs to another vCenter than the proxy", "use a proxy of the VM's vCenter";
    PLAN_IDE = "HA-PLAN-015", FailedPrecondition, "an IDE disk is not hot-added", "move the disk to a SCSI controller, or use another transport for it";
    PLAN_SATA_NVME = "HA-PLAN-016", FailedPrecondition, "the disk hangs on a SATA or NVMe controller", "nothing if it works; plan.sata_nvme = 'nbd' takes the other transport";
    PLAN_ENCRYPTED = "HA-PLAN-017", FailedPrecondition, "an encrypted disk needs an encrypted proxy", "encrypt the proxy VM, or use another transport for this disk";
    PLAN_TEMPLATE = "HA-PLAN-018", FailedPrecondition, "a template has no snapshots", "convert it to a VM, or back a clone up";
    PLAN_FT = "HA-PLAN-019", FailedPrecondition, "the VM has fault tolerance: only disk-only snapshots", "nothing; quiescing may be refused";
    PLAN_NO_SLOT = "HA-PLAN-020", ResourceExhausted, "no unit on the proxy is left for the disk", "wait for other sessions, add PVSCSI controllers, or set plan.no_slot";
    PLAN_IS_PROXY = "HA-PLAN-021", FailedPrecondition, "the VM is this proxy itself", "back the proxy up from another proxy while it holds no disks";
    PLAN_CHAIN = "HA-PLAN-022", FailedPrecondition, "the disk's snapshot chain is too deep for another snapshot", "remove or consolidate old snapshots, or raise plan.max_chain";
    PLAN_REDO_SPACE = "HA-PLAN-023", FailedPrecondition, "the disk's datastore has no room for a redo log", "free space on the named datastore, or lower plan.redo_min_free_mib";
    PLAN_MAINTENANCE = "HA-PLAN-024", Unavailable, "a host is leaving service", "wait for the end of the maintenance";
    PLAN_IO_FILTER = "HA-PLAN-025", FailedPrecondition, "names of I/O filters are too long for NBD before vSphere 7.0 U3", "nothing: HotAdd is preferred";
    PLAN_SAN = "HA-PLAN-026", InvalidArgument, "SAN transport is not possible", "ask for another transport, or for none";
    PLAN_FCD = "HA-PLAN-027", FailedPrecondition, "the disk is a First Class Disk, which a snapshot of the VM would hold", "back it up by its own snapshots, or name the VM in plan.fcd_allowed";
    PLAN_KNOWN_BAD = "HA-PLAN-028", FailedPrecondition, "a release with a known defect is in use", "update the named part";
    PLAN_PROXY_UUID = "HA-PLAN-029", FailedPrecondition, "the guest of the proxy can't see which disk is which", "set disk.EnableUUID = TRUE on the proxy and power-cycle it";
    PLAN_PROXY_SNAPSHOT = "HA-PLAN-030", FailedPrecondition, "the proxy has snapshots", "remove the proxy's snapshots, and keep it out of other backups";
    PLAN_PROXY_CBT = "HA-PLAN-031", FailedPrecondition, "the proxy has changed block tracking", "switch changeTrackingEnabled of the proxy off and power-cycle it";
    PLAN_PROXY_FT = "HA-PLAN-032", FailedPrecondition, "the proxy has fault tolerance, which takes no disk while it runs", "turn fault tolerance of the proxy off";
    PLAN_PROXY_DRS = "HA-PLAN-033", FailedPrecondition, "DRS may move the proxy", "give the proxy a DRS override (manual or disabled)";
    PLAN_PROXY_SDRS = "HA-PLAN-034", FailedPrecondition, "Storage DRS may move the proxy", "give the proxy a Storage DRS override (manual or disabled)";
    PLAN_CLOUD = "HA-PLAN-035", FailedPrecondition, "the profile cloud has no way to hosts", "keep the proxy on vSAN; plan.profile tells the profile";
    PLAN_VMC_VDDK = "HA-PLAN-036", FailedPrecondition, "this VDDK is not known to serve VMware Cloud on AWS", "bring a VDDK of the table's releases";
    PLAN_COST = "HA-PLAN-037", FailedPrecondition, "a small read is quicker without attaching", "nothing; plan.cost_model = false switches it off";
    PLAN_NO_NEXT = "HA-PLAN-038", FailedPrecondition, "HotAdd was refused and no other transport is configured", "heal what the fault names, or configure another transport";

    HST_PROXY = "HA-HST-001", Unavailable, "the proxy's host is leaving service", "wait until the proxy was moved or its host is back, then resume or start again";
    HST_MOVED = "HA-HST-002", Unavailable, "the proxy is being moved to another host", "wait for the end of the migration, then resume or start again; keep the proxy out of DRS";
    HST_HOLD = "HA-HST-003", Unavailable, "the hosts did not come to rest in time", "wait for the end of the maintenance, or use a proxy on another host";
    HST_TARGET = "HA-HST-004", Unavailable, "the target's host is leaving service", "nothing: our snapshot is removed once the VM was moved or the host is back";
    CHN_GONE = "HA-CHN-001", FailedPrecondition, "the snapshot that was read is no longer under the VM's disks", "find out who removed or reverted it; start a new job";
    CHN_BUSY = "HA-CHN-002", FailedPrecondition, "the VM's disks are being consolidated, reverted or moved", "wait for the task that the vSphere Client shows, then start a new job";

    CBT_OFF = "HA-CBT-001", FailedPrecondition, "changes of the disk are not tracked", "ask for enable_change_tracking, or set changeTrackingEnabled on the VM while it has no snapshot; a disk of a kind that is never tracked is read whole";
    CBT_RESET = "HA-CBT-002", FailedPrecondition, "the disk's change tracking was begun anew since the base", "nothing: this backup is the base of the next one; find out who reset it if it happens often";
    CBT_CAPACITY = "HA-CBT-003", FailedPrecondition, "the disk has another size than its base", "nothing: this backup is the base of the next one";
    CBT_DISK = "HA-CBT-004", FailedPrecondition, "the disk is another one than its base", "check whether the disk was replaced; this backup is the base of the next one";
    CBT_SNAPSHOTS = "HA-CBT-005", FailedPrecondition, "change tracking began while the disk had snapshots, so its maps may lack changes", "remove the old snapshots, turn changeTrackingEnabled off and on again and power-cycle the VM";
    CBT_BASE_EMPTY = "HA-CBT-006", FailedPrecondition, "the base was read without change tracking", "nothing: this backup is the base of the next one";
    CBT_FAULT = "HA-CBT-007", FailedPrecondition, "vCenter did not give the map of what to read", "see the fault's text; if it stays, turn changeTrackingEnabled off and on again while the VM has no snapshot";
    CBT_IMPOSSIBLE = "HA-CBT-008", FailedPrecondition, "vCenter's map of what to read contradicts itself", "report the message with the host's build; turn changeTrackingEnabled off and on again while the VM has no snapshot";
    CBT_REVERTED = "HA-CBT-009", FailedPrecondition, "the VM was reverted to a snapshot since the base, or may have been", "nothing: this backup is the base of the next one; a snapshot older than the base, which stands, makes every backup so: remove it";
    CBT_KNOWN_BAD = "HA-CBT-010", FailedPrecondition, "the host's release is known to lose changes", "update the host, then turn changeTrackingEnabled off and on again while the VM has no snapshot";
    CBT_UNTRUSTED = "HA-CBT-011", FailedPrecondition, "the disk's change tracking was found wrong before", "turn changeTrackingEnabled off and on again while the VM has no snapshot: what is tracked anew is believed again";
    CBT_NO_BASE = "HA-CBT-012", FailedPrecondition, "no base of this disk was named", "nothing: this backup is the base of the next one";
    CBT_FALSE = "HA-CBT-013", DataLoss, "the disk's change tracking is wrong: a block that it does not name has other content", "distrust earlier incremental backups of this disk; turn changeTrackingEnabled off and on again while the VM has no snapshot";
    CBT_EXPORT = "HA-CBT-014", FailedPrecondition, "a disk that is exported is read whole", "heal what keeps the disk from HotAdd and NBD";
    CBT_UNTESTED = "HA-CBT-015", Unavailable, "the map could not be tested, so it is not believed", "see the message: the disk could not be read";
    CBT_ENABLE = "HA-CBT-016", FailedPrecondition, "change tracking is not turned on while the VM has snapshots: maps would lack changes", "remove the VM's snapshots, or do not ask for enable_change_tracking";
    CBT_UNSUPPORTED = "HA-CBT-017", FailedPrecondition, "the VM does not support change tracking", "upgrade its virtual hardware to version 7 or later, or do not ask for enable_change_tracking";

    ATT_NO_SLOT = "HA-ATT-001", ResourceExhausted, "no free unit on any usable SCSI controller of the proxy", "close a session, or add PVSCSI controllers to the proxy";
    ATT_LOCKED = "HA-ATT-002", FailedPrecondition, "the disk is locked", "find the holder of the lock: another proxy, or a VM that runs on this very file";
    ATT_FAULT = "HA-ATT-003", FailedPrecondition, "vCenter refused to attach the disk", "see the fault's text";
    ATT_DATASTORE = "HA-ATT-004", FailedPrecondition, "vCenter can't reach the disk's datastore", "check the datastore's state and its mount on the proxy's host";
    ATT_UNKNOWN = "HA-ATT-005", Unavailable, "it is unknown whether the attach happened", "nothing: the agent settles it before it answers done";
    ATT_CONTROLLER = "HA-ATT-006", FailedPrecondition, "no SCSI controller of the proxy can be identified in the guest", "keep one anchor disk on each controller and set disk.EnableUUID = TRUE; see GetCapacity";
    ATT_ADD = "HA-ATT-007", FailedPrecondition, "no SCSI controller could be added to the proxy", "see the fault's text; add PVSCSI controllers with an anchor disk each by hand, or set add_controllers = false";

    DSC_MISSING = "HA-DSC-001", DeadlineExceeded, "the attached disk did not appear in the guest", "check the proxy's kernel log; spread disks over more controllers";
    DSC_IDENTITY = "HA-DSC-002", FailedPrecondition, "the device in the slot is not the disk that was attached", "set disk.EnableUUID = TRUE on the proxy and power-cycle it; report if it is set";
    DSC_WRITABLE = "HA-DSC-003", FailedPrecondition, "the device is not read-only", "install the agent's udev rule and reload udev";
    DSC_OPEN = "HA-DSC-004", FailedPrecondition, "the device could not be opened", "check what else claims the device on the proxy";

    READ_MEDIA = "HA-RD-001", DataLoss, "the disk has an unreadable sector", "check the datastore; restore the guest's data from an older backup";
    READ_GONE = "HA-RD-002", DataLoss, "the disk disappeared while it was read", "check who removed it from the proxy; run the job again";
    READ_SHORT = "HA-RD-003", DataLoss, "a read returned less than was asked", "run the job again; report if it repeats";
    READ_IO = "HA-RD-004", DataLoss, "a read failed", "check the proxy's kernel log and the datastore";
    READ_ENGINE = "HA-RD-005", Internal, "no read engine works here", "see the refusals listed; check seccomp and memory limits of the unit";
    READ_RANGE = "HA-RD-006", InvalidArgument, "a requested range is invalid", "ranges must ascend, not overlap, lie inside the disk and be multiples of its logical block";
    READ_STOPPED = "HA-RD-007", Aborted, "the read was stopped before its end", "run it again; the session or job was ending";
    READ_DISK = "HA-RD-008", InvalidArgument, "ranges were given for a disk that is not read", "give ranges only for disks of the VM, and only for those in device_keys if that is set";

    NBD_NONE = "HA-NBD-001", FailedPrecondition, "NBD was asked for a disk that has no server", "name a server for each disk (nbd_servers), or let the planner choose";
    NBD_REFUSED = "HA-NBD-002", PermissionDenied, "the NBD server is not on this agent's list", "add it to [nbd] allow in agent.toml, or name one that is there";
    NBD_CONNECT = "HA-NBD-003", Unavailable, "the NBD server can't be used", "see the cause; check that it runs, its port, and the certificates of [nbd]";
    NBD_SIZE = "HA-NBD-004", FailedPrecondition, "the NBD server has another size than the disk", "check that it serves this disk, as of this snapshot";
    NBD_LOST = "HA-NBD-005", Unavailable, "the NBD server was lost or broke the protocol while a disk was read", "check the server's log; resume the job, or run it again";
    NBD_DIFFERS = "HA-NBD-006", DataLoss, "an NBD server and the attached disk show different bytes", "check that the server has this disk, as of this snapshot; run the job again";
    VDK_LIBRARY = "HA-VDK-001", FailedPrecondition, "the VDDK library is missing or can't be loaded", "unpack VMware's VDDK where vddk.libdir says, so that lib64/libvixDiskLib.so.* is under it; the release must suit nbdkit's plug-in";
    VDK_NBDKIT = "HA-VDK-002", FailedPrecondition, "nbdkit can't be run", "install nbdkit, or set vddk.nbdkit_program";
    VDK_PLUGIN = "HA-VDK-003", FailedPrecondition, "nbdkit has no vddk plug-in", "install the plug-in (package nbdkit-vddk-plugin or nbdkit-plugin-vddk)";
    VDK_START = "HA-VDK-004", FailedPrecondition, "nbdkit with VDDK did not start", "see nbdkit's last line in the message, and the lines before it in the log";
    VDK_SLOW = "HA-VDK-005", DeadlineExceeded, "nbdkit with VDDK did not serve in time", "check the load of the proxy, or raise vddk.start_seconds";
    VDK_DIED = "HA-VDK-006", Unavailable, "nbdkit with VDDK died again and again", "see nbdkit's last line in the message; other releases of VDDK or of nbdkit may hold";
    VDK_OPEN = "HA-VDK-007", FailedPrecondition, "VDDK could not open or read the disk", "see VDDK's text in the message: check port 902 to every host, the user's privileges, and that vCenter's certificate was not changed";
    VDK_MEMORY = "HA-VDK-008", InvalidArgument, "the NFC buffers of one connection are too large", "lower vddk.nfc_buffer_64k or vddk.nfc_buffers: their product may be 16 MiB at most";
    VDK_VALUE = "HA-VDK-009", InvalidArgument, "a value can't be given to VDDK", "change what the message names: a password without line ends and NULs, names without control characters";
    VDK_BUSY = "HA-VDK-010", ResourceExhausted, "the disk's ESXi host has no NFC connection or memory left", "wait for other reads from that host, or lower vddk.nfc_buffer_64k or vddk.nfc_buffers";
    VDK_PORT = "HA-VDK-011", FailedPrecondition, "ESXi hosts that may serve the disk can't be reached from this proxy, and VDDK reads from there", "open TCP 902 (vddk.nfc_port) from the proxy to every ESXi host, and check that their names resolve on the proxy";
    VDK_HOST = "HA-VDK-012", Unavailable, "the ESXi host that serves the disk leaves service", "resume the job, or run it again, when the host is back or the VM has moved";
    EXP_REACH = "HA-EXP-001", FailedPrecondition, "ESXi hosts that may serve the export can't be reached from this proxy", "open TCP 443 (export.port) from the proxy to every ESXi host, and check that their names resolve on the proxy";
    EXP_LEASE = "HA-EXP-002", FailedPrecondition, "the snapshot can't be exported", "see the cause: the privilege VApp.Export on the VM, another export of it, or a disk that vSphere does not export";
    EXP_LOST = "HA-EXP-003", Unavailable, "the export lease or its stream was lost", "run the job again; it begins anew, since an export does not resume";
    EXP_STREAM = "HA-EXP-004", DataLoss, "the exported stream is damaged or incomplete", "run the job again; if it stays, use another transport";
    EXP_LONG = "HA-EXP-005", DeadlineExceeded, "the export takes longer than is allowed", "raise export.max_hours, knowing that the VM can't be powered on, moved or destroyed for as long; or use another transport";
    EXP_OFF = "HA-EXP-006", FailedPrecondition, "an export was asked for, and this agent may not export", "set export.max_hours in agent.toml; sessions, jobs with ranges and jobs that resume or may be resumed never export";

    SES_UNKNOWN = "HA-SES-001", NotFound, "no such session", "open the disks again; ListSessions shows what lives";
    SES_STATE = "HA-SES-002", FailedPrecondition, "the session is not open", "wait for its end, then open the disks again under a new request_id";
    SES_CONFLICT = "HA-SES-003", AlreadyExists, "this request_id was used for a different request", "use a new request_id";
    SES_LEASE = "HA-SES-004", Aborted, "the session's lease ended", "renew with KeepAlive more often than the lease; open the disks again under a new request_id";
    SES_BUSY = "HA-SES-005", ResourceExhausted, "this VM already has a session or job on this proxy", "wait for it or close it";
    SES_REQUEST = "HA-SES-006", InvalidArgument, "the request is malformed", "correct the named field";
    SES_DRAINING = "HA-SES-007", Unavailable, "the agent is shutting down", "try again after it restarted";
    SES_RESTART = "HA-SES-008", Aborted, "the agent restarted; the session was ended and cleaned up", "open the disks again under a new request_id";
    SES_CLOSED = "HA-SES-009", FailedPrecondition, "closed by the controller", "open the disks again under a new request_id";
    SES_DRAIN = "HA-SES-010", Unavailable, "the agent takes no new work: it is drained", "use another proxy, or end the drain (`hotaddctl drain --off`)";

    JOB_UNKNOWN = "HA-JOB-001", NotFound, "no such job", "ListJobs shows the jobs that the agent remembers, also of earlier runs";
    JOB_RUNNING = "HA-JOB-002", AlreadyExists, "a job with this request_id is running", "follow it with GetJob";
    JOB_STREAM = "HA-JOB-003", Aborted, "the controller went away before the end", "start a new job";
    JOB_PARTIAL = "HA-JOB-004", FailedPrecondition, "not every disk can be attached", "see the disks' reasons, or allow a partial backup";
    JOB_RESTART = "HA-JOB-005", Aborted, "the agent restarted while the job ran; it was ended and cleaned up", "start a new job, or resume it if its snapshot is kept (resume_until)";
    JOB_RESUME = "HA-JOB-006", FailedPrecondition, "there is nothing to resume", "start a new job; a snapshot is kept only for a job that asked for a window, and only until resume_until";

    QUA_FAILED = "HA-QUA-001", FailedPrecondition, "this system does not keep its hands off attached disks", "see the findings, or `hotadd-agent selftest`; quarantine.on_failure = \"warn\" serves all the same";
    QUA_RULES = "HA-QUA-002", FailedPrecondition, "udev does not have the quarantine rules of this agent", "install the package's files below /usr/lib/udev/rules.d and remove what has their names in /etc/udev/rules.d or /run/udev/rules.d; then `udevadm control --reload; udevadm trigger`";
    QUA_OWN = "HA-QUA-003", FailedPrecondition, "nobody has said which disks are the proxy's own", "write /etc/udev/rules.d/00-hotadd-own-disks.rules after the example (docs/quarantine.md); then `udevadm control --reload; udevadm trigger`";
    QUA_DISK = "HA-QUA-004", FailedPrecondition, "a disk that is not the proxy's own is not in quarantine", "name it in 00-hotadd-own-disks.rules if it is the proxy's own; else find out what took it (`lsblk`, `udevadm info`), release it, then `udevadm trigger`";
    QUA_TOOLS = "HA-QUA-005", FailedPrecondition, "a storage tool may take attached disks", "give it the file of docs/quarantine.md, or remove its package";
    QUA_OPENED = "HA-QUA-006", FailedPrecondition, "a program opened the trap disk", "see which in the message, and keep it off foreign disks: remove its package, or its udev rule";
    QUA_TRAP = "HA-QUA-007", FailedPrecondition, "the trap disk can't be set up or watched", "see the cause; run it as root, on a system whose kernel has the module scsi_debug, or name a disk by --disk";

    DUTY_OWED = "HA-DUT-001", Unavailable, "clean-up is not finished", "nothing: the agent retries until it is proven; ListDuties shows why it waits";
    DUTY_JOURNAL = "HA-DUT-002", Internal, "the journal can't be written", "check space and health of the state directory; nothing new is attached until then";

    BENCH_DEVICE = "HA-BEN-001", InvalidArgument, "the path is not a block device that can be read past the cache", "give the node of a whole disk or partition (lsblk shows them), and run as a user who may read it";
    BENCH_WRITE = "HA-BEN-002", FailedPrecondition, "the results can't be written", "give --out a folder that can be made and written, not on the measured disk";

    SUP_OUT = "HA-SUP-001", FailedPrecondition, "the support bundle can't be written", "name a file that does not exist yet, in a folder that exists and has room";

    INTERNAL = "HA-INT-001", Internal, "the agent met a bug", "report it with the journal of the service";
}

/// The entry of a code that was recorded.
#[must_use]
pub fn by_code(code: &str) -> Option<&'static ReasonCode> {
    ALL.iter().copied().find(|reason| reason.code == code)
}

#[cfg(test)]
mod tests {
    use hotadd_reasons::check::{Entry, faults};

    use super::*;

    #[test]
    fn codes_are_unique_and_well_formed() {
        let mut codes: Vec<_> = ALL.iter().map(|r| r.code).collect();
        codes.sort_unstable();
        assert!(codes.windows(2).all(|w| w[0] != w[1]), "a code is used twice");
        for code in codes {
            let parts: Vec<_> = code.split('-').collect();
            assert!(matches!(parts[..], ["HA", area, number] if !area.is_empty() && number.len() == 3), "{code}");
        }
    }

    /// The appliance's codes as well; those of hotaddctl, of the doctor and of the survey they check themselves.
    #[test]
    fn the_pages_tell_what_this_table_tells() {
        let own = ALL.iter().map(|r| Entry {
            code: r.code,
            meaning: r.summary,
            next_step: r.next_step,
            told_by: format!("hotadd-agent (gRPC {:?})", r.grpc),
        });
        let appliance = hotadd_appliance::reasons::ALL.iter().map(|code| Entry {
            code: code.id,
            meaning: code.meaning,
            next_step: code.next,
            told_by: "the appliance's first boot".to_owned(),
        });
        let entries: Vec<Entry> = own.chain(appliance).collect();
        let pages: Vec<_> = hotadd_reasons::all().collect();
        let theirs = ["HA-CTL-", "HA-DOC-", "HA-SVY-"];
        let faults = faults(&entries, &pages, |code| !theirs.iter().any(|area| code.starts_with(area)));
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}
