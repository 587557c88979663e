"""The block commands against a list of blocks: each either does all that the standard says, or nothing."""

from __future__ import annotations

import errno
from itertools import groupby

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from csvd.scsi.outcome import Reply, Status
from csvd.scsi.procedure import DiskFault, Extent, Procedure, Request, Unmap, Write, WriteZeroes
from tests.unit.scsi.application_client import ApplicationClient, code, fixed_sense
from tests.unit.scsi.block_cdbs import (
    a_unit,
    cdb_16,
    compare_and_write,
    get_lba_status,
    unmap,
    unmap_list,
    write_atomic,
)
from tests.unit.scsi.store import Store

BLOCKS = 24
SIZE = 512
LBAS = st.integers(0, BLOCKS + 1)
COUNTS = st.integers(0, 9)
SEEDS = st.integers(0, 255)
SHORT = st.sampled_from([0, 0, 0, 1, SIZE, 10 * SIZE])

MISCOMPARE = (0xE, 0x1D, 0x00)
LBA_OUT_OF_RANGE = (0x5, 0x21, 0x00)
INVALID_FIELD_IN_CDB = (0x5, 0x24, 0x00)
SHORT_DATA_OUT = (0x5, 0x0E, 0x03)
LIST_LENGTH_ERROR = (0x5, 0x1A, 0x00)
NO_SPACE = (0x7, 0x27, 0x07)
GOOD = None


class AllocatingStore(Store):
    """A store that knows which blocks are allocated, and whose next write may be cut short."""

    def __init__(self) -> None:
        super().__init__()
        self.mapped = [False] * BLOCKS
        self.cut_bytes: int | None = None

    def answer(self, request: Request) -> object:
        if isinstance(request, Write) and self.cut_bytes is not None:
            taken, self.cut_bytes = min(self.cut_bytes, len(request.data)), None
            self.disk(request.unit)[request.offset_bytes : request.offset_bytes + taken] = request.data[:taken]
            return DiskFault(request.unit, "write", errno.ENOSPC, request.offset_bytes + taken)
        answer = super().answer(request)
        if isinstance(request, Write):
            self._map(request.offset_bytes, len(request.data), True)
        elif isinstance(request, Unmap | WriteZeroes):
            self._map(request.offset_bytes, request.length_bytes, isinstance(request, WriteZeroes))
        return answer

    def _map(self, offset_bytes: int, length_bytes: int, mapped: bool) -> None:
        for lba in range(offset_bytes // SIZE, (offset_bytes + length_bytes) // SIZE):
            self.mapped[lba] = mapped

    def _allocation(self, unit: object, offset: int, length: int) -> list[Extent]:
        extents = []
        at = offset
        for mapped, run in groupby(self.mapped[offset // SIZE : (offset + length) // SIZE]):
            size = SIZE * len(list(run))
            extents.append(Extent(at, size, mapped))
            at += size
        return extents


def blocks_of(seed: int, count: int) -> list[bytes]:
    """Blocks that differ from one another and in most of their bytes; of seed 0 zeros."""
    return [bytes((seed * (7 * index + at) + index * (seed > 0)) % 256 for at in range(SIZE)) for index in range(count)]


class BlockCommandsAgreeWithAListOfBlocks(RuleBasedStateMachine):
    """A thin unit of a few blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ApplicationClient.of(a_unit(thin=True, block_count=BLOCKS))
        self.store = AllocatingStore()
        self.model = [bytes(SIZE)] * BLOCKS
        self.mapped = [False] * BLOCKS

    def run(self, cdb: bytes, data: bytes = b"", *, short: int = 0) -> tuple[int, int, int] | None:
        """The sense code of a command, None where it is GOOD; its Data-Out is what its row asks for."""
        kept = data[: max(0, len(data) - short)]
        assert self.client.target.data_out_length(0, cdb) in (0, len(data))
        outcome = self.client.send(cdb, data_out=kept)
        reply = self.store.run(outcome) if isinstance(outcome, Procedure) else outcome
        assert isinstance(reply, Reply)
        assert reply.status in (Status.GOOD, Status.CHECK_CONDITION)
        self.sense = fixed_sense(reply.sense) if reply.sense else None
        return code(self.sense) if self.sense else GOOD

    def refused(self, lba: int, count: int, data: bytes = b"", short: int = 0) -> tuple[int, int, int] | None:
        """The sense code of a range, or of Data-Out, that no command takes."""
        if lba + max(count, 1) > BLOCKS:
            return LBA_OUT_OF_RANGE
        return SHORT_DATA_OUT if count and data and short else GOOD

    def put(self, lba: int, blocks: list[bytes], *, mapped: bool = True) -> None:
        self.model[lba : lba + len(blocks)] = blocks
        self.mapped[lba : lba + len(blocks)] = [mapped] * len(blocks)

    @rule(lba=LBAS, count=COUNTS, seed=SEEDS, flags=st.sampled_from([0, 0x08, 0x18, 0x01, 0x09, 0x10]), short=SHORT)
    def write_same(self, lba: int, count: int, seed: int, flags: int, short: int) -> None:
        zeros = flags & 0x01
        block = bytes(SIZE) if zeros else blocks_of(seed, 1)[0]
        data = b"" if zeros else block
        expected = self.refused(lba, count, data, short)
        if (flags & 0x10 and not flags & 0x08) or not count:
            expected = INVALID_FIELD_IN_CDB
        assert self.run(cdb_16(0x93, lba, count, flags), data, short=short) == expected
        if expected is GOOD:
            unmapped = flags & 0x08 and not flags & 0x10 and not any(block)
            self.put(lba, [block] * count, mapped=not unmapped)

    @rule(ranges=st.lists(st.tuples(LBAS, COUNTS), max_size=5), anchor=st.booleans(), short=SHORT)
    def unmap(self, ranges: list[tuple[int, int]], anchor: bool, short: int) -> None:
        data = unmap_list(*ranges)
        expected = LIST_LENGTH_ERROR if short else GOOD
        if not short and any(lba + count > BLOCKS for lba, count in ranges):
            expected = LBA_OUT_OF_RANGE
        assert self.run(unmap(len(data), anchor), data, short=short) == expected
        if expected is GOOD:
            for lba, count in ranges:
                self.put(lba, [bytes(SIZE)] * count, mapped=anchor)

    @rule(
        lba=LBAS, count=COUNTS, seed=SEEDS, wrong=st.none() | st.integers(0, 9 * SIZE), short=SHORT, fua=st.booleans()
    )
    def compare_and_write(self, lba: int, count: int, seed: int, wrong: int | None, short: int, fua: bool) -> None:
        there = bytearray(b"".join(self.model[lba : lba + count]).ljust(count * SIZE, b"\0"))
        if wrong is not None and wrong < len(there):
            there[wrong] ^= 0x55
        new = blocks_of(seed, count)
        data = bytes(there) + b"".join(new)
        expected = self.refused(lba, count, data, short)
        if expected is GOOD and wrong is not None and wrong < len(there):
            expected = MISCOMPARE
        assert self.run(compare_and_write(lba, count, 0x08 * fua), data, short=short) == expected
        if expected == MISCOMPARE:
            assert self.sense is not None
            assert self.sense.information == wrong
        if expected is GOOD:
            self.put(lba, new)

    @rule(lba=LBAS, count=COUNTS, seed=SEEDS, short=SHORT)
    def orwrite(self, lba: int, count: int, seed: int, short: int) -> None:
        blocks = blocks_of(seed, count)
        data = b"".join(blocks)
        expected = self.refused(lba, count, data, short)
        assert self.run(cdb_16(0x8B, lba, count), data, short=short) == expected
        if expected is GOOD:
            there = self.model[lba : lba + count]
            self.put(
                lba,
                [bytes(a | b for a, b in zip(one, two, strict=True)) for one, two in zip(there, blocks, strict=True)],
            )

    @rule(lba=LBAS, count=COUNTS, seed=SEEDS, short=SHORT, cut=st.none() | st.integers(0, 9 * SIZE))
    def write_atomic(self, lba: int, count: int, seed: int, short: int, cut: int | None) -> None:
        blocks = blocks_of(seed, count)
        data = b"".join(blocks)
        expected = self.refused(lba, count, data, short)
        fails = expected is GOOD and count > 0 and cut is not None
        self.store.cut_bytes = cut if fails else None
        assert self.run(write_atomic(lba, count), data, short=short) == (NO_SPACE if fails else expected)
        if fails:
            # All is as it was; where the failed write had begun, the old data was written back.
            self.mapped = list(self.store.mapped)
        elif expected is GOOD:
            self.put(lba, blocks)

    @rule(lba=LBAS, count=COUNTS, seed=SEEDS, compare=st.booleans(), short=SHORT)
    def write_and_verify(self, lba: int, count: int, seed: int, compare: bool, short: int) -> None:
        blocks = blocks_of(seed, count)
        data = b"".join(blocks)
        expected = self.refused(lba, count)
        assert self.run(cdb_16(0x8E, lba, count, 0x02 * compare), data, short=short) == expected
        if expected is GOOD:
            self.put(lba, blocks[: max(0, len(data) - short) // SIZE])

    @rule(lba=LBAS, count=COUNTS, wrong=st.none() | st.integers(0, 9 * SIZE), short=SHORT)
    def verify_each_with_its_own(self, lba: int, count: int, wrong: int | None, short: int) -> None:
        there = bytearray(b"".join(self.model[lba : lba + count]).ljust(count * SIZE, b"\0"))
        is_wrong = wrong is not None and wrong < len(there)
        if wrong is not None and is_wrong:
            there[wrong] ^= 0x55
        expected = self.refused(lba, count, bytes(there), short)
        if expected is GOOD and is_wrong:
            expected = MISCOMPARE
        assert self.run(cdb_16(0x8F, lba, count, 0x02), bytes(there), short=short) == expected

    @rule(lba=LBAS, count=COUNTS, seed=SEEDS | st.none())
    def verify_all_with_one(self, lba: int, count: int, seed: int | None) -> None:
        block = self.model[min(lba, BLOCKS - 1)] if seed is None else blocks_of(seed, 1)[0]
        expected = self.refused(lba, count)
        if expected is GOOD and any(there != block for there in self.model[lba : lba + count]):
            expected = MISCOMPARE
        assert self.run(cdb_16(0x8F, lba, count, 0x06), block if count else b"") == expected

    @rule(lba=st.integers(0, BLOCKS - 1), room=st.integers(1, 30))
    def status(self, lba: int, room: int) -> None:
        outcome = self.client.send(get_lba_status(lba, 8 + 16 * room))
        assert isinstance(outcome, Procedure)
        data = self.store.run(outcome).data_in
        at = lba
        for place in range(8, len(data), 16):
            first, count = int.from_bytes(data[place : place + 8]), int.from_bytes(data[place + 8 : place + 12])
            assert first == at
            assert self.mapped[first : first + count] == [data[place + 12] == 0] * count
            assert count
            at += count
        assert at == BLOCKS or len(data) == 8 + 16 * room

    @invariant()
    def the_disk_is_as_the_model(self) -> None:
        unit = self.client.target.servers[0].unit
        assert self.store.disk(unit) == b"".join(self.model)
        assert self.store.mapped == self.mapped


TestBlockCommands = BlockCommandsAgreeWithAListOfBlocks.TestCase
TestBlockCommands.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
