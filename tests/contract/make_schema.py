#!/usr/bin/env python3
"""Writes tests/vcenter-sim/src/schema/vim25.txt: names, order, optionality and first API version of the vim25 types that the
simulator speaks. Facts of the public interface, read through VMware's own client so that nobody types them from memory.
Usage: make_schema.py > ../vcenter-sim/src/schema/vim25.txt   (in the venv that run.sh makes)"""
import pyVmomi
from pyVmomi import VmomiSupport as V

MANAGED = {
    "ServiceInstance": ["RetrieveServiceContent", "CurrentTime"],
    "SessionManager": ["Login", "Logout", "SessionIsActive", "TerminateSession", "AcquireCloneTicket", "CloneSession"],
    "SearchIndex": ["FindAllByUuid", "FindByUuid", "FindByInventoryPath"],
    "ViewManager": ["CreateContainerView"],
    "View": ["DestroyView"], "ManagedObjectView": [], "ContainerView": [],
    "PropertyCollector": ["CreateFilter", "RetrieveProperties", "CheckForUpdates", "WaitForUpdates", "CancelWaitForUpdates",
                          "WaitForUpdatesEx", "RetrievePropertiesEx", "ContinueRetrievePropertiesEx",
                          "CancelRetrievePropertiesEx", "CreatePropertyCollector", "DestroyPropertyCollector"],
    "PropertyFilter": ["DestroyPropertyFilter"],
    "ExtensibleManagedObject": [],
    "ManagedEntity": ["Destroy_Task"],
    "VirtualMachine": ["ReconfigVM_Task", "CreateSnapshot_Task", "CreateSnapshotEx_Task", "RemoveAllSnapshots_Task",
                       "ConsolidateVMDisks_Task", "PowerOnVM_Task", "PowerOffVM_Task", "RelocateVM_Task", "MigrateVM_Task",
                       "CloneVM_Task", "RevertToCurrentSnapshot_Task", "UnregisterVM", "MarkAsTemplate", "QueryChangedDiskAreas"],
    "VirtualMachineSnapshot": ["RemoveSnapshot_Task", "RevertToSnapshot_Task", "ExportSnapshot"],
    "HttpNfcLease": ["HttpNfcLeaseComplete", "HttpNfcLeaseAbort", "HttpNfcLeaseProgress"],
    "Task": ["CancelTask"],
    "TaskManager": [],
    "EventManager": ["QueryEvents"],
    "AuthorizationManager": ["HasPrivilegeOnEntities"],
    "Datastore": [], "HostSystem": [], "Datacenter": [], "Folder": [], "ComputeResource": [], "ResourcePool": [],
    "ClusterComputeResource": [], "StoragePod": [],
}
DATA = """
DynamicProperty ServiceContent AboutInfo UserSession ObjectContent MissingProperty  RetrieveResult RetrieveOptions
PropertyFilterSpec PropertySpec ObjectSpec SelectionSpec TraversalSpec UpdateSet PropertyFilterUpdate ObjectUpdate PropertyChange
MissingObject WaitOptions LocalizedMethodFault LocalizableMessage KeyAnyValue TaskInfo TaskReason TaskReasonUser TaskReasonAlarm
TaskReasonSystem TaskReasonSchedule TaskDescription Description ElementDescription
VirtualMachineConfigSpec VirtualMachineConfigInfo VirtualMachineFileInfo VirtualHardware VirtualMachineFlagInfo
VirtualMachineDefaultPowerOpInfo VirtualMachineBootOptions ToolsConfigInfo VirtualMachineRuntimeInfo VirtualMachineSummary VirtualMachineConfigSummary VAppProductInfo
VirtualMachineStorageSummary VirtualMachineGuestSummary VirtualMachineQuickStats GuestInfo VirtualMachineCapability
DiskChangeInfo DiskChangeExtent VirtualMachineSnapshotInfo VirtualMachineSnapshotTree VirtualMachineGuestQuiesceSpec
VirtualMachineWindowsQuiesceSpec VirtualMachineStorageInfo VirtualMachineUsageOnDatastore
VirtualMachineFileLayoutEx VirtualMachineFileLayoutExFileInfo VirtualMachineFileLayoutExDiskLayout VirtualMachineFileLayoutExDiskUnit
VirtualMachineFileLayoutExSnapshotLayout VirtualMachineRelocateSpec VirtualMachineRelocateSpecDiskLocator VirtualMachineCloneSpec
 VirtualMachineDeviceRuntimeInfo ResourceAllocationInfo SharesInfo ResourceConfigSpec EnvironmentBrowser
VirtualDevice VirtualDeviceConfigSpec VirtualDeviceConnectInfo VirtualDeviceBusSlotInfo VirtualDevicePciBusSlotInfo
VirtualController VirtualSCSIController ParaVirtualSCSIController VirtualLsiLogicController VirtualLsiLogicSASController
VirtualBusLogicController VirtualIDEController VirtualSATAController VirtualAHCIController VirtualNVMEController
VirtualPCIController VirtualPS2Controller VirtualSIOController VirtualKeyboard VirtualPointingDevice VirtualMachineVideoCard
VirtualMachineVMCIDevice VirtualEthernetCard VirtualVmxnet VirtualVmxnet3
VirtualEthernetCardNetworkBackingInfo VirtualDeviceDeviceBackingInfo VirtualDeviceBackingInfo VirtualDeviceFileBackingInfo
VirtualDevicePipeBackingInfo VirtualDeviceURIBackingInfo VirtualDeviceRemoteDeviceBackingInfo
VirtualPointingDeviceDeviceBackingInfo VirtualCdrom VirtualCdromRemotePassthroughBackingInfo
VirtualDisk VirtualDiskFlatVer2BackingInfo VirtualDiskSeSparseBackingInfo VirtualDiskRawDiskMappingVer1BackingInfo
VirtualDiskSparseVer2BackingInfo VirtualDiskLocalPMemBackingInfo VirtualDiskFlatVer1BackingInfo VirtualDiskSparseVer1BackingInfo
VirtualDiskRawDiskVer2BackingInfo VirtualDiskPartitionedRawDiskVer2BackingInfo
ID CryptoKeyId KeyProviderId StorageIOAllocationInfo OptionValue OptionDef OptionType
DatastoreSummary DatastoreInfo VmfsDatastoreInfo NasDatastoreInfo LocalDatastoreInfo VvolDatastoreInfo VsanDatastoreInfo PMemDatastoreInfo
HostFileSystemVolume HostVmfsVolume HostNasVolume HostScsiDiskPartition DatastoreCapability DatastoreHostMount HostMountInfo
StorageIORMInfo
HostRuntimeInfo HostListSummary HostListSummaryQuickStats HostConfigInfo HostSystemInfo HostConnectInfo AboutInfo HostHardwareSummary HostConfigSummary
DatacenterConfigInfo ComputeResourceConfigInfo ClusterConfigInfoEx ClusterDrsConfigInfo ClusterDrsVmConfigInfo
PodStorageDrsEntry StorageDrsConfigInfo StorageDrsPodConfigInfo StorageDrsVmConfigInfo ComputeResourceSummary ResourcePoolRuntimeInfo ResourcePoolResourceUsage
ResourcePoolSummary EntityPrivilege PrivilegeAvailability Permission CustomFieldValue CustomFieldDef Tag AlarmState
VirtualMachineProfileSpec VirtualMachineEmptyProfileSpec VirtualMachineDefaultProfileSpec VirtualMachineDefinedProfileSpec
VirtualDeviceConfigSpecBackingSpec CryptoSpec
HttpNfcLeaseInfo HttpNfcLeaseDeviceUrl HttpNfcLeaseDatastoreLeaseInfo HttpNfcLeaseHostInfo HttpNfcLeaseCapabilities
MethodFault RuntimeFault ManagedObjectNotFound InvalidRequest InvalidType InvalidArgument NotSupported NotImplemented MethodNotFound
RequestCanceled UnexpectedFault SystemError HostCommunication HostNotConnected HostNotReachable SecurityError
NotAuthenticated NoPermission InvalidLogin InvalidLocale InvalidProperty InvalidCollectorVersion VimFault InvalidState
InvalidPowerState TaskInProgress ConcurrentAccess InvalidName DuplicateName NotFound Timedout RestrictedByAdministrator
FileFault FileLocked FileNotFound CannotAccessFile FileAlreadyExists NoDiskSpace InvalidDatastore InaccessibleDatastore InvalidDatastorePath
DatacenterMismatch DatacenterMismatchArgument
VmConfigFault GenericVmConfigFault InvalidVmConfig InvalidDeviceSpec InvalidDeviceBacking InvalidDeviceOperation InvalidController
MissingController DeviceNotFound TooManyDevices DeviceNotSupported VirtualHardwareCompatibilityIssue DeviceHotPlugNotSupported DeviceUnsupportedForVmPlatform
DiskNotSupported DeviceControllerNotSupported RDMNotSupported EncryptionKeyRequired
SnapshotFault FilesystemQuiesceFault ApplicationQuiesceFault SnapshotIncompatibleDeviceInVm SnapshotDisabled SnapshotLocked
MultipleSnapshotsNotSupported TooManySnapshotLevels MemorySnapshotOnIndependentDisk ToolsUnavailable
InsufficientResourcesFault NotEnoughLicenses MethodDisabled MethodAlreadyDisabledFault QuestionPending HostConfigFault
CannotAccessVmComponent CannotAccessVmDevice CannotAccessVmDisk MigrationFault VmFaultToleranceIssue
NoCompatibleHost DisallowedDiskModeChange OperationNotSupportedByGuest OperationDisallowedOnHost
EventFilterSpec EventFilterSpecByEntity EventFilterSpecByTime EventFilterSpecByUsername Event HostEvent HostEventArgument
EnteringMaintenanceModeEvent EnteredMaintenanceModeEvent ExitMaintenanceModeEvent CanceledHostOperationEvent
EnteringStandbyModeEvent EnteredStandbyModeEvent ExitedStandbyModeEvent DrsEnteringStandbyModeEvent DrsEnteredStandbyModeEvent
DrsExitedStandbyModeEvent HostDisconnectedEvent HostConnectionLostEvent HostConnectedEvent HostShutdownEvent
VmEvent VmEventArgument VmBeingHotMigratedEvent VmMigratedEvent DrsVmMigratedEvent
""".split()

# Not in the public interface, so not in pyvmomi: names and order as in govmomi (object/authorization_manager_internal.go).
INTERNAL = """O AuthorizationManager
M DisableMethods - 0
 entity ref:ManagedEntity[] r 0
 method DisabledMethodRequest[] r 0
 sourceId string r 0
 sessionScope boolean o 0
M EnableMethods - 0
 entity ref:ManagedEntity[] r 0
 method string[] r 0
 sourceId string r 0
D DisabledMethodRequest DynamicData 0
 method string r 0
 reasonId string r 0""".splitlines()

NS = "urn:vim25"
known, enums, lines = set(), set(), []

def since(v):
    ident = V.GetVersionNamespace(v).split("/")[-1] if "/" in V.GetVersionNamespace(v) else ""
    if not ident or not ident[0].isdigit() or v.startswith("vmodl."): return "0"
    return ident.replace("2.5u2server", "2.5").replace("2.5u2", "2.5")

def name_of(t):
    n = V.GetWsdlName(t)
    if issubclass(t, list): return name_of(t.Item) + "[]"
    if issubclass(t, V.Enum) and t is not V.Enum: enums.add(t)
    if issubclass(t, V.ManagedObject): return "ref:" + n
    return {"int": "int", "long": "long", "string": "string"}.get(n, n)

def props(t, stop):
    inherited = {p.name for p in stop._GetPropertyList()} if stop else set()
    for p in t._GetPropertyList():
        if p.name in inherited or p.name in ("dynamicType", "dynamicProperty"): continue
        lines.append(" %s %s %s %s" % (p.name, name_of(p.type), "o" if p.flags & V.F_OPTIONAL else "r", since(p.version)))

def data(t):
    n = V.GetWsdlName(t)
    if n in known or t in (object, V.Object, V.DataObject, Exception): return
    known.add(n)
    base = t.__bases__[0]
    if issubclass(base, V.DataObject) and base is not V.DataObject: data(base); bn, stop = V.GetWsdlName(base), base
    else: bn, stop = "-", None
    lines.append("D %s %s %s" % (n, bn, since(t._version) if hasattr(t, "_version") else "0"))
    props(t, stop)

def managed(n, methods):
    t = V.GetWsdlType(NS, n); base = t.__bases__[0]
    bn = "-" if base is V.ManagedObject else V.GetWsdlName(base)
    lines.append("O %s %s 0" % (n, bn)); props(t, None if bn == "-" else base)
    for m in methods:
        mi = next(x.info for x in (getattr(t, k) for k in t._methodInfo) if x.info.wsdlName == m)
        result = "ref:Task" if m.endswith("_Task") else "-" if mi.methodResult is V.NoneType else name_of(mi.methodResult)
        lines.append("M %s %s %s" % (m, result, since(mi.version)))
        for p in mi.params:
            lines.append(" %s %s %s %s" % (p.name, name_of(p.type), "o" if p.flags & V.F_OPTIONAL else "r", since(p.version)))

for n in DATA:
    try: data(V.GetWsdlType(NS, n))
    except KeyError: lines.append("# absent: " + n)
for n, ms in MANAGED.items():
    managed(n, ms)
    if INTERNAL[0] == "O " + n: lines.extend(INTERNAL[1:])
for t in sorted(enums, key=lambda t: V.GetWsdlName(t)):
    lines.append("E %s %s" % (V.GetWsdlName(t), " ".join(str(getattr(v, "name", v)) if not isinstance(v, str) else str(v) for v in t.values)))
ids = sorted({i for v, i in V.versionIdMap.items() if v.startswith("vim.version") and i and i[0].isdigit() and "u" not in i}, key=lambda s: [int(x) for x in s.split(".")])
print("# vim25 types of the simulator: D data, O managed, M method, E enum; then: name type r|o first-version. Made by tests/contract/make_schema.py")
print("V " + " ".join(ids))
print("\n".join(lines))
