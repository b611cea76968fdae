#!/usr/bin/env python3
"""One job, every disk of a VM into a sparse file; believed only when the agent says OK, nothing is owed, and every byte came once with its hash.

backup_vm.py AGENT:PORT FOLDER-WITH-CERTIFICATES VM FOLDER
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from pathlib import Path

import grpc

from hotadd import Agent, HotaddError
from hotadd.client import checked, told
from hotadd.v1 import common_pb2, disk_pb2, job_pb2


class Coming:
    """A disk that is being received: its file, and the ranges that have not come yet."""

    def __init__(self, opened: job_pb2.DiskOpened, folder: Path) -> None:
        self.disk = opened.disk
        mapped = opened.HasField("map") and opened.map.scope != job_pb2.SCOPE_WHOLE
        areas = [(a.offset, a.offset + a.length) for a in opened.map.areas]
        self.left = areas if mapped else [(0, self.disk.capacity_bytes)]
        self.image = (folder / f"{self.disk.device_key}.raw").open("wb")
        self.image.truncate(self.disk.capacity_bytes)

    def take(self, frame: common_pb2.Frame) -> None:
        block = checked(frame)
        at, end = self.left[0] if self.left else (-1, -1)
        if block.offset != at or at + frame.length > end:
            raise HotaddError("", f"{self.disk.label}: bytes at {block.offset} were not next")
        self.left[0] = (at + frame.length, end)
        if at + frame.length == end:
            del self.left[0]
        if not block.zero:
            self.image.seek(block.offset)
            self.image.write(block.data)


def ended(agent: Agent, request_id: str) -> job_pb2.JobResult:
    """How a job ended whose stream broke. It ends by that, and gives everything back."""
    deadline = time.monotonic() + 600
    while True:
        try:
            with told():
                result: job_pb2.JobResult = agent.jobs.GetJob(job_pb2.GetJobRequest(request_id=request_id), timeout=10)
        except HotaddError as error:
            # Without a code nobody answers: the port is closed while the agent gives back what an earlier run left.
            if (error.code and not error.retry_after) or time.monotonic() > deadline:
                raise
            time.sleep(error.retry_after or 2)
            continue
        running = result.state == job_pb2.JOB_STATE_RUNNING or result.cleanup != common_pb2.CLEANUP_DONE
        if not running or result.resume_until or time.monotonic() > deadline:
            return result
        time.sleep(2)


def backup(agent: Agent, vm: str, folder: Path) -> tuple[job_pb2.JobResult, dict[int, Coming]]:
    take = disk_pb2.SnapshotRequest(consistency=disk_pb2.CONSISTENCY_PREFER_APP)
    request = job_pb2.BackupVmRequest(request_id=str(uuid.uuid4()), vm=vm, snapshot=take)
    disks: dict[int, Coming] = {}
    stream = agent.jobs.BackupVm(request)
    try:
        for event in stream:
            item = event.WhichOneof("item")
            if item == "opened" and event.opened.disk.device_key not in disks:
                disks[event.opened.disk.device_key] = Coming(event.opened, folder)
            elif item == "frame":
                disks[event.frame.device_key].take(event.frame)
            elif item == "waiting":
                print(f"waiting, place {event.waiting.reason.queue_position}: {event.waiting.reason.message}")
            elif item == "result":
                return event.result, disks
    except grpc.RpcError as error:
        refused = HotaddError.of_call(error)
        if refused.code:
            raise refused from error
    finally:
        stream.cancel()  # whoever leaves early ends the job by it
    return ended(agent, request.request_id), disks


def verdict(result: job_pb2.JobResult, disks: dict[int, Coming]) -> None:
    """Returns only for a backup."""
    if result.state != job_pb2.JOB_STATE_OK or result.cleanup != common_pb2.CLEANUP_DONE:
        raise HotaddError.of_reason(result.reasons[0] if result.reasons else common_pb2.Reason(message="no reason was given"))
    for one in result.disks:
        disk = disks.get(one.disk.device_key)
        if not one.ok or disk is None or disk.left:
            raise HotaddError("", f"{one.disk.label} did not come whole")
        disk.image.flush()
        os.fsync(disk.image.fileno())


def main(target: str, pki: Path, vm: str, folder: Path) -> None:
    with Agent(target, pki / "ca.pem", pki / "client.pem", pki / "client.key") as agent:
        result, disks = backup(agent, vm, folder)
        verdict(result, disks)
        print(f"job {result.job_id}: {len(disks)} disks")


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    except HotaddError as error:
        sys.exit(f"{error}  (cleanup: {error.cleanup}, retry after: {error.retry_after})")
