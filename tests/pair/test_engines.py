"""Initiator and target joined in memory: what one writes the other has, whatever was negotiated."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.iscsi import text
from csvd.iscsi.access import Access
from csvd.iscsi.chap import Algorithm, Credentials
from csvd.iscsi.codes import LoginStatus, TaskManagementFunction
from csvd.iscsi.keys import OFFER, SessionParameters
from initiator.engine.requests import Command, ConnectionFailed, LoggedIn, Logout, Ping, TaskManagement, TextExchange
from initiator.errors import AuthenticationFailed, LoginRefused
from tests.pair.joined import BLOCK_BYTES, DISK_BYTES, TARGET, Pair

SECRET = b"sixteen bytes or more"
JOE = Credentials("joe", SECRET)
TARGET_PROOF = Credentials("the target", b"what the target knows")
BLOCKS = DISK_BYTES // BLOCK_BYTES

DIGESTS = st.sampled_from(["None", "CRC32C", "CRC32C,None", "None,CRC32C"])
OFFERS = st.builds(
    lambda segment, first, burst, r2t, immediate, digests: replace(
        OFFER,
        max_recv_data_segment_length=segment,
        first_burst_length=min(first, burst),
        max_burst_length=burst,
        initial_r2t=r2t,
        immediate_data=immediate,
        header_digest=digests[0],
        data_digest=digests[1],
    ),
    st.sampled_from([512, 1024, 8192, 65536, 262144]),
    st.sampled_from([512, 4096, 65536]),
    st.sampled_from([512, 8192, 262144, 1048576]),
    st.booleans(),
    st.booleans(),
    st.tuples(DIGESTS, DIGESTS),
)
WORK = st.lists(
    st.tuples(st.booleans(), st.integers(0, BLOCKS - 1), st.integers(1, 300)),
    min_size=1,
    max_size=12,
)


def logged_in(pair: Pair) -> Pair:
    events = pair.run()
    assert any(isinstance(event, LoggedIn) for event in events)
    # Power on: the first command of a nexus gets a unit attention.
    (told,) = pair.ask(Command(0, bytes(16)))
    assert isinstance(told, Command)
    assert told.status == 2
    return pair


@given(st.integers(0, 2**32), OFFERS, OFFERS, WORK)
@settings(max_examples=60, deadline=None)
def test_reads_give_what_was_written(
    seed: int, ours: SessionParameters, theirs: SessionParameters, work: list[tuple[bool, int, int]]
) -> None:
    pair = logged_in(Pair(seed, initiator_offer=ours, target_offer=theirs))
    model = bytearray(DISK_BYTES)
    source = random.Random(seed)
    for is_write, lba, length in work:
        blocks = min(length, BLOCKS - lba)
        at, size = lba * BLOCK_BYTES, blocks * BLOCK_BYTES
        if is_write:
            data = source.randbytes(size)
            command = pair.write(lba, data, fua=blocks % 2 == 0)
            model[at : at + size] = data
        else:
            command, buffer = pair.read(lba, blocks)
        assert pair.ask(command) == [command]
        assert (command.status, command.residual) == (0, 0)
        if not is_write:
            assert buffer == model[at : at + size]


@given(st.integers(0, 2**32), OFFERS)
@settings(max_examples=25, deadline=None)
def test_many_commands_at_once_all_end_once(seed: int, offer: SessionParameters) -> None:
    pair = logged_in(Pair(seed, initiator_offer=offer))
    source = random.Random(seed)
    datas = [source.randbytes(source.randrange(1, 40) * BLOCK_BYTES) for _ in range(20)]
    writes = [pair.write(number * 64, data) for number, data in enumerate(datas)]
    ended = pair.ask(*writes)
    assert sorted(map(id, ended)) == sorted(map(id, writes))
    reads = [pair.read(number * 64, len(data) // BLOCK_BYTES) for number, data in enumerate(datas)]
    pair.ask(*(command for command, _ in reads))
    assert [bytes(buffer) for _, buffer in reads] == datas


def test_more_commands_than_the_window_wait_and_end() -> None:
    pair = logged_in(Pair())
    reads = [pair.read(number, 1)[0] for number in range(200)]
    assert len(pair.ask(*reads)) == 200
    assert all(command.status == 0 for command in reads)


def test_a_read_past_the_end_is_out_of_range() -> None:
    pair = logged_in(Pair())
    command, _ = pair.read(BLOCKS, 1)
    pair.ask(command)
    assert command.status == 2
    assert (command.sense[2] & 0xF, command.sense[12]) == (5, 0x21)


def test_a_read_only_disk_refuses_a_write_and_takes_nothing_of_it() -> None:
    pair = logged_in(Pair(read_only=True))
    command = pair.write(0, b"x" * (1 << 19))
    pair.ask(command)
    assert (command.sense[2] & 0xF, command.sense[12]) == (7, 0x27)


def test_chap_lets_in_who_knows_the_secret() -> None:
    access = Access(credentials={"joe": JOE})
    logged_in(Pair(access=access, credentials=JOE))


@pytest.mark.parametrize(
    "credentials", [None, Credentials("joe", b"another secret than it"), Credentials("jim", SECRET)]
)
def test_chap_keeps_out_who_does_not(credentials: Credentials | None) -> None:
    pair = Pair(access=Access(credentials={"joe": JOE}), credentials=credentials)
    (event,) = pair.run()
    assert isinstance(event, ConnectionFailed)
    assert isinstance(event.error, AuthenticationFailed)
    assert pair.engine.closing


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_both_sides_prove_themselves(algorithm: Algorithm) -> None:
    access = Access(credentials={"joe": JOE}, proof=TARGET_PROOF)
    logged_in(Pair(access=access, credentials=JOE, target_credentials=TARGET_PROOF, algorithms=(algorithm,)))


@pytest.mark.parametrize(
    "proof", [None, Credentials("the target", b"not what it should know"), Credentials("another", TARGET_PROOF.secret)]
)
def test_a_target_that_does_not_prove_itself_is_not_logged_in_to(proof: Credentials | None) -> None:
    access = Access(credentials={"joe": JOE}, proof=proof)
    pair = Pair(access=access, credentials=JOE, target_credentials=TARGET_PROOF)
    (event,) = pair.run()
    assert isinstance(event, ConnectionFailed)
    assert isinstance(event.error, AuthenticationFailed)
    assert not pair.initiator.logged_in


def test_a_target_without_chap_is_not_believed_by_who_wants_a_proof() -> None:
    (event,) = Pair(credentials=JOE, target_credentials=TARGET_PROOF).run()
    assert isinstance(event, ConnectionFailed)
    assert isinstance(event.error, AuthenticationFailed)


def test_a_target_that_is_not_there_is_not_found() -> None:
    (event,) = Pair(target_name="iqn.2026-11.test:none").run()
    assert isinstance(event, ConnectionFailed)
    assert isinstance(event.error, LoginRefused)
    assert event.error.status == LoginStatus.NOT_FOUND


def test_discovery_finds_the_target() -> None:
    pair = Pair(target_name="")
    pair.run()
    exchange = TextExchange(text.build([("SendTargets", "All")]))
    pair.ask(exchange)
    assert text.parse(bytes(exchange.answer))[0] == ("TargetName", TARGET)


def test_ping_task_management_and_logout() -> None:
    pair = logged_in(Pair())
    ping, reset, logout = Ping(b"are you there"), TaskManagement(TaskManagementFunction.LOGICAL_UNIT_RESET), Logout()
    assert pair.ask(ping) == [ping]
    assert pair.ask(reset) == [reset]
    assert reset.response == 0
    assert pair.ask(logout) == [logout]
    assert pair.engine.closing
