"""Block commands of several steps over the wire: Data-Out of the wrong length, atomicity, the soft threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from initiator.engine.requests import Command
from tests.pair.joined import BLOCK_BYTES, DISK_BYTES, Pair
from tests.pair.test_engines import logged_in
from tests.unit.scsi.block_cdbs import cdb_10, cdb_16, compare_and_write, unmap, unmap_list, write_atomic

GOOD, CHECK_CONDITION = 0, 2
INVALID_FIELD_IN_CDB = (0x5, 0x24, 0x00)
SHORT_DATA_OUT = (0x5, 0x0E, 0x03)
LIST_LENGTH_ERROR = (0x5, 0x1A, 0x00)
MISCOMPARE = (0xE, 0x1D, 0x00)
SOFT_THRESHOLD_REACHED = (0x6, 0x38, 0x07)


@pytest.fixture
def pair() -> Pair:
    return logged_in(Pair(thin=True))


def ask(pair: Pair, cdb: bytes, data: bytes | None = None) -> Command:
    command = Command(0, cdb, data_out=data)
    pair.ask(command)
    return command


def code(command: Command) -> tuple[int, int, int] | None:
    if command.status == GOOD:
        return None
    assert command.status == CHECK_CONDITION
    return command.sense[2] & 0xF, command.sense[12], command.sense[13]


def content(pair: Pair, lba: int, blocks: int) -> bytes:
    command, buffer = pair.read(lba, blocks)
    pair.ask(command)
    assert command.status == GOOD
    return bytes(buffer)


@pytest.mark.parametrize(
    ("cdb", "blocks"),
    [(cdb_10(0x41, 0, 4), 1), (cdb_16(0x93, 0, 4), 1), (compare_and_write(0, 2), 4), (compare_and_write(0, 0), 0)],
)
def test_data_of_another_length_than_the_cdb_asks_for_changes_nothing(pair: Pair, cdb: bytes, blocks: int) -> None:
    before = content(pair, 0, 8)
    if blocks:
        assert code(ask(pair, cdb, bytes([1]) * (blocks * BLOCK_BYTES - 1))) == SHORT_DATA_OUT
    assert code(ask(pair, cdb, bytes([1]) * (blocks + 1) * BLOCK_BYTES)) == INVALID_FIELD_IN_CDB
    assert content(pair, 0, 8) == before


def test_an_unmap_list_that_ends_early_unmaps_nothing(pair: Pair) -> None:
    pair.ask(pair.write(0, b"x" * 8 * BLOCK_BYTES))
    data = unmap_list((0, 4), (4, 4))
    assert code(ask(pair, unmap(len(data)), data[:-16])) == LIST_LENGTH_ERROR
    assert content(pair, 0, 8) == b"x" * 8 * BLOCK_BYTES
    assert code(ask(pair, unmap(len(data)), data)) is None
    assert content(pair, 0, 8) == bytes(8 * BLOCK_BYTES)


def test_long_data_comes_by_r2t_and_a_miscompare_tells_its_byte(pair: Pair) -> None:
    there = bytes(range(256)) * (DISK_BYTES // 256)
    assert code(ask(pair, cdb_16(0x8E, 0, DISK_BYTES // BLOCK_BYTES, 0x02), there)) is None
    assert code(ask(pair, cdb_16(0x8F, 0, DISK_BYTES // BLOCK_BYTES, 0x02), there)) is None
    expected = bytearray(there[: 128 * BLOCK_BYTES])
    expected[60_000] ^= 1
    command = ask(pair, compare_and_write(0, 128), bytes(expected) + bytes(128 * BLOCK_BYTES))
    assert code(command) == MISCOMPARE
    assert int.from_bytes(command.sense[3:7]) == 60_000
    assert content(pair, 0, 128) == there[: 128 * BLOCK_BYTES]


def test_a_write_and_a_read_wait_for_a_compare_and_write_of_their_blocks(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Deferred[None]] = []
    write_from = pair.disk.write_from

    def held_write(buffers: Sequence[Any], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        held.append(waiting)
        return waiting.addCallback(lambda _: write_from(buffers, offset_bytes, fua=fua))

    monkeypatch.setattr(pair.disk, "write_nowait", lambda *_: False)
    monkeypatch.setattr(pair.disk, "write_from", held_write)
    swap = Command(0, compare_and_write(0, 2), data_out=bytes(1024) + b"n" * 1024)
    write = pair.write(1, b"w" * BLOCK_BYTES)
    read, buffer = pair.read(0, 3)
    pair.ask(swap)
    pair.ask(write, read)
    assert [each.done for each in (swap, write, read)] == [False] * 3
    assert len(held) == 1
    held[0].callback(None)
    pair.run()
    assert (swap.done, swap.status, write.done) == (True, GOOD, False)
    assert len(held) == 2, "the write goes after it"
    held[1].callback(None)
    pair.run()
    assert [(each.done, each.status) for each in (write, read)] == [(True, GOOD)] * 2
    # READ and WRITE do not wait for one another; neither sees half of what was swapped.
    assert bytes(buffer) in (
        b"n" * 2 * BLOCK_BYTES + bytes(BLOCK_BYTES),
        b"n" * BLOCK_BYTES + b"w" * BLOCK_BYTES + bytes(BLOCK_BYTES),
    )
    assert content(pair, 0, 2) == b"n" * BLOCK_BYTES + b"w" * BLOCK_BYTES


def test_an_atomic_write_is_there_whole(pair: Pair) -> None:
    assert code(ask(pair, write_atomic(0, 16), b"a" * 16 * BLOCK_BYTES)) is None
    assert content(pair, 0, 17) == b"a" * 16 * BLOCK_BYTES + bytes(BLOCK_BYTES)


def test_a_write_that_fills_the_disk_over_its_threshold_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = logged_in(Pair(thin=True, soft_threshold_percent=100))
    monkeypatch.setattr(pair.disk, "allocated_bytes", lambda: succeed(1))
    assert code(ask(pair, bytes(6))) is None
    assert code(ask(pair, cdb_16(0x8A, 0, 1), b"x" * BLOCK_BYTES)) is None
    assert code(ask(pair, bytes(6))) == SOFT_THRESHOLD_REACHED
    assert code(ask(pair, bytes(6))) is None
    assert not pair.executor.busy
