"""One copy from its beginning to its end: what is checked before anything is written, the state, the report."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from initiator.errors import InitiatorError
from initiator.images import state as states
from initiator.images.end import SourceEnd, TargetEnd
from initiator.images.file import same_place
from initiator.images.plan import UNBOUNDED, CopyPlan, Side
from initiator.images.state import State
from initiator.images.transfer import Transfer
from initiator.parallel import in_thread

HOLE_ALIGN_BYTES: Final = 4096
"""Holes are made of whole pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySettings:
    """How a copy is done; sizes in bytes.

    Args:
        length: how much; None: up to the end of the source.
        lanes: steps under way at once, each with a buffer of ``chunk``.
        sparse: zeros are not written where they need not be.
        target_is_zero: the target is known to read as zeros.
        state_path: where the state is kept; empty: nowhere.
    """

    source_offset: int = 0
    target_offset: int = 0
    length: int | None = None
    chunk: int = 1 << 20
    lanes: int = 16
    sparse: bool = True
    target_is_zero: bool = False
    state_path: str = ""


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that is done, all of it durable; sizes in bytes."""

    length: int
    begun_at: int
    """Where it went on, having been broken off before."""
    moved: int
    zeroed: int
    skipped: int
    time_s: float


OpenTarget = Callable[[int, bool], Awaitable[TargetEnd]]
"""Opens the target: the size that it must have, and whether what it holds must stay."""


async def copy(
    reactor: Any,
    source: SourceEnd,
    open_target: OpenTarget,
    settings: CopySettings,
    progressed: Callable[[int, int | None], None],
) -> Copied:
    """Copy, and return when all is durable on the target. ``progressed`` is told how much is done, and of how much.

    Raises:
        InitiatorError: the ranges do not fit, or the state is of another copy; nothing was written.
        CsvdError, OSError: reading, writing or flushing failed; the state is kept.
        CancelledError: it was cancelled; the state is kept.
    """
    length = _length(source, settings)
    kept = await _kept(reactor, settings)
    size = settings.target_offset + (0 if length is None else length)
    target = await open_target(size, kept is not None or settings.target_offset > 0)
    try:
        room = _check_target(source, target, settings, length)
        align = math.lcm(HOLE_ALIGN_BYTES, source.align_bytes, target.align_bytes)
        chunk = max(align, settings.chunk - settings.chunk % align)
        now = _state(source, target, settings, length or 0)
        if kept is not None:
            states.check_same(kept, now, settings.state_path)
        begin = 0 if kept is None else kept.durable
        plan = CopyPlan(
            room if length is None else length,
            begin=begin,
            chunk=chunk,
            align=align,
            zero_chunk=max(align, (256 << 20) // align * align),
            maps=_maps(source, target, settings),
            assume_zero=settings.sparse and (target.reads_zero or settings.target_is_zero),
        )

        async def keep(durable: int) -> None:
            # With what the source was in the beginning: should it change meanwhile, the copy is not gone on with.
            await in_thread(reactor, states.write_state, settings.state_path, replace(now, durable=durable))

        transfer = Transfer(
            plan,
            source,
            target,
            source_offset=settings.source_offset,
            target_offset=settings.target_offset,
            chunk=chunk,
            lanes=settings.lanes,
            sparse=settings.sparse,
            keep=keep if settings.state_path else None,
            progressed=lambda done: progressed(done, length),
        )
        began_s = reactor.seconds()
        await transfer.run()
        if length is None:
            await _check_ended(source, target, plan, room)
        if settings.state_path:
            await in_thread(reactor, states.remove_state, settings.state_path)
        return Copied(
            plan.length,
            begin,
            plan.moved_bytes,
            plan.zeroed_bytes,
            plan.skipped_bytes,
            reactor.seconds() - began_s,
        )
    finally:
        await target.close()


def _length(source: SourceEnd, settings: CopySettings) -> int | None:
    """Settle how much is copied; None: a pipe tells by ending."""
    if source.size_bytes is None:
        if settings.source_offset or settings.length is not None:
            raise InitiatorError("of a pipe all is copied", where=source.name, hint="no source offset, no length")
        return None
    _check_aligned(source.name, source.align_bytes, settings.source_offset)
    length = source.size_bytes - settings.source_offset if settings.length is None else settings.length
    if length < 0 or settings.source_offset + length > source.size_bytes:
        raise InitiatorError("the source ends before that", where=source.name, why=f"it has {source.size_bytes} bytes")
    return length


def _check_target(source: SourceEnd, target: TargetEnd, settings: CopySettings, length: int | None) -> int:
    """See that the copy fits; give the room that the target has for it."""
    _check_aligned(target.name, target.align_bytes, settings.target_offset)
    if target.ordered and settings.target_offset:
        raise InitiatorError("a pipe has no offset", where=target.name)
    wanted = settings.target_offset + (length or 0)
    # What the open has made of a file's size is not of interest: it grows.
    room = UNBOUNDED if target.size_bytes is None or target.grows else target.size_bytes
    if wanted > room:
        why = f"it has {target.size_bytes} bytes, and {wanted} are needed"
        raise InitiatorError("the target is too small", where=target.name, why=why)
    if same_place(source.identity, target.identity) and not source.ordered:
        _check_apart(target.name, settings, length or 0)
    return room - settings.target_offset if room < UNBOUNDED else UNBOUNDED


def _check_apart(name: str, settings: CopySettings, length: int) -> None:
    first, second = sorted((settings.source_offset, settings.target_offset))
    if second < first + length:
        raise InitiatorError("source and target are the same", where=name)


def _check_aligned(name: str, align: int, offset: int) -> None:
    if offset % align:
        raise InitiatorError("the offset is not of whole blocks", where=name, why=f"they have {align} bytes")


def _maps(source: SourceEnd, target: TargetEnd, settings: CopySettings) -> frozenset[Side]:
    if not settings.sparse:
        return frozenset()
    ends = {Side.SOURCE: source.ordered, Side.TARGET: target.ordered or target.reads_zero or settings.target_is_zero}
    return frozenset(side for side, blind in ends.items() if not blind)


async def _kept(reactor: Any, settings: CopySettings) -> State | None:
    if not settings.state_path:
        return None
    kept: State | None = await in_thread(reactor, states.read_state, settings.state_path)
    return kept


def _state(source: SourceEnd, target: TargetEnd, settings: CopySettings, length: int) -> State:
    return State(
        source.identity,
        states.lasting(target.identity),
        settings.source_offset,
        settings.target_offset,
        length,
        0,
    )


async def _check_ended(source: SourceEnd, target: TargetEnd, plan: CopyPlan, room: int) -> None:
    """See that a pipe has ended where the target had no more room."""
    if plan.length == room and await source.read_into(room, memoryview(bytearray(1))):
        why = f"it has {target.size_bytes} bytes, and more come"
        raise InitiatorError("the target is too small", where=target.name, why=why)
