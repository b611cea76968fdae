#!/usr/bin/env python3
"""Holds the privileges that vcenter-sim asks for against those that pyvmomi's type table names for the methods.
Usage: check_privileges.py [FOLDER-OF-vcenter-sim's-sources]"""
import pathlib, re, sys
import pyVmomi
from pyVmomi import VmomiSupport as V

here = pathlib.Path(__file__).resolve().parent
sources = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here.parent / "vcenter-sim" / "src"
rules = re.findall(r'^    \("(\w+)", Rule::(\w+)(?:\("([\w.]+)"\))?\),$', (sources / "permit.rs").read_text(), re.M)
work = (sources / "ops" / "work.rs").read_text()
OWNERS = ["ServiceInstance", "SessionManager", "SearchIndex", "ViewManager", "View", "PropertyCollector", "PropertyFilter", "ManagedEntity",
          "VirtualMachine", "VirtualMachineSnapshot", "HttpNfcLease", "Task", "EventManager", "AuthorizationManager"]
EVERY_ROLE = {None, "System.Anonymous", "System.View"}

known = {}
for owner in OWNERS:
    t = V.GetWsdlType("urn:vim25", owner)
    known.update({getattr(t, k).info.wsdlName: getattr(t, k).info.privId for k in t._methodInfo})

def fault(method, rule, privilege):
    """Why a rule disagrees; None: it does not."""
    if rule == "Guard": return None if method not in known else "pyvmomi knows it now"
    if method not in known: return "pyvmomi does not know it"
    theirs = known[method]
    if rule in ("Root", "Vm"): return None if privilege == theirs else "%s, pyvmomi: %s" % (privilege, theirs)
    if rule == "Work": return None if theirs is None or '"%s"' % theirs in work else "work.rs does not ask for %s" % theirs
    return None if theirs in EVERY_ROLE else "nothing is asked for, pyvmomi: %s" % theirs

# It is not blind: each of these has to be refused.
for bad in [("ExportSnapshot", "Vm", "VApp.Import"), ("TerminateSession", "ByObject", ""), ("NoSuchMethod", "Open", "")]:
    assert fault(*bad), bad
faults = ["%s: %s" % (r[0], why) for r in rules for why in [fault(*r)] if why]
print("\n".join(faults) or "%d methods ask for what pyvmomi names" % len(rules))
sys.exit(1 if faults or len(rules) < 40 else 0)
