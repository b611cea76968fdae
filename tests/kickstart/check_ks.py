#!/usr/bin/env python3
"""check_ks.py FILE [FOLDER]: what ksvalidator does not see in a kickstart file: references, disks, passwords, hosts, sections.
With FOLDER, the scripts are written there. Needs pykickstart."""
import re
import sys
import types

# pykickstart fetches files that lie on servers by requests, whose import takes longer than everything else here. There are none.
requests = types.ModuleType("requests")
requests.exceptions = types.ModuleType("requests.exceptions")
requests.exceptions.SSLError = requests.exceptions.RequestException = OSError
sys.modules.update({"requests": requests, "requests.exceptions": requests.exceptions})

from pykickstart.constants import CLEARPART_TYPE_ALL, KS_SCRIPT_POST, KS_SCRIPT_PRE, SELINUX_ENFORCING
from pykickstart.parser import KickstartParser
from pykickstart.version import makeVersion

import common

# In this order: (name, type, in the new system?)
SCRIPTS = [("guard", KS_SCRIPT_PRE, False), ("media", KS_SCRIPT_POST, False)] + [
    (name, KS_SCRIPT_POST, True)
    for name in ("own-disks", "hands-off", "time", "access", "firewall", "kernel", "initrd", "console", "agent", "labels")]


def disks(ks, faults):
    faults.equal("ignoredisk --only-use", ks.ignoredisk.onlyuse, ["sda"])
    faults.equal("clearpart --drives", ks.clearpart.drives, ["sda"])
    faults.equal("clearpart --all", ks.clearpart.type, CLEARPART_TYPE_ALL)
    faults.equal("bootloader --boot-drive", ks.bootloader.bootDrive, "sda")
    for part in ks.partition.partitions:
        faults.equal(f"part {part.mountpoint} --ondisk", part.disk, "sda")
    missing = common.KERNEL - set((ks.bootloader.appendLine or "").split())
    faults.need(not missing, f"bootloader --append lacks {sorted(missing)}")


def volumes(ks, faults):
    physical = [p.mountpoint for p in ks.partition.partitions if p.mountpoint.startswith("pv.")]
    groups = {g.vgname: g.physvols for g in ks.volgroup.vgList}
    used = [pv for pvs in groups.values() for pv in pvs]
    for pv in used:
        faults.need(pv in physical, f"volgroup of {pv}, which no part defines")
    for pv in physical:
        faults.need(used.count(pv) == 1, f"{pv} is in {used.count(pv)} volume groups")
    faults.equal("volume groups", sorted(groups), [common.GROUP])
    for volume in ks.logvol.lvList:
        faults.need(volume.vgname in groups, f"logvol {volume.name} in {volume.vgname}, which no volgroup defines")
    faults.need(not common.duplicates(v.name for v in ks.logvol.lvList), "two logvols with one name")
    mounts = [v.mountpoint for v in ks.logvol.lvList] + [p.mountpoint for p in ks.partition.partitions if p.mountpoint not in physical]
    faults.need(not common.duplicates(mounts), f"mounted twice: {common.duplicates(mounts)}")
    faults.need("/" in mounts, "nothing is mounted at /")
    faults.need("swap" not in mounts, "there is swap")
    faults.need("/boot" in mounts or (ks.reqpart.reqpart and ks.reqpart.addBoot), "no /boot")
    room = sum(p.size for p in ks.partition.partitions if p.mountpoint in physical)
    faults.need(sum(v.size or 0 for v in ks.logvol.lvList) < room, "the volumes are larger than their group")


def access(ks, faults):
    faults.need(ks.rootpw.lock, "root is not locked")
    faults.need(not ks.rootpw.password, "root has a password")
    faults.equal("users", [u.name for u in ks.user.userList], [common.ADMIN])
    for user in ks.user.userList:
        faults.need(user.lock and not user.password, f"{user.name} is not locked or has a password")
    faults.equal("selinux", ks.selinux.selinux, SELINUX_ENFORCING)
    faults.need(ks.firewall.enabled, "no firewall")
    faults.equal("firewall --port", ks.firewall.ports, [f"{common.PORT}:tcp"])
    faults.equal("firewall --service", ks.firewall.services, [])
    faults.need("ssh" in ks.firewall.remove_services, "firewall leaves ssh open")
    faults.equal("firewall --trust", ks.firewall.trusts, [])


def sources(ks, faults):
    faults.equal("installation source", ks.method.method, "cdrom")
    repos = {r.name: r.baseurl for r in ks.repo.repoList}
    faults.equal("repositories", repos, {"hotadd": "file:///run/install/repo/hotadd/repo"})
    faults.equal("timezone --ntpservers", list(ks.timezone.ntpservers or []), [])
    faults.equal("services --enabled", set(ks.services.enabled), common.SERVICES)
    missing = (common.PACKAGES | {"policycoreutils"}) - set(ks.packages.packageList)
    faults.need(not missing, f"%packages lacks {sorted(missing)}")
    faults.need("dracut-config-rescue" in ks.packages.excludedList, "%packages does not exclude dracut-config-rescue")
    faults.need(not ks.packages.handleMissing, "%packages ignores what is missing")


def scripts(ks, text, faults):
    found = []
    for script in ks.scripts:
        name = re.fullmatch(r"(?:/mnt/sysimage)?/(?:tmp|var/log)/hotadd-install-(.+)\.log", script.logfile or "")
        name = name.group(1) if name else "?"
        found.append((name, script.type, script.inChroot))
        faults.need(script.errorOnFail, f"script {name} may fail unseen (--erroronfail)")
        faults.equal(f"interpreter of {name}", script.interp, "/bin/bash")
    faults.equal("scripts", found, SCRIPTS)
    faults.equal("sections", len(re.findall(r"^%(?:pre|post)\b", text, re.M)), len(found))
    return [(name, script.script) for (name, _, _), script in zip(found, ks.scripts)]


def main(path, folder=None):
    faults = common.Faults()
    with open(path, encoding="utf-8") as file:
        text = file.read()
    common.forbidden(text, faults)
    ks = makeVersion("RHEL8")
    parser = KickstartParser(ks)
    parser.readKickstartFromString(text)
    ks.scripts = parser.handler.scripts
    for look in (disks, volumes, access, sources):
        look(ks, faults)
    bodies = scripts(ks, text, faults)
    if folder:
        common.extract(folder, bodies)
    print("\n".join(f"{path}: {fault}" for fault in faults), end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
