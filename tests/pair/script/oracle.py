"""What may be true of a disk that several hosts read and write at once (SAM-5 8, SBC-3 4.7), block by block.

A command takes effect at some time between its sending and its answer. A block may show what a write wrote, unless
another write of it certainly came later and certainly before the look at it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from csvd.iscsi.codes import TaskAttribute
from tests.pair.script.host import FOREVER, Sent
from tests.pair.script.steps import BLOCK_BYTES, DISK_BLOCKS, Ask, Manage, Transfer

GOOD, CHECK_CONDITION, BUSY, RESERVATION_CONFLICT = 0x00, 0x02, 0x08, 0x18
ATTENTION, ILLEGAL = 0x06, 0x05
BEFORE_ALL = -1


class Size(NamedTuple):
    """From when on the logical unit has how many blocks; None while it is not there."""

    since: int
    blocks: int | None


def blocks_written(sent: Sent) -> int:
    """How many blocks a write has data for."""
    step = sent.step
    assert isinstance(step, Transfer)
    return min(len(sent.payload) // BLOCK_BYTES, step.blocks)


def done_at(sent: Sent) -> int:
    """When the effect of a command is over."""
    return min(sent.answered_at, sent.dead_at)


def is_before(one: Sent, other: Sent) -> bool:
    """Whether a command certainly took effect before another."""
    if done_at(one) < other.sent_at:
        return True
    if one.host is not other.host or one.urgent or other.urgent or one.cmd_sn >= other.cmd_sn or one.asked:
        return False
    attributes = one.step.attribute, other.step.attribute  # type: ignore[union-attr]  # transfers both
    return TaskAttribute.ORDERED in attributes and TaskAttribute.HEAD_OF_QUEUE not in attributes


class Oracle:
    """Judges what came of the requests."""

    def __init__(self, requests: Iterable[Sent], sizes: list[Size]) -> None:
        self._requests = list(requests)
        self._sizes = sizes
        self._writes: dict[int, list[Sent]] = {}
        for sent in self._requests:
            step = sent.step
            # One that was refused has written nothing; of one that was not answered nobody knows.
            written = isinstance(step, Transfer) and step.write and sent.status in (GOOD, None) and not sent.rejected
            if written and sent.sent_at < FOREVER:
                assert isinstance(step, Transfer)
                for block in range(step.block, step.block + blocks_written(sent)):
                    self._writes.setdefault(block, []).append(sent)

    def judge(self) -> None:
        """Every answer is one that may be given."""
        for sent in self._requests:
            if sent.is_answered and not sent.rejected and isinstance(sent.step, Transfer):
                self._judge(sent, sent.step)

    def judge_content(self, content: bytes) -> None:
        """What is on the disk at the end."""
        for block in range(DISK_BLOCKS):
            shown = content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
            self._check_block(block, shown, None)

    def _judge(self, sent: Sent, step: Transfer) -> None:
        assert sent.status in (GOOD, CHECK_CONDITION, RESERVATION_CONFLICT, BUSY), sent
        sizes = self._sizes_while(sent)
        fits = [size is not None and step.block + step.blocks <= size for size in sizes]
        if sent.status == BUSY:
            # It did not fit when it came, so its data was not taken, and does now.
            assert step.write, sent
            assert any(fits), sent
            assert not all(fits), sent
            return
        is_at_the_end = any(size == step.block for size in sizes)
        if sent.status == GOOD:
            assert any(fits), sent
            self._judge_residual(sent, step)
            if not step.write:
                self._judge_data(sent, step)
        elif sent.status == CHECK_CONDITION:
            key, asc = sent.sense[2] & 0x0F, sent.sense[12]
            if key == ILLEGAL and asc == 0x21:
                # SBC-3 leaves open whether no blocks at the very end are within it.
                fit_all = all(size is None or fit for size, fit in zip(sizes, fits, strict=True))
                assert not fit_all or is_at_the_end, sent
            elif key == ILLEGAL and asc == 0x25:
                assert None in sizes, sent
            else:
                assert key == ATTENTION, (sent, sent.sense.hex())
        else:
            assert self._may_be_reserved(sent), sent

    def _sizes_while(self, sent: Sent) -> list[int | None]:
        before = [size.blocks for size in self._sizes if size.since <= sent.sent_at]
        return before[-1:] + [size.blocks for size in self._sizes if sent.sent_at < size.since <= sent.answered_at]

    def _may_be_reserved(self, sent: Sent) -> bool:
        return any(
            isinstance(other.step, Ask)
            and other.step.what == "reserve"
            and other.host is not sent.host
            and other.sent_at < sent.answered_at
            for other in self._requests
        )

    def _judge_residual(self, sent: Sent, step: Transfer) -> None:
        length, expected = step.blocks * BLOCK_BYTES, max(0, step.blocks * BLOCK_BYTES + step.surplus_bytes)
        if not step.write:
            assert len(sent.data) == min(length, expected), sent
        if length == expected:
            assert sent.residual == (0, 0), sent
        else:
            assert sent.residual == (4 if length > expected else 2, abs(length - expected)), (sent, sent.residual)

    def _judge_data(self, sent: Sent, step: Transfer) -> None:
        data = bytes(sent.data)
        for n in range(-(-len(data) // BLOCK_BYTES)):
            self._check_block(step.block + n, data[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES], sent)

    def _check_block(self, block: int, shown: bytes, reader: Sent | None) -> None:
        """``reader``: who has read it; None at the end of all."""
        writer = int.from_bytes(shown[:8])
        pattern = bytes(BLOCK_BYTES) if not writer else (shown[:8] + block.to_bytes(8)) * (BLOCK_BYTES // 16)
        assert shown == pattern[: len(shown)], f"block {block} is not as anybody wrote it"
        writes = self._writes.get(block, [])
        certain = [w for w in writes if w.status == GOOD and (reader is None or is_before(w, reader))]
        if not writer:
            assert not certain, f"block {block}: {reader} does not see {certain}"
            return
        (of,) = [w for w in writes if (w.host.number + 1 << 32 | w.tag) == writer]
        assert reader is None or of.sent_at <= reader.answered_at
        later = [w for w in certain if w is not of and is_before(of, w)]
        assert not later, f"block {block}: {reader} sees {of}, but {later} came after it"


def end_what_was_managed(requests: list[Sent], management: Sent, now: int) -> None:
    """A task management function is answered: what it ended is answered no more."""
    step = management.step
    assert isinstance(step, Manage)
    if management.response != 0:
        return
    for sent in requests:
        if sent.is_answered or not isinstance(sent.step, Transfer | Ask) or sent.sent_at == FOREVER:
            continue
        if management.about is not None:
            if sent is management.about:
                sent.dead_at = now
        elif sent.host is not management.host:
            sent.may_be_dead = True
        elif sent.place < management.place:
            sent.dead_at = now
