"""What goes on, or has failed, on the whole medium of a logical unit: FORMAT UNIT and SANITIZE (SBC-3 4.10 and 4.11).

While it goes on, others learn how far it is; when it has failed, the medium is shut until that is put right. Both
outlive a restart where the logical unit keeps its state.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from csvd.scsi.medium_state import WITHOUT_MEDIUM
from csvd.scsi.outcome import GOOD, Reply, Status
from csvd.scsi.procedure import Background, DiskFault, Keep, Pause, Steps, Until
from csvd.scsi.range_locks import Claim
from csvd.scsi.sense import Asc, CheckCondition, Progress, SenseKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from csvd.scsi.command import Command
    from csvd.scsi.device_server import DeviceServer, ItlNexus

_State: TypeAlias = "tuple[Kind | None, bool, bool, dict[str, Any] | None]"

KEPT_NAME: Final = "medium operation"
"""Under which `LogicalUnit.kept` has it."""
POLL_S: Final = 0.02
"""How often a command without IMMED looks whether its operation has ended."""

_FORMAT_UNIT: Final = 0x04
_SANITIZE: Final = 0x48
_ALWAYS: Final = frozenset({0x03, 0x12, 0xA0})
"""REQUEST SENSE, INQUIRY and REPORT LUNS answer whatever becomes of the medium."""
_PARAMETER_CODES: Final = WITHOUT_MEDIUM | {0x00, 0x25, 0x37, 0xB7}
"""Commands that do not touch the medium, with TEST UNIT READY, READ CAPACITY(10) and READ DEFECT DATA: they run on one
whose format is corrupt."""
_READ_CAPACITY_16: Final = (0x9E, 0x10)
_STOPPED: Final = frozenset({errno.EBADF, errno.ESHUTDOWN})
"""The disk was closed, for the node stops: that is no failure of the medium."""


class Kind(Enum):
    """Which operation, with what each of its states answers."""

    FORMAT = "format"
    SANITIZE = "sanitize"

    @property
    def in_progress(self) -> Asc:
        """Of NOT READY, while it goes on."""
        if self is Kind.FORMAT:
            return Asc.LOGICAL_UNIT_NOT_READY_FORMAT_IN_PROGRESS
        return Asc.LOGICAL_UNIT_NOT_READY_SANITIZE_IN_PROGRESS

    @property
    def command_failed(self) -> Asc:
        """Of MEDIUM ERROR, for the command itself."""
        return Asc.FORMAT_COMMAND_FAILED if self is Kind.FORMAT else Asc.SANITIZE_COMMAND_FAILED

    @property
    def failed(self) -> Asc:
        """Of MEDIUM ERROR, for others afterwards."""
        return Asc.MEDIUM_FORMAT_CORRUPTED if self is Kind.FORMAT else Asc.SANITIZE_COMMAND_FAILED


class MediumOperation:
    """The operation of one logical unit. A `Guard`.

    Attributes:
        kind: what goes on or has failed; None where nothing has.
        in_progress: whether it goes on; False with a kind: it failed.
        restricted: of a failed sanitize operation: EXIT FAILURE MODE does not end it (AUSE was zero).
        interrupted: what a restart cut short, as `run` was told to describe it, until `resume` takes it up.
    """

    __slots__ = ("_done", "_record", "_server", "_total", "in_progress", "interrupted", "kind", "restricted")

    def __init__(self, server: DeviceServer) -> None:
        self._server = server
        self._done, self._total = 0, 1
        kept = server.unit.kept.get(KEPT_NAME)
        self._record: dict[str, Any] | None = kept
        self.kind = None if kept is None else Kind(kept["kind"])
        self.restricted = bool(kept and kept["restricted"])
        # A format that a restart cut short leaves a corrupt format; a sanitize operation goes on (SBC-3 4.11).
        self.in_progress = kept is not None and self.kind is Kind.SANITIZE and not kept["failed"]
        self.interrupted: dict[str, Any] | None = kept["description"] if kept and self.in_progress else None

    # What others see of it

    def condition(self) -> CheckCondition | None:
        """What REQUEST SENSE tells of it; None for nothing."""
        if self.kind is None:
            return None
        if self.in_progress:
            return CheckCondition(SenseKey.NOT_READY, self.kind.in_progress, field=Progress(self._done, self._total))
        return CheckCondition(SenseKey.MEDIUM_ERROR, self.kind.failed)

    def concerns(self, _itl: ItlNexus) -> bool:
        """See `Guard`."""
        return self.kind is not None

    def check(self, _itl: ItlNexus, command: Command, _cdb: bytes) -> Reply | None:
        """See `Guard`: what may run beside it, or after it failed."""
        if self.kind is None or command.operation_code in _ALWAYS:
            return None
        if not self.in_progress and _mends_or_spares(self.kind, command):
            return None
        condition = self.condition()
        assert condition is not None
        raise condition

    def progress(self, done: int, total: int) -> None:
        """How far it is, in any unit."""
        self._done, self._total = done, total

    # Its life

    def run(
        self, kind: Kind, work: Steps, description: dict[str, Any], *, immediate: bool, restricted: bool = False
    ) -> Steps:
        """The steps of a command that begins an operation.

        Nothing but its own end stops it: no abort, no reset, no loss of the nexus. It has the whole disk for itself.

        Args:
            work: does it; calls `progress`; its reply does not matter. A `DiskFault` is its failure.
            description: JSON-like; what `interrupted` gives after a restart.
            immediate: IMMED, the answer does not wait for the end.
            restricted: AUSE is zero.
        """
        begun, ended = _Beginning(), list[bool | None]()
        before = self.kind, self.in_progress, self.restricted, self._record
        self.kind, self.in_progress, self.restricted = kind, True, restricted
        self.progress(0, 1)
        self._server.refresh()
        # It is kept behind the command, too: one that is aborted meanwhile must not leave it neither begun nor over.
        yield Background(self._from_the_beginning(work, description, before, begun, ended))
        yield Until(begun.wait)
        if begun.fault is not None:
            raise begun.fault
        if immediate:
            return GOOD
        while not ended:
            yield Pause(POLL_S)
        if ended[0] is None:
            return _STOPPING
        if not ended[0]:
            raise CheckCondition(SenseKey.MEDIUM_ERROR, kind.command_failed)
        return GOOD

    def resume(self, work: Steps) -> Background:
        """The steps that end what a restart cut short."""
        self.interrupted = None
        return self._background(work, [])

    def leave_failure(self) -> Steps:
        """Forget a failure (EXIT FAILURE MODE)."""
        yield from self._forget()
        if not self.in_progress:
            self._settle(None, False, False, None)
        return GOOD

    def _from_the_beginning(
        self,
        work: Steps,
        description: dict[str, Any],
        before: _State,
        begun: _Beginning,
        ended: list[bool | None],
    ) -> Steps:
        try:
            yield from self._keep(description, failed=False)
        except DiskFault as fault:
            self._settle(*before)
            begun.tell(fault)
            return GOOD
        except GeneratorExit:
            ended.append(None)
            begun.tell(None)
            raise
        begun.tell(None)
        yield self._background(work, ended)
        return GOOD

    def _background(self, work: Steps, ended: list[bool | None]) -> Background:
        unit = self._server.unit
        whole = Claim(unit.locks, 0, unit.block_bytes * unit.block_count, exclusive=True)
        return Background(self._to_the_end(work, ended), (whole,))

    def _to_the_end(self, work: Steps, ended: list[bool | None]) -> Steps:
        outcome: bool | None = None
        try:
            yield from work
            yield from self._forget()
            self._settle(None, False, False, None)
            outcome = True
        except DiskFault as fault:
            if fault.error_number not in _STOPPED:
                yield from self._fail()
                outcome = False
        finally:
            ended.append(outcome)
        return GOOD

    def _fail(self) -> Steps:
        self.in_progress = False
        assert self._record is not None
        # Where that it failed can not be kept, it is kept that it began: a restart does not take it for done.
        with suppress(DiskFault):
            yield from self._keep(self._record["description"], failed=True)
        return GOOD

    def _settle(self, kind: Kind | None, in_progress: bool, restricted: bool, record: dict[str, Any] | None) -> None:
        self.kind, self.in_progress, self.restricted, self._record = kind, in_progress, restricted, record
        self._server.refresh()

    def _keep(self, description: dict[str, Any], *, failed: bool) -> Steps:
        assert self.kind is not None
        self._record = {
            "kind": self.kind.value,
            "failed": failed,
            "restricted": self.restricted,
            "description": description,
        }
        if self._server.unit.keeps:
            yield Keep(self._server.unit, KEPT_NAME, self._record)
        return GOOD

    def _forget(self) -> Steps:
        if self._server.unit.keeps:
            yield Keep(self._server.unit, KEPT_NAME, None)
        return GOOD


class _Beginning:
    """What the command waits for before it is answered: that it is kept that the operation began, or could not be."""

    def __init__(self) -> None:
        self.fault: DiskFault | None = None
        self._is_told = False
        self._reached: Callable[[], None] | None = None

    def wait(self, reached: Callable[[], None]) -> None:
        self._reached = reached
        if self._is_told:
            reached()

    def tell(self, fault: DiskFault | None) -> None:
        self.fault, self._is_told = fault, True
        if self._reached is not None:
            self._reached()


_STOPPING: Final = Reply(Status.BUSY)
"""The node stops in the middle of an operation that goes on after its start."""


def _mends_or_spares(kind: Kind, command: Command) -> bool:
    """Whether a command may run on a medium whose operation failed: it puts it right, or does not touch it."""
    code = command.operation_code
    if code == _SANITIZE:
        return True
    spares = code in _PARAMETER_CODES or (code, command.service_action) == _READ_CAPACITY_16
    return kind is Kind.FORMAT and (code == _FORMAT_UNIT or spares)
