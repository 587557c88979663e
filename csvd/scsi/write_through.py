"""WCE 0 for commands of several steps: what they changed is durable before they are answered (SBC-3 6.4.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.outcome import Reply
from csvd.scsi.procedure import Background, DiskFault, Flush, Steps, Unmap, Write, WriteZeroes


def _nothing(_unit: LogicalUnit, _length_bytes: int) -> None:
    return None


def _as_they_are(steps: Steps) -> Steps:
    return steps


def written_through(
    steps: Steps,
    is_needed: Callable[[LogicalUnit], bool],
    changed_by: Callable[[LogicalUnit, int], None] = _nothing,
    behind: Callable[[Steps], Steps] = _as_they_are,
) -> Steps:
    """The same steps, and after them a flush of every disk that they changed and that needs it.

    Args:
        is_needed: whether a logical unit's writes must be durable when they are answered.
        changed_by: told of each change, with its length in bytes.
        behind: what becomes of steps that go on behind the answer.
    """
    changed: dict[LogicalUnit, None] = {}
    answer: Any = None
    fault: DiskFault | None = None
    try:
        while True:
            try:
                request = steps.send(answer) if fault is None else steps.throw(fault)
            except StopIteration as end:
                reply: Reply = end.value
                break
            if isinstance(request, Unmap | WriteZeroes) or (isinstance(request, Write) and not request.fua):
                changed[request.unit] = None
            if isinstance(request, Unmap | WriteZeroes):
                changed_by(request.unit, request.length_bytes)
            elif isinstance(request, Write):
                changed_by(request.unit, len(request.data))
            elif isinstance(request, Flush):
                changed.pop(request.unit, None)
            elif isinstance(request, Background):
                request = Background(behind(request.steps), request.claims)
            answer = fault = None
            try:
                answer = yield request
            except DiskFault as raised:
                fault = raised
    finally:
        steps.close()
    for unit in changed:
        if is_needed(unit):
            yield Flush(unit)
    return reply
