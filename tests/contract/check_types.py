#!/usr/bin/env python3
"""Checks recorded SOAP messages against pyvmomi's type table: known names, sequence order, required elements, value forms,
xsi:type, and nothing newer than the negotiated version. Usage: check_types.py [--version V] FOLDER|FILE …
The version is taken from the file's name (000012-8.0.2.0-ReconfigVM_Task-req.xml), else from --version, else 8.0.2.0.
Prints each finding and the counts; exit 1 on any finding."""
import argparse, os, re, sys
import xml.etree.ElementTree as ET

import pyVmomi                                    # noqa: F401 (loads the tables)
from pyVmomi import VmomiSupport as V

XSI = "{http://www.w3.org/2001/XMLSchema-instance}type"
VIM = "urn:vim25"
INTERNAL = "urn:internalvim25"
# The calls of the internal interface that may be sent, by name: elements in order; nested ones in brackets, * is a list,
# ? is optional. As in govmomi's authorization_manager_internal.go; nothing else is accepted in that namespace.
CALLS = {"DisableMethods": [("_this", None), ("entity*", None), ("method*", ["method", "reasonId"]), ("sourceId", None), ("sessionScope?", None)],
         "EnableMethods": [("_this", None), ("entity*", None), ("method*", None), ("sourceId", None)]}
ENVELOPES = ("http://schemas.xmlsoap.org/soap/envelope/",)
SCALARS = {"int": r"-?\d+", "short": r"-?\d+", "byte": r"-?\d+", "long": r"-?\d+", "boolean": "true|false|0|1",
           "dateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?", "double": ".+", "float": ".+", "base64Binary": ".*"}
counts = {"documents": 0, "elements": 0, "findings": 0}
reported = set()


def numbers(text): return tuple(int(x) for x in re.findall(r"\d+", text)) + (0,) * (4 - len(re.findall(r"\d+", text)))


def since(version):
    ident = V.GetVersionNamespace(version).split("/")[-1]
    if version.startswith("vmodl.") or not ident[:1].isdigit(): return (0, 0, 0, 0)
    return numbers(ident.split("u")[0])[:4]


class Checker:
    def __init__(self, name, version, quiet=False): self.name, self.version, self.quiet = name, numbers(version)[:4], quiet

    def finding(self, place, text):
        counts["findings"] += 1
        key = (re.sub(r"^\d+-", "", self.name), place, text)
        if key not in reported:
            reported.add(key)
            if not self.quiet: print(f"{self.name}: {place}: {text}")

    def local(self, e, place):
        ns, _, tag = e.tag.rpartition("}")
        if ns.lstrip("{") != VIM: self.finding(place, f"element {tag} is in namespace '{ns[1:]}'")
        return tag

    def xsi(self, e, place):
        """The wsdl name of xsi:type without prefix, and whether it is one of XML Schema's own."""
        t = e.get(XSI)
        if t is None: return None
        return t.split(":")[-1]

    def lookup(self, name, place):
        if name == "ManagedObjectReference": return V.ManagedObject
        if name == "ArrayOfManagedObjectReference": name = "ArrayOfManagedObject"     # its name on the wire
        for ns in (VIM, "http://www.w3.org/2001/XMLSchema"):
            try: return V.GetWsdlType(ns, name)
            except KeyError: pass
        self.finding(place, f"type {name} is unknown"); return None

    def value(self, e, declared, place):
        counts["elements"] += 1
        name = self.xsi(e, place)
        actual = declared
        if name is not None:
            actual = self.lookup(name, place)
            if actual is None: return
            if declared is V.GetWsdlType(VIM, "MethodFault") and name == "LocalizedMethodFault": pass
            elif declared is not object and not issubclass(actual, declared) and not (issubclass(actual, V.ManagedObject) and issubclass(declared, V.ManagedObject)) \
                    and not (issubclass(declared, str) and issubclass(actual, str)):
                return self.finding(place, f"xsi:type {name} does not fit {V.GetWsdlName(declared)}")
        elif declared is object: return self.finding(place, "anyType without xsi:type")
        if issubclass(actual, V.ManagedObject): return self.moref(e, declared, place)
        if issubclass(actual, list): return self.array(e, actual, place)
        if issubclass(actual, V.Enum) or actual is V.Enum: return self.enum(e, actual, place)
        method_fault = V.GetWsdlType(VIM, "MethodFault")
        if actual is method_fault and name is None and e.find("{%s}fault" % VIM) is not None: actual = V.GetWsdlType(VIM, "LocalizedMethodFault")
        if issubclass(actual, V.DataObject) or actual is V.GetWsdlType(VIM, "LocalizedMethodFault"): return self.data(e, actual, place)
        if len(e): return self.finding(place, "a simple value has children")
        wsdl = V.GetWsdlName(actual)
        form = SCALARS.get(wsdl)
        if form and not re.fullmatch(form, (e.text or "").strip()): self.finding(place, f"'{e.text}' is no {wsdl}")

    def moref(self, e, declared, place):
        t = e.get("type")
        if t is None: return self.finding(place, "reference without type attribute")
        actual = self.lookup(t, place)
        if actual is None: return
        if not issubclass(actual, V.ManagedObject): self.finding(place, f"{t} is no managed object")
        elif declared is not object and issubclass(declared, V.ManagedObject) and not issubclass(actual, declared): self.finding(place, f"{t} is no {V.GetWsdlName(declared)}")
        if not (e.text or "").strip(): self.finding(place, "empty reference")

    def array(self, e, actual, place):
        for k in e: self.value(k, actual.Item, f"{place}/{self.local(k, place)}")

    def enum(self, e, actual, place):
        if (e.text or "").strip() not in [str(v) for v in actual.values]: self.finding(place, f"'{e.text}' is no value of {V.GetWsdlName(actual)}")

    def data(self, e, actual, place):
        wsdl = V.GetWsdlName(actual)
        if hasattr(actual, "_version") and since(actual._version) > self.version: self.finding(place, f"type {wsdl} is newer than the version")
        props = [p for p in actual._GetPropertyList() if not (issubclass(actual, V.GetWsdlType(VIM, "MethodFault")) and p.name == "msg")]
        self.sequence(list(e), props, f"{place}({wsdl})")

    def sequence(self, kids, props, place):
        names, at, seen = [p.name for p in props], 0, {}
        for k in kids:
            tag = self.local(k, place)
            if tag not in names: self.finding(place, f"unknown element {tag}"); continue
            i = names.index(tag); p = props[i]
            if i < at: self.finding(place, f"{tag} is out of order")
            at = max(at, i); seen[tag] = seen.get(tag, 0) + 1
            if since(p.version) > self.version: self.finding(place, f"{tag} is newer ({V.GetVersionNamespace(p.version)}) than the version")
            is_list = issubclass(p.type, list)
            if seen[tag] == 2 and not is_list: self.finding(place, f"{tag} is repeated")
            declared = p.type.Item if is_list else p.type
            # In a list a fault travels as LocalizedMethodFault too; <fault> inside one is the fault itself.
            self.value(k, declared, f"{place}/{tag}")
        for p in props:
            if not p.flags & V.F_OPTIONAL and p.name not in seen and since(p.version) <= self.version and not issubclass(p.type, list):
                self.finding(place, f"required element {p.name} is missing")

    def fault(self, e):
        detail = e.find("detail")
        if detail is None or len(detail) != 1: return self.finding("Fault", "no single detail")
        d = detail[0]; tag = self.local(d, "Fault")
        if not tag.endswith("Fault") or self.xsi(d, "Fault") != tag[:-5]: self.finding("Fault", f"detail {tag} has xsi:type {d.get(XSI)}")
        actual = self.lookup(tag[:-5], "Fault")
        if actual is not None: self.data(d, actual, tag)

    def document(self, root):
        if root.tag.rpartition("}")[0].lstrip("{") not in ENVELOPES: return self.finding("/", "no SOAP 1.1 envelope")
        body = next((k for k in root if k.tag.endswith("}Body")), None)
        if body is None or len(body) != 1: return self.finding("/", "no single element in the Body")
        e = body[0]
        if e.tag.endswith("}Fault"): return self.fault(e)
        name = e.tag.rpartition("}")[2]
        if name in CALLS: return self.internal(e, name)
        if name.endswith("Response") and name[:-8] in CALLS:
            # The answer comes in the public namespace and says nothing.
            if e.tag != "{%s}%s" % (VIM, name) or len(e): self.finding(name, "not an empty answer in " + VIM)
            return None
        tag = self.local(e, "/")
        response = tag.endswith("Response")
        name = tag[:-8] if response else tag
        if name == "Fetch": return self.fetch(e, response)
        this = e.find("{%s}_this" % VIM)
        info = self.method(name, this)
        if info is None: return self.finding(tag, "unknown method")
        if since(info.version) > self.version: self.finding(tag, "the method is newer than the version")
        if response:
            result = V.GetWsdlType(VIM, "Task") if name.endswith("_Task") else info.result
            for k in e:
                if self.local(k, tag) != "returnval": self.finding(tag, f"unexpected {k.tag}")
            if result is V.NoneType: return None if not len(e) else self.finding(tag, "a result where none is declared")
            item = result.Item if issubclass(result, list) else result
            for k in e: self.value(k, item, f"{tag}/returnval")
            if len(e) > 1 and not issubclass(result, list): self.finding(tag, "more than one returnval")
        else:
            if this is None: self.finding(tag, "no _this")
            else: self.moref(this, V.ManagedObject, f"{tag}/_this")
            if len(e) and e[0] is not this: self.finding(tag, "_this is not first")
            self.sequence([k for k in e if k is not this], list(info.params), tag)

    def internal(self, e, name):
        """A call of the internal interface against CALLS: namespace, names, order, count; references by their type."""
        for k in e.iter():
            if not k.tag.startswith("{%s}" % INTERNAL): self.finding(name, f"{k.tag} is not in {INTERNAL}")
        kids = [k.tag.rpartition("}")[2] for k in e]
        at = 0
        for entry, nested in CALLS[name]:
            want, many, optional = entry.rstrip("*?"), entry.endswith("*"), entry.endswith("?")
            found = 0
            while at < len(kids) and kids[at] == want and (many or not found):
                k = e[at]
                if want in ("_this", "entity"): self.moref(k, V.ManagedObject, f"{name}/{want}")
                elif [x.tag.rpartition("}")[2] for x in k] != (nested or []): self.finding(f"{name}/{want}", "unexpected content")
                at, found = at + 1, found + 1
            if not found and not optional: self.finding(name, f"required element {want} is missing or out of order")
        if at < len(kids): self.finding(name, f"unexpected element {kids[at]}")

    def method(self, name, this):
        """A request says by _this whose method it is; an answer only names it (Destroy of several kinds is one method)."""
        kinds = [self.lookup(this.get("type"), name)] if this is not None else []
        for t in [k for k in kinds if k is not None]:
            for k in dir(t):
                m = getattr(t, k, None)
                if isinstance(m, V.ManagedMethod) and m.info.wsdlName == name: return m.info
        try: return V.GetWsdlMethod(VIM, name).info
        except KeyError:
            try: return V.GuessWsdlMethod(name).info
            except KeyError: return None

    def fetch(self, e, response):
        for k in e:
            if response: self.value(k, object, "FetchResponse/returnval")


BAD = {
    "order": ("VirtualMachine", "vm-1", "ReconfigVM_Task", "<spec><name>a</name><changeVersion>b</changeVersion></spec>"),
    "unknown element": ("VirtualMachine", "vm-1", "ReconfigVM_Task", "<spec><bogus>a</bogus></spec>"),
    "missing element": ("VirtualMachine", "vm-1", "CreateSnapshot_Task", "<name>a</name>"),
    "repeated": ("VirtualMachine", "vm-1", "ReconfigVM_Task", "<spec><name>a</name><name>b</name></spec>"),
    "wrong class": ("VirtualMachine", "vm-1", "ReconfigVM_Task", '<spec xsi:type="AboutInfo"/>'),
    "enum": ("VirtualMachine", "vm-1", "ReconfigVM_Task", '<spec><deviceChange><operation>attach</operation><device xsi:type="VirtualDisk"><key>1</key><capacityInKB>0</capacityInKB></device></deviceChange></spec>'),
    "number": ("VirtualMachine", "vm-1", "ReconfigVM_Task", "<spec><memoryMB>x</memoryMB></spec>"),
    "too new": ("VirtualMachine", "vm-1", "ReconfigVM_Task", '<spec><deviceChange><device xsi:type="VirtualDisk"><key>1</key><capacityInKB>0</capacityInKB><guestReadOnly>true</guestReadOnly></device></deviceChange></spec>'),
    "method of another type": ("Datastore", "ds-1", "NoSuchMethod_Task", ""),
    "reference": ("NoSuchType", "x", "ReconfigVM_Task", "<spec/>"),
}


# The same for the internal calls: (namespace, method, arguments).
MANAGER = ("AuthorizationManager", "AuthorizationManager")
ENTITY = '<entity type="VirtualMachine">vm-1</entity>'
ONE = "<method><method>a</method><reasonId>b</reasonId></method>"
BAD_INTERNAL = {
    "internal call in the public namespace": (VIM, "DisableMethods", ENTITY + ONE + "<sourceId>s</sourceId>"),
    "public call in the internal namespace": (INTERNAL, "HasPrivilegeOnEntities", ""),
    "internal order": (INTERNAL, "DisableMethods", ONE + ENTITY + "<sourceId>s</sourceId>"),
    "internal missing element": (INTERNAL, "EnableMethods", ENTITY + "<method>a</method>"),
    "internal content": (INTERNAL, "EnableMethods", ENTITY + ONE + "<sourceId>s</sourceId>"),
    "internal unknown element": (INTERNAL, "EnableMethods", ENTITY + "<method>a</method><sourceId>s</sourceId><more>1</more>"),
    "internal look-alike": (INTERNAL, "EnableMethodsNow", ENTITY),
}
GOOD_INTERNAL = {
    "disable": (INTERNAL, "DisableMethods", ENTITY + ONE + ONE + "<sourceId>s</sourceId><sessionScope>true</sessionScope>"),
    "enable": (INTERNAL, "EnableMethods", ENTITY + ENTITY + "<method>a</method><sourceId>s</sourceId>"),
}


def self_test():
    """The checker must be able to find each kind of mistake, and nothing in a good request."""
    wrap = '<s:Envelope xmlns:s="%s" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><s:Body><%s xmlns="%s"><_this type="%s">%s</_this>%s</%s></s:Body></s:Envelope>'
    blind = []
    cases = {what: (VIM, *case) for what, case in {"nothing": ("VirtualMachine", "vm-1", "PowerOnVM_Task", ""), **BAD}.items()}
    cases.update({what: (ns, *MANAGER, *case) for what, (ns, *case) in {**GOOD_INTERNAL, **BAD_INTERNAL}.items()})
    for what, (ns, ty, ident, method, args) in cases.items():
        counts["findings"] = 0
        Checker(f"self-test {what}", "6.7", quiet=True).document(ET.fromstring(wrap % (ENVELOPES[0], method, ns, ty, ident, args, method)))
        if (counts["findings"] > 0) != (what in BAD or what in BAD_INTERNAL): blind.append(what)
    counts.update(elements=0, findings=0); reported.clear()
    if blind: raise SystemExit(f"check_types.py is blind to: {', '.join(blind)}")
    print(f"self-test: {len(BAD) + len(BAD_INTERNAL)} kinds of mistakes found")


def main():
    self_test()
    p = argparse.ArgumentParser(); p.add_argument("paths", nargs="+"); p.add_argument("--version", default="8.0.2.0")
    a = p.parse_args()
    files = []
    for path in a.paths:
        if os.path.isdir(path): files += [os.path.join(d, f) for d, _, fs in os.walk(path) for f in sorted(fs) if f.endswith(".xml")]
        elif os.path.exists(path): files.append(path)
        else: print(f"{path}: no such file"); counts["findings"] += 1
    for f in files:
        name = os.path.basename(f)
        m = re.match(r"(?:\d+-)?(\d+(?:\.\d+)+)-", name)
        version = m.group(1) if m else a.version
        checker = Checker(name, version if numbers(version)[:4] != (0, 0, 0, 0) else a.version)
        try: root = ET.parse(f).getroot()
        except ET.ParseError as e: checker.finding("/", f"not well-formed: {e}"); continue
        counts["documents"] += 1
        checker.document(root)
    if not counts["documents"]: print("no documents"); counts["findings"] += 1
    print("{documents} documents, {elements} elements, {findings} findings".format(**counts))
    return 1 if counts["findings"] else 0


if __name__ == "__main__": sys.exit(main())
