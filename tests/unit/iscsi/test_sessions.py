"""Sessions of several connections: joining, order, allegiance, logout, loss, reinstatement."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from csvd.iscsi import pdu_input
from csvd.iscsi.access import Access
from csvd.iscsi.chap import Credentials
from csvd.iscsi.codes import LoginStatus, Opcode
from csvd.iscsi.node import TARGET_OFFER
from tests.iscsi_wire import BLOCK_BYTES, INITIATOR, ISID, TARGET, TEST_UNIT_READY, End, Pdu, Wire, cdb10, pdu
from tests.unit.iscsi.test_login_chap import JOE, challenged, prove, response

NAMES = {"InitiatorName": INITIATOR, "SessionType": "Normal", "TargetName": TARGET}
DATA = bytes(range(256)) * 2


class Ends:
    """One session of some connections; CmdSN is theirs together."""

    def __init__(self, count: int = 2, *, most: int = 4) -> None:
        self.wire = Wire(offer=TARGET_OFFER)
        self.ends = [self.wire.connect()]
        self.cmd_sn = 1
        self.tsih = self.ends[0].login(MaxConnections=str(most), InitialR2T="No").tsih
        for cid in range(1, count):
            end, answer = self.join(cid)
            assert answer.status == LoginStatus.SUCCESS
            self.ends.append(end)

    def join(self, cid: int, **fields: Any) -> tuple[End, Pdu]:
        end = self.wire.connect()
        return end, join(end, **{"tsih": self.tsih, "cid": cid} | fields)

    def __getitem__(self, place: int) -> End:
        self.ends[place].cmd_sn = self.cmd_sn
        self.cmd_sn += 1
        return self.ends[place]


def join(end: End, **fields: Any) -> Pdu:
    (answer,) = end.ask(end.login_pdu(NAMES, **fields))
    return answer


def logout(end: End, reason: int, cid: int = 0, **fields: int) -> list[Pdu]:
    values = {"opcode": 0x46, "reason": 0x80 | reason, "cid": cid, "initiator_task_tag": 0x999} | fields
    return end.ask(pdu(Opcode.LOGOUT_REQUEST, **values))


def settle(end: End) -> list[Pdu]:
    """What a connection has to say after something came by another one."""
    end.wire.run(end.engine)
    return end.answers()


def test_connections_join_until_the_session_has_those_that_were_agreed() -> None:
    ends = Ends(3, most=3)
    assert len(ends.wire.target.sessions) == 1
    assert len(ends.wire.router.nexuses) == 1
    assert ends.join(3)[1].status == LoginStatus.TOO_MANY_CONNECTIONS


def test_the_answer_to_a_join_has_the_sessions_numbers() -> None:
    ends = Ends(1)
    (answer,) = ends.ends[0].ask(ends[0].read(0, 1))
    _, joined = ends.join(1)
    assert joined.tsih == ends.tsih
    assert (joined.exp_cmd_sn, joined.max_cmd_sn) == (answer.exp_cmd_sn, answer.max_cmd_sn)


def test_one_connection_is_what_a_session_has_where_nothing_else_was_agreed() -> None:
    wire = Wire(offer=TARGET_OFFER)
    tsih = wire.connect().login().tsih
    assert join(wire.connect(), tsih=tsih, cid=1).status == LoginStatus.TOO_MANY_CONNECTIONS


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"tsih": 0x7777}, LoginStatus.SESSION_DOES_NOT_EXIST),
        ({"isid": b"\x80\0\0\0\0\x09"}, LoginStatus.SESSION_DOES_NOT_EXIST),
    ],
)
def test_a_session_that_is_not_there_can_not_be_joined(fields: dict[str, Any], status: LoginStatus) -> None:
    assert Ends(1).join(1, **fields)[1].status == status


def test_the_session_of_another_initiator_can_not_be_joined() -> None:
    ends = Ends(1)
    end = ends.wire.connect()
    keys = NAMES | {"InitiatorName": "iqn.2026-11.test:thief"}
    (answer,) = end.ask(end.login_pdu(keys, tsih=ends.tsih, cid=1))
    assert answer.status == LoginStatus.SESSION_DOES_NOT_EXIST


def test_a_session_does_not_span_portal_groups() -> None:
    ends = Ends(1)
    end = ends.wire.connect(portal_group_tag=2)
    assert join(end, tsih=ends.tsih, cid=1).status == LoginStatus.CANNOT_INCLUDE_IN_SESSION


def test_a_discovery_session_has_one_connection() -> None:
    end = Wire().connect()
    (answer,) = end.ask(end.login_pdu({"InitiatorName": INITIATOR, "SessionType": "Discovery"}, tsih=1))
    assert answer.status == LoginStatus.SESSION_DOES_NOT_EXIST


def test_the_same_initiator_port_at_another_portal_group_is_another_nexus() -> None:
    wire = Wire()
    first, second = wire.connect(), wire.connect(portal_group_tag=2)
    assert first.login().status == second.login().status == LoginStatus.SUCCESS
    assert len(wire.target.sessions) == len(wire.router.nexuses) == 2
    assert not first.engine.closing


def test_commands_run_in_the_order_of_cmd_sn_whichever_connection_they_come_by() -> None:
    ends = Ends(2)
    begin = ends.wire.disk[:BLOCK_BYTES]
    write, read = ends[0].write(0, 1, DATA), ends[1].read(0, 1)
    woken: list[bool] = []
    ends.ends[1].engine.wake = lambda: woken.append(True)
    assert ends.ends[1].ask(read) == []
    assert ends.wire.disk[:BLOCK_BYTES] == begin
    (answer,) = ends.ends[0].ask(write)
    assert answer.opcode == Opcode.SCSI_RESPONSE
    assert woken, "what waited on the other connection is to be executed now"
    (answer,) = settle(ends.ends[1])
    assert answer.data == DATA


def test_each_connection_counts_its_own_statuses() -> None:
    ends = Ends(2)
    numbers = [ends.ends[place].ask(ends[place].read(0, 1))[-1].stat_sn for place in (0, 0, 1, 0, 1)]
    assert numbers == [1, 2, 1, 3, 2]


def test_data_out_by_another_connection_than_its_command_is_rejected_and_changes_nothing() -> None:
    ends = Ends(2)
    request = ends[0].write(0, 1, flags=0x20)
    tag = ends.cmd_sn - 1
    assert ends.ends[0].ask(request) == []
    data = pdu(Opcode.DATA_OUT, DATA, flags=0x80, initiator_task_tag=tag, target_transfer_tag=0xFFFFFFFF)
    (answer,) = ends.ends[1].ask(data)
    assert answer.opcode == Opcode.REJECT
    (answer,) = ends.ends[0].ask(data)
    assert answer.opcode == Opcode.SCSI_RESPONSE
    assert ends.wire.disk[:BLOCK_BYTES] == DATA


def test_a_task_is_aborted_by_another_connection() -> None:
    ends = Ends(2)
    request = ends[0].write(0, 1)
    tag = ends.cmd_sn - 1
    (answer,) = ends.ends[0].ask(request)
    assert answer.opcode == Opcode.R2T
    abort = pdu(
        Opcode.TASK_MANAGEMENT_REQUEST,
        opcode=0x42,
        function=0x81,
        initiator_task_tag=0x55,
        referenced_task_tag=tag,
        cmd_sn=ends.cmd_sn,
    )
    (answer,) = ends.ends[1].ask(abort)
    assert (answer.opcode, answer.response) == (Opcode.TASK_MANAGEMENT_RESPONSE, 0)


def test_a_lost_connection_takes_its_tasks_with_it_and_the_session_goes_on() -> None:
    ends = Ends(2)
    (answer,) = ends.ends[0].ask(ends[0].write(0, 1))
    assert answer.opcode == Opcode.R2T
    ends.ends[0].engine.end()
    (session,) = ends.wire.target.sessions.values()
    assert not session.tasks
    assert list(session.connections) == [1]
    (answer,) = ends.ends[1].ask(ends[1].read(0, 1))
    assert answer.opcode == Opcode.DATA_IN
    assert ends.wire.router.terminated == [(session.nexus, {0})]


def test_what_a_lost_connection_left_in_the_order_may_come_by_another_one() -> None:
    ends = Ends(2)
    missing, held, last = ends[1].read(0, 1), ends[0].write(0, 1, DATA), ends[1].read(0, 1)
    assert ends.ends[0].ask(held) == []
    assert ends.ends[1].ask(last) == []
    ends.ends[0].engine.end()
    (first,) = ends.ends[1].ask(missing)
    assert first.opcode == Opcode.DATA_IN
    answers = ends.ends[1].ask(held)  # the retry: the same CmdSN and task tag
    assert [answer.opcode for answer in answers] == [Opcode.SCSI_RESPONSE, Opcode.DATA_IN]
    assert answers[1].data == DATA


def test_an_old_write_of_a_lost_connection_is_over_before_anything_new_is_executed() -> None:
    ends = Ends(2)
    ends.wire.hold = True
    assert ends.ends[0].ask(ends[0].write(0, 1, DATA)) == []
    (old,) = ends.wire.held
    ends.ends[0].engine.end()
    ends.wire.hold = False
    woken: list[bool] = []
    ends.ends[1].engine.wake = lambda: woken.append(True)
    newer = bytes(BLOCK_BYTES)
    assert ends.ends[1].ask(ends[1].write(0, 1, newer)) == [], "it waits"
    ends.wire.execute(old)
    assert woken
    (answer,) = settle(ends.ends[1])
    assert answer.status == 0
    assert ends.wire.disk[:BLOCK_BYTES] == newer
    assert not ends.wire.target.leaving


def test_the_last_connection_takes_the_session_with_it() -> None:
    ends = Ends(2)
    for end in ends.ends:
        end.engine.end()
    assert not ends.wire.target.sessions
    assert not ends.wire.router.nexuses


def test_logout_of_the_session_closes_all_its_connections() -> None:
    ends = Ends(3)
    (answer,) = logout(ends.ends[1], 0)
    assert (answer.opcode, answer.response) == (Opcode.LOGOUT_RESPONSE, 0)
    assert all(end.engine.closing for end in ends.ends)
    assert not ends.wire.router.nexuses


def test_logout_of_this_connection_leaves_the_others() -> None:
    ends = Ends(2)
    ends.ends[1].ask(ends[1].write(0, 1))
    (answer,) = logout(ends.ends[1], 1, cid=1)
    assert (answer.opcode, answer.response) == (Opcode.LOGOUT_RESPONSE, 0)
    assert ends.ends[1].engine.closing
    (answer,) = ends.ends[0].ask(ends[0].read(0, 1))
    assert answer.opcode == Opcode.DATA_IN


def test_logout_of_another_connection_is_answered_on_this_one_when_its_tasks_are_over() -> None:
    ends = Ends(2)
    ends.wire.hold = True
    assert ends.ends[1].ask(ends[1].write(0, 1, DATA)) == []
    assert logout(ends.ends[0], 1, cid=1) == [], "a disk is still at it"
    ends.wire.finish()
    (answer,) = settle(ends.ends[0])
    assert (answer.opcode, answer.response) == (Opcode.LOGOUT_RESPONSE, 0)
    assert ends.ends[1].engine.closing
    assert not ends.ends[0].engine.closing


def test_logout_of_the_session_waits_for_what_a_lost_connection_left_and_takes_a_late_one_along() -> None:
    ends = Ends(2)
    ends.wire.hold = True
    assert ends.ends[0].ask(ends[0].write(0, 1, DATA)) == []
    ends.ends[0].engine.end()
    assert logout(ends.ends[1], 0) == [], "a disk is still at it"
    late, answer = ends.join(2)
    assert answer.status == LoginStatus.SUCCESS
    ends.wire.finish()
    (answer,) = settle(ends.ends[1])
    assert (answer.opcode, answer.response) == (Opcode.LOGOUT_RESPONSE, 0)
    assert late.engine.closing
    assert not ends.wire.target.sessions


@pytest.mark.parametrize(("reason", "cid", "response"), [(1, 9, 1), (2, 1, 2)])
def test_a_logout_that_can_not_be_says_why_and_the_connections_stay(reason: int, cid: int, response: int) -> None:
    ends = Ends(2)
    (answer,) = logout(ends.ends[0], reason, cid=cid)
    assert (answer.opcode, answer.response) == (Opcode.LOGOUT_RESPONSE, response)
    assert not any(end.engine.closing for end in ends.ends)


def test_the_same_cid_again_reinstates_the_connection_and_the_session_lives() -> None:
    for count in (1, 2):
        ends = Ends(count)
        old = ends.ends[0]
        old.ask(ends[0].write(0, 1))
        woken: list[bool] = []
        old.engine.wake = partial(woken.append, True)
        new, answer = ends.join(0)
        assert (answer.status, answer.tsih) == (LoginStatus.SUCCESS, ends.tsih)
        assert old.engine.closing
        assert woken
        old.engine.end()  # the adapter closes the socket
        (session,) = ends.wire.target.sessions.values()
        assert session.connections[0] is new.engine
        assert not session.tasks
        new.cmd_sn = ends.cmd_sn
        (answer,) = new.ask(new.read(0, 1))
        assert answer.opcode == Opcode.DATA_IN
        assert len(ends.wire.router.nexuses) == 1


def test_a_session_that_ends_while_another_connection_logs_in_is_not_joined() -> None:
    ends = Ends(1)
    late = ends.wire.connect()
    (answer,) = late.ask(late.login_pdu(NAMES | {"AuthMethod": "None"}, flags=0x81, tsih=ends.tsih, cid=1))
    assert answer.status == LoginStatus.SUCCESS
    ends.ends[0].engine.end()
    (answer,) = late.ask(late.login_pdu({}, tsih=ends.tsih, cid=1))
    assert answer.status == LoginStatus.SESSION_DOES_NOT_EXIST


def test_a_new_login_of_the_initiator_port_ends_the_session_with_all_its_connections() -> None:
    ends = Ends(2)
    new = ends.wire.connect()
    (answer,) = new.ask(new.login_pdu(NAMES))
    assert answer.status == LoginStatus.SUCCESS
    assert answer.tsih != ends.tsih
    assert all(end.engine.closing for end in ends.ends)
    assert len(ends.wire.router.nexuses) == 1


def test_immediate_commands_and_the_window_are_the_sessions() -> None:
    ends = Ends(2)
    ends.wire.hold = True
    for place in (0, 1, 0, 1):
        ends.ends[place].ask(ends[place].command(cdb10(TEST_UNIT_READY, 0, 0)))
    (session,) = ends.wire.target.sessions.values()
    assert len(session.tasks) == 4
    ends.wire.finish()
    seen = [answer.max_cmd_sn for end in ends.ends for answer in end.answers()]
    assert max(seen) == session.max_cmd_sn
    assert session.isid == ISID


def test_a_connection_that_proved_to_be_another_user_does_not_join() -> None:
    users = {"joe": JOE, "ann": Credentials("ann", b"another user's secret")}
    wire = Wire(offer=TARGET_OFFER, access=Access(credentials=users))
    first, second, third = wire.connect(), wire.connect(), wire.connect()
    prove(first, challenged(first))
    (answer,) = first.ask(first.login_pdu({"MaxConnections": "4"}))
    for end, user, status in (
        (second, "ann", LoginStatus.AUTHORIZATION_FAILURE),
        (third, "joe", LoginStatus.SUCCESS),
    ):
        end.fields = {"tsih": answer.tsih, "cid": 1}
        asked = challenged(end)
        proof = {"CHAP_N": user, "CHAP_R": response(asked, users[user].secret)}
        (proven,) = end.ask(end.login_pdu(proof, flags=0x81))
        assert proven.status == LoginStatus.SUCCESS
        (joined,) = end.ask(end.login_pdu({}))
        assert joined.status == status
    assert not first.engine.closing


def test_sessions_that_have_ended_count_while_a_disk_is_at_their_tasks() -> None:
    wire = Wire()
    wire.target.max_sessions = 2
    wire.hold = True
    isids = [bytes((0x80, 0, 0, 0, 0, number)) for number in range(4)]
    for isid in isids[:2]:
        end = wire.connect()
        assert join(end, isid=isid).status == LoginStatus.SUCCESS
        end.feed(end.write(0, 1, DATA))
        end.engine.end()
    assert not wire.target.sessions
    assert join(wire.connect(), isid=isids[2]).status == LoginStatus.OUT_OF_RESOURCES
    back = wire.connect()
    # One that has tasks there waits for them before it does anything, and adds nothing.
    assert join(back, isid=isids[0]).status == LoginStatus.SUCCESS
    back.engine.end()
    wire.finish()
    assert join(wire.connect(), isid=isids[2]).status == LoginStatus.SUCCESS


@pytest.mark.parametrize("immediate", [0x40, 0])
def test_a_command_that_is_aborted_while_its_immediate_data_comes_leaves_nothing_behind(
    immediate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdu_input, "PLACED_BYTES", 0)  # so that it is known before all of it has come
    wire = Wire()
    end, other = wire.connect(), wire.connect()
    end.login(InitialR2T="No")
    assert join(other, isid=b"\x80\0\0\0\0\x09").status == LoginStatus.SUCCESS
    request = end.write(0, 4, DATA, opcode=Opcode.SCSI_COMMAND | immediate)
    end.feed(request[:300])
    reset = {"opcode": 0x42, "function": 0x85, "initiator_task_tag": 900}
    (answer,) = other.ask(pdu(Opcode.TASK_MANAGEMENT_REQUEST, **reset))
    assert answer.response == 0
    assert end.ask(request[300:]) == []
    session = end.engine.session
    assert session is not None
    assert not session.tasks
    assert session.r2t_bytes == 0
    (answer,) = end.ask(end.read(0, 1, cmd_sn=1 if immediate else 2))
    assert answer.opcode == Opcode.DATA_IN
