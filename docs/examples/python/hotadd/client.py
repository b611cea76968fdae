"""Sessions of hotadd.v1: disks of a VM's snapshot, open until they are closed. Checks what it receives; decides nothing else.

Everything beyond is in the stubs: `Agent.jobs`, `Agent.disks` and `Agent.proxy` are those of JobService, DiskService and ProxyService.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import grpc
from blake3 import blake3
from google.protobuf import any_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from hotadd.v1 import common_pb2, disk_pb2, disk_pb2_grpc, job_pb2_grpc, proxy_pb2_grpc

# The largest block with its envelope; gRPC's default of 4 MiB is too small for it.
MAX_MESSAGE_BYTES = (4 << 20) + (64 << 10)


class HotaddError(Exception):
    """A refusal or a failure. Branch on `code`: it is one of docs/reasons.md, or empty when the agent did not say it."""

    def __init__(self, code: str, message: str, next_step: str = "", cleanup: str = "unknown", retry_after: float | None = None) -> None:
        super().__init__(f"{code} {message}".strip() + (f"; next: {next_step}" if next_step else ""))
        self.code = code
        self.next_step = next_step
        self.cleanup = cleanup
        self.retry_after = retry_after

    @classmethod
    def of_reason(cls, reason: common_pb2.Reason) -> HotaddError:
        owed = {common_pb2.CLEANUP_DONE: "done", common_pb2.CLEANUP_OWED: "owed"}.get(reason.cleanup, "unknown")
        return cls(reason.code, reason.message, reason.next_step, owed, reason.retry_after_seconds or None)

    @classmethod
    def of_call(cls, error: grpc.RpcError) -> HotaddError:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        status = rpc_status.from_call(error) if isinstance(error, grpc.Call) else None
        after: float | None = None
        details: list[any_pb2.Any] = list(status.details) if status else []
        for detail in details:
            detail.Unpack(info)
            if detail.Unpack(retry):
                after = retry.retry_delay.ToTimedelta().total_seconds()
        ours = info.domain == "hotadd"
        message = status.message if status else str(error)
        told = info.metadata
        return cls(info.reason if ours else "", message, told.get("next_step", ""), told.get("cleanup", "unknown"), after)


@contextmanager
def told() -> Iterator[None]:
    """What gRPC raises, as the agent means it."""
    try:
        yield
    except grpc.RpcError as error:
        raise HotaddError.of_call(error) from error


@dataclass(frozen=True)
class Opened:
    """A disk that can be read."""

    key: int
    label: str
    capacity: int
    change_id: str


@dataclass(frozen=True)
class Block:
    """Bytes whose hash was checked. `zero`: all of them are zero."""

    offset: int
    data: bytes
    zero: bool


def checked(frame: common_pb2.Frame) -> Block:
    """The block of a frame that was not compressed, if its hash is right."""
    data = bytes(frame.length) if frame.zero else frame.data
    if len(data) != frame.length or blake3(data).digest() != frame.blake3:
        raise HotaddError("", f"disk {frame.device_key}: the block at {frame.offset} was damaged on its way")
    return Block(frame.offset, data, frame.zero)


class Agent:
    """A connection to one agent, by mutual TLS. A context manager."""

    def __init__(self, target: str, ca: Path, cert: Path, key: Path) -> None:
        credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key.read_bytes(), cert.read_bytes())
        # A stream that only waits learns by the pings that its agent is gone.
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        self.channel = grpc.secure_channel(target, credentials, options)
        self.disks = disk_pb2_grpc.DiskServiceStub(self.channel)
        self.jobs = job_pb2_grpc.JobServiceStub(self.channel)
        self.proxy = proxy_pb2_grpc.ProxyServiceStub(self.channel)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.channel.close()

    def open(self, request: disk_pb2.OpenDisksRequest) -> Session:
        """Opens the disks; the session is to be used as a context manager, which closes it."""
        with told():
            return Session(self, self.disks.OpenDisks(request))


class Session:
    """Disks that are open. Its lease is renewed by a thread until it is closed."""

    def __init__(self, agent: Agent, opened: disk_pb2.OpenDisksResponse) -> None:
        self.id = opened.session_id
        self.disks = [
            Opened(one.disk.device_key, one.disk.label, one.disk.capacity_bytes, one.disk.change_id) for one in opened.disks if one.opened
        ]
        self.refused = {one.disk.device_key: [HotaddError.of_reason(r) for r in one.reasons] for one in opened.disks if not one.opened}
        self._agent = agent
        self._closed = threading.Event()
        self._renewing = threading.Thread(target=self._renew, args=(opened.lease_seconds / 3,), daemon=True)
        self._renewing.start()

    def _renew(self, pause: float) -> None:
        while not self._closed.wait(pause):
            try:
                self._agent.disks.KeepAlive(disk_pb2.KeepAliveRequest(session_id=self.id), timeout=pause)
            except grpc.RpcError:
                # A session that has ended says so to whoever reads it; a connection that is away may come back within the lease.
                continue

    def read(self, disk: Opened, ranges: list[tuple[int, int]] | None = None) -> Iterator[Block]:
        """Every block of these ranges (offset, length; none: of the whole disk) once and in order, or an error."""
        wanted = ranges or [(0, disk.capacity)]
        asked = [common_pb2.Range(offset=offset, length=length) for offset, length in wanted]
        request = disk_pb2.ReadDiskRequest(session_id=self.id, device_key=disk.key, ranges=asked)
        missing = iter(wanted)
        at, end = 0, 0
        done: common_pb2.DiskResult | None = None
        with told():
            for answer in self._agent.disks.ReadDisk(request):
                if answer.WhichOneof("item") == "done":
                    done = answer.done
                    continue
                if at == end:
                    at, length = next(missing, (-1, 0))
                    end = at + length
                block = checked(answer.frame)
                if block.offset != at or at + len(block.data) > end:
                    raise HotaddError("", f"{disk.label}: bytes at {block.offset} came instead of those at {at}")
                at += len(block.data)
                yield block
        if done is None or not done.ok:
            why = done.reasons[0] if done and done.reasons else common_pb2.Reason(message=f"{disk.label}: the stream was cut")
            raise HotaddError.of_reason(why)
        if at != end or next(missing, None) is not None:
            raise HotaddError("", f"{disk.label}: bytes after {at} did not come")

    def close(self) -> None:
        """Detaches everything. An error means that the agent still owes something: it goes on by itself."""
        self._closed.set()
        with told():
            answer = self._agent.disks.CloseDisks(disk_pb2.CloseDisksRequest(session_id=self.id))
        if answer.cleanup != common_pb2.CLEANUP_DONE:
            raise HotaddError.of_reason(answer.reasons[0])

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
