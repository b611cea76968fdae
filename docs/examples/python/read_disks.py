#!/usr/bin/env python3
"""Reads every disk of a VM into a sparse file: open, read, verify, close.

read_disks.py AGENT:PORT FOLDER-WITH-CERTIFICATES VM FOLDER
"""

import sys
import uuid
from pathlib import Path

from blake3 import blake3

from hotadd import Agent, HotaddError, Opened, Session
from hotadd.v1.disk_pb2 import CONSISTENCY_PREFER_APP, OpenDisksRequest, SnapshotRequest


def read(session: Session, disk: Opened, image: Path) -> str:
    whole = blake3()
    with image.open("wb") as out:
        out.truncate(disk.capacity)
        for block in session.read(disk):
            whole.update(block.data)
            if not block.zero:
                out.seek(block.offset)
                out.write(block.data)
    if blake3().update_mmap(image).digest() != whole.digest():
        raise HotaddError("", f"{image} does not hold what came")
    return whole.hexdigest()


def main(target: str, pki: Path, vm: str, folder: Path) -> None:
    take = SnapshotRequest(consistency=CONSISTENCY_PREFER_APP)
    request = OpenDisksRequest(request_id=str(uuid.uuid4()), vm=vm, take=take)
    with Agent(target, pki / "ca.pem", pki / "client.pem", pki / "client.key") as agent, agent.open(request) as session:
        for disk in session.disks:
            image = folder / f"{disk.key}.raw"
            print(f"{read(session, disk, image)}  {image}")
        for key, reasons in session.refused.items():
            raise reasons[0] if reasons else HotaddError("", f"disk {key} was not opened")


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    except HotaddError as error:
        sys.exit(f"{error}  (cleanup: {error.cleanup}, retry after: {error.retry_after})")
