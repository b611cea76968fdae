"""What both installation files must hold to, whatever their form: the names they share, and what no text in them may say."""
import os
import re

PORT = "7443"  # docs/configuration.md, `listen`
ADMIN = "hotadd-admin"
GROUP = "vg_hotadd"  # known to scripts/hands-off
SERVICES = {"sshd", "chronyd", "vmtoolsd", "firewalld"}
PACKAGES = {"chrony", "firewalld", "hotadd-agent", "lvm2", "open-vm-tools", "sudo"}
KERNEL = {"rd.auto=0", "rd.md=0", "rd.dm=0", "rd.multipath=0", "systemd.gpt_auto=0", "rd.shell=0", "rd.emergency=reboot", "panic=60"}

# (pattern, what is wrong). Comments are looked at too: an example is copied sooner or later.
FORBIDDEN = [
    (r"\b(?:(?:sd[b-z]|sd[a-z]{2}|x?vd[a-z]|hd[a-z])\d*\b|nvme\d)", "names a disk other than sda"),
    (r"\b(?:https?|ftps?|nfs|tftp|smb|ssh)://(?!www\.suse\.com/1\.0/)", "names a host of a network"),
    (r"^\s*(?:pool|server)\s+[a-z0-9]", "names a time server"),
    (r"\b(?:curl|wget|dnf|yum|zypper|pip|git)\s", "fetches something"),
    (r"--(?:plaintext|password|iscrypted)\b|\$[156y]\$", "holds a password"),
    (r"BEGIN [A-Z ]*PRIVATE KEY-", "holds a private key"),
    (r"^%include\b", "needs a second file"),
]


class Faults(list):
    """Collected faults; a fault is one line."""

    def need(self, condition, text):
        if not condition:
            self.append(text)

    def equal(self, what, have, want):
        self.need(have == want, f"{what}: {have!r}, not {want!r}")


def forbidden(text, faults):
    for pattern, wrong in FORBIDDEN:
        for found in re.finditer(pattern, text, re.M):
            line = text.count("\n", 0, found.start()) + 1
            faults.append(f"line {line} {wrong}: {found.group(0).strip()}")


def extract(folder, scripts):
    """Writes each (name, body) of scripts as folder/name."""
    os.makedirs(folder, exist_ok=True)
    for name, body in scripts:
        with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
            out.write(body.lstrip("\n"))


def duplicates(values):
    values = list(values)
    return sorted({v for v in values if values.count(v) > 1})
