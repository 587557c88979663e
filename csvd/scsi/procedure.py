"""Commands of several steps: a `Procedure` is a generator of requests, which the glue carries out one after the other.

A handler that needs the disk more than once, or needs what is kept over a restart, is written as a generator: it
yields a request, gets the answer at the yield, and returns a `Reply`. So VERIFY, COMPARE AND WRITE or EXTENDED COPY
stay PURE, read from top to bottom, and are tested without a reactor. What a step can not do is raised at its yield as
`DiskFault`; a `CheckCondition` or `DiskFault` that leaves the generator becomes the command's sense data.

Before a procedure begins, all its claims are granted at once: nobody else touches a range that it claims for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from csvd.errors import CsvdError
from csvd.scsi.range_locks import Claim

if TYPE_CHECKING:
    from csvd.scsi.logical_unit import LogicalUnit
    from csvd.scsi.outcome import Reply


class DiskFault(CsvdError):
    """A step that the disk could not do.

    Args:
        unit: whose disk.
        operation: "read", "write", "flush", "unmap", "write zeroes".
        error_number: errno.
        offset_bytes: the first byte that was not transferred.
    """

    def __init__(self, unit: LogicalUnit, operation: str, error_number: int, offset_bytes: int) -> None:
        self.unit = unit
        self.operation = operation
        self.error_number = error_number
        self.offset_bytes = offset_bytes
        super().__init__(f"{operation} at byte {offset_bytes} failed with errno {error_number}", where=f"{unit.number}")


class Extent(NamedTuple):
    """A run of the disk that is all allocated, or all not (answer to `Allocation`)."""

    offset_bytes: int
    length_bytes: int
    allocated: bool


@dataclass(frozen=True, slots=True)
class Read:
    """Read a range; the answer is a memoryview of it."""

    unit: LogicalUnit
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Write:
    """Write data; with `fua` it is durable before the answer, which is None."""

    unit: LogicalUnit
    offset_bytes: int
    data: bytes | bytearray | memoryview
    fua: bool = False


@dataclass(frozen=True, slots=True)
class Flush:
    """Make all writes that were answered durable; the answer is None."""

    unit: LogicalUnit


@dataclass(frozen=True, slots=True)
class Unmap:
    """Give a range back to the store; it reads as zeros then. The answer is None."""

    unit: LogicalUnit
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class WriteZeroes:
    """Make a range read as zeros, allocated or not. The answer is None."""

    unit: LogicalUnit
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """Ask what of a range is allocated; the answer is a list of `Extent`, ascending, without gaps, and may end early
    but never before its first extent.

    Args:
        most_extents: where to end.
    """

    unit: LogicalUnit
    offset_bytes: int
    length_bytes: int
    most_extents: int = 1024


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Ask the disk to have a range at hand; the answer is None, at once."""

    unit: LogicalUnit
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Ask how many bytes of the disk are allocated; the answer is an int, or None where nobody knows."""

    unit: LogicalUnit


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep a value of the logical unit over restarts, durably; the answer is None.

    Args:
        name: what it is, as "reservations"; `LogicalUnit.kept` has it under this name after a restart.
        value: JSON-like; None forgets it.
    """

    unit: LogicalUnit
    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class AbortTasks:
    """Abort the tasks of other I_T nexuses on a logical unit (PREEMPT AND ABORT); the answer, None, comes when none
    of them can touch the disk any more.

    Args:
        nexuses: names of the I_T nexuses.
    """

    unit: LogicalUnit
    nexuses: Sequence[str]


@dataclass(frozen=True, slots=True)
class Until:
    """Wait until something is the procedure's; the answer is None.

    Args:
        begin: called with what calls back, once, now or later. A procedure that is aborted while it waits is closed
            after that call, not before, so what it was given can be passed on.
    """

    begin: Callable[[Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """Wait for the answer of another node; an exception that it gives is raised at the yield.

    A procedure that is aborted meanwhile ends at once: nobody who aborts it waits for other nodes, or they could wait
    for one another. What was asked for may still be done.

    Args:
        begin: called with what takes the answer, once, now or later.
    """

    begin: Callable[[Callable[[Any], None]], None]


@dataclass(frozen=True, slots=True)
class Background:
    """Begin steps that go on after the command is answered (IMMED); the answer is None, at once.

    No task management function ends them.

    Args:
        claims: the ranges that they claim until they end, granted together before the first step.
    """

    steps: Steps
    claims: Sequence[Claim] = ()


@dataclass(frozen=True, slots=True)
class Now:
    """Ask for the time; the answer is seconds of a monotonic clock."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass, for what goes on in the background; the answer, None, comes then.

    Args:
        duration_s: how long, in seconds.
    """

    duration_s: float


@dataclass(frozen=True, slots=True)
class Entropy:
    """Ask for unpredictable bytes; the answer is so many of them."""

    length_bytes: int


Request: TypeAlias = (
    Read
    | Write
    | Flush
    | Unmap
    | WriteZeroes
    | Allocation
    | Prefetch
    | Usage
    | Keep
    | AbortTasks
    | Until
    | Answer
    | Background
    | Now
    | Pause
    | Entropy
)
Steps: TypeAlias = "Generator[Request, Any, Reply]"


class Procedure:
    """A command of several steps.

    Args:
        steps: the generator.
        claims: the ranges that it claims, granted together before the first step.
        exact_data_out: it is refused when the initiator means to send more than the CDB asks for.
    """

    __slots__ = ("claims", "exact_data_out", "steps")

    def __init__(self, steps: Steps, claims: Sequence[Claim] = (), *, exact_data_out: bool = False) -> None:
        self.steps = steps
        self.claims = claims
        self.exact_data_out = exact_data_out

    def __repr__(self) -> str:
        return f"Procedure({getattr(self.steps, '__name__', self.steps)}, {len(self.claims)} claims)"
