from __future__ import annotations

import pytest

from csvd.scsi.device_buffers import BUFFER_BYTES, MOST_ECHO_BUFFERS
from csvd.scsi.outcome import Status
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    ApplicationClient,
    a_unit,
    cdb_pointer,
    code,
    fixed_sense,
)

DATA, DESCRIPTOR, ECHO, ECHO_DESCRIPTOR = 0x02, 0x03, 0x0A, 0x0B
SEQUENCE_ERROR = (0x5, 0x2C, 0x00)


def cdb(operation: int, mode: int, *, buffer: int = 0, offset: int = 0, length: int = 0) -> bytes:
    return bytes((operation, mode, buffer)) + offset.to_bytes(3) + length.to_bytes(3) + b"\0"


def read(mode: int, *, buffer: int = 0, offset: int = 0, length: int = 5000) -> bytes:
    return cdb(0x3C, mode, buffer=buffer, offset=offset, length=length)


def write(client: ApplicationClient, mode: int, data: bytes, *, offset: int = 0) -> None:
    reply = client.run(cdb(0x3B, mode, offset=offset, length=len(data)), data_out=data)
    assert reply.status == Status.GOOD, reply


@pytest.fixture
def client() -> ApplicationClient:
    return ApplicationClient.of(a_unit())


def another(client: ApplicationClient, number: int = 2) -> ApplicationClient:
    return ApplicationClient(client.target, f"iqn.2026-11.test:other,i,0x{number:x}").ready()


def test_each_nexus_has_its_own_echo(client: ApplicationClient) -> None:
    other = another(client)
    assert code(client.refusal(read(ECHO))) == SEQUENCE_ERROR, "nothing was written"
    write(client, ECHO, b"to and fro")
    write(other, ECHO, b"x" * BUFFER_BYTES)
    assert client.data(read(ECHO)) == b"to and fro"
    assert client.data(read(ECHO, length=3)) == b"to "
    assert other.data(read(ECHO)) == b"x" * BUFFER_BYTES
    client.target.nexus_lost(other.nexus)
    assert code(another(client).refusal(read(ECHO))) == SEQUENCE_ERROR
    client.target.logical_unit_reset(0, client.nexus)
    client.ready()
    assert code(client.refusal(read(ECHO))) == SEQUENCE_ERROR


def test_echo_buffers_are_bounded(client: ApplicationClient) -> None:
    write(client, ECHO, b"the oldest")
    for number in range(MOST_ECHO_BUFFERS - 1):
        write(another(client, 100 + number), ECHO, b"another")
    assert client.data(read(ECHO)) == b"the oldest"
    write(another(client), ECHO, b"one too many")
    assert code(client.refusal(read(ECHO))) == SEQUENCE_ERROR


def test_the_data_buffer_is_one_for_all_and_zeros_at_first(client: ApplicationClient) -> None:
    assert client.data(read(DATA)) == bytes(BUFFER_BYTES)
    write(client, DATA, b"abc", offset=BUFFER_BYTES - 3)
    assert another(client).data(read(DATA, offset=BUFFER_BYTES - 4)) == b"\0abc"


def test_descriptors_tell_the_capacity(client: ApplicationClient) -> None:
    assert client.data(read(DESCRIPTOR)) == bytes.fromhex("00 001000")
    assert client.data(read(DESCRIPTOR, buffer=1)) == bytes(4)
    assert client.data(read(ECHO_DESCRIPTOR)) == bytes.fromhex("00 00 1000")
    assert client.data(read(ECHO_DESCRIPTOR, length=2)) == b"\0\0"


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        (read(0x00), (1, 4)),
        (read(0x1C), (1, 4)),
        (read(DATA, buffer=1), (2, None)),
        (read(DATA, offset=BUFFER_BYTES), (3, None)),
        (cdb(0x3B, 0x05), (1, 4)),
        (cdb(0x3B, DESCRIPTOR), (1, 4)),
        (cdb(0x3B, DATA, buffer=1), (2, None)),
        (cdb(0x3B, DATA, offset=0xFFFFFF), (3, None)),
        (cdb(0x3B, DATA, offset=1, length=BUFFER_BYTES), (6, None)),
        (cdb(0x3B, ECHO, length=BUFFER_BYTES + 1), (6, None)),
    ],
)
def test_a_wrong_field_is_pointed_at(client: ApplicationClient, wrong: bytes, pointer: tuple[int, int | None]) -> None:
    sense = client.refusal(wrong)
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, pointer)


def test_what_is_sent_short_is_refused_and_what_is_taken_is_bounded(client: ApplicationClient) -> None:
    reply = client.run(cdb(0x3B, ECHO, length=4), data_out=b"abc")
    assert code(fixed_sense(reply.sense)) == (0x5, 0x1A, 0x00)
    assert client.target.data_out_length(0, cdb(0x3B, ECHO, length=4)) == 4
    assert client.target.data_out_length(0, cdb(0x3B, ECHO, length=0xFFFFFF)) == 0
