"""Header and data digests at the target: what is sent and taken, and what becomes of what is damaged."""

from __future__ import annotations

import os
from typing import Any

import pytest

from csvd.iscsi.codes import Opcode
from csvd.iscsi.digests import digest_of
from csvd.iscsi.session import abort
from tests.iscsi_wire import End, Pdu, Wire, digest, digested, parse_pdus, pdu
from tests.unit.iscsi.test_full_feature import NO_TAG, data_out

BOTH = {"header_digest": True, "data_digest": True}


class DigestedEnd:
    """An initiator that agreed on digests."""

    def __init__(self, end: End, kinds: dict[str, bool]) -> None:
        self.end, self.kinds = end, kinds
        self.wire = end.wire

    def ask(self, stream: bytes, *, damage: int | None = None) -> list[Pdu]:
        """Send PDUs with their digests; turn over one bit at ``damage``."""
        sent = bytearray(digested(stream, **self.kinds))
        if damage is not None:
            sent[damage] ^= 0x10
        self.end.feed(bytes(sent))
        return self.answers()

    def answers(self) -> list[Pdu]:
        return parse_pdus(self.end.take(), **self.kinds)


def logged_in(*, header_digest: bool = True, data_digest: bool = True, **more: str) -> DigestedEnd:
    end = Wire().connect()
    values = {True: "CRC32C", False: "None"}
    keys = {"InitialR2T": "No", "MaxRecvDataSegmentLength": "4096", "MaxBurstLength": "8192"} | more
    digests = {"HeaderDigest": values[header_digest], "DataDigest": values[data_digest]}
    assert end.login(**keys, **digests).status == 0
    return DigestedEnd(end, {"header_digest": header_digest, "data_digest": data_digest})


def nop(data: bytes = b"", **fields: Any) -> bytes:
    values = {"opcode": 0x40, "flags": 0x80, "initiator_task_tag": 9, "target_transfer_tag": NO_TAG}
    return pdu(Opcode.NOP_OUT, data, **values | fields)


def test_the_digest_of_known_bytes() -> None:
    # Of the examples in the appendix of RFC 7143.
    assert digest_of(bytes(32)).hex() == "aa36918a"
    assert digest_of(b"\xff" * 32).hex() == "43aba862"
    assert digest_of(bytes(range(32))).hex() == "4e79dd46"
    assert digest(bytes(range(32))) == digest_of(bytes(range(32)))


def test_crc32c_is_chosen_from_a_list_in_the_order_of_the_initiator() -> None:
    for offered, chosen in (("CRC32C,None", "CRC32C"), ("None,CRC32C", "None"), ("CRC32C", "CRC32C")):
        end = Wire().connect()
        answer = end.login(HeaderDigest=offered, DataDigest=offered)
        assert f"HeaderDigest={chosen}".encode() in answer.data.split(b"\0")
        assert f"DataDigest={chosen}".encode() in answer.data.split(b"\0")


@pytest.mark.parametrize("header_digest", [False, True])
@pytest.mark.parametrize("data_digest", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 513])
def test_reads_writes_and_pings_with_any_choice_of_digests(header_digest: bool, data_digest: bool, size: int) -> None:
    end = logged_in(header_digest=header_digest, data_digest=data_digest)
    data = os.urandom(20 * 512)
    (r2t,) = end.ask(end.end.write(0, 20))
    parts = data_out(r2t, data[:4096], flags=0) + data_out(r2t, data[4096:8192], data_sn=1, buffer_offset=4096)
    (r2t,) = end.ask(parts)
    (answer,) = end.ask(data_out(r2t, data[8192:]))
    assert answer.status == 0
    answers = end.ask(end.end.read(0, 20))
    assert b"".join(answer.data for answer in answers) == data
    ping = os.urandom(size)
    (answer,) = end.ask(nop(ping))
    assert answer.data == ping
    (answer,) = end.ask(end.end.read(5000, 1))
    assert (answer.status, len(answer.data)) == (2, 20)


def test_what_follows_the_login_in_one_segment_is_taken_with_digests() -> None:
    end = Wire().connect()
    names = {"InitiatorName": "iqn.2026-11.test:i", "TargetName": end.wire.target.name}
    login = end.login_pdu(names | {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"})
    end.feed(login + digested(nop(b"ping") + end.read(0, 1)))
    stream = end.take()
    length = 48 + (int.from_bytes(stream[4:8]) + 3 & ~3)
    answers = parse_pdus(stream[length:], **BOTH)
    assert [answer.opcode for answer in answers] == [Opcode.NOP_IN, Opcode.DATA_IN]


def test_an_additional_header_segment_is_covered_by_the_header_digest() -> None:
    end = logged_in()
    command = end.end.read(0, 1)
    extended = bytearray(command[:48] + bytes((0, 5, 1, 0)) + b"\x01\x02\x03\x04")
    extended[4] = 2
    (answer,) = end.ask(bytes(extended))
    assert answer.opcode == Opcode.DATA_IN
    end.ask(bytes(extended), damage=50)
    assert end.end.engine.closing


@pytest.mark.parametrize("byte", [0, 4, 7, 20, 47, 48, 51])
def test_a_damaged_header_ends_the_connection_and_nothing_is_done(byte: int) -> None:
    end = logged_in()
    answers = end.ask(end.end.write(0, 1, b"x" * 512), damage=byte)
    if byte != 4:  # more header seems to follow
        assert end.end.engine.closing
        assert "digest" in str(end.end.engine.failure)
    assert answers == []
    assert not any(end.wire.disk)


def test_a_data_out_with_damaged_data_is_rejected_and_its_task_fails_when_the_burst_has_ended() -> None:
    end = logged_in()
    (r2t,) = end.ask(end.end.write(0, 16))
    first = data_out(r2t, b"x" * 4096, flags=0)
    (reject,) = end.ask(first, damage=100)
    assert (reject.opcode, reject.reason, reject.data) == (Opcode.REJECT, 0x02, first[:48])
    (answer,) = end.ask(data_out(r2t, b"x" * 4096, data_sn=1, buffer_offset=4096))
    assert (answer.opcode, answer.status) == (Opcode.SCSI_RESPONSE, 2)
    assert not any(end.wire.disk)
    (answer,) = end.ask(end.end.read(0, 1))
    assert answer.opcode == Opcode.DATA_IN


def test_the_last_data_out_of_a_burst_is_damaged_and_the_task_fails_at_once() -> None:
    end = logged_in()
    (r2t,) = end.ask(end.end.write(0, 1))
    answers = end.ask(data_out(r2t, b"x" * 512), damage=52 + 512 + 1)
    assert [answer.opcode for answer in answers] == [Opcode.REJECT, Opcode.SCSI_RESPONSE]


def test_a_command_with_damaged_immediate_data_is_rejected_and_the_session_recovers() -> None:
    end = logged_in()
    answers = end.ask(end.end.write(0, 1, b"x" * 512), damage=60)
    assert [(answer.opcode, answer.reason) for answer in answers] == [(Opcode.REJECT, 0x02)]
    assert end.end.engine.closing
    assert not any(end.wire.disk)
    assert not end.wire.target.sessions


def test_a_damaged_ping_is_rejected_and_the_connection_goes_on() -> None:
    end = logged_in()
    (answer,) = end.ask(nop(b"ping"), damage=53)
    assert (answer.opcode, answer.reason) == (Opcode.REJECT, 0x02)
    (answer,) = end.ask(nop(b"ping"))
    assert answer.opcode == Opcode.NOP_IN


LARGE = 200 * 1024
DAMAGES = [None, 52, 100_000, 52 + LARGE - 1, 52 + LARGE, 52 + LARGE + 3]
CUTS = [1, 47, 48, 51, 52, 53, 100_000, 131072, 52 + LARGE - 1, 52 + LARGE, 52 + LARGE + 1, 52 + LARGE + 3]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("cut", CUTS)
def test_immediate_data_that_is_received_into_its_place_is_checked(damage: int | None, cut: int) -> None:
    end = logged_in(FirstBurstLength="262144", MaxBurstLength="262144")
    data = os.urandom(LARGE)
    sent = bytearray(digested(end.end.write(0, LARGE // 512, data)))
    if damage is not None:
        sent[damage] ^= 1
    end.end.feed(bytes(sent[:cut]))
    end.end.feed(bytes(sent[cut:]) + digested(end.end.read(0, 1)))
    answers = [answer.opcode for answer in end.answers()]
    assert answers == ([Opcode.SCSI_RESPONSE, Opcode.DATA_IN] if damage is None else [Opcode.REJECT])
    assert end.end.engine.closing is (damage is not None)
    assert end.wire.disk[:LARGE] == (data if damage is None else bytes(LARGE))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("wanted_bytes", [LARGE, 512, 0])
def test_a_data_out_that_is_received_into_its_place_is_checked(damage: int | None, cut: int, wanted_bytes: int) -> None:
    end = logged_in(FirstBurstLength="262144", MaxBurstLength="262144")
    data = os.urandom(LARGE)
    # The command takes ``wanted_bytes`` of what it announces; the rest is read over, and its digest counts too.
    command = end.end.write(0, wanted_bytes // 512, expected=LARGE, flags=0x20)
    tag = int.from_bytes(command[16:20])
    assert end.ask(command) == []
    part = pdu(Opcode.DATA_OUT, data, flags=0x80, initiator_task_tag=tag, target_transfer_tag=NO_TAG)
    sent = bytearray(digested(part))
    if damage is not None:
        sent[damage] ^= 1
    end.end.feed(bytes(sent[:cut]))
    end.end.feed(bytes(sent[cut:]) + digested(end.end.read(0, 1)))
    answers = end.answers()
    if damage is None:
        assert [answer.opcode for answer in answers] == [Opcode.SCSI_RESPONSE, Opcode.DATA_IN]
        assert end.wire.disk[:wanted_bytes] == data[:wanted_bytes]
    else:
        assert sorted(answer.opcode for answer in answers) == [Opcode.SCSI_RESPONSE, Opcode.DATA_IN, Opcode.REJECT]
        assert not any(end.wire.disk)
    assert not end.end.engine.closing


def test_data_for_a_task_that_was_aborted_meanwhile_is_read_over() -> None:
    end = logged_in()
    (r2t,) = end.ask(end.end.write(0, 8))
    sent = digested(data_out(r2t, b"x" * 4096))
    end.end.feed(sent[:1000])
    session = end.end.engine.session
    assert session is not None
    abort(list(session.tasks.values()), lambda: None)
    end.end.feed(sent[1000:] + digested(end.end.read(0, 1)))
    assert [answer.opcode for answer in end.answers()] == [Opcode.DATA_IN]
