#!/usr/bin/env python3
"""Lets VMware's own simulator code (vcsim) make an import spec of an OVA's descriptor, and judges what it would create.
Usage: import_ova.py VCSIM FILE.ova. Nothing is uploaded. Last line: "N passed, N failed, 0 skipped"."""
import ssl
import subprocess
import sys
import tarfile

from pyVim.connect import SmartConnect
from pyVmomi import vim

counts = {True: 0, False: 0}


def check(what, good, seen=""):
    """One line."""
    counts[bool(good)] += 1
    print(f"ok      {what}" if good else f"FAILED  {what}: {seen!r}")


def connect(url):
    """A session; the simulator's certificate is made anew at each start."""
    host, port = url.split("//")[1].split("/")[0].split("@")[-1].rsplit(":", 1)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return SmartConnect(host=host, port=int(port), user="backup", pwd="secret", sslContext=context).RetrieveContent()


def spec(content, text):
    """What CreateImportSpec makes of a descriptor."""
    center = content.rootFolder.childEntity[0]
    pool, store = center.hostFolder.childEntity[0].resourcePool, center.datastore[0]
    mapping = [vim.OvfManager.NetworkMapping(name="Management", network=center.network[0])]
    params = vim.OvfManager.CreateImportSpecParams(locale="", deploymentOption="", entityName="proxy01", networkMapping=mapping)
    return content.ovfManager.CreateImportSpec(text, pool, store, params)


def main(vcsim, ova):
    """See the module."""
    with tarfile.open(ova) as tar:
        text = tar.extractfile("hotadd-proxy.ovf").read().decode()
        sizes = {member.name: member.size for member in tar.getmembers()}
    server = subprocess.Popen([vcsim], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        content = connect(server.stdout.readline().split()[0])
        made = spec(content, text)
        check("vcsim makes an import spec without an error", not made.error, made.error)
        machine = made.importSpec.configSpec
        devices = [change.device for change in machine.deviceChange]
        of = lambda kind: [device for device in devices if isinstance(device, kind)]
        buses = [device.busNumber for device in of(vim.vm.device.ParaVirtualSCSIController)]
        check("four PVSCSI controllers", sorted(buses) == [0, 1, 2, 3], buses)
        keys = {device.key for device in of(vim.vm.device.ParaVirtualSCSIController)}
        disks = of(vim.vm.device.VirtualDisk)
        check("a disk on unit 0 of each", {disk.controllerKey for disk in disks} == keys and [disk.unitNumber for disk in disks] == [0] * 4)
        check("one vmxnet3", len(of(vim.vm.device.VirtualVmxnet3)) == len(of(vim.vm.device.VirtualEthernetCard)) == 1)
        check("CPUs and memory", (machine.numCPUs, machine.memoryMB) == (4, 4096), (machine.numCPUs, machine.memoryMB))
        files = {item.path: item.size for item in made.fileItem}
        check("every disk file is to be uploaded", files == {n: s for n, s in sizes.items() if n.endswith(".vmdk")}, files)
        wrong = spec(content, text.replace("VirtualSCSI", "nosuchscsi"))
        check("a controller of an unknown kind would be an error", bool(wrong.error))
    finally:
        server.stdin.close()
        server.wait(20)
    print(f"{counts[True]} passed, {counts[False]} failed, 0 skipped")
    return 1 if counts[False] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
