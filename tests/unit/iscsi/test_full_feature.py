"""Full-feature phase: reads, writes with every way their data can come, windows, NOP, text, logout."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from csvd.iscsi import text
from csvd.iscsi.codes import Opcode
from csvd.iscsi.keys import OFFER
from csvd.iscsi.portals import PortalGroup
from tests.iscsi_wire import BLOCK_BYTES, ISID, TARGET, End, Pdu, Wire, pdu

NO_TAG = 0xFFFFFFFF


def logged_in(wire: Wire | None = None, **keys: str) -> End:
    end = (wire or Wire()).connect()
    offered = {"InitialR2T": "No", "MaxRecvDataSegmentLength": "4096", "MaxBurstLength": "8192"} | keys
    assert end.login(**offered).status == 0
    return end


def data_out(answer: Pdu, data: bytes, **fields: Any) -> bytes:
    """Answer an R2T."""
    values = {
        "flags": 0x80,
        "initiator_task_tag": answer.initiator_task_tag,
        "target_transfer_tag": answer.target_transfer_tag,
        "buffer_offset": answer.buffer_offset,
    }
    return pdu(Opcode.DATA_OUT, data, **values | fields)


def test_a_read_comes_as_one_data_in_with_its_status() -> None:
    end = logged_in()
    end.wire.disk[:1024] = os.urandom(1024)
    (answer,) = end.ask(end.read(0, 2))
    assert answer.opcode == Opcode.DATA_IN
    assert answer.flags == 0x81
    assert (answer.status, answer.data, answer.residual_count) == (0, bytes(end.wire.disk[:1024]), 0)


def test_a_long_read_is_cut_by_segment_and_burst_and_only_the_last_has_the_status() -> None:
    end = logged_in()
    end.wire.disk[:] = os.urandom(len(end.wire.disk))
    answers = end.ask(end.read(0, 40))
    assert [(a.buffer_offset, len(a.data), a.flags, a.data_sn) for a in answers] == [
        (0, 4096, 0x00, 0),
        (4096, 4096, 0x80, 1),
        (8192, 4096, 0x00, 2),
        (12288, 4096, 0x80, 3),
        (16384, 4096, 0x81, 4),
    ]
    assert b"".join(a.data for a in answers) == end.wire.disk[: 40 * BLOCK_BYTES]


@pytest.mark.parametrize(("expected", "flags", "residual"), [(512, 0x85, 512), (2048, 0x83, 1024)])
def test_a_read_of_another_length_than_expected_says_by_how_much(expected: int, flags: int, residual: int) -> None:
    end = logged_in()
    (answer,) = end.ask(end.read(0, 2, expected=expected))
    assert (answer.flags, answer.residual_count, len(answer.data)) == (flags, residual, min(expected, 1024))


def test_a_read_that_expects_nothing_gets_a_response_with_overflow() -> None:
    end = logged_in()
    (answer,) = end.ask(end.read(0, 1, expected=0))
    assert (answer.opcode, answer.flags, answer.residual_count) == (Opcode.SCSI_RESPONSE, 0x84, 512)


def test_a_failed_command_carries_its_sense_behind_its_length() -> None:
    end = logged_in()
    (answer,) = end.ask(end.read(5000, 1))
    assert (answer.opcode, answer.status) == (Opcode.SCSI_RESPONSE, 2)
    assert answer.data[:2] == (18).to_bytes(2)
    assert len(answer.data) == 20


def test_a_write_with_all_its_data_immediate_needs_no_r2t() -> None:
    end = logged_in()
    data = os.urandom(1024)
    (answer,) = end.ask(end.write(3, 2, data))
    assert (answer.opcode, answer.status, answer.flags) == (Opcode.SCSI_RESPONSE, 0, 0x80)
    assert end.wire.disk[1536:2560] == data


def test_a_write_without_immediate_data_is_asked_for_by_r2t_burst_by_burst() -> None:
    end = logged_in()
    data = os.urandom(40 * BLOCK_BYTES)
    (r2t,) = end.ask(end.write(0, 40))
    assert (r2t.opcode, r2t.buffer_offset, r2t.desired_data_transfer_length, r2t.r2t_sn) == (Opcode.R2T, 0, 8192, 0)
    parts = data_out(r2t, data[:4096], flags=0) + data_out(r2t, data[4096:8192], data_sn=1, buffer_offset=4096)
    (r2t,) = end.ask(parts)
    assert (r2t.buffer_offset, r2t.desired_data_transfer_length, r2t.r2t_sn) == (8192, 8192, 1)
    (r2t,) = end.ask(data_out(r2t, data[8192:16384]))
    assert (r2t.buffer_offset, r2t.desired_data_transfer_length) == (16384, 4096)
    (answer,) = end.ask(data_out(r2t, data[16384:]))
    assert (answer.opcode, answer.status) == (Opcode.SCSI_RESPONSE, 0)
    assert end.wire.disk[: len(data)] == data


def test_an_r2t_carries_the_next_stat_sn_without_taking_it() -> None:
    end = logged_in()
    (r2t,) = end.ask(end.write(0, 1))
    (nop,) = end.ask(pdu(Opcode.NOP_OUT, opcode=0x40, flags=0x80, initiator_task_tag=9, target_transfer_tag=NO_TAG))
    assert r2t.stat_sn == nop.stat_sn


def test_unsolicited_data_outs_are_taken_up_to_the_first_burst_then_r2t_follows() -> None:
    end = logged_in(FirstBurstLength="2048")
    data = os.urandom(4096)
    command = end.write(0, 8, data[:512], flags=0x20)
    common = {"initiator_task_tag": 1, "target_transfer_tag": NO_TAG}
    first = pdu(Opcode.DATA_OUT, data[512:1024], flags=0, buffer_offset=512, **common)
    last = pdu(Opcode.DATA_OUT, data[1024:2048], flags=0x80, buffer_offset=1024, data_sn=1, **common)
    assert end.ask(command + first) == []
    (r2t,) = end.ask(last)
    assert (r2t.opcode, r2t.buffer_offset, r2t.desired_data_transfer_length) == (Opcode.R2T, 2048, 2048)
    (answer,) = end.ask(data_out(r2t, data[2048:]))
    assert answer.status == 0
    assert end.wire.disk[:4096] == data


def test_a_write_that_sends_more_than_the_cdb_takes_keeps_what_it_takes_and_says_so() -> None:
    end = logged_in()
    data = os.urandom(2048)
    (answer,) = end.ask(end.write(0, 2, data, expected=2048))
    assert (answer.status, answer.flags, answer.residual_count) == (0, 0x82, 1024)
    assert end.wire.disk[:1024] == data[:1024]
    assert end.wire.disk[1024:2048] == bytes(1024)


@pytest.mark.parametrize(("sent", "flags", "residual"), [(512, 0x80, 0), (1024, 0x80, 0), (2048, 0x82, 1024)])
def test_where_the_cdb_does_not_say_how_much_it_takes_what_comes_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch, sent: int, flags: int, residual: int
) -> None:
    end = logged_in()
    monkeypatch.setattr(end.wire.router, "data_out_length", lambda lun, cdb: -1024)
    data = os.urandom(sent)
    (answer,) = end.ask(end.write(0, min(sent, 1024) // BLOCK_BYTES, data, expected=sent))
    assert (answer.status, answer.flags, answer.residual_count) == (0, flags, residual)
    assert end.wire.disk[:sent] == data[:1024].ljust(sent, b"\0")


def test_a_write_that_sends_less_than_the_cdb_asks_overflows() -> None:
    end = logged_in()
    (answer,) = end.ask(end.write(0, 4, bytes(1024), expected=1024))
    assert (answer.flags, answer.residual_count) == (0x84, 1024)


def test_data_of_a_command_nobody_knows_is_read_over() -> None:
    end = logged_in()
    answers = end.ask(
        end.command(bytes((0xFF,)) + bytes(15), expected=512, flags=0xA0, data=bytes(512)) + end.read(0, 1)
    )
    assert [(a.opcode, a.status) for a in answers] == [(Opcode.SCSI_RESPONSE, 2), (Opcode.DATA_IN, 0)]


@pytest.mark.parametrize(
    "changes",
    [{"data_sn": 3}, {"buffer_offset": 512}, {"flags": 0}],
    ids=["wrong DataSN", "wrong offset", "beyond the burst"],
)
def test_a_data_out_out_of_its_place_fails_its_task_when_the_burst_ends_and_the_session_goes_on(
    changes: dict[str, int],
) -> None:
    end = logged_in()
    (r2t,) = end.ask(end.write(0, 16))
    assert end.ask(data_out(r2t, b"x" * (8192 + 512 * ("flags" in changes)), **{"flags": 0} | changes)) == []
    (answer,) = end.ask(data_out(r2t, b"x" * 512, data_sn=1, buffer_offset=7680))
    assert (answer.opcode, answer.status) == (Opcode.SCSI_RESPONSE, 2)
    assert not any(end.wire.disk)
    (answer,) = end.ask(end.read(0, 1))
    assert answer.opcode == Opcode.DATA_IN


def test_a_data_out_that_nobody_asked_for_is_rejected_and_others_go_on() -> None:
    end = logged_in()
    (r2t,) = end.ask(end.write(0, 1))
    (answer,) = end.ask(data_out(r2t, bytes(512), target_transfer_tag=77))
    assert (answer.opcode, answer.reason) == (Opcode.REJECT, 0x09)
    (answer,) = end.ask(data_out(r2t, bytes(512)))
    assert answer.status == 0


def test_unsolicited_data_after_initial_r2t_yes_is_rejected() -> None:
    end = logged_in(InitialR2T="Yes")
    (answer,) = end.ask(end.write(0, 1, flags=0x20))
    assert (answer.opcode, answer.reason) == (Opcode.REJECT, 0x04)


def test_immediate_data_after_immediate_data_no_is_rejected_and_its_cmd_sn_is_to_be_used_again() -> None:
    end = logged_in(ImmediateData="No")
    (answer,) = end.ask(end.write(0, 1, bytes(512)))
    assert (answer.opcode, answer.reason) == (Opcode.REJECT, 0x04)
    end.cmd_sn = answer.exp_cmd_sn
    assert end.cmd_sn == 1
    (answer,) = end.ask(end.read(0, 1))
    assert answer.opcode == Opcode.DATA_IN


def test_a_task_tag_in_use_is_rejected() -> None:
    end = logged_in()
    end.ask(end.write(0, 1))
    (answer,) = end.ask(end.read(0, 1, initiator_task_tag=1))
    assert (answer.opcode, answer.reason) == (Opcode.REJECT, 0x07)


def test_commands_outside_the_window_are_ignored() -> None:
    end = logged_in()
    assert end.ask(end.read(0, 1, cmd_sn=1000)) == []
    assert end.ask(end.read(0, 1, cmd_sn=0)) == []
    end.cmd_sn = 1
    assert len(end.ask(end.read(0, 1))) == 1


def test_commands_ahead_of_a_gap_wait_for_it_and_run_in_order() -> None:
    end = logged_in()
    assert end.ask(end.write(0, 1, b"b" * 512, cmd_sn=2)) == []
    end.cmd_sn = 1
    answers = end.ask(end.write(0, 1, b"a" * 512, initiator_task_tag=55))
    assert [a.initiator_task_tag for a in answers] == [55, 1]
    assert end.wire.disk[:512] == b"b" * 512


def test_the_window_closes_as_tasks_pile_up_and_opens_as_they_end() -> None:
    wire = Wire(queue_depth=4)
    end = logged_in(wire)
    wire.hold = True
    for _ in range(6):
        end.feed(end.read(0, 1))
    session = end.engine.session
    assert session is not None
    assert len(wire.held) == 4
    assert (session.exp_cmd_sn, session.max_cmd_sn) == (5, 4)
    wire.finish()
    assert session.max_cmd_sn == 8
    answers = end.answers()
    assert [a.max_cmd_sn for a in answers] == [5, 6, 7, 8]


def test_what_comes_through_a_closed_window_is_ignored_also_when_it_is_next() -> None:
    wire = Wire(queue_depth=2)
    end = logged_in(wire)
    wire.hold = True
    end.feed(end.read(0, 1) + end.read(0, 1))
    ping = pdu(Opcode.NOP_OUT, flags=0x80, initiator_task_tag=9, target_transfer_tag=NO_TAG, cmd_sn=3)
    assert end.ask(ping) == []
    wire.finish()
    assert [a.opcode for a in end.ask(ping)] == [Opcode.DATA_IN, Opcode.DATA_IN, Opcode.NOP_IN]


def test_cmd_sn_and_stat_sn_wrap_around() -> None:
    end = Wire().connect()
    end.cmd_sn = 0xFFFFFFFE
    assert end.login(InitialR2T="No").status == 0
    end.engine.stat_sn = 0xFFFFFFFF
    answers = [end.ask(end.read(0, 1))[0] for _ in range(4)]
    assert [a.exp_cmd_sn for a in answers] == [0xFFFFFFFF, 0, 1, 2]
    assert [a.stat_sn for a in answers] == [0xFFFFFFFF, 0, 1, 2]


def test_r2ts_beyond_the_budget_wait_for_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csvd.iscsi.session.R2T_BUDGET_BYTES", 1024)
    end = logged_in()
    (first,) = end.ask(end.write(0, 2) + end.write(8, 2))
    answers = end.ask(data_out(first, b"x" * 1024))
    assert [a.opcode for a in answers] == [Opcode.R2T, Opcode.SCSI_RESPONSE]
    (answer,) = end.ask(data_out(answers[0], b"y" * 1024))
    assert answer.status == 0
    assert end.wire.disk[8 * 512 : 10 * 512] == b"y" * 1024


def test_a_task_that_has_its_share_of_the_budget_goes_on_although_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csvd.iscsi.session.R2T_BUDGET_BYTES", 16384)
    end = logged_in()
    waiting = end.ask(b"".join(end.write(32 * number, 32) for number in range(4)))
    assert len(waiting) == 1
    statuses: list[Pdu] = []
    while waiting:
        r2t = waiting.pop(0)
        for answer in end.ask(data_out(r2t, b"z" * r2t.desired_data_transfer_length)):
            (waiting if answer.opcode == Opcode.R2T else statuses).append(answer)
    assert [answer.status for answer in statuses] == [0, 0, 0, 0]
    assert end.wire.disk[: 128 * 512] == b"z" * 128 * 512


def test_a_large_data_segment_is_received_into_its_place_at_any_split() -> None:
    big = replace(OFFER, max_recv_data_segment_length=2**18)
    for cut in (1, 47, 48, 49, 1000, 131072, 131120, 200000):
        end = logged_in(Wire(offer=big), MaxBurstLength="262144", FirstBurstLength="262144")
        data = os.urandom(200 * 1024)
        command = end.write(0, 400, data)
        end.feed(command[:cut])
        end.feed(command[cut:] + end.read(0, 1))
        answers = end.answers()
        assert [a.opcode for a in answers] == [Opcode.SCSI_RESPONSE, Opcode.DATA_IN]
        assert end.wire.disk[: len(data)] == data


def test_a_data_segment_above_what_was_declared_closes() -> None:
    end = logged_in()
    end.feed(pdu(Opcode.NOP_OUT, flags=0x80, lengths=262145, initiator_task_tag=1))
    assert end.engine.closing


def test_a_nop_out_is_echoed_up_to_what_the_initiator_takes() -> None:
    end = logged_in()
    ping = os.urandom(6001)
    (answer,) = end.ask(
        pdu(Opcode.NOP_OUT, ping, flags=0x80, initiator_task_tag=9, target_transfer_tag=NO_TAG, cmd_sn=1)
    )
    assert (answer.opcode, answer.data, answer.initiator_task_tag) == (Opcode.NOP_IN, ping[:4096], 9)


def test_a_silent_initiator_is_asked_and_given_up_only_when_it_has_answered_before() -> None:
    end = logged_in()
    for second in range(0, 200, 5):
        end.engine.tick(float(second))
    asked = end.answers()
    assert {a.opcode for a in asked} == {Opcode.NOP_IN}
    assert not end.engine.closing
    reply = pdu(Opcode.NOP_OUT, opcode=0x40, flags=0x80, initiator_task_tag=NO_TAG, target_transfer_tag=1)
    end.feed(reply, now_s=200.0)
    end.engine.tick(280.0)
    assert not end.engine.closing
    end.engine.tick(300.0)
    assert end.engine.closing


def test_send_targets_without_a_value_gives_the_own_target() -> None:
    end = logged_in()
    for value, named in (("", True), (TARGET, True), ("iqn.2026-11.test:other", False)):
        request = pdu(
            Opcode.TEXT_REQUEST,
            text.build([("SendTargets", value)]),
            flags=0x80,
            initiator_task_tag=5,
            target_transfer_tag=NO_TAG,
            cmd_sn=end.cmd_sn,
        )
        end.cmd_sn += 1
        (answer,) = end.ask(request)
        assert (("TargetName", TARGET) in text.parse(answer.data)) is named


def test_a_long_text_answer_comes_in_pieces_that_are_asked_for() -> None:
    end = logged_in(MaxRecvDataSegmentLength="512")
    portals = tuple(f"127.0.0.{n}:3260" for n in range(2, 80))
    end.wire.entity.groups = {1: PortalGroup(1, portals)}
    gathered, tag, data = b"", NO_TAG, b"SendTargets=\0"
    for _ in range(20):
        (answer,) = end.ask(
            pdu(
                Opcode.TEXT_REQUEST,
                data,
                opcode=0x44,
                flags=0x80,
                initiator_task_tag=5,
                target_transfer_tag=tag,
            )
        )
        gathered += answer.data
        tag, data = answer.target_transfer_tag, b""
        if answer.flags & 0x80:
            break
    assert len(text.parse(gathered)) == 80


@pytest.mark.parametrize(("reason", "response", "closes"), [(0, 0, True), (1, 0, True), (2, 2, False)])
def test_logout(reason: int, response: int, closes: bool) -> None:
    end = logged_in()
    request = pdu(Opcode.LOGOUT_REQUEST, opcode=0x46, reason=0x80 | reason, initiator_task_tag=3)
    (answer,) = end.ask(request)
    assert (answer.opcode, answer.response) == (Opcode.LOGOUT_RESPONSE, response)
    assert end.engine.closing is closes
    assert bool(end.wire.target.sessions) is not closes


@pytest.mark.parametrize("opcode", [0x10, 0x1F, 0x3F])
def test_an_opcode_that_is_not_served_is_rejected_with_its_header(opcode: int) -> None:
    end = logged_in()
    request = pdu(Opcode.NOP_OUT, bytes(100), opcode=opcode)
    answers = end.ask(request + end.read(0, 1))
    assert [a.opcode for a in answers] == [Opcode.REJECT, Opcode.DATA_IN]
    assert answers[0].reason == (0x03 if opcode == Opcode.SNACK_REQUEST else 0x05)
    assert answers[0].data == request[:48]


def test_a_command_with_an_additional_header_takes_its_cmd_sn_and_leaves_the_refusal_to_scsi() -> None:
    end = logged_in()
    long_cdb = end.command(bytes((0x7F,)) + bytes(15), lengths=5 << 24)
    answers = end.ask(long_cdb + bytes(20) + end.read(0, 1))
    assert [(a.opcode, a.status) for a in answers] == [(Opcode.SCSI_RESPONSE, 2), (Opcode.DATA_IN, 0)]


def test_a_command_in_pieces_in_a_discovery_session_is_rejected() -> None:
    end = Wire().connect()
    (answer,) = end.ask(end.login_pdu({"InitiatorName": "iqn.2026-11.test:i", "SessionType": "Discovery"}))
    assert answer.status == 0
    command = end.write(0, 16, bytes(8192))
    end.feed(command[:4000])
    end.feed(command[4000:])
    (answer,) = end.answers()
    assert (answer.opcode, answer.reason) == (Opcode.REJECT, 0x05)


def text_request(end: End, cmd_sn: int, data: bytes = b"no text at all\0") -> bytes:
    return pdu(Opcode.TEXT_REQUEST, data, flags=0x80, initiator_task_tag=70, target_transfer_tag=NO_TAG, cmd_sn=cmd_sn)


def test_a_held_request_that_is_rejected_holds_up_nobody_and_its_own_header_comes_back() -> None:
    end = logged_in()
    bad = text_request(end, 2)
    end.feed(bad)
    assert end.ask(end.read(0, 1, cmd_sn=3, initiator_task_tag=3)) == []
    answers = end.ask(end.read(0, 1, cmd_sn=1, initiator_task_tag=1))
    assert [a.opcode for a in answers] == [Opcode.REJECT, Opcode.DATA_IN, Opcode.DATA_IN]
    assert answers[0].data == bad[:48]


def test_a_command_placed_in_pieces_may_release_a_held_request_that_is_rejected() -> None:
    end = logged_in()
    end.feed(text_request(end, 2))
    unwanted = end.command(bytes((0xFF,)) + bytes(15), expected=8192, flags=0xA0, data=bytes(8192), cmd_sn=1)
    end.feed(unwanted[:100])
    end.feed(unwanted[100:] + end.read(0, 1, cmd_sn=3))
    answers = end.answers()
    assert sorted(a.opcode for a in answers) == [Opcode.SCSI_RESPONSE, Opcode.DATA_IN, Opcode.REJECT]


def test_send_targets_twice_in_one_text_is_rejected() -> None:
    end = logged_in()
    (answer,) = end.ask(text_request(end, 1, b"SendTargets=\0SendTargets=\0"))
    assert (answer.opcode, answer.reason) == (Opcode.REJECT, 0x04)


def test_taking_stops_while_there_is_much_to_send_and_goes_on_after_it() -> None:
    end = logged_in()
    ping = pdu(Opcode.NOP_OUT, opcode=0x40, flags=0x80, initiator_task_tag=9, target_transfer_tag=NO_TAG)
    buffer = end.engine.receive_buffers()[0]
    stream = ping * (len(buffer) // 48)
    buffer[: len(stream)] = stream
    end.engine.received(len(stream), 0.0)
    answered = [len(end.answers())]
    while end.engine.paused:
        end.engine.received(0, 0.0)
        answered.append(len(end.answers()))
    assert len(answered) > 1
    assert sum(answered) == len(buffer) // 48


def test_an_idle_discovery_session_is_ended() -> None:
    end = Wire().connect()
    end.ask(end.login_pdu({"InitiatorName": "iqn.2026-11.test:i", "SessionType": "Discovery"}))
    end.engine.tick(50.0)
    assert not end.engine.closing
    end.engine.tick(61.0)
    assert end.engine.closing


def test_logout_answers_when_the_disk_is_done_with_the_last_task() -> None:
    wire = Wire()
    end = logged_in(wire)
    wire.hold = True
    end.feed(end.write(0, 1, b"x" * 512))
    assert end.ask(pdu(Opcode.LOGOUT_REQUEST, opcode=0x46, reason=0x80, initiator_task_tag=3)) == []
    wire.finish()
    (answer,) = end.answers()
    assert answer.opcode == Opcode.LOGOUT_RESPONSE
    assert end.engine.closing


def test_a_reinstated_session_executes_nothing_before_the_old_one_has_ended_at_the_disk() -> None:
    wire = Wire()
    old = logged_in(wire)
    wire.hold = True
    old.feed(old.write(0, 1, b"A" * 512))
    new = logged_in(wire)
    assert old.engine.closing
    (late,) = wire.held
    wire.held.clear()
    wire.hold = False
    assert new.ask(new.write(0, 1, b"B" * 512)) == []
    wire.execute(late)
    wire.run(new.engine)
    (answer,) = new.answers()
    assert answer.status == 0
    assert wire.disk[:512] == b"B" * 512
    assert not wire.target.leaving


def test_the_nexus_is_named_as_spc_4_names_iscsi_ports() -> None:
    end = logged_in()
    assert end.wire.router.nexuses == {f"iqn.2026-11.test:initiator,i,0x{ISID.hex()},{TARGET},t,0x0001"}


@pytest.mark.parametrize("attribute", [4, 5, 7])
@pytest.mark.parametrize("sends_data", [False, True])
def test_the_aca_attribute_fails_the_task_once_its_data_is_through(attribute: int, sends_data: bool) -> None:
    end = logged_in()
    flags = 0x20 | attribute if sends_data else 0xA0 | attribute
    answers = end.ask(end.write(0, 4, b"x" * 512, flags=flags))
    if sends_data:
        assert answers == []
        answers = end.ask(
            pdu(
                Opcode.DATA_OUT,
                b"x" * 1536,
                flags=0x80,
                initiator_task_tag=1,
                target_transfer_tag=NO_TAG,
                buffer_offset=512,
            )
        )
    assert [(a.opcode, a.status) for a in answers] == [(Opcode.SCSI_RESPONSE, 2)]
    assert not any(end.wire.disk)
    assert end.ask(end.read(0, 1))[0].opcode == Opcode.DATA_IN


def test_a_command_that_moves_data_both_ways_fails_and_nothing_is_written() -> None:
    end = logged_in()
    (answer,) = end.ask(end.write(0, 1, b"x" * 512, flags=0xE0))
    assert (answer.opcode, answer.status) == (Opcode.SCSI_RESPONSE, 2)
    assert not any(end.wire.disk)
    session = end.engine.session
    assert session is not None
    assert not session.tasks


def test_both_direction_bits_are_allowed_where_nothing_is_expected() -> None:
    end = logged_in()
    (answer,) = end.ask(end.command(bytes(16), flags=0xE0))
    assert answer.status == 0


def test_more_unsolicited_data_than_the_first_burst_fails_the_task() -> None:
    end = logged_in(FirstBurstLength="1024")
    assert end.ask(end.write(0, 8, flags=0x20)) == []
    tags = {"initiator_task_tag": 1, "target_transfer_tag": NO_TAG}
    (answer,) = end.ask(pdu(Opcode.DATA_OUT, b"x" * 1536, flags=0x80, **tags))
    assert (answer.opcode, answer.status) == (Opcode.SCSI_RESPONSE, 2)
    assert not any(end.wire.disk)


def test_an_immediate_command_overtakes_what_waits_in_cmd_sn_order_and_takes_no_number() -> None:
    end = logged_in()
    assert end.ask(end.read(0, 1, cmd_sn=2, initiator_task_tag=2)) == []
    (answer,) = end.ask(end.read(0, 1, opcode=0x41, cmd_sn=1, initiator_task_tag=50))
    assert (answer.initiator_task_tag, answer.exp_cmd_sn) == (50, 1)
    answers = end.ask(end.read(0, 1, cmd_sn=1, initiator_task_tag=1))
    assert [answer.initiator_task_tag for answer in answers] == [1, 2]


def test_a_data_out_for_a_tag_that_is_used_again_is_known_by_its_transfer_tag() -> None:
    end = logged_in()
    (old,) = end.ask(end.write(0, 1, initiator_task_tag=7))
    end.ask(pdu(Opcode.TASK_MANAGEMENT_REQUEST, opcode=0x42, function=0x81, referenced_task_tag=7))
    (new,) = end.ask(end.write(8, 1, initiator_task_tag=7))
    (answer,) = end.ask(data_out(old, b"old" + bytes(509)))
    assert answer.opcode == Opcode.REJECT
    (answer,) = end.ask(data_out(new, b"new" + bytes(509)))
    assert answer.status == 0
    assert end.wire.disk[8 * BLOCK_BYTES : 8 * BLOCK_BYTES + 3] == b"new"
    assert end.wire.disk[:3] == bytes(3)
