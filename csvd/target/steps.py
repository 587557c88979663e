"""Carrying out the steps of a procedure: each request that it yields is done by the disk, the clock or what is kept."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.outcome import Reply, Status
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
from csvd.scsi.range_locks import Claims
from csvd.storage.disk import Disk, StorageError

_OPERATIONS = {
    Read: "read",
    Write: "write",
    Flush: "flush",
    Unmap: "unmap",
    WriteZeroes: "write zeroes",
    Allocation: "read",
    Prefetch: "read",
    Usage: "read",
    Keep: "write",
}

STEPS_A_TURN = 64
"""Steps of one procedure that are done at once before others have their turn."""


class Keeper(Protocol):
    """Where the state of logical units outlives the process."""

    def keep(self, unit: LogicalUnit, name: str, value: Any) -> Deferred[None]:
        """Keep a value durably; None forgets it. Fails with StorageError."""


Abort: TypeAlias = Callable[[LogicalUnit, Sequence[str], Callable[[], None]], None]
"""Abort the tasks of these nexuses on a logical unit, and call back when none of them can touch its disk."""


class StepRunner:
    """Runs the procedures of one target.

    Args:
        clock: Twisted's; tells the time, and gives others a turn between steps that are done at once.
        keeper: None where nothing can be kept: no unit says then that it keeps anything.
        abort: for PREEMPT AND ABORT.
    """

    log = Logger()

    def __init__(self, clock: Any, keeper: Keeper | None, abort: Abort) -> None:
        self._clock = clock
        self._keeper = keeper
        self._abort = abort
        self.stopping = False
        """Background steps go no further; what a restart must go on with is kept."""
        self.under_way = 0
        """Background steps that have not ended."""

    def run(
        self, procedure: Procedure, done: Callable[[Reply | None], None], is_aborted: Callable[[], bool]
    ) -> Callable[[], None]:
        """Run the steps once the claims are granted.

        Args:
            done: called with the reply, or with None when it was aborted; before this returns where that is at once.
            is_aborted: asked before each step.

        Returns:
            What aborts it while it waits for its claims; later it does nothing.
        """
        claims = Claims(procedure.claims)
        waits = True

        def ended(reply: Reply | None) -> None:
            claims.release()
            done(reply)

        def begin() -> None:
            nonlocal waits
            waits = False
            self._step(procedure.steps, None, ended, is_aborted)

        def take_back() -> None:
            nonlocal waits
            if waits:
                waits = False
                procedure.steps.close()
                ended(None)

        claims.acquire(begin)
        return take_back

    def begin(self, background: Background) -> None:
        """Run steps that belong to no task, once their claims are granted; they begin in a later turn."""
        claims = Claims(background.claims)
        self.under_way += 1

        def ended(_reply: Reply | None) -> None:
            claims.release()
            self.under_way -= 1

        def begun() -> None:
            self._clock.callLater(0, self._step, background.steps, None, ended, self._is_stopping)

        claims.acquire(begun)

    def _is_stopping(self) -> bool:
        return self.stopping

    def _step(
        self,
        steps: Steps,
        answer: Any,
        done: Callable[[Reply | None], None],
        is_aborted: Callable[[], bool],
    ) -> None:
        """Give the answer to the last request, and carry out what is asked next, until that takes time."""
        for _ in range(STEPS_A_TURN):
            if is_aborted():
                steps.close()
                done(None)
                return
            try:
                request = steps.throw(answer) if isinstance(answer, BaseException) else steps.send(answer)
            except StopIteration as end:
                done(end.value)
                return
            except Exception:  # noqa: BLE001 - a fault of a handler costs its command, not the daemon; it is logged
                self.log.failure("a fault in {steps}", steps=steps)
                done(FAULT)
                return
            result = self._begin(request)
            if not isinstance(result, Deferred):
                answer = result
            elif result.called and not result.paused:
                values: list[Any] = []
                result.addBoth(values.append)
                answer = _answer(request, values[0])
            else:
                result.addBoth(self._answered, request, steps, done, is_aborted)
                return
        self._clock.callLater(0, self._step, steps, answer, done, is_aborted)

    def _answered(
        self,
        value: Any,
        request: Request,
        steps: Steps,
        done: Callable[[Reply | None], None],
        is_aborted: Callable[[], bool],
    ) -> None:
        self._step(steps, _answer(request, value), done, is_aborted)

    def _begin(self, request: Request) -> Any:
        match request:
            case Now():
                return self._clock.seconds()
            case Entropy(length_bytes):
                return os.urandom(length_bytes)
            case Pause(duration_s):
                return deferLater(self._clock, duration_s)
            case Background():
                self.begin(request)
                return None
            case Keep(unit, name, value):
                assert self._keeper is not None, "a unit without a keeper says that it keeps nothing"
                return self._keep(self._keeper, unit, name, value)
            case AbortTasks(unit, nexuses):
                aborted: Deferred[None] = Deferred()
                self._abort(unit, nexuses, lambda: aborted.callback(None))
                return aborted
            case Until(begin):
                reached: Deferred[None] = Deferred()
                begin(lambda: reached.callback(None))
                return reached
            case _:
                return _ask_disk(request)

    def _keep(self, keeper: Keeper, unit: LogicalUnit, name: str, value: Any) -> Deferred[None]:
        def kept(_: None) -> None:
            if value is None:
                unit.kept.pop(name, None)
            else:
                unit.kept[name] = value

        return keeper.keep(unit, name, value).addCallback(kept)


FAULT = Reply(Status.CHECK_CONDITION, b"", bytes.fromhex("70 00 04 00 00 00 00 0a 00 00 00 00 44 00 00 00 00 00"))
"""HARDWARE ERROR, INTERNAL TARGET FAILURE."""


def _ask_disk(request: Any) -> Deferred[Any]:
    disk: Disk = request.unit.device
    match request:
        case Read(_, offset_bytes, length_bytes):
            buffer = memoryview(bytearray(length_bytes))
            if disk.read_nowait(buffer, offset_bytes):
                return succeed(buffer)
            return disk.read_into(buffer, offset_bytes).addCallback(lambda _: buffer)
        case Write(_, offset_bytes, data, fua):
            return disk.write_from((data,), offset_bytes, fua=fua)
        case Flush():
            return disk.flush()
        case Unmap(_, offset_bytes, length_bytes):
            return disk.unmap(offset_bytes, length_bytes)
        case WriteZeroes(_, offset_bytes, length_bytes):
            return disk.write_zeroes(offset_bytes, length_bytes)
        case Allocation(_, offset_bytes, length_bytes, most_extents):
            runs = disk.allocation(offset_bytes, length_bytes, most_extents)
            return runs.addCallback(lambda runs: [Extent(*run) for run in runs])
        case Prefetch(_, offset_bytes, length_bytes):
            return disk.prefetch(offset_bytes, length_bytes)
        case Usage():
            return disk.allocated_bytes()
    raise AssertionError(request)


def _answer(request: Any, value: Any) -> Any:
    """What the generator gets at its yield: the value, or the fault that is raised there."""
    if not isinstance(value, Failure):
        return value
    error = value.value
    operation = _OPERATIONS[type(request)]
    if isinstance(error, StorageError):
        StepRunner.log.warn("{error}", error=error)
        return DiskFault(request.unit, operation, error.errno, error.offset_bytes)
    StepRunner.log.failure("a disk failed in another way than a disk may", value)
    return DiskFault(request.unit, operation, errno.EIO, getattr(request, "offset_bytes", 0))
