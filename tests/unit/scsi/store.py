"""The other side of a procedure: disks in memory, a clock, and what is kept; faults where a test wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.outcome import Reply
from csvd.scsi.procedure import (
    AbortTasks,
    Allocation,
    Background,
    DiskFault,
    Entropy,
    Extent,
    Flush,
    Keep,
    Now,
    Pause,
    Prefetch,
    Procedure,
    Read,
    Request,
    Steps,
    Unmap,
    Until,
    Usage,
    Write,
    WriteZeroes,
)


class Store:
    """Carries out the requests of procedures, one procedure at a time; claims are granted unseen.

    Attributes:
        disks: the bytes of each logical unit, by its number; made of zeros when first touched.
        requests: all that was asked, in order.
        background: steps that wait for `run_background`.
        aborted: (LUN, nexuses) of each AbortTasks.
        now_s: the time.
        fault: called with each request; an errno that it returns fails the request.
        allocated: what `Allocation` answers, by LUN; all allocated where there is no entry.
        used_bytes: what `Usage` answers.
    """

    def __init__(self) -> None:
        self.disks: dict[int, bytearray] = {}
        self.requests: list[Request] = []
        self.background: list[Steps] = []
        self.aborted: list[tuple[int, tuple[str, ...]]] = []
        self.now_s = 1000.0
        self.fault: Callable[[Request], int | None] = lambda request: None
        self.allocated: dict[int, list[Extent]] = {}
        self.used_bytes: int | None = None
        self.entropy_drawn = 0

    def disk(self, unit: LogicalUnit) -> bytearray:
        """The bytes of a logical unit."""
        return self.disks.setdefault(unit.number, bytearray(unit.block_bytes * unit.block_count))

    def run(self, procedure: Procedure) -> Reply:
        """Run a procedure to its reply."""
        return self.run_steps(procedure.steps)

    def run_background(self) -> list[Reply]:
        """Run what was put in the background, and what that puts there."""
        replies = []
        while self.background:
            replies.append(self.run_steps(self.background.pop(0)))
        return replies

    def run_steps(self, steps: Steps) -> Reply:
        """Run steps to their reply."""
        answer: Any = None
        while True:
            try:
                request = steps.throw(answer) if isinstance(answer, DiskFault) else steps.send(answer)
            except StopIteration as end:
                reply = end.value
                break
            answer = self.answer(request)
        assert isinstance(reply, Reply)
        return reply

    def answer(self, request: Request) -> Any:
        """What a procedure gets for a request: a `DiskFault` is raised at its yield."""
        self.requests.append(request)
        number = self.fault(request)
        if number is not None:
            assert isinstance(request, Read | Write | Flush | Unmap | WriteZeroes | Allocation | Usage | Keep)
            operation = {Write: "write", Flush: "flush", Unmap: "unmap", WriteZeroes: "write zeroes", Keep: "write"}
            offset_bytes = getattr(request, "offset_bytes", 0)
            return DiskFault(request.unit, operation.get(type(request), "read"), number, offset_bytes)
        match request:
            case Read(unit, offset, length):
                assert offset % unit.block_bytes == length % unit.block_bytes == 0, "some disks read whole blocks"
                return memoryview(bytes(self.disk(unit)[offset : offset + length]))
            case Write(unit, offset, data, _):
                assert offset % unit.block_bytes == len(data) % unit.block_bytes == 0, "and write whole blocks"
                assert offset + len(data) <= len(self.disk(unit))
                self.disk(unit)[offset : offset + len(data)] = data
            case Unmap(unit, offset, length) | WriteZeroes(unit, offset, length):
                assert offset + length <= len(self.disk(unit))
                self.disk(unit)[offset : offset + length] = bytes(length)
            case Allocation(unit, offset, length, most):
                return self._allocation(unit, offset, length)[:most]
            case Usage():
                return self.used_bytes
            case Keep(unit, name, value):
                if value is None:
                    unit.kept.pop(name, None)
                else:
                    unit.kept[name] = value
            case AbortTasks(unit, nexuses):
                self.aborted.append((unit.number, tuple(nexuses)))
            case Until(begin):
                reached: list[bool] = []
                begin(lambda: reached.append(True))
                while not reached:
                    assert self.background, "nobody else runs here, so there is nothing to wait for"
                    self.run_steps(self.background.pop(0))
            case Background(steps, _):
                self.background.append(steps)
            case Entropy(length_bytes):
                self.entropy_drawn += 1
                return self.entropy_drawn.to_bytes(length_bytes, "little")
            case Pause(duration_s):
                self.now_s += duration_s
                self.run_background()
            case Now():
                return self.now_s
            case Flush() | Prefetch():
                pass
        return None

    def _allocation(self, unit: LogicalUnit, offset: int, length: int) -> list[Extent]:
        found = []
        for begin, size, allocated in self.allocated.get(unit.number, [Extent(0, len(self.disk(unit)), True)]):
            start, end = max(begin, offset), min(begin + size, offset + length)
            if start < end:
                found.append(Extent(start, end - start, allocated))
        return found
