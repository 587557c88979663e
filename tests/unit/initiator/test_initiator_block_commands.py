from __future__ import annotations

import random
from typing import Any

import pytest

from initiator.engine.requests import Command
from initiator.errors import (
    IllegalRequest,
    InitiatorError,
    MalformedAnswer,
    Miscompare,
    ReservationConflict,
    SpaceExhausted,
    TimedOut,
    UnsupportedCommand,
    WriteProtected,
)
from initiator.scsi.inquiry import BlockLimits
from initiator.scsi.provisioning import Extent, LbaStatus, ProvisioningStatus
from initiator.unit import UNIT_ATTENTIONS
from tests.unit.initiator.stub_road import BLOCK_BYTES, CHECK_CONDITION, Rig, fixed_sense, good, refused

MIB = 1 << 20
MAPPED, DEALLOCATED, ANCHORED = (
    ProvisioningStatus.MAPPED,
    ProvisioningStatus.DEALLOCATED,
    ProvisioningStatus.ANCHORED,
)
THIN = b"\0\x03\xc0" + bytes(17)
"""READ CAPACITY(16) from byte 12 on: eight logical blocks a physical one, LBPME, LBPRZ."""


def extents_of(parameters: bytes) -> list[tuple[int, int]]:
    """Give the extents of an UNMAP parameter list, whose lengths must be right."""
    assert int.from_bytes(parameters[0:2], "big") == len(parameters) - 2
    assert int.from_bytes(parameters[2:4], "big") == len(parameters) - 8
    return [
        (int.from_bytes(parameters[at : at + 8], "big"), int.from_bytes(parameters[at + 8 : at + 12], "big"))
        for at in range(8, len(parameters), 16)
    ]


def spans(rig: Rig) -> list[tuple[int, int]]:
    """Give address and count of the 10-byte and 16-byte block commands that came."""
    return [
        (int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[7:9], "big"))
        if cdb[0] < 0x60
        else (int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big"))
        for cdb in rig.road.cdbs
    ]


# --- unmap


def test_unmap_sorts_and_joins_what_touches() -> None:
    limits = BlockLimits(maximum_unmap_lba_count=1 << 20, maximum_unmap_block_descriptor_count=10)
    rig = Rig(good, limits=limits)
    assert rig.settle(rig.disk.unmap([(100, 8), Extent(0, 50), (50, 50), (4, 0), (200, 1)])) is None
    assert [extents_of(data) for data in rig.road.data_out] == [[(0, 108), (200, 1)]]
    assert rig.road.cdbs[0].hex() == "42000000000000002800"


def test_unmap_keeps_to_the_count_of_blocks_and_of_descriptors() -> None:
    limits = BlockLimits(maximum_unmap_lba_count=100, maximum_unmap_block_descriptor_count=2)
    rig = Rig(good, limits=limits)
    rig.settle(rig.disk.unmap([(0, 30), (40, 30), (80, 30), (200, 250)], anchor=True))
    sent = [extents_of(data) for data in rig.road.data_out]
    assert sent == [[(0, 30), (40, 30)], [(80, 30)], [(200, 100)], [(300, 100)], [(400, 50)]]
    assert all(cdb[1] == 1 for cdb in rig.road.cdbs)


def test_unmap_cuts_where_the_unmap_granularity_has_its_borders() -> None:
    limits = BlockLimits(
        maximum_unmap_lba_count=100,
        maximum_unmap_block_descriptor_count=1,
        optimal_unmap_granularity=32,
        unmap_granularity_alignment=3,
    )
    rig = Rig(good, limits=limits)
    rig.settle(rig.disk.unmap([(10, 250)]))
    sent = [extents_of(data)[0] for data in rig.road.data_out]
    assert sent == [(10, 89), (99, 96), (195, 65)]
    assert all((lba - 3) % 32 == 0 for lba, _ in sent[1:])


def test_unmap_of_nothing_sends_nothing_and_beyond_the_end_is_refused() -> None:
    rig = Rig(good)
    assert rig.settle(rig.disk.unmap([])) is None
    assert isinstance(rig.settle(rig.disk.unmap([(0, 1), ((1 << 20) - 1, 2)])), InitiatorError)
    assert rig.road.cdbs == []


def test_a_thin_disk_without_room_is_told_as_such() -> None:
    rig = Rig(lambda _: refused(7, 0x27, 7))
    failure = rig.settle(rig.disk.write(0, bytes(512)))
    assert isinstance(failure, SpaceExhausted)
    assert isinstance(failure, WriteProtected)


# --- write same


def test_write_same_sends_one_block_and_is_cut_by_its_own_limit() -> None:
    rig = Rig(good, limits=BlockLimits(maximum_write_same_length=100))
    pattern = bytes(range(256)) * 2
    rig.settle(rig.disk.write_same(5, 250, pattern))
    assert spans(rig) == [(5, 100), (105, 100), (205, 50)]
    assert all(cdb[0] == 0x93 and cdb[1] == 0 for cdb in rig.road.cdbs)
    assert set(rig.road.data_out) == {pattern}


def knows_ndob(command: Command) -> Any:
    """Answer REPORT SUPPORTED OPERATION CODES: WRITE SAME(16) with UNMAP, ANCHOR and NDOB."""
    return b"\0\x03\0\x10\x93\x19" + b"\xff" * 12 + b"\0\0" if command.cdb[0] == 0xA3 else good(command)


def test_zeros_are_not_sent_where_the_target_has_ndob() -> None:
    rig = Rig(knows_ndob)
    rig.settle(rig.disk.write_same(0, 10, unmap=True))
    rig.settle(rig.disk.write_same(10, 10))
    assert [cdb[0] for cdb in rig.road.cdbs] == [0xA3, 0x93, 0x93], "asked once"
    assert [cdb[1] for cdb in rig.road.cdbs[1:]] == [0x09, 0x01]
    assert rig.road.data_out == [b"", b"", b""]


@pytest.mark.parametrize(
    "answer", [refused(5, 0x20), b"\0\x01\0\0", b"\0\x03\0\x10\x93\x18" + bytes(14), b"\0\x03\xff\xff\x93\x01"]
)
def test_zeros_are_sent_where_the_target_does_not_say_that_it_has_ndob(answer: Any) -> None:
    rig = Rig(lambda command: answer if command.cdb[0] == 0xA3 else good(command))
    assert rig.settle(rig.disk.write_same(0, 10)) is None
    assert rig.road.cdbs[-1][1] == 0
    assert rig.road.data_out[-1] == bytes(512)


def test_write_same_that_unmaps_is_cut_at_the_unmap_granularity() -> None:
    limits = BlockLimits(maximum_write_same_length=100, optimal_unmap_granularity=64)
    rig = Rig(good, limits=limits)
    rig.settle(rig.disk.write_same(10, 200, bytes(512), unmap=True))
    assert spans(rig) == [(10, 54), (64, 64), (128, 64), (192, 18)]


def test_a_pattern_is_one_block() -> None:
    rig = Rig(good)
    assert isinstance(rig.settle(rig.disk.write_same(0, 1, bytes(513))), InitiatorError)
    assert rig.road.cdbs == []


def test_write_zeroes_unmaps_only_where_that_reads_as_zeros() -> None:
    thin, thick = Rig(good, capacity_tail=THIN), Rig(good)
    thin.settle(thin.disk.write_zeroes(0, 8))
    thick.settle(thick.disk.write_zeroes(0, 8))
    assert thin.road.cdbs[-1][1] & 0x08
    assert not thick.road.cdbs[-1][1] & 0x08


def test_write_zeroes_writes_where_the_target_refuses_to_unmap() -> None:
    rig = Rig(lambda c: refused(5, 0x24) if c.cdb[1] & 0x08 or c.cdb[0] == 0xA3 else good(c), capacity_tail=THIN)
    assert rig.settle(rig.disk.write_zeroes(0, 8)) is None
    assert [cdb[1] & 0x08 for cdb in rig.road.cdbs[1:]] == [8, 0]


# --- compare and write, verify


def test_compare_and_write_sends_both() -> None:
    rig = Rig(good)
    assert rig.settle(rig.disk.compare_and_write(1 << 16, b"a" * 1024, b"b" * 1024, fua=True)) is None
    assert rig.road.cdbs[0].hex() == "89080000000000010000000000020000"
    assert rig.road.data_out == [b"a" * 1024 + b"b" * 1024]


def test_what_differs_says_where() -> None:
    rig = Rig(lambda _: refused(0xE, 0x1D, 0, 700))
    failure = rig.settle(rig.disk.compare_and_write(0, bytes(1024), bytes(1024)))
    assert isinstance(failure, Miscompare)
    assert failure.offset_bytes == 700
    assert len(rig.road.cdbs) == 1


def test_what_differs_may_not_say_where() -> None:
    rig = Rig(lambda _: refused(0xE, 0x1D))
    failure = rig.settle(rig.disk.compare_and_write(0, bytes(512), bytes(512)))
    assert isinstance(failure, Miscompare)
    assert failure.offset_bytes is None


@pytest.mark.parametrize(
    ("compare", "write"), [(512, 1024), (100, 100), (0, 0), (9 * 512, 9 * 512), (300 * 512, 300 * 512)]
)
def test_compare_and_write_is_never_split_nor_padded(compare: int, write: int) -> None:
    rig = Rig(good, limits=BlockLimits(maximum_compare_and_write_length=8 if compare < 10000 else 0))
    assert isinstance(rig.settle(rig.disk.compare_and_write(0, bytes(compare), bytes(write))), InitiatorError)
    assert rig.road.cdbs == []


def test_verify_without_data_sends_none_and_is_cut() -> None:
    rig = Rig(good, limits=BlockLimits(maximum_transfer_length=1000))
    rig.settle(rig.disk.verify(1, 2500))
    assert spans(rig) == [(1, 1000), (1001, 1000), (2001, 500)]
    assert all(cdb[:2] == b"\x2f\0" for cdb in rig.road.cdbs)
    assert set(rig.road.data_out) == {b""}


def test_verify_with_data_tells_the_first_difference_of_all() -> None:
    def answer(command: Command) -> Any:
        lba = int.from_bytes(command.cdb[2:6], "big")
        return refused(0xE, 0x1D, 0, lba + 7) if lba >= 100 else good(command)

    rig = Rig(answer, limits=BlockLimits(maximum_transfer_length=100))
    failure = rig.settle(rig.disk.verify(0, 1000, bytes(1000 * 512)))
    assert isinstance(failure, Miscompare)
    assert (failure.lba, failure.offset_bytes) == (107, None)
    assert all(cdb[1] == 0x02 for cdb in rig.road.cdbs)


def test_an_lba_that_was_not_compared_is_not_believed() -> None:
    rig = Rig(lambda _: refused(0xE, 0x1D, 0, 100))
    failure = rig.settle(rig.disk.verify(0, 100, bytes(51200)))
    assert isinstance(failure, Miscompare)
    assert failure.lba is None


def test_verify_wants_as_much_data_as_blocks() -> None:
    rig = Rig(good)
    assert isinstance(rig.settle(rig.disk.verify(0, 2, bytes(512))), InitiatorError)
    assert rig.settle(rig.disk.verify(0, 2, bytes(1024))) is None


def test_a_flush_may_be_of_a_range_and_only_begun() -> None:
    rig = Rig(good)
    rig.settle(rig.disk.flush(7, 9, immediate=True))
    assert rig.road.cdbs[0].hex() == "35020000000700000900"


# --- GET LBA STATUS


def lba_status(*runs: tuple[int, int, int], claims: int | None = None) -> bytes:
    length = 4 + 16 * len(runs) if claims is None else claims
    body = b"".join(
        lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes((status, 0, 0, 0)) for lba, blocks, status in runs
    )
    return length.to_bytes(4, "big") + bytes(4) + body


def test_the_target_is_asked_until_the_range_is_told_of() -> None:
    answers = [lba_status((0, 10, 0), (10, 20, 1)), lba_status((25, 15, 1), (40, 60, 2)), lba_status((100, 50, 0))]
    rig = Rig(lambda _: answers.pop(0))
    assert rig.settle(rig.disk.get_lba_status(5, 100)) == [
        LbaStatus(5, 5, MAPPED),
        LbaStatus(10, 30, DEALLOCATED),
        LbaStatus(40, 60, ANCHORED),
        LbaStatus(100, 5, MAPPED),
    ]
    assert [int.from_bytes(cdb[2:10], "big") for cdb in rig.road.cdbs] == [5, 30, 100]
    assert all(cdb[:2] == b"\x9e\x12" for cdb in rig.road.cdbs)


def test_a_list_that_ends_early_is_gone_on_with() -> None:
    answers = [lba_status((0, 10, 0), claims=1 << 20), lba_status((10, 1 << 20, 1))]
    rig = Rig(lambda _: answers.pop(0), blocks=1000)
    assert rig.settle(rig.disk.get_lba_status()) == [LbaStatus(0, 10, MAPPED), LbaStatus(10, 990, DEALLOCATED)]


def test_not_more_runs_than_asked_for() -> None:
    def answer(command: Command) -> bytes:
        first = int.from_bytes(command.cdb[2:10], "big")
        return lba_status(*((lba, 1, lba & 1) for lba in range(first, first + 100)))

    rig = Rig(answer)
    found = rig.settle(rig.disk.get_lba_status(most=250))
    assert [run.lba for run in found] == list(range(250))
    assert len(rig.road.cdbs) == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        bytes(4),
        lba_status(),
        lba_status((0, 0, 0)),
        lba_status((1, 10, 0)),
        lba_status((0, 5, 0), (6, 5, 0)),
        lba_status((0, 5, 0), (0, 10, 0)),
        lba_status((0, 10, 0), claims=4),
        lba_status((0, 10, 0))[:-1],
    ],
)
def test_a_status_that_leads_nowhere_is_malformed(answer: bytes) -> None:
    rig = Rig(lambda _: answer)
    assert isinstance(rig.settle(rig.disk.get_lba_status(0, 100)), MalformedAnswer)
    assert len(rig.road.cdbs) == 1


def test_an_unknown_status_counts_as_mapped() -> None:
    rig = Rig(lambda _: lba_status((0, 100, 9)))
    (run,) = rig.settle(rig.disk.get_lba_status(0, 100))
    assert run.mapped
    assert run.status is ProvisioningStatus.MAPPED_OR_UNKNOWN


def test_a_disk_that_can_not_tell_says_so() -> None:
    rig = Rig(lambda _: refused(5, 0x20))
    assert isinstance(rig.settle(rig.disk.get_lba_status(0, 1)), UnsupportedCommand)


# --- alignment


def test_long_transfers_are_cut_at_physical_blocks() -> None:
    rig = Rig(good, limits=BlockLimits(maximum_transfer_length=100), capacity_tail=b"\0\x03\0\x05" + bytes(16))
    rig.settle(rig.disk.write(3, bytes(300 * 512)))
    ends = [lba + count for lba, count in spans(rig)]
    assert ends[-1] == 303
    assert all((end - 5) % 8 == 0 for end in ends[:-1])
    assert max(count for _, count in spans(rig)) <= 100


def test_long_transfers_are_cut_at_the_optimal_granularity() -> None:
    limits = BlockLimits(maximum_transfer_length=100, optimal_transfer_length_granularity=24)
    rig = Rig(good, limits=limits)
    rig.settle(rig.disk.read(10, 200))
    assert spans(rig) == [(10, 86), (96, 96), (192, 18)]


def test_a_granularity_that_does_not_fit_into_a_command_is_no_hindrance() -> None:
    limits = BlockLimits(maximum_transfer_length=100, optimal_transfer_length_granularity=1000)
    rig = Rig(good, limits=limits)
    rig.settle(rig.disk.read(10, 200))
    assert spans(rig) == [(10, 100), (110, 100)]


# --- scatter lists


def disk_of(content: bytearray) -> Any:
    """Answer READ(10) and WRITE(10) as a disk with this content does."""

    def answer(command: Command) -> Any:
        at = int.from_bytes(command.cdb[2:6], "big") * BLOCK_BYTES
        if command.cdb[0] == 0x28:
            return bytes(content[at : at + command.length])
        content[at : at + command.length] = command.data_out
        return b""

    return answer


@pytest.mark.parametrize("seed", range(20))
def test_buffers_of_any_lengths_are_written_and_filled_in_order(seed: int) -> None:
    chance = random.Random(seed)
    content = bytearray(chance.randbytes(8 * MIB))
    rig = Rig(disk_of(content), blocks=16384, limits=BlockLimits(maximum_transfer_length=chance.choice((0, 7, 300))))
    lengths = [chance.choice((0, 1, 100, 512, 4096, 65536, 65537, 300000)) for _ in range(20)]
    lengths.append(-sum(lengths) % BLOCK_BYTES)
    buffers = [chance.randbytes(length) for length in lengths]
    lba = chance.randrange(1000)
    want = bytearray(content)
    want[lba * BLOCK_BYTES : lba * BLOCK_BYTES + sum(lengths)] = b"".join(buffers)
    assert rig.settle(rig.disk.write(lba, buffers)) is None
    assert content == want
    filled = [bytearray(length) for length in lengths]
    assert rig.settle(rig.disk.read_into(lba, filled)) is None
    assert filled == buffers


def test_small_buffers_share_a_command_and_long_ones_are_not_copied() -> None:
    rig = Rig(good)
    long = bytes(2 * MIB)
    rig.settle(rig.disk.write(0, [bytes(4096)] * 10 + [long]))
    assert spans(rig) == [(0, 80), (80, 2048), (2128, 2048)]
    assert all(command.data_out.obj is long for command in rig.road.commands[1:])


def test_buffers_that_are_together_not_of_whole_blocks_are_refused() -> None:
    rig = Rig(good)
    assert isinstance(rig.settle(rig.disk.write(0, [bytes(512), bytes(1)])), InitiatorError)
    assert isinstance(rig.settle(rig.disk.read_into((1 << 20) - 1, [bytearray(512), bytearray(512)])), InitiatorError)
    assert rig.road.cdbs == []


# --- errors and attentions


def test_a_reservation_of_somebody_else_is_told_as_such() -> None:
    rig = Rig(lambda _: (0x18, b""))
    assert isinstance(rig.settle(rig.disk.write(0, bytes(512))), ReservationConflict)


def test_a_deferred_error_is_not_taken_for_one_of_this_command() -> None:
    rig = Rig(lambda _: (CHECK_CONDITION, b"\x71" + fixed_sense(5, 0x20)[1:]))
    failure = rig.settle(rig.disk.flush())
    assert not isinstance(failure, IllegalRequest)
    assert failure.sense.deferred


def test_every_unit_attention_is_given_to_who_listens() -> None:
    answers = [refused(6, 0x29), refused(6, 0x38, 7)]
    rig = Rig(lambda command: answers.pop(0) if answers else good(command))
    heard: list[Any] = []

    def fail(_: Any) -> None:
        raise RuntimeError

    rig.disk.on_unit_attention += [fail, heard.append]
    assert rig.settle(rig.disk.read(0, 1)) == bytes(512)
    assert [(found.asc, found.ascq) for found in heard] == [(0x29, 0), (0x38, 7)]
    assert heard[1].threshold_reached


def test_a_raw_command_tells_of_its_unit_attention_too() -> None:
    rig = Rig(lambda _: refused(6, 0x3F, 0x0E))
    heard: list[Any] = []
    rig.disk.on_unit_attention.append(heard.append)
    rig.settle(rig.disk.command(bytes(6)))
    assert heard[0].luns_changed


def test_a_changed_capacity_is_read_again() -> None:
    news = [refused(6, 0x2A, 9)]

    def answer(command: Command) -> Any:
        if command.cdb[0] == 0x9E:
            return (99).to_bytes(8, "big") + (512).to_bytes(4, "big") + bytes(20)
        return news.pop() if news else good(command)

    rig = Rig(answer)
    rig.settle(rig.disk.test_unit_ready())
    rig.road.reactor.advance(0)
    assert rig.disk.block_count == 100


def test_a_capacity_that_changes_without_end_is_read_again_once_at_a_time() -> None:
    rig = Rig(lambda _: refused(6, 0x2A, 9))
    rig.settle(rig.disk.test_unit_ready())
    for _ in range(100):
        rig.road.reactor.advance(0)
    assert len([cdb for cdb in rig.road.cdbs if cdb[0] == 0x9E]) == UNIT_ATTENTIONS + 1
    assert rig.disk.block_count == 1 << 20


def test_a_deadline_that_passes_between_answers_ends_the_question() -> None:
    def answer(command: Command) -> Any:
        lba = int.from_bytes(command.cdb[2:10], "big")
        return TimedOut("late") if lba == 5 else lba_status((lba, 1, 0))

    rig = Rig(answer)
    assert isinstance(rig.settle(rig.disk.get_lba_status()), TimedOut)
    assert len(rig.road.cdbs) == 6
