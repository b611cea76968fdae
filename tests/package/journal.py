#!/usr/bin/env python3
"""journal.py DIR open|settled|damaged: writes the journal of an agent with one attached disk, with that disk detached again, or with a flipped bit before its end."""
import json
import pathlib
import struct
import sys

DUTY = "018f0000-0000-7000-8000-000000000001"
BEGAN = {
    "record": "began", "id": DUTY, "session": "018f0000-0000-7000-8000-000000000002", "vm": "vm-42", "vm_name": "web01",
    "login": "the key of a vCenter session", "since": "2026-01-01T00:00:00Z", "phase": "intended",
    "kind": {"attach": {"backing": "[ds1] web01/web01.vmdk", "uuid": "6000c29abcdef0123456789abcdef012",
                        "capacity_bytes": 1 << 30, "slot": {"controller_key": 1001, "unit": 3}}},
}
CONFIRMED = {"record": "confirmed", "duty": DUTY, "device_key": 2016}
RETIRED = {"record": "retired", "duty": DUTY, "at": "2026-01-01T00:00:01Z", "proof": "test"}


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def frame(record):
    checked = b"\x01" + json.dumps(record).encode()
    return struct.pack("<II", len(checked) - 1, crc32c(checked)) + checked


folder, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
records = {"open": [BEGAN, CONFIRMED], "settled": [BEGAN, CONFIRMED, RETIRED], "damaged": [BEGAN, CONFIRMED, RETIRED]}[kind]
content = bytearray(b"HAJ1" + b"".join(map(frame, records)))
if kind == "damaged":
    content[40] ^= 1
folder.mkdir(parents=True, exist_ok=True)
(folder / "journal").write_bytes(content)
