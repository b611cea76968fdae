#!/usr/bin/env python3
"""VMware's own client drives the whole hot-add job against vcenter-sim: log in, find, snapshot, attach, wait, list, detach, remove
the snapshot, wrong password, ended session. Usage: pyvmomi_job.py --sim BINARY [--dump DIR] [--api VERSION …]"""
import argparse, hashlib, os, shutil, ssl, subprocess, sys, time, urllib.request

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import SoapStubAdapter, vim, vmodl

from sim import PASSWORD, Sim

USER = "administrator@vsphere.local"
PC = vmodl.query.PropertyCollector
ODD = "web 01 %25 %2f %5c # & < [x] 'q' \"d\" ü"
CHECKS = []


def check(what, ok):
    CHECKS.append((what, bool(ok)))
    print(("ok    " if ok else "FAIL  ") + what, flush=True)


def raises(what, fault, call):
    try: call()
    except fault as e: check(what, True); return e
    except Exception as e: check(f"{what} (got {type(e).__name__}: {e})", False); return None
    check(what + " (no fault)", False); return None


def inventory():
    return {"datacenter": "DC0", "hosts": [{"name": "esx1.lab"}, {"name": "esx2.lab", "datastores": ["ds1"]}],
            "datastores": [{"name": "ds1"}, {"name": "nfs", "kind": "nfs3"}, {"name": "vs", "kind": "vsan"}, {"name": "vv", "kind": "vvol"},
                           {"name": "far", "accessible": False}],
            "vms": [{"name": "proxy", "datastore": "ds1", "controllers": [{"bus": 0, "pci_slot": 160}, {"bus": 1, "pci_slot": 192, "in_extra_config_only": True}],
                     "extra_config": {"disk.EnableUUID": "TRUE"}, "disks": [{"bus": 0, "unit": 0}, {"bus": 1, "unit": 0}]},
                    {"name": ODD, "datastore": "ds1", "change_tracking": True, "disks": [{}, {"capacity": 33554432, "key_id": None}]},
                    {"name": "kinds", "controllers": [{"kind": "lsilogic", "bus": 0}, {"kind": "nvme", "bus": 0}, {"kind": "sata", "bus": 0}], "power": "off",
                     "disks": [{"controller": "ide", "unit": 0}, {"controller": "sata"}, {"controller": "nvme"}, {"backing": "sesparse"},
                               {"backing": "rdm_virtual"}, {"fcd": "f00d"}, {"path": "[nfs] k/k.vmdk"}]},
                    {"name": "old", "snapshots": 2, "disks": [{}]}]}


def wait(si, task):
    """The way every pyvmomi program waits: a filter on the task, WaitForUpdatesEx until it ends."""
    pc = si.content.propertyCollector
    spec = PC.FilterSpec(objectSet=[PC.ObjectSpec(obj=task)],
                         propSet=[PC.PropertySpec(type=vim.Task, pathSet=["info.state", "info.error", "info.result", "info.progress"])])
    flt = pc.CreateFilter(spec, True)
    try:
        version, state, error, result = "", None, None, None
        while state not in ("success", "error"):
            update = pc.WaitForUpdatesEx(version, PC.WaitOptions(maxWaitSeconds=30))
            if update is None: raise TimeoutError("task")
            version = update.version
            for fs in update.filterSet:
                for o in fs.objectSet:
                    for c in o.changeSet:
                        if c.name == "info.state": state = str(c.val)
                        elif c.name == "info.error": error = c.val
                        elif c.name == "info.result": result = c.val
        if error is not None: raise error
        return result
    finally:
        flt.DestroyPropertyFilter()


def connect(sim, password=PASSWORD):
    ctx = ssl.create_default_context(cafile=sim.ca)
    return SmartConnect(host=sim.host, port=int(sim.port), user=USER, pwd=password, sslContext=ctx)


def disks(vm): return [d for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)]


def add_spec(path, ctl, unit, key, mode="independent_nonpersistent"):
    disk = vim.vm.device.VirtualDisk(key=key, controllerKey=ctl, unitNumber=unit, capacityInKB=0)
    disk.backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=path, diskMode=mode)
    return vim.vm.device.VirtualDeviceSpec(operation="add", device=disk)


def read_everything(si, sim):
    """Every property of every object by Fetch and by `all`: nothing may be of a type that pyvmomi doesn't know."""
    content = si.content
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.ManagedEntity], True)
    seen = set()
    for obj in view.view:
        for p in obj._GetPropertyList():
            try: getattr(obj, p.name)
            except (vmodl.query.InvalidProperty, vmodl.fault.MethodNotFound): pass     # newer than the server
        seen.add(type(obj).__name__)
    for kind in (vim.VirtualMachine, vim.Datastore, vim.HostSystem, vim.Folder, vim.Datacenter, vim.ComputeResource, vim.ResourcePool):
        spec = PC.FilterSpec(objectSet=[PC.ObjectSpec(obj=view, skip=True, selectSet=[PC.TraversalSpec(name="v", type=vim.view.ContainerView, path="view", skip=False)])],
                             propSet=[PC.PropertySpec(type=kind, all=True)])
        content.propertyCollector.RetrieveContents([spec])
    check(f"all properties of {len(seen)} types are readable", len(seen) >= 6)
    spec = PC.FilterSpec(objectSet=[PC.ObjectSpec(obj=view, skip=True, selectSet=[PC.TraversalSpec(name="v", type=vim.view.ContainerView, path="view", skip=False)])],
                         propSet=[PC.PropertySpec(type=vim.ManagedEntity, pathSet=["name"])])
    pages, page = 0, content.propertyCollector.RetrievePropertiesEx([spec], PC.RetrieveOptions(maxObjects=3))
    total = 0
    while True:
        pages += 1; total += len(page.objects)
        if not page.token: break
        page = content.propertyCollector.ContinueRetrievePropertiesEx(page.token)
    check(f"paging by 3: {total} objects in {pages} pages", total == len(view.view) and pages == (total + 2) // 3)
    raises("unknown property is InvalidProperty", vmodl.query.InvalidProperty, lambda: content.propertyCollector.RetrieveContents([
        PC.FilterSpec(objectSet=[PC.ObjectSpec(obj=content.rootFolder)], propSet=[PC.PropertySpec(type=vim.Folder, pathSet=["bogus"])])]))
    view.DestroyView()
    check("unset property reads as None", next(v for v in content.rootFolder.childEntity[0].vmFolder.childEntity if v.name == "proxy").snapshot is None)


def layout_and_revert(si, target):
    snap = wait(si, target.CreateSnapshot_Task(name="one", memory=False, quiesce=False))
    files = {f.name: f for f in target.layoutEx.file}
    delta = disks(target)[0].backing.fileName.replace(".vmdk", "-delta.vmdk")
    check("layoutEx lists the delta with its size", delta in files and files[delta].type == "diskExtent" and files[delta].size == 0)
    keys = {f.key for f in target.layoutEx.file}
    chains = [k for d in target.layoutEx.disk for u in d.chain for k in u.fileKey]
    check("layoutEx chains name files of the list", chains and set(chains) <= keys and target.layoutEx.snapshot[0].key == snap)
    check("snapshotDirectory is told", target.config.files.snapshotDirectory.startswith("[ds1] "))
    later = wait(si, target.CreateSnapshot_Task(name="two", memory=False, quiesce=False))
    wait(si, snap.RevertToSnapshot_Task())
    check("after a revert the snapshot is current and the later one is still there",
          target.snapshot.currentSnapshot == snap and target.snapshot.rootSnapshotList[0].childSnapshotList[0].snapshot == later)
    wait(si, target.RevertToCurrentSnapshot_Task())
    wait(si, target.RemoveAllSnapshots_Task())
    check("and all are removed", target.snapshot is None and all(d.backing.parent is None for d in disks(target)))


def operators(si, sim, proxy, target):
    sim.control("disable_method", vm="old", method="RelocateVM_Task", source="another product")
    old = next(v for v in proxy.parent.childEntity if v.name == "old")
    check("disabledMethod names it", list(old.disabledMethod) == ["RelocateVM_Task"])
    spec = vim.vm.RelocateSpec(datastore=old.datastore[0])
    e = raises("a disabled method is MethodDisabled", vim.fault.MethodDisabled, lambda: wait(si, old.RelocateVM_Task(spec)))
    check("it names who disabled it", e is not None and e.source == "another product")
    sim.control("disable_method", vm="old", method="RelocateVM_Task", source="another product", on=False)
    wait(si, old.RelocateVM_Task(spec, vim.VirtualMachine.MovePriority.defaultPriority))
    raises("Destroy of a running VM is InvalidPowerState", vim.fault.InvalidPowerState, lambda: wait(si, old.Destroy_Task()))
    raises("so is UnregisterVM", vim.fault.InvalidPowerState, lambda: old.UnregisterVM())
    raises("and MarkAsTemplate", vim.fault.InvalidPowerState, lambda: old.MarkAsTemplate())
    before = old.runtime.host
    task = old.MigrateVM_Task(priority="defaultPriority")
    wait(si, task)
    check("a migration changes the host", old.runtime.host != before and task.info.descriptionId == "VirtualMachine.migrate")
    twin = wait(si, old.CloneVM_Task(old.parent, "twin", vim.vm.CloneSpec(location=vim.vm.RelocateSpec(), template=False, powerOn=False)))
    check("the clone has files of its own", twin.name == "twin" and disks(twin)[0].backing.fileName == "[ds1] twin/old.vmdk")
    twin.MarkAsTemplate()
    check("it is a template now", twin.config.template)
    twin.UnregisterVM()
    raises("and then it is gone", vmodl.fault.ManagedObjectNotFound, lambda: twin.name)


def export(si, sim, target, api):
    """As a program on pyvmomi exports a snapshot: lease, progress, download by thumbprint, complete."""
    snap = wait(si, target.CreateSnapshot_Task(name="export", memory=False, quiesce=False))
    sim.control("export", ready_ms=50)
    lease = snap.ExportSnapshot()
    for _ in range(500):
        if lease.state != vim.HttpNfcLease.State.initializing: break
        time.sleep(0.01)
    check("the lease gets ready", lease.state == vim.HttpNfcLease.State.ready and lease.error is None and lease.initializeProgress == 100)
    info = lease.info
    files = {u.key.rsplit("/", 1)[1]: u for u in info.deviceUrl if u.disk}
    own = {d.unitNumber: d for d in snap.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)}
    check("a file for each disk, by controller and unit", info.entity == target and sorted(files) == [f"ParaVirtualSCSIController0:{u}" for u in sorted(own)])
    check("capacity and timeout", info.totalDiskCapacityInKB == sum(d.capacityInKB for d in own.values()) and info.leaseTimeout == 300)
    lease.HttpNfcLeaseProgress(50)
    # Properties of 6.7 and later; pyvmomi refuses them itself on older ones.
    if api != "6.5": check("progress and mode are told", lease.transferProgress == 50 and lease.capabilities.pullModeSupported)
    raises("a second lease of the VM is TaskInProgress", vim.fault.TaskInProgress, snap.ExportSnapshot)
    raises("and so is its migration", vim.fault.TaskInProgress, lambda: wait(si, target.MigrateVM_Task(priority="defaultPriority")))
    for name, url in files.items():
        host, port = url.url.split("/")[2].split(":")
        der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port))))
        check(f"{name}: the thumbprint is the host's", hashlib.sha1(der).hexdigest().upper() == url.sslThumbprint.replace(":", ""))
        context = ssl.create_default_context(cafile=sim.ca)
        with urllib.request.urlopen(url.url, context=context, timeout=60) as answer, open(os.path.join(sim.dir.name, "export.vmdk"), "wb") as out:
            shutil.copyfileobj(answer, out)
        same_as_source(sim, target, own[int(name.split(":")[1])], name)
    lease.HttpNfcLeaseComplete()
    check("completed", lease.state == vim.HttpNfcLease.State.done)
    raises("progress of a lease that is over", vim.fault.InvalidState, lambda: lease.HttpNfcLeaseProgress(60))
    lease = snap.ExportSnapshot()
    lease.HttpNfcLeaseAbort()
    check("an aborted lease tells its fault", lease.state == vim.HttpNfcLease.State.error and lease.error is not None)
    sim.control("export")
    wait(si, snap.RemoveSnapshot_Task(removeChildren=False))


def same_as_source(sim, vm, disk, name):
    """A foreign decoder reads what the simulator encoded."""
    if not shutil.which("qemu-img"): return
    vmdk = os.path.join(sim.dir.name, "export.vmdk")
    # The VM has not written since, so that the file below its chain is what the snapshot holds.
    raw = sim.control("disk_file", vm=vm._moId, disk=f"0:{disk.unitNumber}")["file"]
    done = subprocess.run(["qemu-img", "compare", "-f", "vmdk", "-F", "raw", vmdk, raw], capture_output=True, text=True)
    check(f"{name}: qemu-img reads it as the source has it", done.returncode == 0)


def hosts(si, sim, proxy):
    host = proxy.runtime.host
    sim.control("host", name=host.name, entering=True)
    tasks = [t.info for t in host.recentTask]
    check("entering is a running task of the host, not the flag",
          any(t.descriptionId == "HostSystem.enterMaintenanceMode" and t.state == "running" and t.entity == host for t in tasks) and not host.runtime.inMaintenanceMode)
    sim.control("host", name=host.name, block="InvalidState")
    raises("what the host blocks is refused", vim.fault.InvalidState, lambda: proxy.ReconfigVM_Task(vim.vm.ConfigSpec()))
    sim.control("host", name=host.name, in_maintenance=True, quarantine=True, standby="entering", block=None)
    r = host.runtime
    check("flags of the host", r.inMaintenanceMode and r.inQuarantineMode and r.standbyMode == "entering" and r.powerState == "poweredOn")
    sim.control("host", name=host.name, in_maintenance=False, quarantine=False, standby="none")
    check("the task has ended", all(t.info.state == "success" for t in host.recentTask))


def events(si, sim, proxy):
    host, F = proxy.runtime.host, vim.event.EventFilterSpec
    since = si.CurrentTime()
    query = lambda of, types, **more: si.content.eventManager.QueryEvents(F(
        entity=F.ByEntity(entity=of, recursion="self"), time=F.ByTime(beginTime=since), eventTypeId=types, **more))
    sim.control("host", name=host.name, silent=True, entering=True)
    told = query(host, ["EnteringMaintenanceModeEvent", "EnteredMaintenanceModeEvent"], disableFullMessage=True)
    check("a silent host tells by its event only", [type(e) for e in told] == [vim.event.EnteringMaintenanceModeEvent] and told[0].host.host == host
          and told[0].createdTime >= since and not host.recentTask)
    sim.control("host", name=host.name, silent=False, in_maintenance=True)
    sim.control("host", name=host.name, in_maintenance=False, standby="entering")
    sim.control("host", name=host.name, standby="none", connection="disconnected")
    sim.control("host", name=host.name, connection="notResponding")
    sim.control("host", name=host.name, connection="connected")
    sim.control("host", name=host.name, entering=True)
    sim.control("host", name=host.name, entering=False)
    names = [type(e).__name__.split(".")[-1] for e in query(host, [])]
    check("events of the host in their order", names == [n + "Event" for n in (
        "EnteringMaintenanceMode", "EnteredMaintenanceMode", "ExitMaintenanceMode", "EnteringStandbyMode", "ExitedStandbyMode", "HostDisconnected",
        "HostConnectionLost", "HostConnected", "EnteringMaintenanceMode", "CanceledHostOperation")])
    check("maxCount bounds them", len(query(host, [], maxCount=2)) == 2)
    sim.control("post_event", type="DrsVmMigratedEvent", vm=proxy.name)
    told = query(proxy, ["VmMigratedEvent", "DrsVmMigratedEvent"])
    check("a type is matched by itself, not by its ancestor", len(told) == 1 and isinstance(told[0], vim.event.DrsVmMigratedEvent)
          and told[0].vm.vm == proxy and told[0].sourceHost.host == host)
    check("no event is no list", not query(proxy, ["HostConnectedEvent"]))


def fence(si, sim):
    other = connect(sim)
    key = other.content.sessionManager.currentSession.key
    check("sessions are listed by key", key in [s.key for s in si.content.sessionManager.sessionList])
    si.content.sessionManager.TerminateSession([key])
    raises("a terminated session is NotAuthenticated", vim.fault.NotAuthenticated, lambda: other.content.rootFolder.childEntity)
    raises("terminating it again is NotFound", vim.fault.NotFound, lambda: si.content.sessionManager.TerminateSession([key]))
    own = si.content.sessionManager.currentSession.key
    raises("the own session is InvalidArgument", vmodl.fault.InvalidArgument, lambda: si.content.sessionManager.TerminateSession([own]))
    clone(si, sim)


def clone(si, sim):
    """A ticket of ours is a session of another connection, once."""
    def stranger():
        ctx = ssl.create_default_context(cafile=sim.ca)
        stub = SoapStubAdapter(host=sim.host, port=int(sim.port), version=si._stub.version, sslContext=ctx)
        return vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
    manager, other = si.content.sessionManager, stranger()
    ticket = manager.AcquireCloneTicket()
    told = other.sessionManager.CloneSession(ticket)
    own = manager.currentSession
    check("a clone is of the same user, with a key of its own", told.userName == own.userName and told.key != own.key)
    check("it is the session of its connection", other.sessionManager.currentSession.key == told.key and len(other.rootFolder.childEntity) > 0)
    raises("a ticket serves once", vim.fault.InvalidLogin, lambda: stranger().sessionManager.CloneSession(ticket))
    manager.TerminateSession([told.key])
    raises("a clone is terminated by its key", vim.fault.NotAuthenticated, lambda: other.rootFolder.childEntity)
    check("and the session that it was cloned from lives", manager.currentSession.key == own.key)


def changes(si, sim, target):
    """The map of what was written between two snapshots, and of what is in use."""
    def of(snap):
        return [d for d in snap.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)][0]
    first = wait(si, target.CreateSnapshot_Task(name="base", memory=False, quiesce=False))
    base = of(first).backing.changeId
    sim.control("vm_write", vm=target._moId, disk="0:0", offset=200000, pattern=0x5a, length=10)
    wait(si, first.RemoveSnapshot_Task(removeChildren=False))
    snap = wait(si, target.CreateSnapshot_Task(name="next", memory=False, quiesce=False))
    disk = of(snap)
    ask = lambda start, change: target.QueryChangedDiskAreas(snapshot=snap, deviceKey=disk.key, startOffset=start, changeId=change)
    info = ask(0, base)
    check("one block changed", info.startOffset == 0 and info.length == disk.capacityInBytes
          and [(a.start, a.length) for a in info.changedArea] == [(196608, 65536)])
    check("nothing changed since itself", not ask(0, disk.backing.changeId).changedArea)
    check("it is in use", any(a.start <= 200000 < a.start + a.length for a in ask(0, "*").changedArea))
    raises("startOffset at the capacity is InvalidArgument", vmodl.fault.InvalidArgument, lambda: ask(disk.capacityInBytes, base))
    raises("a changeId of another tracking is FileFault", vim.fault.FileFault, lambda: ask(0, "00/1"))
    wait(si, snap.RemoveSnapshot_Task(removeChildren=False))


def job(sim, api):
    raises("wrong password is InvalidLogin", vim.fault.InvalidLogin, lambda: connect(sim, "wrong"))
    si = connect(sim)
    about = si.content.about
    check(f"logged in to {about.fullName}, API {about.apiVersion}", about.apiType == "VirtualCenter" and about.apiVersion == api)
    session = si.content.sessionManager.currentSession
    check("the session is ours", session.userName == USER)
    check("SessionIsActive", si.content.sessionManager.SessionIsActive(session.key, session.userName))
    read_everything(si, sim)
    proxy = si.content.searchIndex.FindByInventoryPath("DC0/vm/proxy")
    found = si.content.searchIndex.FindAllByUuid(None, proxy.config.uuid.upper(), True, False)
    check("FindAllByUuid finds the proxy once", found == [proxy])
    target = next(v for v in proxy.parent.childEntity if v.config.name.startswith("web"))
    check("names show %, / and \\ encoded", target.name == ODD.replace("%", "%25"))

    before = {d.key: d.backing.fileName for d in disks(target)}
    task = target.CreateSnapshot_Task(name="hotadd job", description="temporary", memory=False, quiesce=True)
    snap = wait(si, task)
    check("the task's result is the snapshot", isinstance(snap, vim.vm.Snapshot) and task.info.entity == target)
    check("snapshot config keeps the base files", {d.key: d.backing.fileName for d in snap.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)} == before)
    check("the VM runs on deltas with the base as parent", all(d.backing.fileName.endswith("-000001.vmdk") and d.backing.parent.fileName == before[d.key] for d in disks(target)))
    check("changeId is told with CBT on", all(d.backing.changeId for d in snap.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)))
    check("snapshot tree", target.snapshot.currentSnapshot == snap and target.snapshot.rootSnapshotList[0].name == "hotadd job")

    ctl = {c.busNumber: c for c in proxy.config.hardware.device if isinstance(c, vim.vm.device.VirtualSCSIController)}
    check("slot numbers: slotInfo on bus 0, extraConfig on bus 1", ctl[0].slotInfo.pciSlotNumber == 160 and ctl[1].slotInfo is None
          and any(o.key == "scsi1.pciSlotNumber" and o.value == "192" for o in proxy.config.extraConfig))
    delta = disks(target)[0].backing.fileName
    e = raises("the running delta is FileLocked", vim.fault.FileLocked, lambda: wait(si, proxy.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[add_spec(delta, ctl[0].key, 5, -1)]))))
    spec = vim.vm.ConfigSpec(changeVersion=proxy.config.changeVersion, deviceChange=[add_spec(p, ctl[1].key, 2 + i, -100 - i) for i, p in enumerate(before.values())])
    old_version = proxy.config.changeVersion
    wait(si, proxy.ReconfigVM_Task(spec))
    added = [d for d in disks(proxy) if d.backing.fileName in before.values()]
    check("both disks attached under positive keys", len(added) == 2 and all(d.key >= 2000 and d.controllerKey == ctl[1].key for d in added))
    check("backing tells uuid and mode", all(d.backing.uuid.startswith("6000C29") and d.backing.diskMode == "independent_nonpersistent" for d in added))
    raises("a stale changeVersion is ConcurrentAccess", vim.fault.ConcurrentAccess, lambda: wait(si, proxy.ReconfigVM_Task(vim.vm.ConfigSpec(changeVersion=old_version))))
    first = next(iter(before.values()))
    raises("the same disk twice is refused", vim.fault.InvalidDeviceSpec, lambda: wait(si, proxy.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[add_spec(first, ctl[0].key, 6, -1)]))))
    e = raises("unit 7 is refused, with the device's index", vim.fault.InvalidDeviceSpec, lambda: wait(si, proxy.ReconfigVM_Task(
        vim.vm.ConfigSpec(deviceChange=[add_spec("[ds1] old/old.vmdk", ctl[0].key, 8, -1), add_spec("[ds1] old/x.vmdk", ctl[0].key, 7, -2)]))))
    check("deviceIndex is 1 and nothing was attached", e is not None and e.deviceIndex == 1 and len(disks(proxy)) == 4)
    raises("missing file is FileNotFound", vim.fault.FileNotFound, lambda: wait(si, proxy.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[add_spec("[ds1] no/no.vmdk", ctl[0].key, 6, -1)]))))
    raises("missing controller is InvalidController", vim.fault.InvalidController, lambda: wait(si, proxy.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[add_spec("[ds1] old/old.vmdk", 4711, 6, -1)]))))
    check("recentTask lists the proxy's tasks", len(proxy.recentTask) >= 3)

    sim.control("set_removal_fails", on=True)
    raises("removing the snapshot while a disk is attached fails", vim.fault.FileLocked, lambda: wait(si, snap.RemoveSnapshot_Task(removeChildren=False)))
    check("consolidation is needed then", target.runtime.consolidationNeeded and target.snapshot is None)
    sim.control("set_removal_fails", on=False)
    raises("consolidating too", vim.fault.FileLocked, lambda: wait(si, target.ConsolidateVMDisks_Task()))
    holders = {v.name for d in target.datastore for v in d.vm}
    check("Datastore.vm tells the holder", "proxy" in holders)
    removes = [vim.vm.device.VirtualDeviceSpec(operation="remove", device=d) for d in added]
    wait(si, proxy.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=removes)))
    check("both are gone", len(disks(proxy)) == 2)
    raises("removing again is DeviceNotFound", vim.fault.DeviceNotFound, lambda: wait(si, proxy.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=removes[:1]))))
    wait(si, target.ConsolidateVMDisks_Task())
    check("consolidated to the base files", {d.key: d.backing.fileName for d in disks(target)} == before and not target.runtime.consolidationNeeded)
    snap = wait(si, target.CreateSnapshot_Task(name="again", memory=False, quiesce=False))
    wait(si, snap.RemoveSnapshot_Task(removeChildren=False))
    check("a snapshot nobody holds is removed", target.snapshot is None and {d.key: d.backing.fileName for d in disks(target)} == before)
    raises("a removed snapshot is ManagedObjectNotFound", vmodl.fault.ManagedObjectNotFound, lambda: snap.config)

    changes(si, sim, target)
    layout_and_revert(si, target)
    sim.control("vm_write", vm=target._moId, disk="0:0", offset=70000, pattern=0xa5, length=200000)
    export(si, sim, target, api)
    operators(si, sim, proxy, target)
    hosts(si, sim, proxy)
    events(si, sim, proxy)
    fence(si, sim)

    sim.control("set_privileges", privileges=["System.Read"])
    e = raises("a missing privilege is NoPermission", vim.fault.NoPermission, lambda: proxy.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[add_spec(first, ctl[0].key, 6, -1)])))
    check("it names privilege and object", e is not None and e.privilegeId == "VirtualMachine.Config.AddExistingDisk" and e.object == proxy)
    sim.control("set_privileges", privileges=None)
    sim.control("end_sessions")
    raises("an ended session is NotAuthenticated", vim.fault.NotAuthenticated, lambda: proxy.name)
    si = connect(sim); Disconnect(si)
    counters = sim.control("counters")
    check("no file operation happened", counters["file_operation_count"] == 0)
    check("every answer agreed with the simulator's own table: " + "; ".join(counters["problems"]), not counters["problems"])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--sim", required=True); p.add_argument("--dump"); p.add_argument("--api", action="append")
    a = p.parse_args()
    for api in a.api or ["6.5", "6.7", "7.0.3.0", "8.0.2.0", "9.1.0.0"]:
        print(f"--- API {api}")
        dump = None
        if a.dump: dump = os.path.join(a.dump, api); os.makedirs(dump, exist_ok=True)
        with Sim(a.sim, inventory(), api, dump) as sim: job(sim, api)
    failed = [w for w, ok in CHECKS if not ok]
    print(f"{len(CHECKS) - len(failed)} passed, {len(failed)} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__": sys.exit(main())
