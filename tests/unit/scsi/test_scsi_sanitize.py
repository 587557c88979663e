"""SANITIZE: its methods, what others see of it, its failure mode, and restarts in the middle of it."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csvd.scsi.background import KEPT_NAME
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.outcome import Reply, Status
from csvd.scsi.procedure import Background, Flush, Keep, Procedure, Request, Unmap, Until, Write
from csvd.scsi.target_device import TargetDevice
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    INVALID_OPERATION_CODE,
    ApplicationClient,
    Sense,
    a_unit,
    code,
    fixed_sense,
)
from tests.unit.scsi.store import Store

BLOCKS = 4100
SANITIZE_IN_PROGRESS = (0x2, 0x04, 0x1B)
SOFTWARE_WRITE_PROTECTED = (0x7, 0x27, 0x02)
SANITIZE_FAILED = (0x3, 0x31, 0x03)
INVALID_FIELD_IN_LIST = (0x5, 0x26, 0x00)
LIST_LENGTH_ERROR = (0x5, 0x1A, 0x00)
OVERWRITE, BLOCK_ERASE, CRYPTOGRAPHIC_ERASE, EXIT_FAILURE_MODE = 1, 2, 3, 0x1F
IMMED, AUSE = 0x80, 0x20
TEST_UNIT_READY, READ_10, REQUEST_SENSE = "00", "28 00 00000000 00 0001 00", "03 00 00 00 FF 00"


def cdb(action: int, length: int = 0, flags: int = 0) -> bytes:
    return bytes((0x48, flags | action, 0, 0, 0, 0, 0)) + length.to_bytes(2) + b"\0"


def overwrite_list(pattern: bytes, count: int = 1, *, invert: bool = False) -> bytes:
    return bytes((count | (0x80 if invert else 0), 0)) + len(pattern).to_bytes(2) + pattern


def a_client(**overrides: Any) -> tuple[ApplicationClient, LogicalUnit]:
    unit = a_unit(block_count=BLOCKS, thin=True, **overrides)
    return ApplicationClient.of(unit), unit


def sense_of(reply: Reply) -> Sense:
    assert reply.status == Status.CHECK_CONDITION
    return fixed_sense(reply.sense)


def faulty_store(kind: type[Request], number: int = errno.EIO) -> Store:
    store = Store()
    store.fault = lambda request: number if isinstance(request, kind) else None
    return store


def overwrite(client: ApplicationClient, store: Store, parameters: bytes, flags: int = 0) -> Reply:
    return client.run(cdb(OVERWRITE, len(parameters), flags), data_out=parameters, store=store)


def test_overwrite_leaves_the_pattern_in_every_block_and_makes_it_durable() -> None:
    client, unit = a_client()
    store = Store()
    store.disk(unit)[:] = b"x" * len(store.disk(unit))
    assert overwrite(client, store, overwrite_list(b"\xaa\xbb\xcc")).status == Status.GOOD
    assert bytes(store.disk(unit)) == (b"\xaa\xbb\xcc" * 171)[:512] * BLOCKS
    assert [type(request) for request in store.requests[-2:]] == [Write, Flush]
    client.good(TEST_UNIT_READY)


@pytest.mark.parametrize(("count", "invert", "first"), [(3, False, 0x0F), (3, True, 0x0F), (2, True, 0xF0)])
def test_passes_alternate_with_invert_and_the_last_one_is_the_pattern(count: int, invert: bool, first: int) -> None:
    client, unit = a_client()
    store = Store()
    assert overwrite(client, store, overwrite_list(b"\x0f", count, invert=invert)).status == Status.GOOD
    writes = [request for request in store.requests if isinstance(request, Write)]
    at_start = [request.data[0] for request in writes if not request.offset_bytes]
    assert at_start[0] == first
    assert len(at_start) == count
    assert (len(set(at_start)) > 1) == invert
    assert set(store.disk(unit)) == {0x0F}
    assert sum(isinstance(request, Flush) for request in store.requests) == count


def test_block_erase_gives_all_blocks_back() -> None:
    client, unit = a_client()
    store = Store()
    store.disk(unit)[:] = b"x" * len(store.disk(unit))
    assert client.run(cdb(BLOCK_ERASE), store=store).status == Status.GOOD
    assert not any(store.disk(unit))
    assert any(isinstance(request, Unmap) for request in store.requests)


def test_block_erase_is_there_for_thin_units_only_and_wabereq_says_so() -> None:
    thin, _ = a_client()
    full = ApplicationClient.of(a_unit(block_count=BLOCKS))
    assert thin.data("12 01 B1 00 FF 00")[7] == 0x40
    assert full.data("12 01 B1 00 FF 00")[7] == 0
    assert code(full.refusal(cdb(BLOCK_ERASE))) == INVALID_FIELD_IN_CDB
    assert thin.data("A3 0C 02 48 0002 000000FF 00 00")[1] & 7 == 3
    assert full.data("A3 0C 02 48 0002 000000FF 00 00")[1] & 7 == 1


def test_cryptographic_erase_is_refused_for_there_is_no_key() -> None:
    client, _ = a_client()
    assert code(client.refusal(cdb(CRYPTOGRAPHIC_ERASE))) == INVALID_FIELD_IN_CDB


@pytest.mark.parametrize("length", [0, 1, 4, 4 + 513])
def test_a_list_length_that_overwrite_does_not_take_is_a_fault_of_the_cdb(length: int) -> None:
    client, _ = a_client()
    sense = sense_of(client.run(cdb(OVERWRITE, length), data_out=bytes(length)))
    assert code(sense) == INVALID_FIELD_IN_CDB
    assert client.target.data_out_length(0, cdb(OVERWRITE, length)) == 0


@pytest.mark.parametrize("action", [BLOCK_ERASE, EXIT_FAILURE_MODE])
def test_actions_without_a_list_take_none(action: int) -> None:
    client, _ = a_client()
    assert code(client.refusal(cdb(action, 8))) == INVALID_FIELD_IN_CDB


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (overwrite_list(b"abcd", 0), INVALID_FIELD_IN_LIST),
        (bytes((0x21, 0, 0, 4)) + b"abcd", INVALID_FIELD_IN_LIST),
        (bytes((1, 0, 0, 0)) + b"abcd", INVALID_FIELD_IN_LIST),
        (bytes((1, 0, 2, 4)) + b"abcd", INVALID_FIELD_IN_LIST),
        (bytes((1, 0, 0, 5)) + b"abcd", LIST_LENGTH_ERROR),
    ],
)
def test_a_wrong_overwrite_list_changes_nothing(parameters: bytes, expected: tuple[int, int, int]) -> None:
    client, _ = a_client()
    store = Store()
    assert code(sense_of(overwrite(client, store, parameters))) == expected
    assert store.requests == []
    client.good(TEST_UNIT_READY)


@given(st.binary(min_size=5, max_size=40), st.integers(0, 45), st.integers(0, 255))
def test_any_bytes_end_in_good_or_a_sense_code(parameters: bytes, sent: int, flags: int) -> None:
    unit = a_unit(block_count=8)
    client = ApplicationClient.of(unit)
    reply = client.run(bytes((0x48, flags)) + bytes(5) + len(parameters).to_bytes(2), data_out=parameters[:sent])
    assert reply.status in (Status.GOOD, Status.CHECK_CONDITION)


@pytest.mark.parametrize("reserved", [1, 2, 4, 6])
def test_reserved_fields_of_the_cdb_must_be_zero(reserved: int) -> None:
    client, _ = a_client()
    wrong = bytearray(cdb(BLOCK_ERASE))
    wrong[reserved] |= 0x40
    assert code(client.refusal(bytes(wrong))) == INVALID_FIELD_IN_CDB


def test_a_write_protected_unit_is_not_sanitized() -> None:
    client, _ = a_client()
    client.target.servers[0].write_protected = True
    assert code(client.refusal(cdb(BLOCK_ERASE))) == SOFTWARE_WRITE_PROTECTED


def test_a_unit_that_is_read_only_for_good_offers_no_sanitize() -> None:
    client = ApplicationClient.of(a_unit(read_only=True, thin=True))
    assert code(client.refusal(cdb(BLOCK_ERASE))) == INVALID_OPERATION_CODE
    assert client.data("A3 0C 02 48 0001 000000FF 00 00")[1] & 7 == 1
    assert client.data("12 01 B1 00 FF 00")[7] == 0


def test_while_it_goes_on_others_see_its_progress_and_nothing_else_runs() -> None:
    client, unit = a_client()
    store = Store()
    parameters = overwrite_list(b"z")
    assert overwrite(client, store, parameters, IMMED).status == Status.GOOD
    steps = store.background.pop()
    answer = store.answer(next(steps))
    request = steps.send(answer)
    for refused in (TEST_UNIT_READY, READ_10, cdb(BLOCK_ERASE), cdb(EXIT_FAILURE_MODE)):
        sense = client.refusal(refused)
        assert code(sense) == SANITIZE_IN_PROGRESS
        assert sense.specific[0] == 0x80
    assert client.data("12 00 00 00 24 00")[:1] == b"\0"
    first = client.data(REQUEST_SENSE)
    assert code(fixed_sense(first)) == SANITIZE_IN_PROGRESS
    steps.send(store.answer(request))
    later = client.data(REQUEST_SENSE)
    assert int.from_bytes(fixed_sense(later).specific[1:]) > int.from_bytes(fixed_sense(first).specific[1:])
    client.target.logical_unit_reset(0, "iqn.other")
    assert code(fixed_sense(client.data(REQUEST_SENSE))) == (0x6, 0x29, 0x03)
    assert code(client.refusal(TEST_UNIT_READY)) == SANITIZE_IN_PROGRESS
    steps.close()
    assert unit.block_count == BLOCKS


def test_it_claims_the_whole_disk_for_itself_until_it_ends() -> None:
    client, unit = a_client()
    store = Store()
    assert client.run(cdb(BLOCK_ERASE, flags=IMMED), store=store).status == Status.GOOD
    begun = [request for request in store.requests if isinstance(request, Background)][-1]
    assert [(claim.locks, claim.offset_bytes, claim.length_bytes, claim.exclusive) for claim in begun.claims] == [
        (unit.locks, 0, BLOCKS * 512, True)
    ]


def test_a_failed_sanitize_shuts_the_medium_until_another_one_succeeds() -> None:
    client, _ = a_client()
    store = faulty_store(Write)
    assert code(sense_of(overwrite(client, store, overwrite_list(b"z")))) == SANITIZE_FAILED
    for refused in (TEST_UNIT_READY, READ_10):
        assert code(client.refusal(refused)) == SANITIZE_FAILED
    assert code(fixed_sense(client.data(REQUEST_SENSE))) == SANITIZE_FAILED
    assert code(client.refusal(cdb(EXIT_FAILURE_MODE))) == INVALID_FIELD_IN_CDB
    assert code(client.refusal(cdb(BLOCK_ERASE, flags=AUSE))) == INVALID_FIELD_IN_CDB
    assert client.run(cdb(BLOCK_ERASE), store=store).status == Status.GOOD
    client.good(TEST_UNIT_READY)


def test_with_ause_exit_failure_mode_opens_the_medium_again() -> None:
    client, _ = a_client()
    store = faulty_store(Write)
    assert code(sense_of(overwrite(client, store, overwrite_list(b"z"), AUSE))) == SANITIZE_FAILED
    assert client.run(cdb(EXIT_FAILURE_MODE), store=store).status == Status.GOOD
    client.good(TEST_UNIT_READY)


def test_exit_failure_mode_of_a_sound_medium_is_good() -> None:
    client, _ = a_client()
    client.good(cdb(EXIT_FAILURE_MODE))


def test_that_it_goes_on_is_kept_before_it_is_answered_and_forgotten_at_its_end() -> None:
    client, unit = a_client(keeps=True)
    store = Store()
    assert overwrite(client, store, overwrite_list(b"zy", 2), IMMED).status == Status.GOOD
    assert [type(request) for request in store.requests] == [Background, Until, Keep, Background]
    assert unit.kept[KEPT_NAME]["description"] == {
        "method": "overwrite",
        "pattern": b"zy".hex(),
        "count": 2,
        "invert": False,
    }
    store.run_background()
    assert KEPT_NAME not in unit.kept


def test_a_failure_that_is_left_while_another_sanitize_begins_does_not_end_that_one() -> None:
    client, _ = a_client(keeps=True)
    store = faulty_store(Write)
    assert code(sense_of(overwrite(client, store, overwrite_list(b"z"), AUSE))) == SANITIZE_FAILED
    leaving = client.send(cdb(EXIT_FAILURE_MODE))
    assert isinstance(leaving, Procedure)
    assert isinstance(leaving.steps.send(None), Keep)
    assert client.run(cdb(BLOCK_ERASE, flags=IMMED), store=store).status == Status.GOOD
    assert store.run(leaving).status == Status.GOOD
    assert code(client.refusal(TEST_UNIT_READY)) == SANITIZE_IN_PROGRESS
    store.run_background()
    client.good(TEST_UNIT_READY)


def test_what_can_not_be_kept_is_not_begun() -> None:
    client, _ = a_client(keeps=True)
    store = faulty_store(Keep, errno.ENOSPC)
    assert sense_of(client.run(cdb(BLOCK_ERASE), store=store)).key == 0x7
    assert store.background == []
    client.good(TEST_UNIT_READY)


def restarted(unit: LogicalUnit) -> tuple[ApplicationClient, list[Background]]:
    again = a_unit(block_count=BLOCKS, thin=True, keeps=True, kept=dict(unit.kept))
    target = TargetDevice({0: again})
    return ApplicationClient(target).ready(), target.resumptions()


def test_after_a_restart_it_goes_on_to_its_end() -> None:
    client, unit = a_client(keeps=True)
    store = Store()
    assert overwrite(client, store, overwrite_list(b"z"), IMMED).status == Status.GOOD
    client, resumed = restarted(unit)
    assert code(client.refusal(TEST_UNIT_READY)) == SANITIZE_IN_PROGRESS
    assert client.target.resumptions() == []
    (background,) = resumed
    assert background.claims[0].exclusive
    store = Store()
    store.run_steps(background.steps)
    client.good(TEST_UNIT_READY)
    assert set(store.disk(client.target.servers[0].unit)) == {ord("z")}
    assert client.target.servers[0].unit.kept == {}


def test_the_failure_mode_outlives_a_restart() -> None:
    client, unit = a_client(keeps=True)
    store = faulty_store(Write)
    assert code(sense_of(overwrite(client, store, overwrite_list(b"z")))) == SANITIZE_FAILED
    client, resumed = restarted(unit)
    assert resumed == []
    assert code(client.refusal(TEST_UNIT_READY)) == SANITIZE_FAILED
    assert code(client.refusal(cdb(EXIT_FAILURE_MODE))) == INVALID_FIELD_IN_CDB
    assert client.run(cdb(BLOCK_ERASE), store=Store()).status == Status.GOOD
    client.good(TEST_UNIT_READY)


def test_a_disk_that_is_closed_under_it_is_no_failure_but_a_restart() -> None:
    client, unit = a_client(keeps=True)
    store = faulty_store(Write, errno.EBADF)
    assert overwrite(client, store, overwrite_list(b"z")).status == Status.BUSY
    assert unit.kept[KEPT_NAME]["failed"] is False
    _, resumed = restarted(unit)
    assert len(resumed) == 1
