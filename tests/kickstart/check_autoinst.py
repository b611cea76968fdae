#!/usr/bin/env python3
"""check_autoinst.py FILE [FOLDER]: structure of an AutoYaST profile: every element is one we know at its place and has its config:type;
references between disk, volume group and volumes; passwords, hosts, scripts. With FOLDER, the scripts are written there.
Elements as in the AutoYaST guide of SLES 15; SUSE's own schema is in no package."""
import re
import sys
import xml.etree.ElementTree as ET

import common

YAST = "{http://www.suse.com/1.0/yast2ns}"
TYPE = "{http://www.suse.com/1.0/configns}type"

# Each path that may be there, with its config:type; "-": none. An element that is not here is a mistake, or the table lacks it.
ELEMENTS = """
general - | general/mode - | general/mode/confirm boolean | general/mode/halt boolean | general/signature-handling -
general/signature-handling/accept_unsigned_file boolean | general/signature-handling/accept_file_without_checksum boolean
general/signature-handling/accept_verification_failed boolean | general/signature-handling/accept_unknown_gpg_key boolean
general/signature-handling/accept_non_trusted_gpg_key boolean | general/signature-handling/import_gpg_key boolean
report - | report/errors - | report/errors/show boolean | report/errors/timeout integer | report/errors/log boolean
report/warnings - | report/warnings/show boolean | report/warnings/timeout integer | report/warnings/log boolean
report/messages - | report/messages/show boolean | report/messages/timeout integer | report/messages/log boolean
suse_register - | suse_register/do_registration boolean
language - | language/language - | keyboard - | keyboard/keymap - | timezone - | timezone/hwclock - | timezone/timezone -
add-on - | add-on/add_on_products list | add-on/add_on_products/listentry - | add-on/add_on_products/listentry/media_url -
add-on/add_on_products/listentry/product - | add-on/add_on_products/listentry/product_dir -
add-on/add_on_products/listentry/name - | add-on/add_on_products/listentry/signature-handling -
add-on/add_on_products/listentry/signature-handling/accept_unsigned_file boolean
add-on/add_on_products/listentry/signature-handling/accept_file_without_checksum boolean
software - | software/products list | software/products/product - | software/patterns list | software/patterns/pattern -
software/packages list | software/packages/package - | software/remove-packages list | software/remove-packages/package -
software/install_recommended boolean
partitioning list | partitioning/drive - | partitioning/drive/device - | partitioning/drive/type symbol | partitioning/drive/use -
partitioning/drive/initialize boolean | partitioning/drive/disklabel - | partitioning/drive/partitions list
partitioning/drive/partitions/partition - | partitioning/drive/partitions/partition/create boolean
partitioning/drive/partitions/partition/format boolean | partitioning/drive/partitions/partition/filesystem symbol
partitioning/drive/partitions/partition/mount - | partitioning/drive/partitions/partition/partition_nr integer
partitioning/drive/partitions/partition/partition_id integer | partitioning/drive/partitions/partition/size -
partitioning/drive/partitions/partition/lvm_group - | partitioning/drive/partitions/partition/lv_name -
bootloader - | bootloader/global - | bootloader/global/append - | bootloader/global/timeout integer
networking - | networking/dns - | networking/dns/hostname - | networking/interfaces list | networking/interfaces/interface -
networking/interfaces/interface/device - | networking/interfaces/interface/bootproto - | networking/interfaces/interface/startmode -
firewall - | firewall/enable_firewall boolean | firewall/start_firewall boolean | firewall/default_zone - | firewall/zones list
firewall/zones/zone - | firewall/zones/zone/name - | firewall/zones/zone/interfaces list | firewall/zones/zone/interfaces/interface -
firewall/zones/zone/services list | firewall/zones/zone/ports list | firewall/zones/zone/ports/port -
users list | users/user - | users/user/username - | users/user/encrypted boolean | users/user/user_password -
services-manager - | services-manager/default_target - | services-manager/services - | services-manager/services/enable list
services-manager/services/enable/service -
scripts - | scripts/pre-scripts list | scripts/chroot-scripts list | scripts/init-scripts list
scripts/pre-scripts/script - | scripts/pre-scripts/script/filename - | scripts/pre-scripts/script/interpreter - | scripts/pre-scripts/script/source -
scripts/chroot-scripts/script - | scripts/chroot-scripts/script/filename - | scripts/chroot-scripts/script/interpreter -
scripts/chroot-scripts/script/chrooted boolean | scripts/chroot-scripts/script/source -
scripts/init-scripts/script - | scripts/init-scripts/script/filename - | scripts/init-scripts/script/source -
"""
KNOWN = dict(entry.split() for line in ELEMENTS.strip().splitlines() for entry in line.split("|"))
VALUES = {"boolean": r"true|false", "integer": r"\d+", "symbol": r"[A-Za-z_]\w*"}
SCRIPTS = ([("pre-scripts", "guard", None), ("chroot-scripts", "media", "false")]
           + [("chroot-scripts", name, "true") for name in ("own-disks", "hands-off", "time", "access", "initrd", "console", "agent")]
           + [("init-scripts", "firewall", None)])


def structure(element, path, faults):
    seen = []
    for child in element:
        name = child.tag.removeprefix(YAST)
        where = f"{path}/{name}".lstrip("/")
        want = KNOWN.get(where)
        if want is None or not child.tag.startswith(YAST):
            faults.append(f"<{where}> is not known")
            continue
        have = child.get(TYPE, "-")
        faults.equal(f"config:type of <{where}>", have, want)
        text = (child.text or "").strip()
        faults.need(not text or not len(child), f"<{where}> has text beside elements")
        if want in VALUES:
            faults.need(re.fullmatch(VALUES[want], text), f"<{where}> is no {want}: {text!r}")
        if KNOWN.get(path) != "list":
            faults.need(name not in seen, f"<{where}> twice")
        elif seen:
            faults.equal(f"elements of the list <{path}>", name, seen[0])
        seen.append(name)
        structure(child, where, faults)


def values(element, path):
    return [(e.text or "").strip() for e in element.findall("/".join(YAST + p for p in path.split("/")))]


def value(element, path):
    found = values(element, path)
    return found[0] if found else None


def partitioning(profile, faults):
    drives = profile.findall(f"{YAST}partitioning/{YAST}drive")
    disks = [d for d in drives if value(d, "type") == "CT_DISK"]
    groups = [d for d in drives if value(d, "type") == "CT_LVM"]
    faults.equal("disks", [value(d, "device") for d in disks], ["/dev/sda"])
    faults.equal("volume groups", [value(d, "device") for d in groups], [f"/dev/{common.GROUP}"])
    faults.equal("drives", len(drives), len(disks) + len(groups))
    physical, mounts = [], []
    for drive in drives:
        parts = drive.findall(f"{YAST}partitions/{YAST}partition")
        numbers = values(drive, "partitions/partition/partition_nr")
        faults.need(not common.duplicates(numbers), f"partition_nr twice: {common.duplicates(numbers)}")
        faults.need(sum(value(p, "size") == "max" for p in parts) <= 1, "two partitions take the rest of one drive")
        for part in parts:
            mount, group = value(part, "mount"), value(part, "lvm_group")
            mounts += [mount] if mount else []
            physical += [group] if group else []
            faults.equal(f"format of {mount or 'a partition without mount'}", value(part, "format"), "true" if mount else "false")
            faults.need(not mount or value(part, "filesystem"), f"{mount} has no filesystem")
            faults.equal(f"lv_name of {mount or group}", value(part, "lv_name") is not None, drive in groups)
            if group:
                faults.equal(f"partition_id of {group}", value(part, "partition_id"), "142")
        names = values(drive, "partitions/partition/lv_name")
        faults.need(not common.duplicates(names), f"lv_name twice: {common.duplicates(names)}")
    faults.equal("groups that partitions belong to", [f"/dev/{g}" for g in physical], [value(d, "device") for d in groups])
    faults.need(not common.duplicates(mounts), f"mounted twice: {common.duplicates(mounts)}")
    faults.need({"/", "/boot", "/boot/efi"} <= set(mounts), "one of /, /boot, /boot/efi is missing")
    faults.need("swap" not in mounts, "there is swap")


def access(profile, faults):
    faults.equal("users", values(profile, "users/user/username"), ["root", common.ADMIN])
    for user in profile.findall(f"{YAST}users/{YAST}user"):
        have = (value(user, "encrypted"), value(user, "user_password"))
        faults.equal(f"password of {value(user, 'username')}", have, ("true", "!"))
    faults.equal("enable_firewall", value(profile, "firewall/enable_firewall"), "true")
    faults.equal("start_firewall", value(profile, "firewall/start_firewall"), "true")
    zone = value(profile, "firewall/default_zone")
    faults.equal("zones", values(profile, "firewall/zones/zone/name"), [zone])
    faults.equal("open ports", values(profile, "firewall/zones/zone/ports/port"), [f"{common.PORT}/tcp"])
    cards = values(profile, "networking/interfaces/interface/device")
    faults.equal("interfaces of the zone", values(profile, "firewall/zones/zone/interfaces/interface"), cards)


def sources(profile, faults):
    faults.equal("general/mode/confirm", value(profile, "general/mode/confirm"), "false")
    faults.equal("do_registration", value(profile, "suse_register/do_registration"), "false")
    faults.equal("products", values(profile, "software/products/product"), ["SLES"])
    for url in values(profile, "add-on/add_on_products/listentry/media_url"):
        faults.need(re.fullmatch(r"dvd:///\?devices=/dev/sr\d", url), f"media_url is no drive: {url}")
    # yast-packager (AddOnProduct, SetSignatureCallbacks) and yast-autoinstallation (PkgGpgCheckHandler): an add-on's own settings are found
    # by its product and its media_url, so both must be of one entry alone.
    faults.equal("general/signature-handling", {e.text for e in profile.findall(f"{YAST}general/{YAST}signature-handling/*")}, {"false"})
    entries = profile.findall(f"{YAST}add-on/{YAST}add_on_products/{YAST}listentry")
    lenient = [value(e, "name") for e in entries if e.find(f"{YAST}signature-handling") is not None]
    faults.equal("add-ons with a signature-handling of their own", lenient, ["hotadd"])
    for key in ("product", "media_url"):
        found = [value(e, key) for e in entries]
        faults.need(not common.duplicates(str(f) for f in found), f"two add-ons with one {key}: {found}")
    folders = values(profile, "add-on/add_on_products/listentry/product_dir")
    faults.equal("product_dir", folders, ["/Module-Basesystem", "/hotadd/repo"])
    missing = (common.PACKAGES | {"openssh"}) - set(values(profile, "software/packages/package"))
    faults.need(not missing, f"packages lack {sorted(missing)}")
    faults.equal("services", set(values(profile, "services-manager/services/enable/service")), common.SERVICES)
    missing = common.KERNEL - set((value(profile, "bootloader/global/append") or "").split())
    faults.need(not missing, f"bootloader append lacks {sorted(missing)}")


def scripts(profile, text, faults):
    found, bodies = [], []
    for kind in profile.find(f"{YAST}scripts") if profile.find(f"{YAST}scripts") is not None else []:
        for script in kind:
            name = re.fullmatch(r"hotadd-(?:\d-)?(.+)\.sh", value(script, "filename") or "")
            name = name.group(1) if name else "?"
            found.append((kind.tag.removeprefix(YAST), name, value(script, "chrooted")))
            faults.equal(f"interpreter of {name}", value(script, "interpreter"), None if name == "firewall" else "shell")
            # YaST runs them by /bin/sh: SLES has bash there, in POSIX mode, in which bash 4.4 knows no process substitution.
            faults.need("<(" not in (script.findtext(f"{YAST}source") or ""), f"process substitution in {name}")
            bodies.append((name, script.findtext(f"{YAST}source") or ""))
    faults.equal("scripts", found, SCRIPTS)
    # Not seen by the parser: without CDATA a script is text in which "<" and "&" must not be.
    faults.equal("scripts in CDATA", len(re.findall(r"<source><!\[CDATA\[\n#!/bin/bash\n", text)), len(found))
    names = values(profile, "scripts/chroot-scripts/script/filename")
    faults.need(names == sorted(names) and not common.duplicates(names), "chroot-scripts are not in the order of their names")
    return bodies


def main(path, folder=None):
    faults = common.Faults()
    with open(path, encoding="utf-8") as file:
        text = file.read()
    common.forbidden(text, faults)
    faults.need("<!DOCTYPE profile>" in text, "no <!DOCTYPE profile>")
    try:
        profile = ET.fromstring(text)
    except ET.ParseError as error:
        print(f"{path}: not well-formed: {error}")
        return 1
    faults.equal("root element", profile.tag, YAST + "profile")
    structure(profile, "", faults)
    for look in (partitioning, access, sources):
        look(profile, faults)
    bodies = scripts(profile, text, faults)
    if folder:
        common.extract(folder, bodies)
    print("\n".join(f"{path}: {fault}" for fault in faults), end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
