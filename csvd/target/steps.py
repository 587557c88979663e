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

from csvd.scsi.cluster_unit import Holding
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.outcome import Reply, Status
from csvd.scsi.procedure import (
    AbortTasks,
    Allocation,
    Answer,
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
from csvd.scsi.range_locks import Claim, Claims
from csvd.scsi.reservation_guard import CONFLICT
from csvd.storage.disk import FENCED, Disk, StorageError

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

_OF_THE_DISK = (Read, Write, Flush, Unmap, WriteZeroes, Allocation)
_CHANGING = (Write, Unmap, WriteZeroes)

STEPS_A_TURN = 64
"""Steps of one procedure that are done at once before others have their turn."""


GATE_POLL_S = 0.2
"""How often what belongs to no command looks whether the gate is open."""


def _never(_unit: LogicalUnit) -> bool:
    return False


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
        self,
        procedure: Procedure,
        done: Callable[[Reply | None], None],
        is_aborted: Callable[[], bool],
        refuses: Callable[[LogicalUnit], bool] = _never,
    ) -> Callable[[], None]:
        """Run the steps once the claims are granted.

        Args:
            done: called with the reply, or with None when it was aborted, or with `AGAIN`; before this returns where
                that is at once.
            is_aborted: asked before each step.
            refuses: whether a clustered logical unit must not be written to any more; asked before each write.

        Returns:
            What aborts it while it waits for its claims, or for another node; else it does nothing.
        """
        claims = _claims(procedure.claims)
        waits = True

        def ended(reply: Reply | None) -> None:
            nonlocal waits
            waits = False
            claims.release()
            done(reply)

        run = _Run(procedure.steps, ended, is_aborted, refuses)

        def begin() -> None:
            nonlocal waits
            waits = False
            self._step(run, None)

        def take_back() -> None:
            if waits or run.answer_is_due:
                run.is_over = True
                run.steps.close()
                ended(None)

        claims.acquire(begin)
        return take_back

    def begin(self, background: Background) -> None:
        """Run steps that belong to no task, once their claims are granted; they begin in a later turn."""
        claims = _claims(background.claims)
        self.under_way += 1

        def ended(_reply: Reply | None) -> None:
            claims.release()
            self.under_way -= 1

        run = _Run(background.steps, ended, self._is_stopping, _never)
        run.is_background = True

        def begun() -> None:
            self._clock.callLater(0, self._step, run, None)

        claims.acquire(begun)

    def _is_stopping(self) -> bool:
        return self.stopping

    def _step(self, run: _Run, answer: Any) -> None:
        """Give the answer to the last request, and carry out what is asked next, until that takes time."""
        if run.is_over:
            return
        steps, done = run.steps, run.done
        for _ in range(STEPS_A_TURN):
            if run.is_aborted():
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
            if (
                isinstance(request, _OF_THE_DISK)
                and request.unit.cluster is not None
                and not self._may_go(run, request)
            ):
                return
            result = self._begin(request)
            if not isinstance(result, Deferred):
                answer = result
            elif result.called and not result.paused:
                values: list[Any] = []
                result.addBoth(values.append)
                if self._is_too_late(run, request, values[0]):
                    return
                answer = _answer(request, values[0])
            else:
                run.answer_is_due = type(request) is Answer
                result.addBoth(self._answered, request, run)
                return
        self._clock.callLater(0, self._step, run, answer)

    def _answered(self, value: Any, request: Request, run: _Run) -> None:
        run.answer_is_due = False
        if not run.is_over and not self._is_too_late(run, request, value):
            self._step(run, _answer(request, value))

    def _may_go(self, run: _Run, request: Any) -> bool:
        """Whether a step may go to the disk of a clustered logical unit. Where it may not its command is over, to begin
        anew when it may: what it had for itself may be another's by then."""
        if not request.unit.cluster.gate.admits():
            self._put_off(run, request)
            return False
        if isinstance(request, _CHANGING) and run.refuses(request.unit):
            run.steps.close()
            run.done(CONFLICT)
            return False
        return True

    def _is_too_late(self, run: _Run, request: Any, value: Any) -> bool:
        """Whether a step did not come to the disk of a clustered logical unit, for this node may not act now."""
        if not isinstance(value, Failure) or not isinstance(request, _OF_THE_DISK) or not kept_off(request.unit, value):
            return False
        self._put_off(run, request)
        return True

    def _put_off(self, run: _Run, request: Any) -> None:
        if run.is_background:
            self._clock.callLater(GATE_POLL_S, self._try_again, run, request)
        else:
            run.steps.close()
            run.done(AGAIN)

    def _try_again(self, run: _Run, request: Any) -> None:
        """A step of what belongs to no command."""
        if run.is_aborted():
            run.steps.close()
            run.done(None)
        elif self._may_go(run, request):
            self._begin(request).addBoth(self._answered, request, run)

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
            case Answer(begin):
                answered: Deferred[Any] = Deferred()
                begin(answered.callback)
                return answered
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


class _Run:
    """Steps that are being carried out.

    Attributes:
        is_background: they belong to no command.
        answer_is_due: they wait for another node, and nobody who aborts them need wait for that.
        is_over: they were aborted while they did.
    """

    __slots__ = ("answer_is_due", "done", "is_aborted", "is_background", "is_over", "refuses", "steps")

    def __init__(
        self,
        steps: Steps,
        done: Callable[[Reply | None], None],
        is_aborted: Callable[[], bool],
        refuses: Callable[[LogicalUnit], bool],
    ) -> None:
        self.steps = steps
        self.done = done
        self.is_aborted = is_aborted
        self.refuses = refuses
        self.is_background = False
        self.answer_is_due = False
        self.is_over = False


def kept_off(unit: LogicalUnit, failure: Failure) -> bool:
    """Whether something did not come to the disk of a clustered logical unit, for this node may not act now. Where the
    gate knows nothing of that, it is told."""
    error = failure.value
    if unit.cluster is None or not isinstance(error, StorageError) or error.errno != FENCED:
        return False
    if unit.cluster.gate.admits():
        unit.cluster.elsewhere.stalled()
    return True


def _claims(claims: Sequence[Claim]) -> Claims | Holding:
    """The claims of a procedure; where one must hold on several nodes, on them."""
    for claim in claims:
        if claim.exclusive and claim.locks.cluster is not None:
            return claim.locks.cluster.elsewhere.holding(claims)
    return Claims(claims)


AGAIN = Reply(Status.BUSY)
"""In place of a reply: the command is to begin anew, behind the gate of its logical unit."""

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
