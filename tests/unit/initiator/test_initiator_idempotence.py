"""What may be sent twice, what may stay in a write cache, and what a flush covers: by the CDB."""

from __future__ import annotations

import pytest

from initiator.scsi import cdb, write_cache
from initiator.scsi.idempotence import is_idempotent
from initiator.scsi.sense import Sense, SenseKey
from initiator.scsi.write_cache import Cache


@pytest.mark.parametrize(
    "command",
    [
        cdb.TEST_UNIT_READY,
        cdb.read(0, 1),
        cdb.read(1 << 33, 1),
        cdb.write(0, 1),
        cdb.write(1 << 33, 1, fua=True),
        cdb.synchronize_cache(),
        cdb.inquiry(255),
        cdb.read_capacity_16(),
        b"\x9e\x12" + bytes(14),
        b"\x42" + bytes(9),
        b"\x93" + bytes(15),
        b"\x5e" + bytes(9),
        b"\x7f" + bytes(7) + b"\x00\x0b" + bytes(22),
    ],
)
def test_what_leaves_the_disk_as_once_may_be_sent_twice(command: bytes) -> None:
    assert is_idempotent(command)


@pytest.mark.parametrize(
    "command",
    [
        b"\x89" + bytes(15),  # COMPARE AND WRITE
        b"\x5f" + bytes(9),  # PERSISTENT RESERVE OUT
        b"\x83" + bytes(15),  # EXTENDED COPY
        b"\x16" + bytes(5),  # RESERVE(6)
        b"\x48" + bytes(9),  # SANITIZE
        b"\x9e\x11" + bytes(14),  # an unknown service action
        b"\x7f" + bytes(7) + b"\x00\x06" + bytes(22),  # XPWRITE(32)
        b"\xc0" + bytes(9),  # a vendor's
        b"\x9e",
        b"",
    ],
)
def test_all_else_and_what_nobody_knows_may_not(command: bytes) -> None:
    assert not is_idempotent(command)


def test_only_writes_without_fua_may_stay_in_the_cache() -> None:
    assert write_cache.may_stay_in_cache(cdb.write(0, 1))
    assert write_cache.may_stay_in_cache(b"\x42" + bytes(9))
    assert write_cache.may_stay_in_cache(b"\x89" + bytes(15))
    assert not write_cache.may_stay_in_cache(cdb.write(0, 1, fua=True))
    assert not write_cache.may_stay_in_cache(cdb.read(0, 1))
    assert not write_cache.may_stay_in_cache(b"")


def test_a_flush_of_the_whole_disk_that_is_answered_when_done_covers_all() -> None:
    assert write_cache.is_flush(cdb.synchronize_cache())
    assert write_cache.flushes_all(cdb.synchronize_cache())
    assert write_cache.flushes_all(b"\x91" + bytes(15))
    assert not write_cache.flushes_all(cdb.synchronize_cache(0, 8))
    assert not write_cache.flushes_all(cdb.synchronize_cache(8, 0))
    assert not write_cache.flushes_all(b"\x35\x02" + bytes(8))
    assert not write_cache.flushes_all(b"\x91\0" + bytes(7) + b"\x01" + bytes(6))
    assert not write_cache.is_flush(cdb.write(0, 1))


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], Cache.KEPT),
        ([(0x29, 0x07)], Cache.KEPT),
        ([(0x29, 0x02), (0x29, 0x03), (0x29, 0x04)], Cache.KEPT),
        ([(0x2A, 0x01), (0x3F, 0x0E)], Cache.KEPT),
        ([(0x29, 0x00)], Cache.IN_DOUBT),
        ([(0x29, 0x07), (0x29, 0x00)], Cache.IN_DOUBT),
        ([(0x29, 0x01)], Cache.LOST),
        ([(0x29, 0x00), (0x29, 0x01)], Cache.LOST),
    ],
)
def test_unit_attentions_say_what_became_of_the_cache(codes: list[tuple[int, int]], expected: Cache) -> None:
    attentions = [Sense(SenseKey.UNIT_ATTENTION, asc, ascq) for asc, ascq in codes]
    assert write_cache.judge(attentions) is expected
