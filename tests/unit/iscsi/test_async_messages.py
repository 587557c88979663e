"""Asynchronous messages, and how a session ends for what the target wants."""

from __future__ import annotations

import pytest

from csvd.errors import ConfigError
from csvd.iscsi import async_messages
from csvd.iscsi.codes import AsyncEvent, Opcode
from csvd.iscsi.events import EventKind
from csvd.iscsi.keepalive import Keepalive
from csvd.iscsi.node import TARGET_OFFER
from tests.iscsi_wire import INITIATOR, End, Wire, pdu
from tests.unit.iscsi.test_full_feature import logged_in


def two_connections() -> tuple[End, End]:
    wire = Wire(offer=TARGET_OFFER)
    first = logged_in(wire, MaxConnections="2")
    session = first.engine.session
    assert session is not None
    second = wire.connect()
    names = {"InitiatorName": INITIATOR, "TargetName": wire.target.name}
    (answer,) = second.ask(second.login_pdu(names, tsih=session.tsih, cid=1))
    assert answer.status == 0
    return first, second


def test_a_dropped_session_is_announced_on_each_connection_and_then_closed() -> None:
    first, second = two_connections()
    session = first.engine.session
    assert session is not None
    first.wire.target.drop_session(session, "for a test")
    for end in (first, second):
        (notice,) = end.answers()
        assert (notice.opcode, notice.async_event) == (Opcode.ASYNC_MESSAGE, AsyncEvent.SESSION_DROP)
        assert (notice.initiator_task_tag, notice.parameter2, notice.parameter3) == (0xFFFFFFFF, 2, 0)
        assert end.engine.closing
    assert not first.wire.target.sessions


def test_a_request_to_log_out_names_the_grace_and_a_logout_in_time_is_answered() -> None:
    end = logged_in()
    end.engine.not_listening(100.0)
    end.engine.request_logout(7, 100.0)
    (request,) = end.answers()
    assert (request.async_event, request.parameter3) == (AsyncEvent.LOGOUT_REQUEST, 7)
    end.feed(end.read(0, 1), now_s=100.0)
    (read,) = end.answers()
    assert read.stat_sn == request.stat_sn + 1
    end.engine.tick(107.0)
    assert not end.engine.closing
    (answer,) = end.ask(pdu(Opcode.LOGOUT_REQUEST, opcode=0x46, reason=0x80, initiator_task_tag=3))
    assert answer.opcode == Opcode.LOGOUT_RESPONSE


def test_who_does_not_log_out_when_asked_is_dropped_after_the_grace() -> None:
    end = logged_in()
    end.engine.not_listening(100.0)
    end.engine.request_logout(7, 100.0)
    end.answers()
    end.engine.tick(107.5)
    (notice,) = end.answers()
    assert notice.async_event == AsyncEvent.SESSION_DROP
    assert end.engine.closing


def test_the_drop_of_another_connection_and_a_request_to_negotiate() -> None:
    first, second = two_connections()
    async_messages.announce_connection_drop(first.engine, second.engine, "for a test")
    async_messages.request_negotiation(first.engine, 9)
    drop, negotiation = first.answers()
    assert (drop.async_event, drop.parameter1, drop.parameter2) == (AsyncEvent.CONNECTION_DROP, 1, 2)
    assert (negotiation.async_event, negotiation.parameter3) == (AsyncEvent.NEGOTIATION_REQUEST, 9)


def test_a_scsi_event_carries_its_lun_and_its_sense_data_behind_their_length() -> None:
    end = logged_in()
    async_messages.report_scsi_event(end.engine, 3 << 48, bytes(range(18)))
    (event,) = end.answers()
    assert (event.async_event, event.lun) == (AsyncEvent.SCSI_EVENT, 3 << 48)
    assert event.data == (18).to_bytes(2) + bytes(range(18))


def test_events_say_who_what_and_of_which_kind() -> None:
    end = logged_in()
    end.ask(pdu(Opcode.NOP_OUT, opcode=0x1F))
    end.ask(pdu(Opcode.TASK_MANAGEMENT_REQUEST, opcode=0x42, function=0x85))
    end.ask(pdu(Opcode.LOGOUT_REQUEST, opcode=0x46, reason=0x80))
    assert [event.kind for event in end.engine.events] == [
        EventKind.LOGIN,
        EventKind.REJECT,
        EventKind.RESET,
        EventKind.LOGOUT,
    ]
    for event in end.engine.events:
        assert INITIATOR in event.text
        assert end.wire.target.name in event.text
        assert str(event).startswith(event.kind)


def test_a_refused_login_and_a_lost_connection_are_events() -> None:
    end = Wire().connect()
    end.ask(end.login_pdu({"InitiatorName": INITIATOR, "TargetName": "iqn.2026-11.test:none"}))
    (event,) = end.engine.events
    assert event.kind == EventKind.LOGIN_FAILURE
    assert f"{INITIATOR} at iqn.2026-11.test:none" in event.text
    end = logged_in()
    end.engine.lost()
    assert end.engine.events[-1].kind == EventKind.CONNECTION_LOST


@pytest.mark.parametrize("sent", [1, 47, 48, 100])
def test_a_peer_that_stops_inside_a_pdu_is_given_up_although_it_has_never_answered_a_ping(sent: int) -> None:
    end = logged_in()
    end.feed(end.write(0, 8, b"x" * 4096)[:sent])
    end.engine.tick(89.0)
    assert not end.engine.closing
    end.engine.tick(91.0)
    assert end.engine.closing


def test_the_time_outs_are_those_that_were_set() -> None:
    end = logged_in()
    end.engine.keepalive = Keepalive(idle_s=3.0, dead_s=10.0)
    end.engine.tick(2.9)
    assert end.answers() == []
    end.engine.tick(3.1)
    (ping,) = end.answers()
    assert ping.opcode == Opcode.NOP_IN
    reply = pdu(
        Opcode.NOP_OUT,
        opcode=0x40,
        flags=0x80,
        initiator_task_tag=0xFFFFFFFF,
        target_transfer_tag=ping.target_transfer_tag,
    )
    end.feed(reply, now_s=4.0)
    end.engine.tick(13.9)
    assert not end.engine.closing
    end.engine.tick(14.1)
    assert end.engine.closing


def test_a_peer_is_asked_before_it_is_given_up() -> None:
    with pytest.raises(ConfigError, match="before it was asked"):
        Keepalive(idle_s=30.0, dead_s=30.0)
