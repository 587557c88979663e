"""EXTENDED COPY: what moves, what is refused and how it is told, and who may have what copied."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csvd.scsi.command import Command
from csvd.scsi.device_server import ItlNexus
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.nexus import NexusIdentity
from csvd.scsi.outcome import Reply, Status
from csvd.scsi.procedure import Flush, Procedure, Read, Write
from csvd.scsi.target_device import TargetDevice
from tests.unit.scsi.application_client import ApplicationClient, a_unit, code, fixed_sense
from tests.unit.scsi.copy_lists import DC, THIS, blocks, extended_copy, identification, lid1, lid4, octets, receive
from tests.unit.scsi.store import Store

BLOCKS = 8192
MIB = 1 << 20
COPY_ABORTED = 0xA
NOT_REACHABLE = (COPY_ABORTED, 0x0D, 0x02)
WRONG_TYPE = (COPY_ABORTED, 0x0D, 0x03)
THIRD_PARTY_FAILURE = (COPY_ABORTED, 0x0D, 0x01)
INEXACT = (COPY_ABORTED, 0x26, 0x0A)
LIST_LENGTH_ERROR = (0x5, 0x1A, 0x00)
INVALID_FIELD_IN_LIST = (0x5, 0x26, 0x00)
OPERATION_IN_PROGRESS = (0x5, 0x00, 0x16)


class Rig:
    """Two logical units with content, LUN 0 and 1, and a nexus that sees both."""

    def __init__(self, *, mask: Any = lambda identity, number: True, **of_second: Any) -> None:
        self.first = a_unit(0, block_count=BLOCKS)
        self.second = a_unit(1, **{"block_count": BLOCKS} | of_second)
        self.target = TargetDevice({0: self.first, 1: self.second}, mask=mask)
        self.client = ApplicationClient(self.target).ready()
        self.store = Store()
        for unit in (self.first, self.second):
            self.store.disk(unit)[:] = os.urandom(len(self.store.disk(unit)))

    def both(self, *, pad: bool = False) -> list[bytes]:
        return [identification(self.first, pad=pad), identification(self.second, pad=pad)]

    def copy(self, parameters: bytes, *, action: int = 0, lun: int = 0, length: int | None = None) -> Reply:
        cdb = extended_copy(parameters, action=action, length=length)
        return self.client.run(cdb, lun=lun, data_out=parameters, store=self.store)

    def refused(self, parameters: bytes, **how: Any) -> tuple[tuple[int, int, int], bytes]:
        """Sense key and codes, and the sense data; nothing was changed."""
        before = len(self.store.requests)
        reply = self.copy(parameters, **how)
        assert reply.status == Status.CHECK_CONDITION
        assert self.store.requests[before:] == []
        return code(fixed_sense(reply.sense)), reply.sense

    def bytes_of(self, unit: LogicalUnit, lba: int, count: int) -> bytes:
        return bytes(self.store.disk(unit)[lba * unit.block_bytes :][: count * unit.block_bytes])


@pytest.mark.parametrize(("make", "action"), [(lid1, 0), (lid4, 1)])
def test_segments_are_copied_between_logical_units_in_their_order(make: Any, action: int) -> None:
    rig = Rig()
    expected = rig.bytes_of(rig.first, 10, 4000)
    parameters = make(rig.both(), [blocks(0, 1, 4000, 10, 100), blocks(1, 1, 8, 100, 8000)])
    assert rig.copy(parameters, action=action).status == Status.GOOD
    assert rig.bytes_of(rig.second, 100, 4000) == expected
    assert rig.bytes_of(rig.second, 8000, 8) == expected[: 8 * 512]


def test_no_more_than_a_mebibyte_is_held_at_once() -> None:
    rig = Rig()
    assert rig.copy(lid1(rig.both(), [blocks(0, 1, 5000, 0, 0)])).status == Status.GOOD
    assert max(request.length_bytes for request in rig.store.requests if isinstance(request, Read)) == MIB


@pytest.mark.parametrize(("source", "destination"), [(0, 100), (100, 0), (0, 3000), (3000, 1), (5, 5)])
def test_overlapping_ranges_arrive_whole(source: int, destination: int) -> None:
    rig = Rig()
    expected = rig.bytes_of(rig.first, source, 5000)
    assert rig.copy(lid1(rig.both(), [blocks(0, 0, 5000, source, destination)])).status == Status.GOOD
    assert rig.bytes_of(rig.first, destination, 5000) == expected


def test_the_source_is_claimed_with_readers_and_the_destination_alone() -> None:
    rig = Rig()
    parameters = lid1(rig.both(), [blocks(0, 1, 8, 16, 32)])
    outcome = rig.client.send(extended_copy(parameters), data_out=parameters)
    assert isinstance(outcome, Procedure)
    assert [(claim.locks, claim.offset_bytes, claim.length_bytes, claim.exclusive) for claim in outcome.claims] == [
        (rig.first.locks, 16 * 512, 8 * 512, False),
        (rig.second.locks, 32 * 512, 8 * 512, True),
    ]


def test_many_segments_claim_few_ranges() -> None:
    rig = Rig()
    apart = lid1(rig.both(), [blocks(0, 1, 1, 4 * number, 8 * number) for number in range(64)])
    touching = lid1(rig.both(), [blocks(0, 1, 4, 4 * number, 8 + 4 * number) for number in range(64)])
    for parameters, ends in ((apart, [(0, 253 * 512), (0, 505 * 512)]), (touching, [(0, 1 << 17), (4096, 1 << 17)])):
        outcome = rig.client.send(extended_copy(parameters), data_out=parameters)
        assert isinstance(outcome, Procedure)
        assert [(claim.offset_bytes, claim.length_bytes) for claim in outcome.claims] == ends


def test_bytes_go_from_any_offset_to_any_offset_and_leave_the_rest_of_the_block() -> None:
    rig = Rig()
    source, before = bytes(rig.store.disk(rig.first)), bytes(rig.store.disk(rig.second))
    assert rig.copy(lid1(rig.both(), [octets(0, 1, 1000, 3, 7, 100, 500)])).status == Status.GOOD
    begin = 7 * 512 + 500
    after = before[:begin] + source[3 * 512 + 100 :][:1000] + before[begin + 1000 :]
    assert bytes(rig.store.disk(rig.second)) == after


def test_the_addressed_logical_unit_has_an_identifier_of_its_own() -> None:
    rig = Rig()
    expected = rig.bytes_of(rig.second, 0, 8)
    assert rig.copy(lid1([], [blocks(THIS, THIS, 8, 0, 64)]), lun=1).status == Status.GOOD
    assert rig.bytes_of(rig.second, 64, 8) == expected


def test_dc_counts_blocks_of_the_destination() -> None:
    rig = Rig(block_bytes=4096, block_count=1024)
    expected = rig.bytes_of(rig.first, 0, 16)
    assert rig.copy(lid1(rig.both(), [blocks(0, 1, 2, 0, 5, flags=DC)])).status == Status.GOOD
    assert rig.bytes_of(rig.second, 5, 2) == expected


def test_a_rest_of_a_block_is_padded_where_the_descriptor_says_so_and_refused_where_not() -> None:
    rig = Rig(block_bytes=4096, block_count=1024)
    segment = blocks(0, 1, 3, 0, 5)
    assert rig.refused(lid1(rig.both(), [segment]))[0] == INEXACT
    expected = rig.bytes_of(rig.first, 0, 3)
    assert rig.copy(lid1(rig.both(pad=True), [segment])).status == Status.GOOD
    assert rig.bytes_of(rig.second, 5, 1) == expected.ljust(4096, b"\0")


def test_a_rest_that_is_read_in_vain_needs_pad_at_the_source() -> None:
    rig = Rig(block_bytes=4096, block_count=1024)
    segment = blocks(1, 0, 3, 0, 5, flags=DC)
    assert rig.refused(lid1(rig.both(), [segment]))[0] == INEXACT
    expected = rig.bytes_of(rig.second, 0, 1)[: 3 * 512]
    assert rig.copy(lid1(rig.both(pad=True), [segment])).status == Status.GOOD
    assert rig.bytes_of(rig.first, 5, 3) == expected


@pytest.mark.parametrize("segments", [[], [blocks(0, 1, 0, 0, 0)], [octets(0, 1, 0, 0, 0)]])
def test_nothing_to_copy_is_good(segments: list[bytes]) -> None:
    rig = Rig()
    assert rig.copy(lid1(rig.both(), segments)).status == Status.GOOD
    assert rig.store.requests == []


def test_no_parameter_list_is_good() -> None:
    rig = Rig()
    rig.client.good(extended_copy(b""))


def test_a_lun_outside_the_mask_is_not_reachable_and_like_one_that_does_not_exist() -> None:
    def mask(_identity: NexusIdentity, number: int) -> bool:
        return number == 0

    rig = Rig(mask=mask)
    unseen = rig.refused(lid1(rig.both(), [blocks(1, 0, 8, 0, 0)]))
    assert unseen[0] == NOT_REACHABLE
    assert rig.refused(lid1(rig.both(), [blocks(0, 1, 8, 0, 0)]))[0] == NOT_REACHABLE
    nobody = [identification(rig.first), identification(a_unit(7))]
    assert rig.refused(lid1(nobody, [blocks(1, 0, 8, 0, 0)])) == unseen
    rig.target.set_mask(lambda _identity, _number: True)
    rig.client.ready()
    assert rig.copy(lid1(rig.both(), [blocks(1, 0, 8, 0, 0)])).status == Status.GOOD


def test_a_descriptor_that_no_segment_uses_does_not_matter() -> None:
    rig = Rig()
    cscds = [*rig.both(), identification(a_unit(7))]
    assert rig.copy(lid1(cscds, [blocks(0, 1, 8, 0, 0)])).status == Status.GOOD


def test_an_error_names_its_segment_and_the_field_in_it() -> None:
    rig = Rig()
    found, sense = rig.refused(lid1(rig.both(), [blocks(0, 1, 8, 0, 0), blocks(0, 5, 8, 0, 0)]))
    assert found == NOT_REACHABLE
    assert sense[8:12] == (1).to_bytes(4)
    assert sense[15:18] == bytes((0xA0, 0, 6))


def test_descriptor_sense_names_the_segment_too() -> None:
    rig = Rig()
    rig.target.servers[0].descriptor_sense = True
    parameters = lid1(rig.both(), [blocks(0, 1, 8, 0, 0), blocks(0, 5, 8, 0, 0)])
    sense = rig.copy(parameters).sense
    assert sense[:4] == bytes((0x72, *NOT_REACHABLE))
    assert sense[8:20] == bytes((0x01, 0x0A, 0, 0)) + (1).to_bytes(8)
    assert sense[20:28] == bytes((0x02, 0x06, 0, 0, 0xA0, 0, 6, 0))


@pytest.mark.parametrize(
    ("segment", "field"),
    [
        (blocks(0, 1, 2, BLOCKS - 1, 0), 12),
        (blocks(0, 1, 2, 0, BLOCKS - 1), 20),
        (blocks(0, 1, 1, 2**64 - 1, 0), 12),
        (octets(0, 1, 513, BLOCKS - 1, 0), 12),
        (octets(0, 1, 512, 0, BLOCKS - 1, 0, 1), 20),
    ],
)
def test_what_is_beyond_the_last_block_is_refused(segment: bytes, field: int) -> None:
    rig = Rig()
    found, sense = rig.refused(lid1(rig.both(), [segment]))
    assert found == (COPY_ABORTED, 0x00, 0x00)
    assert sense[17] == field


@pytest.mark.parametrize("offsets", [(512, 0), (0, 512), (0xFFFF, 0xFFFF)])
def test_a_byte_offset_is_within_a_block(offsets: tuple[int, int]) -> None:
    rig = Rig()
    assert rig.refused(lid1(rig.both(), [octets(0, 1, 1, 0, 0, *offsets)]))[0] == (COPY_ABORTED, 0x26, 0x00)


def test_a_segment_is_no_longer_than_is_told() -> None:
    client = ApplicationClient.of(a_unit(block_count=1 << 20))
    longest = int.from_bytes(client.data(receive(3))[16:20])
    too_long, parameters = (lid1([], [octets(THIS, THIS, size, 0, 0)]) for size in (longest + 1, longest))
    assert code(fixed_sense(client.run(extended_copy(too_long), data_out=too_long).sense)) == (COPY_ABORTED, 0x26, 0x00)
    assert isinstance(client.send(extended_copy(parameters), data_out=parameters), Procedure)


def test_a_descriptor_that_takes_a_disk_for_something_else_is_refused() -> None:
    rig = Rig()
    for wrong in (identification(rig.second, kind=1), identification(rig.second, block_bytes=4096)):
        cscds = [identification(rig.first), wrong]
        assert rig.refused(lid1(cscds, [blocks(0, 1, 8, 0, 0)]))[0] == WRONG_TYPE


def test_a_write_protected_destination_is_refused_and_a_source_is_not() -> None:
    rig = Rig(read_only=True)
    assert rig.refused(lid1(rig.both(), [blocks(0, 1, 8, 0, 0)]))[0] == (COPY_ABORTED, 0x27, 0x00)
    assert rig.copy(lid1(rig.both(), [blocks(1, 0, 8, 0, 0)])).status == Status.GOOD


class Reserved:
    """A guard that answers commands with an operation code as a reservation of another nexus would."""

    def __init__(self, operation_code: int) -> None:
        self.operation_code = operation_code

    def concerns(self, _itl: ItlNexus) -> bool:
        return False

    def check(self, _itl: ItlNexus, command: Command, cdb: bytes) -> Reply | None:
        assert command.operation_code == cdb[0]
        return Reply(Status.RESERVATION_CONFLICT) if cdb[0] == self.operation_code else None


@pytest.mark.parametrize(("operation_code", "segment"), [(0x88, blocks(1, 0, 8, 0, 0)), (0x8A, blocks(0, 1, 8, 0, 0))])
def test_what_another_nexus_reserved_is_neither_read_nor_written(operation_code: int, segment: bytes) -> None:
    rig = Rig()
    guards = rig.target.servers[1].guards
    guards.append(Reserved(operation_code))
    assert rig.refused(lid1(rig.both(), [segment]))[0] == THIRD_PARTY_FAILURE
    guards[-1] = Reserved(0x88 if operation_code == 0x8A else 0x8A)
    assert rig.copy(lid1(rig.both(), [segment])).status == Status.GOOD


def faults(kind: type[Read | Write], number: int) -> Any:
    return lambda request: number if isinstance(request, kind) and request.unit.number == 1 else None


@pytest.mark.parametrize(
    ("kind", "number", "expected"),
    [
        (Read, errno.EIO, (COPY_ABORTED, 0x11, 0x00)),
        (Write, errno.EIO, (COPY_ABORTED, 0x0C, 0x00)),
        (Write, errno.ENOSPC, (COPY_ABORTED, 0x27, 0x07)),
    ],
)
def test_a_disk_that_fails_aborts_the_copy_with_its_reason(
    kind: type[Read | Write], number: int, expected: tuple[int, int, int]
) -> None:
    rig = Rig()
    rig.store.fault = faults(kind, number)
    segment = blocks(1, 0, 8, 0, 0) if kind is Read else blocks(0, 1, 8, 0, 0)
    reply = rig.copy(lid1(rig.both(), [blocks(0, 0, 8, 0, 64), segment], identifier=9))
    assert code(fixed_sense(reply.sense)) == expected
    assert reply.sense[8:12] == (1).to_bytes(4)
    status = rig.client.data(receive(0, 9))
    assert (status[4] & 0x7F, int.from_bytes(status[5:7]), int.from_bytes(status[8:12])) == (2, 1, 4096)
    details = rig.client.data(receive(4, 9))
    assert details[56] == Status.CHECK_CONDITION
    assert details[60:] == reply.sense


# Parameter lists


@pytest.mark.parametrize(("make", "action"), [(lid1, 0), (lid4, 1)])
def test_a_list_that_is_cut_anywhere_is_a_length_error(make: Any, action: int) -> None:
    rig = Rig()
    whole = make(rig.both(), [blocks(0, 1, 8, 0, 0), octets(0, 1, 8, 0, 0)])
    for size in range(1, len(whole)):
        assert rig.refused(whole[:size], action=action)[0] == LIST_LENGTH_ERROR
        assert rig.refused(whole[:size], action=action, length=len(whole))[0] == LIST_LENGTH_ERROR


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({0: 1, 1: 0x18}, INVALID_FIELD_IN_LIST),
        ({1: 0x08}, INVALID_FIELD_IN_LIST),
        ({15: 1}, (0x5, 0x26, 0x0B)),
        ({3: 33}, LIST_LENGTH_ERROR),
        ({16: 0xE0}, (0x5, 0x26, 0x07)),
        ({23: 21}, INVALID_FIELD_IN_LIST),
        ({80: 0x03}, (0x5, 0x26, 0x09)),
        ({83: 0x17}, INVALID_FIELD_IN_LIST),
    ],
)
def test_a_wrong_field_of_the_list_is_refused(changes: dict[int, int], expected: tuple[int, int, int]) -> None:
    rig = Rig()
    parameters = bytearray(lid1(rig.both(), [blocks(0, 1, 8, 0, 0)]))
    for offset, value in changes.items():
        parameters[offset] = value
    assert rig.refused(bytes(parameters))[0] == expected


@pytest.mark.parametrize("offset", [0, 3, 16])
def test_a_list_of_another_format_is_not_taken_for_one_of_lid4(offset: int) -> None:
    rig = Rig()
    parameters = bytearray(lid4(rig.both(), [blocks(0, 1, 8, 0, 0)]))
    parameters[offset] ^= 0x02
    assert rig.refused(bytes(parameters), action=1)[0] == INVALID_FIELD_IN_LIST


def test_more_descriptors_than_are_told_are_refused() -> None:
    rig = Rig()
    limits = rig.client.data(receive(3))
    targets, segments = int.from_bytes(limits[8:10]), int.from_bytes(limits[10:12])
    longest = int.from_bytes(limits[12:16])
    one, copy = identification(rig.first), blocks(0, 0, 1, 0, 1)
    assert rig.refused(lid1([one] * (targets + 1), [copy]))[0] == (0x5, 0x26, 0x06)
    assert rig.refused(lid1([one], [copy] * (segments + 1)))[0] == (0x5, 0x26, 0x08)
    too_long = lid1([one] * targets, [octets(0, 0, 1, 0, 1)] * (segments + 1))
    assert len(too_long) > 16 + longest
    assert rig.refused(too_long)[0] == LIST_LENGTH_ERROR
    assert rig.copy(lid1([one] * targets, [octets(0, 0, 1, 0, 1)] * segments)).status == Status.GOOD


def test_a_list_that_is_too_long_is_not_even_received() -> None:
    rig = Rig()
    assert rig.target.data_out_length(0, extended_copy(b"", length=1 << 20)) == 0
    assert rig.refused(b"", length=1 << 20)[0] == LIST_LENGTH_ERROR


@given(st.binary(max_size=200), st.integers(0, 1), st.integers(0, 300))
def test_any_bytes_end_in_good_or_a_sense_code(parameters: bytes, action: int, length: int) -> None:
    client = ApplicationClient.of(a_unit(0, block_count=64))
    reply = client.run(extended_copy(parameters, action=action, length=length), data_out=parameters[:length])
    assert reply.status in (Status.GOOD, Status.CHECK_CONDITION)


@given(st.data())
def test_any_change_of_a_good_list_ends_in_good_or_a_sense_code(data: st.DataObject) -> None:
    client = ApplicationClient.of(a_unit(0, block_count=64), a_unit(1, block_count=64))
    cscds = [identification(client.target.servers[number].unit) for number in (0, 1)]
    made: list[tuple[Any, int]] = [(lid1, 0), (lid4, 1)]
    make, action = data.draw(st.sampled_from(made))
    parameters = bytearray(make(cscds, [blocks(0, 1, 8, 0, 0), octets(1, 0, 99, 3, 4, 5, 6)]))
    for _ in range(data.draw(st.integers(1, 4))):
        parameters[data.draw(st.integers(0, len(parameters) - 1))] = data.draw(st.integers(0, 255))
    reply = client.run(extended_copy(bytes(parameters), action=action), data_out=bytes(parameters))
    assert reply.status in (Status.GOOD, Status.CHECK_CONDITION)


# List identifiers, abort, background


def test_a_list_identifier_is_not_used_twice_at_once() -> None:
    rig = Rig()
    parameters = lid4(rig.both(), [blocks(0, 1, 8, 0, 0)], identifier=7, immediate=True)
    assert rig.copy(parameters, action=1).status == Status.GOOD
    again = lid4(rig.both(), [blocks(0, 1, 8, 0, 0)], identifier=7)
    reply = rig.copy(again, action=1)
    assert code(fixed_sense(reply.sense)) == OPERATION_IN_PROGRESS
    other = ApplicationClient(rig.target, "iqn.2026-11.test:other,i,0x2").ready()
    assert other.run(extended_copy(again, action=1), data_out=again, store=rig.store).status == Status.GOOD
    rig.store.run_background()
    assert rig.copy(again, action=1).status == Status.GOOD


def test_an_immediate_copy_goes_on_behind_its_answer_and_tells_how_far_it_is() -> None:
    rig = Rig()
    expected = rig.bytes_of(rig.first, 0, 5000)
    parameters = lid4(rig.both(), [blocks(0, 1, 5000, 0, 0)], identifier=0x01020304, immediate=True)
    assert rig.copy(parameters, action=1).status == Status.GOOD
    status = rig.client.data(receive(5, 0x01020304))
    assert (status[4], status[5]) == (1, 0x12)
    assert code(fixed_sense(rig.client.run(receive(4, 4), store=rig.store).sense)) == (0x5, 0x24, 0x00)
    rig.store.run_background()
    status = rig.client.data(receive(5, 0x01020304))
    assert (status[5], int.from_bytes(status[16:24]), int.from_bytes(status[24:26])) == (1, 5000 * 512, 1)
    assert rig.bytes_of(rig.second, 0, 5000) == expected


def test_an_immediate_copy_must_have_an_identifier_to_ask_by() -> None:
    rig = Rig()
    parameters = lid4(rig.both(), [blocks(0, 1, 8, 0, 0)], identifier=0, immediate=True, flags=0x18)
    assert rig.refused(parameters, action=1)[0] == INVALID_FIELD_IN_LIST


def test_an_immediate_copy_without_a_write_cache_is_flushed() -> None:
    rig = Rig()
    rig.target.servers[0].write_through = True
    parameters = lid4(rig.both(), [blocks(0, 1, 8, 0, 0)], immediate=True)
    assert rig.copy(parameters, action=1).status == Status.GOOD
    rig.store.run_background()
    assert [type(request) for request in rig.store.requests[-2:]] == [Write, Flush]


@pytest.mark.parametrize("immediate", [False, True])
def test_what_a_copy_writes_counts_for_the_soft_threshold(immediate: bool) -> None:
    rig = Rig(thin=True, soft_threshold_percent=80)
    rig.store.used_bytes = BLOCKS * 512
    parameters = lid4(rig.both(), [blocks(0, 1, 8, 0, 0)], immediate=immediate)
    assert rig.copy(parameters, action=1).status == Status.GOOD
    rig.store.run_background()
    assert code(rig.client.refusal("00", lun=1)) == (0x6, 0x38, 0x07)


def test_copy_operation_abort_ends_it_between_two_pieces() -> None:
    rig = Rig()
    parameters = lid4(rig.both(), [blocks(0, 1, 8000, 0, 0)], identifier=3, immediate=True)
    assert rig.copy(parameters, action=1).status == Status.GOOD
    abort = "83 1C 00000003 00000000 00000000 00 00"
    rig.client.good(abort)
    rig.store.run_background()
    assert not any(isinstance(request, Write) for request in rig.store.requests)
    assert rig.client.data(receive(5, 3))[5] == 0x60
    assert code(rig.client.refusal(abort)) == (0x5, 0x24, 0x00)


@pytest.mark.parametrize("how", ["reset", "loss"])
def test_a_reset_or_the_loss_of_its_nexus_ends_a_copy(how: str) -> None:
    rig = Rig()
    parameters = lid4(rig.both(), [blocks(0, 1, 8, 0, 0)], identifier=3, immediate=True)
    assert rig.copy(parameters, action=1).status == Status.GOOD
    if how == "reset":
        rig.target.logical_unit_reset(0, "iqn.other")
    else:
        rig.target.nexus_lost(rig.client.nexus)
    rig.store.run_background()
    assert not any(isinstance(request, Write) for request in rig.store.requests)


def test_an_aborted_task_leaves_its_identifier_free_and_says_that_it_was_ended() -> None:
    rig = Rig()
    parameters = lid1(rig.both(), [blocks(0, 1, 8, 0, 0)])
    outcome = rig.client.send(extended_copy(parameters), data_out=parameters)
    assert isinstance(outcome, Procedure)
    next(outcome.steps)
    outcome.steps.close()
    assert rig.client.data(receive(0))[4] & 0x7F == 2
    assert rig.client.data(receive(5))[5] == 0x60
    assert rig.copy(parameters).status == Status.GOOD


# RECEIVE COPY RESULTS


def test_the_status_of_a_copy_is_told_to_its_nexus_at_its_logical_unit() -> None:
    rig = Rig()
    segments = [blocks(0, 1, 8, 0, 0), blocks(1, 0, 1, 0, 9)]
    assert rig.copy(lid1(rig.both(), segments, identifier=5)).status == Status.GOOD
    status = rig.client.data(receive(0, 5))
    assert status == bytes.fromhex("00000008 81 0002 00") + (9 * 512).to_bytes(4)
    assert rig.client.data(receive(0, 5, 6)) == status[:6]
    assert rig.client.data(receive(1, 5)) == bytes(4)
    assert rig.client.data(receive(4, 5)) == bytes(4)
    other = ApplicationClient(rig.target, "iqn.2026-11.test:other,i,0x2").ready()
    for client, lun in ((other, 0), (rig.client, 1)):
        assert code(client.refusal(receive(0, 5), lun=lun)) == (0x5, 0x24, 0x00)


@pytest.mark.parametrize("action", [0, 1, 4, 5])
def test_of_an_unknown_copy_nothing_is_told(action: int) -> None:
    rig = Rig()
    sense = rig.client.refusal(receive(action, 5))
    assert code(sense) == (0x5, 0x24, 0x00)
    assert sense.specific[2] == 2


def test_a_copy_without_a_list_identifier_is_not_remembered() -> None:
    rig = Rig()
    parameters = lid1(rig.both(), [blocks(0, 1, 8, 0, 0)], identifier=0, flags=0x18)
    assert rig.copy(parameters).status == Status.GOOD
    assert code(rig.client.refusal(receive(0, 0))) == (0x5, 0x24, 0x00)


def test_what_is_remembered_of_a_nexus_is_bounded() -> None:
    rig = Rig()
    for identifier in range(200):
        parameters = lid1(rig.both(), [blocks(0, 1, 1, 0, 0)], identifier=identifier)
        assert rig.copy(parameters).status == Status.GOOD
    remembered = 0
    for identifier in range(200):
        remembered += rig.client.run(receive(0, identifier)).status == Status.GOOD
    assert 1 < remembered <= 65
    rig.client.data(receive(0, 199))


def test_the_operating_parameters_name_what_is_implemented() -> None:
    rig = Rig()
    data = rig.client.data(receive(3))
    assert int.from_bytes(data[:4]) == len(data) - 4
    assert data[43] == 3
    assert data[44:] == bytes((0x02, 0x0A, 0xE4))


def test_the_third_party_copy_page_has_the_same_limits_and_the_commands_of_the_table() -> None:
    rig = Rig()
    page = rig.client.data("12 01 8F 04 00 00")
    assert int.from_bytes(page[2:4]) == len(page) - 4
    descriptors, offset = {}, 4
    while offset < len(page):
        size = int.from_bytes(page[offset + 2 : offset + 4])
        assert size % 4 == 0
        descriptors[int.from_bytes(page[offset : offset + 2])] = page[offset : offset + 4 + size]
        offset += 4 + size
    assert list(descriptors) == [0, 1, 4, 8, 0xC, 0x106, 0x108, 0x8001, 0xC001]
    limits = rig.client.data(receive(3))
    assert descriptors[4][8:16] == limits[8:16]
    assert descriptors[0x8001][12:16] == limits[16:20]
    assert descriptors[8][4 : 5 + 3] == bytes((3, 0x02, 0x0A, 0xE4))
    commands = descriptors[1]
    assert commands[5 : 5 + commands[4]] == bytes.fromhex("83 05 00 01 10 11 1C 84 07 00 01 03 04 05 07 08")
    assert "8f" in rig.client.data("12 01 00 00 FF 00").hex(" ").split()
