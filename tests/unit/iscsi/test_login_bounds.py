"""Logins that nobody means well with: whatever comes, the answer is clear, and memory and time are bounded."""

from __future__ import annotations

import pytest

from csvd.iscsi import text
from csvd.iscsi.access import Access
from csvd.iscsi.chap import Credentials
from csvd.iscsi.codes import LoginStatus, Opcode
from csvd.iscsi.errors import TextError
from csvd.iscsi.keepalive import KEEPALIVE
from csvd.iscsi.login import MAX_REQUESTS
from csvd.iscsi.text_exchange import MAX_TEXT_REQUESTS
from tests.iscsi_wire import INITIATOR, ISID, SECRET, TARGET, End, Pdu, Wire, pdu

NAMES = {"InitiatorName": INITIATOR, "SessionType": "Normal", "TargetName": TARGET}
NO_TAG = 0xFFFFFFFF


def login_data(data: bytes, flags: int = 0x87) -> bytes:
    return pdu(Opcode.LOGIN_REQUEST, data, opcode=0x43, flags=flags, isid=ISID, cmd_sn=1)


def last_answer(end: End, data: bytes) -> Pdu:
    end.feed(data)
    return end.answers()[-1]


def refused(data: bytes, status: LoginStatus = LoginStatus.INITIATOR_ERROR) -> None:
    end = Wire().connect()
    assert last_answer(end, data).status == status
    assert end.engine.closing


@pytest.mark.parametrize("size", [64, 65, 1000, 8000])
def test_a_key_over_63_bytes_ends_the_login(size: int) -> None:
    refused(login_data(text.build(NAMES.items()) + b"X" * size + b"=1\0"))


def test_a_key_of_63_bytes_is_not_understood() -> None:
    end = Wire().connect()
    answer = last_answer(end, login_data(text.build(NAMES.items()) + b"X" * 63 + b"=1\0"))
    assert answer.status == LoginStatus.SUCCESS
    assert dict(text.parse(answer.data))["X" * 63] == "NotUnderstood"


def test_2048_times_a_equals_b_in_one_pdu_ends_the_login() -> None:
    refused(login_data(b"a=b\0" * 2048))
    refused(login_data(text.build(NAMES.items()) + b"".join(b"a%d=b\0" % number for number in range(900))))


@pytest.mark.parametrize("size", [8189, 8190, 8191, 8192])
def test_login_data_of_just_8192_bytes_and_a_little_less_is_taken(size: int) -> None:
    names = text.build(NAMES.items())
    padded = names + b"X-pad=" + b"p" * (size - len(names) - 7) + b"\0"
    assert len(padded) == size
    end = Wire().connect()
    answer = last_answer(end, login_data(padded))
    assert answer.status == LoginStatus.SUCCESS
    assert dict(text.parse(answer.data))["X-pad"] == "NotUnderstood"
    (answer,) = end.ask(end.read(0, 1))
    assert answer.opcode == Opcode.DATA_IN


@pytest.mark.parametrize("size", [8189, 8190, 8191, 8192])
def test_login_data_of_that_size_without_a_key_ends_the_login(size: int) -> None:
    refused(login_data(b"x" * size))
    # Nothing but NULs is no text at all: the names are missing.
    refused(login_data(bytes(size)), LoginStatus.MISSING_PARAMETER)


@pytest.mark.parametrize("size", [16385, 2**20, 2**24 - 1])
def test_more_login_data_than_any_login_has_is_cut_off_before_it_is_received(size: int) -> None:
    end = Wire().connect()
    end.feed(pdu(Opcode.LOGIN_REQUEST, opcode=0x43, flags=0x87, isid=ISID, lengths=size))
    assert end.engine.closing
    assert end.answers() == []


@pytest.mark.parametrize("words", [1, 5, 255])
def test_an_additional_header_segment_ends_the_login(words: int) -> None:
    data = text.build(NAMES.items())
    header = pdu(Opcode.LOGIN_REQUEST, opcode=0x43, flags=0x87, isid=ISID, lengths=words << 24 | len(data))
    refused(header + bytes(4 * words) + data + bytes(-len(data) % 4))


@pytest.mark.parametrize("size", [0, 1, 47])
def test_a_login_shorter_than_its_header_waits_for_the_rest_until_the_time_is_up(size: int) -> None:
    end = Wire().connect()
    end.feed(login_data(b"")[:size])
    assert end.answers() == []
    end.engine.tick(KEEPALIVE.login_s - 1)
    assert not end.engine.closing
    end.engine.tick(KEEPALIVE.login_s + 1)
    assert end.engine.closing


def test_a_login_that_sends_a_request_now_and_then_runs_out_of_time_all_the_same() -> None:
    end = Wire().connect()
    for second in range(20):
        end.feed(end.login_pdu(NAMES if second == 0 else {}, flags=0x04), now_s=float(second))
        end.engine.tick(float(second))
    assert end.engine.closing


def test_a_login_that_continues_with_nothing_has_an_end() -> None:
    end = Wire().connect()
    end.feed(login_data(b"", flags=0x44) * (MAX_REQUESTS + 1))
    answers = end.answers()
    assert [answer.status for answer in answers] == [0] * MAX_REQUESTS + [LoginStatus.INITIATOR_ERROR]
    assert end.engine.closing


def test_a_text_that_continues_with_nothing_has_an_end_and_the_session_goes_on() -> None:
    end = Wire().connect()
    end.login()
    tag = NO_TAG
    for number in range(MAX_TEXT_REQUESTS + 1):
        request = pdu(
            Opcode.TEXT_REQUEST, opcode=0x44, flags=0x40, initiator_task_tag=5, target_transfer_tag=tag, cmd_sn=1
        )
        (answer,) = end.ask(request)
        if number < MAX_TEXT_REQUESTS:
            assert (answer.opcode, answer.flags) == (Opcode.TEXT_RESPONSE, 0)
            tag = answer.target_transfer_tag
    assert (answer.opcode, answer.reason) == (Opcode.REJECT, 0x04)
    (answer,) = end.ask(end.read(0, 1))
    assert answer.opcode == Opcode.DATA_IN


def test_a_text_that_both_ends_and_continues_is_rejected() -> None:
    end = Wire().connect()
    end.login()
    (answer,) = end.ask(pdu(Opcode.TEXT_REQUEST, opcode=0x44, flags=0xC0, target_transfer_tag=NO_TAG))
    assert answer.opcode == Opcode.REJECT


@pytest.mark.parametrize("opcode", [code for code in range(64) if code != Opcode.LOGIN_REQUEST])
def test_any_other_pdu_before_login_closes_without_an_answer(opcode: int) -> None:
    end = Wire().connect()
    end.feed(bytes((opcode,)) + bytes(47))
    assert end.engine.closing
    assert end.take() == b""


@pytest.mark.parametrize("opcode", [0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10, 0x23, 0x3F])
def test_any_other_pdu_during_login_is_told_so_and_closes(opcode: int) -> None:
    wire = Wire()
    end = wire.connect()
    end.ask(end.login_pdu(NAMES | {"AuthMethod": "None"}, flags=0x81))
    answer = last_answer(end, bytes((opcode,)) + bytes(47))
    assert answer.opcode == Opcode.LOGIN_RESPONSE
    assert answer.status == LoginStatus.INVALID_DURING_LOGIN
    assert end.engine.closing
    assert not wire.router.nexuses


def test_a_login_after_the_login_closes_the_connection_and_its_session() -> None:
    wire = Wire()
    end = wire.connect()
    end.login()
    end.feed(end.login_pdu(NAMES))
    assert end.engine.closing
    assert not wire.router.nexuses


@pytest.mark.parametrize(
    "data",
    [
        b"InitiatorName\0",
        b"=1\0",
        b"\xff\xfe=1\0",
        b"InitiatorName=\xff\xff\0",
        b"1abc=1\0",
        b"a b=1\0",
        b"a=1\0a=2\0",
    ],
)
def test_what_is_no_text_ends_the_login(data: bytes) -> None:
    refused(login_data(data))


def test_a_value_above_its_limit_ends_the_login() -> None:
    with pytest.raises(TextError):
        text.parse(b"a=" + b"x" * 8193 + b"\0")
    refused(login_data(text.build(NAMES.items()) + b"X-a=" + b"x" * 8193 + b"\0"))


@pytest.mark.parametrize(
    "name",
    ["iqn.2026-11.test:" + "x" * 300, "iqn.2026-11.test: a", "eui.123", "\u0130qn.2026-11.test:x", "iqn.2026-11.\x01"],
)
def test_a_name_that_is_none_ends_the_login(name: str) -> None:
    end = Wire().connect()
    answer = last_answer(end, end.login_pdu(NAMES | {"InitiatorName": name}))
    assert answer.status == LoginStatus.INITIATOR_ERROR


def test_a_refused_login_leaves_nothing_behind() -> None:
    wire = Wire(access=Access(credentials={"joe": Credentials("joe", SECRET)}))
    for _ in range(100):
        end = wire.connect()
        end.feed(end.login_pdu(NAMES))
        assert end.engine.closing
        end.engine.end()
    assert not wire.target.sessions
    assert not wire.router.nexuses
