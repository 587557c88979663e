from __future__ import annotations

from typing import Any

import pytest

from csvd.iscsi.codes import AsyncEvent, Opcode, RejectReason
from initiator.engine.connection import MAX_PING_REPLIES, MAX_TEXT_ROUNDS
from initiator.engine.discovery import DiscoveredTarget, TargetAddress, parse_address, parse_targets
from initiator.engine.requests import AsyncMessage, Logout, Ping, Request, TextExchange
from initiator.errors import CommandRejected, ProtocolViolation
from initiator.url import Portal
from tests.unit.initiator.target_script import Pdu, Script, failure, logged_in

NONE = 0xFFFFFFFF
FINAL, CONTINUE = 0x80, 0x40


def asking(request: Request) -> tuple[Script, Pdu]:
    """Give a script, and what was sent for the request."""
    script = logged_in()
    script.engine.send(request)
    (sent,) = script.sent()
    return script, sent


def test_a_ping_is_immediate_and_comes_back() -> None:
    ping = Ping(b"are you there")
    script, sent = asking(ping)
    assert (sent.opcode, sent.fields.opcode, sent.flags) == (Opcode.NOP_OUT, 0x40, FINAL)
    assert (sent.target_transfer_tag, sent.cmd_sn, sent.data) == (NONE, 1, b"are you there")
    answer: dict[str, Any] = {"initiator_task_tag": ping.tag, "target_transfer_tag": NONE}
    assert script.say_more(Opcode.NOP_IN, b"are you there", **answer) == [ping]


def test_a_ping_answered_with_other_data_is_a_violation() -> None:
    ping = Ping(b"a")
    script, _ = asking(ping)
    assert isinstance(failure(script.say_more(Opcode.NOP_IN, b"b", initiator_task_tag=ping.tag)), ProtocolViolation)


@pytest.mark.parametrize(
    "opcode",
    [
        Opcode.NOP_IN,
        Opcode.TEXT_RESPONSE,
        Opcode.LOGOUT_RESPONSE,
        Opcode.TASK_MANAGEMENT_RESPONSE,
        Opcode.SCSI_RESPONSE,
    ],
)
def test_an_answer_that_nobody_asked_for_is_a_violation(opcode: Opcode) -> None:
    assert isinstance(failure(logged_in().say_more(opcode, initiator_task_tag=77)), ProtocolViolation)


def test_an_answer_of_another_kind_is_a_violation() -> None:
    ping = Ping()
    script, _ = asking(ping)
    assert isinstance(failure(script.say_more(Opcode.TEXT_RESPONSE, initiator_task_tag=ping.tag)), ProtocolViolation)


def test_a_ping_of_the_target_is_answered_with_its_tag() -> None:
    script = logged_in()
    asked: dict[str, Any] = {"initiator_task_tag": NONE, "target_transfer_tag": 0x55, "lun": 3 << 48}
    assert script.say_more(Opcode.NOP_IN, b"hello", status=False, **asked) == []
    (answer,) = script.sent()
    assert (answer.opcode, answer.fields.opcode) == (Opcode.NOP_OUT, 0x40)
    assert (answer.initiator_task_tag, answer.target_transfer_tag, answer.lun) == (NONE, 0x55, 3 << 48)
    assert answer.data == b""


def test_a_nop_without_any_tag_only_moves_the_window() -> None:
    script = logged_in()
    script.max_cmd_sn = 99
    assert script.say_more(Opcode.NOP_IN, status=False, initiator_task_tag=NONE, target_transfer_tag=NONE) == []
    assert script.sent() == []
    assert script.engine.session.max_cmd_sn == 99


def test_a_target_that_pings_on_without_reading_the_answers_is_cut_off() -> None:
    script = logged_in()
    for count in range(MAX_PING_REPLIES + 1):
        events = script.say_more(Opcode.NOP_IN, status=False, initiator_task_tag=NONE, target_transfer_tag=count)
        assert bool(events) == (count == MAX_PING_REPLIES)
    assert isinstance(failure(events), ProtocolViolation)


def test_a_rejected_ping_carries_the_reason() -> None:
    ping = Ping()
    script = logged_in()
    script.engine.send(ping)
    header = bytes(script.engine.data_to_send()[0])[:48]
    assert script.say_more(Opcode.REJECT, header, reason=RejectReason.IMMEDIATE_COMMAND_REJECT) == [ping]
    assert isinstance(ping.error, CommandRejected)
    assert "immediate command reject" in str(ping.error)


def test_a_text_is_asked_for_until_it_is_whole() -> None:
    exchange = TextExchange(b"SendTargets=All\0")
    script, sent = asking(exchange)
    assert (sent.opcode, sent.fields.opcode, sent.flags, sent.data) == (
        Opcode.TEXT_REQUEST,
        0x44,
        FINAL,
        b"SendTargets=All\0",
    )
    part: dict[str, Any] = {"initiator_task_tag": exchange.tag, "target_transfer_tag": 0x99, "lun": 5}
    assert script.say_more(Opcode.TEXT_RESPONSE, b"TargetNa", flags=CONTINUE, **part) == []
    (more,) = script.sent()
    assert (more.data, more.target_transfer_tag, more.initiator_task_tag, more.lun) == (b"", 0x99, exchange.tag, 5)
    last: dict[str, Any] = {"initiator_task_tag": exchange.tag, "target_transfer_tag": NONE}
    assert script.say_more(Opcode.TEXT_RESPONSE, b"me=iqn.a\0", **last) == [exchange]
    assert bytes(exchange.answer) == b"TargetName=iqn.a\0"


def test_a_text_without_end_is_cut_off_by_its_length() -> None:
    exchange = TextExchange(b"", limit=10000)
    script, _ = asking(exchange)
    part: dict[str, Any] = {"initiator_task_tag": exchange.tag, "target_transfer_tag": 1, "flags": CONTINUE}
    assert script.say_more(Opcode.TEXT_RESPONSE, bytes(9000), **part) == []
    assert isinstance(failure(script.say_more(Opcode.TEXT_RESPONSE, bytes(1004), **part)), ProtocolViolation)


def test_a_text_without_end_is_cut_off_by_its_rounds() -> None:
    exchange = TextExchange(b"")
    script, _ = asking(exchange)
    part: dict[str, Any] = {"initiator_task_tag": exchange.tag, "target_transfer_tag": 1, "flags": CONTINUE}
    for _ in range(MAX_TEXT_ROUNDS):
        assert script.say_more(Opcode.TEXT_RESPONSE, **part) == []
        script.sent()
    events = script.say_more(Opcode.TEXT_RESPONSE, **part)
    assert isinstance(failure(events), ProtocolViolation)


@pytest.mark.parametrize(
    ("flags", "tag"),
    [(FINAL | CONTINUE, NONE), (0, NONE)],
)
def test_a_text_that_ends_and_goes_on_is_a_violation(flags: int, tag: int) -> None:
    exchange = TextExchange(b"")
    script, _ = asking(exchange)
    fields: dict[str, Any] = {"initiator_task_tag": exchange.tag, "target_transfer_tag": tag, "flags": flags}
    assert isinstance(failure(script.say_more(Opcode.TEXT_RESPONSE, **fields)), ProtocolViolation)


def test_a_logout_brings_the_times_of_the_target() -> None:
    logout = Logout()
    script, sent = asking(logout)
    assert (sent.opcode, sent.fields.opcode, sent.reason, sent.cid) == (Opcode.LOGOUT_REQUEST, 0x46, FINAL, 0)
    fields: dict[str, Any] = {"initiator_task_tag": logout.tag, "time2wait": 2, "time2retain": 20}
    assert script.say_more(Opcode.LOGOUT_RESPONSE, **fields) == [logout]
    assert (logout.response, logout.time2wait, logout.time2retain) == (0, 2, 20)


def test_an_async_message_is_an_event() -> None:
    script = logged_in()
    fields: dict[str, Any] = {"async_event": AsyncEvent.LOGOUT_REQUEST, "parameter3": 10, "lun": 1 << 48}
    (event,) = script.say_more(Opcode.ASYNC_MESSAGE, **fields)
    assert isinstance(event, AsyncMessage)
    assert (event.event, event.parameters, event.lun, event.sense) == (1, (0, 0, 10), 1 << 48, b"")
    assert event.name == "logout request"


def test_an_async_message_of_the_device_brings_its_sense() -> None:
    (event,) = logged_in().say_more(Opcode.ASYNC_MESSAGE, b"\x00\x03abc", async_event=0)
    assert isinstance(event, AsyncMessage)
    assert event.sense == b"abc"


@pytest.mark.parametrize("opcode", [0x00, 0x01, 0x03, 0x10, 0x2F, 0x3E])
def test_a_pdu_that_no_target_sends_is_a_violation(opcode: int) -> None:
    assert isinstance(failure(logged_in().say(bytes((opcode,)) + bytes(47))), ProtocolViolation)


# --- SendTargets


def test_targets_and_their_addresses_are_put_together() -> None:
    answer = (
        b"TargetName=iqn.2026-11.test:a\0TargetAddress=192.0.2.1:3260,1\0TargetAddress=[2001:db8::1]:3261,2\0"
        b"TargetAddress=192.0.2.1:3260,1\0X-vendor=thing\0TargetName=IQN.2026-11.Test:b\0"
    )
    assert parse_targets(answer) == [
        DiscoveredTarget(
            "iqn.2026-11.test:a",
            (TargetAddress(Portal("192.0.2.1"), 1), TargetAddress(Portal("2001:db8::1", 3261), 2)),
        ),
        DiscoveredTarget("iqn.2026-11.test:b"),
    ]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", TargetAddress(Portal("192.0.2.1", 3260), 1)),
        ("san.example:3261,7", TargetAddress(Portal("san.example", 3261), 7)),
        ("[::1],65535", TargetAddress(Portal("::1", 3260), 65535)),
    ],
)
def test_an_address_may_leave_out_port_and_tag(text: str, address: TargetAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", ",1", "host:,1", "host:99999,1", "host,x", "host,65536", "a b,1", "[::1,1"])
def test_an_address_that_is_none_is_a_violation(text: str) -> None:
    with pytest.raises(ProtocolViolation):
        parse_address(text)


@pytest.mark.parametrize(
    "answer",
    [
        b"TargetAddress=192.0.2.1,1\0",
        b"TargetName=not a name\0",
        b"TargetName\0",
        b"TargetName=iqn.2026-11.test:a\0" + b"".join(b"TargetAddress=h%d,1\0" % n for n in range(257)),
        b"".join(b"TargetName=iqn.2026-11.test:%d\0" % n for n in range(4097)),
    ],
)
def test_a_list_of_targets_that_is_none_is_a_violation(answer: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        parse_targets(answer)
