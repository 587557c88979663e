"""ROD tokens: POPULATE TOKEN, WRITE USING TOKEN, what is told of them, how they end, and who may use them."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.nexus import NexusIdentity
from csvd.scsi.outcome import Reply, Status
from csvd.scsi.procedure import Procedure, Read, Write, WriteZeroes
from csvd.scsi.rod_tokens import (
    ACCESS_UPON_REFERENCE,
    DEFAULT_INACTIVITY_TIMEOUT_S,
    MAXIMUM_INACTIVITY_TIMEOUT_S,
    MAXIMUM_RANGES,
    MAXIMUM_TOKENS_OF_A_NEXUS,
    zero_token,
)
from csvd.scsi.target_device import TargetDevice
from tests.unit.scsi.application_client import (
    LBA_OUT_OF_RANGE,
    WRITE_PROTECTED,
    ApplicationClient,
    a_unit,
    code,
    fixed_sense,
)
from tests.unit.scsi.copy_lists import receive
from tests.unit.scsi.store import Store

BLOCKS = 8192
LIST_LENGTH_ERROR = (0x5, 0x1A, 0x00)
INVALID_FIELD_IN_LIST = (0x5, 0x26, 0x00)
TOO_MANY_RANGES = (0x5, 0x26, 0x08)
INSUFFICIENT_RESOURCES = (0x5, 0x55, 0x03)
CAUSE_NOT_REPORTABLE, UNSUPPORTED_TYPE, UNKNOWN, CORRUPT, REVOKED, EXPIRED, DELETED, WRONG_LENGTH = (
    (0x5, 0x23, qualifier) for qualifier in (0x00, 0x01, 0x04, 0x05, 0x06, 0x07, 0x09, 0x0A)
)


def ranges_of(*ranges: tuple[int, int]) -> bytes:
    return b"".join(lba.to_bytes(8) + blocks.to_bytes(4) + bytes(4) for lba, blocks in ranges)


def populate_list(*ranges: tuple[int, int], timeout_s: int = 0, flags: int = 0, rod_type: int = 0) -> bytes:
    listed = ranges_of(*ranges)
    body = bytes((flags, 0)) + timeout_s.to_bytes(4) + rod_type.to_bytes(4) + bytes(2)
    body += len(listed).to_bytes(2) + listed
    return len(body).to_bytes(2) + body


def write_list(token: bytes, *ranges: tuple[int, int], offset: int = 0, flags: int = 0) -> bytes:
    listed = ranges_of(*ranges)
    body = bytes((flags,)) + bytes(5) + offset.to_bytes(8) + token + bytes(6) + len(listed).to_bytes(2) + listed
    return len(body).to_bytes(2) + body


def cdb(action: int, parameters: bytes, identifier: int = 1) -> bytes:
    return bytes((0x83, action)) + bytes(4) + identifier.to_bytes(4) + len(parameters).to_bytes(4) + bytes(2)


class Rig:
    """Two logical units with content, and a nexus that sees both."""

    def __init__(self, *, mask: Any = lambda identity, number: True, **of_second: Any) -> None:
        self.first = a_unit(0, block_count=BLOCKS)
        self.second = a_unit(1, **{"block_count": BLOCKS} | of_second)
        self.target = TargetDevice({0: self.first, 1: self.second}, mask=mask)
        self.client = ApplicationClient(self.target).ready()
        self.store = Store()
        for unit in (self.first, self.second):
            self.store.disk(unit)[:] = os.urandom(1 << 16) * (len(self.store.disk(unit)) >> 16)

    def run(self, action: int, parameters: bytes, *, lun: int = 0, identifier: int = 1) -> Reply:
        return self.client.run(cdb(action, parameters, identifier), lun=lun, data_out=parameters, store=self.store)

    def populate(self, *ranges: tuple[int, int], lun: int = 0, identifier: int = 1, **how: Any) -> bytes:
        """The token of these ranges."""
        assert self.run(0x10, populate_list(*ranges, **how), lun=lun, identifier=identifier).status == Status.GOOD
        information = self.client.data(receive(7, identifier), lun=lun)
        assert information[4:6] == bytes((0x10, 1))
        assert int.from_bytes(information[16:24]) == sum(blocks for _, blocks in ranges)
        assert int.from_bytes(information[:4]) == len(information) - 4
        assert int.from_bytes(information[32:36]) == 514
        return information[38:]

    def write(self, token: bytes, *ranges: tuple[int, int], lun: int = 0, identifier: int = 2, **how: Any) -> Reply:
        return self.run(0x11, write_list(token, *ranges, **how), lun=lun, identifier=identifier)

    def bytes_of(self, unit: LogicalUnit, lba: int, count: int) -> bytes:
        return bytes(self.store.disk(unit)[lba * unit.block_bytes :][: count * unit.block_bytes])


def refusal(reply: Reply) -> tuple[int, int, int]:
    assert reply.status == Status.CHECK_CONDITION
    return code(fixed_sense(reply.sense))


def test_a_token_moves_blocks_to_another_logical_unit_range_by_range() -> None:
    rig = Rig()
    expected = rig.bytes_of(rig.first, 10, 3000) + rig.bytes_of(rig.first, 7000, 100)
    token = rig.populate((10, 3000), (7000, 100))
    assert rig.write(token, (0, 5), (4000, 3095), lun=1).status == Status.GOOD
    assert rig.bytes_of(rig.second, 0, 5) + rig.bytes_of(rig.second, 4000, 3095) == expected
    information = rig.client.data(receive(7, 2), lun=1)
    assert (information[4], information[5]) == (0x11, 1)
    assert (information[15], int.from_bytes(information[16:24])) == (0xF1, 3100)
    assert information[32:] == bytes(4), "no token comes of it"


def test_a_unit_that_shrinks_takes_its_tokens_with_it() -> None:
    rig = Rig()
    token = rig.populate((BLOCKS - 8, 8))
    rig.target.resized(0, BLOCKS - 4)
    rig.client.ready()
    assert refusal(rig.write(token, (0, 8), lun=1)) == REVOKED


def test_an_offset_is_where_to_begin_in_what_the_token_stands_for() -> None:
    rig = Rig()
    token = rig.populate((10, 4), (100, 4))
    assert rig.write(token, (0, 3), lun=1, offset=3).status == Status.GOOD
    assert rig.bytes_of(rig.second, 0, 3) == rig.bytes_of(rig.first, 13, 1) + rig.bytes_of(rig.first, 100, 2)


def test_a_token_stands_for_what_its_blocks_hold_when_it_is_used() -> None:
    rig = Rig()
    token = rig.populate((0, 8))
    assert int.from_bytes(token[:4]) == ACCESS_UPON_REFERENCE
    rig.store.disk(rig.first)[:4096] = b"n" * 4096
    assert rig.write(token, (0, 8), lun=1).status == Status.GOOD
    assert rig.bytes_of(rig.second, 0, 8) == b"n" * 4096


def test_the_zero_token_makes_zeros_and_reads_nothing() -> None:
    rig = Rig()
    assert rig.write(zero_token(), (5, 4096), (8000, 1)).status == Status.GOOD
    assert not any(rig.bytes_of(rig.first, 5, 4096) + rig.bytes_of(rig.first, 8000, 1))
    assert {type(request) for request in rig.store.requests} == {WriteZeroes}


def test_ranges_of_both_sides_are_claimed() -> None:
    rig = Rig()
    parameters = write_list(rig.populate((16, 8)), (32, 8))
    outcome = rig.client.send(cdb(0x11, parameters, 2), lun=1, data_out=parameters)
    assert isinstance(outcome, Procedure)
    assert [(claim.locks, claim.offset_bytes, claim.exclusive) for claim in outcome.claims] == [
        (rig.first.locks, 16 * 512, False),
        (rig.second.locks, 32 * 512, True),
    ]


def test_a_token_says_whose_blocks_it_stands_for_and_how_many_bytes() -> None:
    rig = Rig()
    token = rig.populate((0, 9), lun=1)
    assert len(token) == 512
    assert int.from_bytes(token[6:8]) == 504
    assert token[16] == 0xE4
    assert token[24 : 24 + 16] == rig.second.identity.naa
    assert int.from_bytes(token[48:64]) == 9 * 512
    assert int.from_bytes(token[96:100]) == 512


def test_two_tokens_of_the_same_blocks_differ_in_what_nobody_can_guess() -> None:
    rig = Rig()
    one, other = rig.populate((0, 8)), rig.populate((0, 8), identifier=9)
    assert one[8:16] != other[8:16]
    assert rig.store.entropy_drawn == 2


# Who may use it, and for how long


def test_a_token_of_a_logical_unit_that_its_user_may_not_see_is_unknown() -> None:
    def mask(identity: NexusIdentity, number: int) -> bool:
        return number == 1 or identity.initiator_name == "iqn.owner"

    rig = Rig(mask=mask)
    rig.target.nexus_opened("owner", "iqn.owner")
    owner = ApplicationClient.__new__(ApplicationClient)
    owner.target, owner.nexus = rig.target, "owner"
    owner.ready()
    parameters = populate_list((0, 8))
    assert owner.run(cdb(0x10, parameters), data_out=parameters, store=rig.store).status == Status.GOOD
    token = owner.data(receive(7))[38:]
    assert refusal(rig.write(token, (0, 8), lun=1)) == UNKNOWN
    assert not any(isinstance(request, Read) for request in rig.store.requests)
    assert rig.client.run(receive(8), lun=1, store=rig.store).data_in[:4] == (4).to_bytes(4)
    assert len(owner.run(receive(8), lun=1, store=rig.store).data_in) == 8 + 96


@pytest.mark.parametrize("offset", [20, 100, 130, 150, 511])
def test_a_token_that_was_changed_is_corrupt(offset: int) -> None:
    rig = Rig()
    token = bytearray(rig.populate((0, 8)))
    token[offset] ^= 1
    assert refusal(rig.write(bytes(token), (0, 8), lun=1)) == CORRUPT


@pytest.mark.parametrize(("offset", "expected"), [(0, UNSUPPORTED_TYPE), (7, WRONG_LENGTH), (8, UNKNOWN)])
def test_a_token_of_another_kind_is_refused(offset: int, expected: tuple[int, int, int]) -> None:
    rig = Rig()
    token = bytearray(rig.populate((0, 8)))
    token[offset] ^= 0x40
    assert refusal(rig.write(bytes(token), (0, 8), lun=1)) == expected
    assert rig.client.data(receive(7, 2), lun=1)[5] == 2, "it is told to who asks, too"


def test_a_changed_zero_token_is_corrupt() -> None:
    rig = Rig()
    assert refusal(rig.write(zero_token()[:-1] + b"\1", (0, 8))) == CORRUPT


@pytest.mark.parametrize(("asked_s", "given_s"), [(0, DEFAULT_INACTIVITY_TIMEOUT_S), (5, 5)])
def test_a_token_that_is_not_used_expires_and_use_keeps_it(asked_s: int, given_s: int) -> None:
    rig = Rig()
    token = rig.populate((0, 8), timeout_s=asked_s)
    for _ in range(3):
        rig.store.now_s += given_s
        assert rig.write(token, (0, 8), lun=1).status == Status.GOOD
    rig.store.now_s += given_s + 1
    assert refusal(rig.write(token, (0, 8), lun=1)) == EXPIRED
    assert refusal(rig.write(token, (0, 8), lun=1)) == EXPIRED


def test_a_token_is_deleted_when_its_user_says_so() -> None:
    rig = Rig()
    token = rig.populate((0, 8))
    assert rig.write(token, (0, 8), lun=1, flags=0x02).status == Status.GOOD
    assert refusal(rig.write(token, (0, 8), lun=1)) == DELETED


def test_the_tokens_of_a_logical_unit_end_with_it() -> None:
    rig = Rig()
    token = rig.populate((0, 8))
    rig.target.remove_unit(0)
    rig.client.ready()
    rig.client.send("00", lun=1)
    assert refusal(rig.write(token, (0, 8), lun=1)) == REVOKED


def test_there_are_only_so_many_tokens_of_a_nexus_until_they_expire() -> None:
    rig = Rig()
    for identifier in range(MAXIMUM_TOKENS_OF_A_NEXUS):
        rig.populate((identifier, 1), identifier=identifier)
    parameters = populate_list((0, 1))
    assert refusal(rig.run(0x10, parameters, identifier=500)) == INSUFFICIENT_RESOURCES
    other = ApplicationClient(rig.target, "iqn.2026-11.test:other,i,0x2").ready()
    assert other.run(cdb(0x10, parameters), data_out=parameters, store=rig.store).status == Status.GOOD
    listed = rig.client.run(receive(8, allocation_length=1 << 16), store=rig.store).data_in
    assert len(listed) == 8 + 96 * (MAXIMUM_TOKENS_OF_A_NEXUS + 1)
    rig.store.now_s += DEFAULT_INACTIVITY_TIMEOUT_S + 1
    rig.populate((0, 1), identifier=500)


def test_another_block_length_at_the_destination_is_refused() -> None:
    rig = Rig(block_bytes=4096, block_count=1024)
    assert refusal(rig.write(rig.populate((0, 8)), (0, 1), lun=1)) == CAUSE_NOT_REPORTABLE


def test_a_write_protected_logical_unit_makes_tokens_and_takes_none() -> None:
    rig = Rig(read_only=True)
    token = rig.populate((0, 8), lun=1)
    assert refusal(rig.write(token, (0, 8), lun=1)) == WRITE_PROTECTED
    assert rig.write(token, (0, 8)).status == Status.GOOD


# Immediate operation, faults


def test_with_immed_it_goes_on_behind_the_answer() -> None:
    rig = Rig()
    token = rig.populate((0, 4000), flags=0x01)
    expected = rig.bytes_of(rig.first, 0, 4000)
    assert rig.write(token, (0, 4000), lun=1, flags=0x01).status == Status.GOOD
    information = rig.client.data(receive(7, 2), lun=1)
    assert (information[5], int.from_bytes(information[16:24])) == (0x12, 0)
    rig.store.run_background()
    information = rig.client.data(receive(7, 2), lun=1)
    assert (information[5], int.from_bytes(information[16:24])) == (1, 4000)
    assert rig.bytes_of(rig.second, 0, 4000) == expected


def test_what_fails_behind_the_answer_is_told_with_its_sense_data_and_how_much_was_written() -> None:
    rig = Rig()
    token = rig.populate((0, 4096))
    rig.store.fault = lambda request: errno.EIO if isinstance(request, Write) and request.offset_bytes else None
    assert rig.write(token, (0, 4096), lun=1, flags=0x01).status == Status.GOOD
    rig.store.run_background()
    information = rig.client.data(receive(7, 2), lun=1)
    assert (information[5], information[12]) == (2, Status.CHECK_CONDITION)
    assert int.from_bytes(information[16:24]) == 2048
    assert code(fixed_sense(information[32 : 32 + information[14]])) == (0xA, 0x0C, 0x00)


@pytest.mark.parametrize("action", [5, 7])
def test_of_an_unknown_operation_nothing_is_told(action: int) -> None:
    rig = Rig()
    assert code(rig.client.refusal(receive(action, 77))) == (0x5, 0x24, 0x00)


# Parameter lists


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (populate_list((0, 8))[:15], LIST_LENGTH_ERROR),
        (populate_list((0, 8))[:31], LIST_LENGTH_ERROR),
        (populate_list(), INVALID_FIELD_IN_LIST),
        (populate_list((0, 8), timeout_s=MAXIMUM_INACTIVITY_TIMEOUT_S + 1), INVALID_FIELD_IN_LIST),
        (populate_list((0, 8), flags=0x02, rod_type=0x00800000), INVALID_FIELD_IN_LIST),
        (populate_list((0, 8), (7, 1)), INVALID_FIELD_IN_LIST),
        (populate_list((BLOCKS, 0)), LBA_OUT_OF_RANGE),
        (populate_list((BLOCKS - 1, 2)), LBA_OUT_OF_RANGE),
        (populate_list(*((number, 1) for number in range(MAXIMUM_RANGES + 1))), TOO_MANY_RANGES),
        (b"\0\0" + populate_list((0, 8))[2:], INVALID_FIELD_IN_LIST),
    ],
)
def test_a_wrong_list_makes_no_token(parameters: bytes, expected: tuple[int, int, int]) -> None:
    rig = Rig()
    assert refusal(rig.run(0x10, parameters)) == expected
    assert list(rig.target.tokens) == []


def test_a_named_type_that_is_there_is_taken() -> None:
    rig = Rig()
    rig.populate((0, 8), flags=0x02, rod_type=ACCESS_UPON_REFERENCE)


@pytest.mark.parametrize(("ranges", "offset"), [([(0, 9)], 0), ([(0, 4), (8, 4)], 1), ([(0, 1)], 8)])
def test_more_blocks_than_the_token_stands_for_are_refused(ranges: list[tuple[int, int]], offset: int) -> None:
    rig = Rig()
    token = rig.populate((0, 8))
    assert refusal(rig.write(token, *ranges, lun=1, offset=offset)) == INVALID_FIELD_IN_LIST


def test_no_parameter_list_is_good() -> None:
    rig = Rig()
    for action in (0x10, 0x11):
        rig.client.good(cdb(action, b""))


@given(st.integers(0x10, 0x11), st.binary(max_size=600), st.integers(0, 700))
def test_any_bytes_end_in_good_or_a_sense_code(action: int, parameters: bytes, length: int) -> None:
    client = ApplicationClient.of(a_unit(0, block_count=64))
    command = cdb(action, bytes(length))
    assert client.run(command, data_out=parameters[:length]).status in (Status.GOOD, Status.CHECK_CONDITION)


@given(st.data())
def test_any_change_of_a_good_list_ends_in_good_or_a_sense_code(data: st.DataObject) -> None:
    client, store = ApplicationClient.of(a_unit(0, block_count=64)), Store()
    good = populate_list((0, 8))
    assert client.run(cdb(0x10, good), data_out=good, store=store).status == Status.GOOD
    token = client.data(receive(7))[38:]
    action, whole = data.draw(st.sampled_from([(0x10, good), (0x11, write_list(token, (8, 4), (20, 4)))]))
    parameters = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        parameters[data.draw(st.integers(0, len(parameters) - 1))] = data.draw(st.integers(0, 255))
    reply = client.run(cdb(action, bytes(parameters), 3), data_out=bytes(parameters), store=store)
    assert reply.status in (Status.GOOD, Status.CHECK_CONDITION)
