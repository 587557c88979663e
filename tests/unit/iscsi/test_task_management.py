"""Task management: what is aborted, what is answered, and that an answer means that nothing lands any more."""

from __future__ import annotations

import pytest

from csvd.iscsi.codes import AsyncEvent, Opcode, TaskManagementFunction, TaskManagementResponse
from csvd.iscsi.node import TARGET_OFFER
from csvd.iscsi.session import MAX_FUNCTIONS
from tests.iscsi_wire import End, Wire, pdu
from tests.unit.iscsi.test_full_feature import data_out, logged_in


def ask(end: End, function: int, referenced: int = 0, lun: int = 0) -> bytes:
    return pdu(
        Opcode.TASK_MANAGEMENT_REQUEST,
        opcode=0x42,
        function=0x80 | function,
        initiator_task_tag=900,
        referenced_task_tag=referenced,
        lun=lun,
    )


def test_abort_task_ends_a_task_that_waits_for_data() -> None:
    end = logged_in()
    (r2t,) = end.ask(end.write(0, 1))
    (answer,) = end.ask(ask(end, TaskManagementFunction.ABORT_TASK, r2t.initiator_task_tag))
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
    assert end.ask(data_out(r2t, b"x" * 512)) == []
    assert end.wire.disk[:512] == bytes(512)


def test_abort_task_answers_only_when_the_disk_is_done_with_the_task_and_the_task_never_answers() -> None:
    wire = Wire()
    end = logged_in(wire)
    wire.hold = True
    end.feed(end.write(0, 1, b"x" * 512))
    assert end.ask(ask(end, TaskManagementFunction.ABORT_TASK, 1)) == []
    wire.finish()
    (answer,) = end.answers()
    assert (answer.opcode, answer.response) == (Opcode.TASK_MANAGEMENT_RESPONSE, 0)


def test_a_reset_waits_also_for_a_task_that_was_aborted_before() -> None:
    wire = Wire()
    end = logged_in(wire)
    wire.hold = True
    end.feed(end.write(0, 1, b"x" * 512))
    end.feed(ask(end, TaskManagementFunction.ABORT_TASK, 1))
    assert end.ask(ask(end, TaskManagementFunction.LOGICAL_UNIT_RESET)) == []
    wire.finish()
    assert [a.opcode for a in end.answers()] == [Opcode.TASK_MANAGEMENT_RESPONSE] * 2


def test_a_reset_waits_also_for_the_tasks_of_a_session_that_is_gone() -> None:
    wire = Wire()
    gone, end = logged_in(wire), other_session(wire)
    wire.hold = True
    gone.feed(gone.write(0, 1, b"x" * 512))
    gone.engine.end()
    assert end.ask(ask(end, TaskManagementFunction.LOGICAL_UNIT_RESET)) == []
    wire.finish()
    (answer,) = end.answers()
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE


def test_an_abort_gives_its_share_of_the_r2t_budget_to_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csvd.iscsi.session.R2T_BUDGET_BYTES", 512)
    end = logged_in()
    (first,) = end.ask(end.write(0, 1) + end.write(1, 1))
    answers = end.ask(ask(end, TaskManagementFunction.ABORT_TASK, first.initiator_task_tag))
    assert sorted(a.opcode for a in answers) == [Opcode.TASK_MANAGEMENT_RESPONSE, Opcode.R2T]


def test_aborted_writes_behind_a_full_budget_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csvd.iscsi.session.R2T_BUDGET_BYTES", 512)
    end = logged_in()
    end.feed(end.write(0, 1) + end.write(1, 1))
    session = end.engine.session
    assert session is not None
    for _ in range(100):
        tag = end.cmd_sn
        end.feed(end.write(2, 8, flags=0x20))
        end.feed(pdu(Opcode.DATA_OUT, b"", flags=0x80, initiator_task_tag=tag, target_transfer_tag=0xFFFFFFFF))
        end.feed(ask(end, TaskManagementFunction.ABORT_TASK, tag))
    assert len(session.r2t_waiting) == 1
    assert len(session.tasks) == 2


def test_aborting_a_command_that_never_came_closes_its_gap() -> None:
    end = logged_in()
    assert end.ask(end.read(0, 1, cmd_sn=2, initiator_task_tag=2)) == []
    request = pdu(
        Opcode.TASK_MANAGEMENT_REQUEST,
        opcode=0x42,
        function=0x81,
        initiator_task_tag=900,
        referenced_task_tag=1,
        cmd_sn=3,
        ref_cmd_sn=1,
    )
    answers = end.ask(request)
    assert sorted(a.opcode for a in answers) == [Opcode.TASK_MANAGEMENT_RESPONSE, Opcode.DATA_IN]
    assert {a.opcode: a for a in answers}[Opcode.TASK_MANAGEMENT_RESPONSE].response == 0


def test_a_task_that_is_not_there_does_not_exist() -> None:
    end = logged_in()
    (answer,) = end.ask(ask(end, TaskManagementFunction.ABORT_TASK, 44))
    assert answer.response == TaskManagementResponse.TASK_DOES_NOT_EXIST


def other_session(wire: Wire) -> End:
    end = wire.connect()
    end.login_pdu({})
    keys = {"InitiatorName": "iqn.2026-11.test:other", "TargetName": wire.target.name, "InitialR2T": "No"}
    (answer,) = end.ask(end.login_pdu(keys))
    assert answer.status == 0
    return end


@pytest.mark.parametrize(
    ("function", "others_too"),
    [
        (TaskManagementFunction.ABORT_TASK_SET, False),
        (TaskManagementFunction.CLEAR_TASK_SET, True),
        (TaskManagementFunction.LOGICAL_UNIT_RESET, True),
        (TaskManagementFunction.TARGET_WARM_RESET, True),
    ],
)
def test_what_a_function_aborts(function: int, others_too: bool) -> None:
    wire = Wire()
    end, other = logged_in(wire), other_session(wire)
    (own,) = end.ask(end.write(0, 1))
    (foreign,) = other.ask(other.write(1, 1))
    (answer,) = end.ask(ask(end, function))
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
    assert end.ask(data_out(own, b"x" * 512)) == []
    answers = other.ask(data_out(foreign, b"y" * 512))
    assert (answers == []) is others_too
    told = {session.nexus for session in wire.target.sessions.values() if session is other.engine.session}
    assert wire.router.cleared == (told if function == TaskManagementFunction.CLEAR_TASK_SET else set())


def test_resets_are_told_to_the_scsi_device() -> None:
    wire = Wire()
    end = logged_in(wire)
    end.ask(ask(end, TaskManagementFunction.LOGICAL_UNIT_RESET))
    end.ask(ask(end, TaskManagementFunction.TARGET_WARM_RESET))
    assert len(wire.router.resets) == 2


def test_a_reset_of_a_lun_that_is_not_there_says_so() -> None:
    end = logged_in()
    (answer,) = end.ask(ask(end, TaskManagementFunction.LOGICAL_UNIT_RESET, lun=7 << 48))
    assert answer.response == TaskManagementResponse.LUN_DOES_NOT_EXIST


def test_a_cold_reset_ends_every_session_after_its_answer() -> None:
    wire = Wire()
    end, other = logged_in(wire), other_session(wire)
    answer, notice = end.ask(ask(end, TaskManagementFunction.TARGET_COLD_RESET))
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
    assert [a.async_event for a in (notice, *other.answers())] == [AsyncEvent.SESSION_DROP] * 2
    assert end.engine.closing
    assert other.engine.closing
    assert not wire.target.sessions


@pytest.mark.parametrize(
    ("function", "response"),
    [
        (TaskManagementFunction.TASK_REASSIGN, TaskManagementResponse.TASK_ALLEGIANCE_REASSIGNMENT_NOT_SUPPORTED),
        (TaskManagementFunction.CLEAR_ACA, TaskManagementResponse.FUNCTION_NOT_SUPPORTED),
        (99, TaskManagementResponse.FUNCTION_NOT_SUPPORTED),
    ],
)
def test_what_is_not_supported_says_so(function: int, response: int) -> None:
    end = logged_in()
    (answer,) = end.ask(ask(end, function))
    assert answer.response == response


SAM_5_FUNCTIONS = (9, 10, 11, 12)


@pytest.mark.parametrize("function", SAM_5_FUNCTIONS)
def test_the_functions_of_rfc_7144_want_protocol_level_2(function: int) -> None:
    end = logged_in()
    (answer,) = end.ask(ask(end, function))
    assert answer.response == TaskManagementResponse.FUNCTION_NOT_SUPPORTED
    end = logged_in(iSCSIProtocolLevel="2")
    (answer,) = end.ask(ask(end, function))
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE


def test_query_task_and_query_task_set_tell_whether_tasks_are_there() -> None:
    wire = Wire()
    end, other = logged_in(wire, iSCSIProtocolLevel="2"), other_session(wire)
    other.ask(other.write(1, 1))
    (answer,) = end.ask(ask(end, TaskManagementFunction.QUERY_TASK_SET))
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
    (r2t,) = end.ask(end.write(0, 1))
    for function in (TaskManagementFunction.QUERY_TASK, TaskManagementFunction.QUERY_TASK_SET):
        (answer,) = end.ask(ask(end, function, r2t.initiator_task_tag))
        assert answer.response == TaskManagementResponse.FUNCTION_SUCCEEDED
        (answer,) = end.ask(ask(end, function, r2t.initiator_task_tag, lun=7 << 48))
        assert answer.response in (
            TaskManagementResponse.FUNCTION_COMPLETE,
            TaskManagementResponse.LUN_DOES_NOT_EXIST,
        )
    (answer,) = end.ask(data_out(r2t, b"x" * 512))
    assert answer.status == 0


def test_query_asynchronous_event_gives_the_pending_unit_attention() -> None:
    wire = Wire()
    end = logged_in(wire, iSCSIProtocolLevel="2")
    wire.router.attention = b"\x16\x29\x03"
    (answer,) = end.ask(ask(end, TaskManagementFunction.QUERY_ASYNCHRONOUS_EVENT))
    assert answer.response == TaskManagementResponse.FUNCTION_SUCCEEDED
    assert answer.additional_response_information == b"\x16\x29\x03"


def test_an_i_t_nexus_reset_aborts_the_tasks_of_this_nexus_alone() -> None:
    wire = Wire()
    end, other = logged_in(wire, iSCSIProtocolLevel="2"), other_session(wire)
    (own,) = end.ask(end.write(0, 1))
    (foreign,) = other.ask(other.write(1, 1))
    (answer,) = end.ask(ask(end, TaskManagementFunction.I_T_NEXUS_RESET))
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
    assert end.ask(data_out(own, b"x" * 512)) == []
    assert len(other.ask(data_out(foreign, b"y" * 512))) == 1
    assert wire.router.resets == [end.engine.session.nexus if end.engine.session else ""]


def test_abort_task_with_the_lun_of_another_unit_finds_no_task_and_another_spelling_finds_it() -> None:
    end = logged_in()
    (r2t,) = end.ask(end.write(0, 1))
    (answer,) = end.ask(ask(end, TaskManagementFunction.ABORT_TASK, r2t.initiator_task_tag, lun=7 << 48))
    assert answer.response == TaskManagementResponse.TASK_DOES_NOT_EXIST
    (answer,) = end.ask(ask(end, TaskManagementFunction.ABORT_TASK, r2t.initiator_task_tag, lun=0x4000 << 48))
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE


@pytest.mark.parametrize("tas", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        TaskManagementFunction.CLEAR_TASK_SET,
        TaskManagementFunction.LOGICAL_UNIT_RESET,
        TaskManagementFunction.TARGET_WARM_RESET,
    ],
)
def test_with_tas_the_tasks_of_others_end_with_task_aborted_and_own_ones_silently(function: int, tas: bool) -> None:
    wire = Wire()
    wire.router.tas = tas
    end, other = logged_in(wire), other_session(wire)
    end.feed(end.write(2, 1))
    other.feed(other.write(1, 1))
    wire.hold = True
    other.feed(other.write(3, 1, b"x" * 512))
    end.answers(), other.answers()
    assert end.ask(ask(end, function)) == []
    waiting = other.answers()
    wire.finish()
    told = [(a.opcode, a.status) for a in (*waiting, *other.answers())]
    assert told == ([(Opcode.SCSI_RESPONSE, 0x40)] * 2 if tas else [])
    (answer,) = end.answers()
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
    if function == TaskManagementFunction.CLEAR_TASK_SET:
        assert bool(wire.router.cleared) is not tas


def test_a_target_reset_counts_what_is_missing_before_it_as_received() -> None:
    end = logged_in()
    assert end.ask(end.write(0, 1, b"x" * 512, cmd_sn=3, initiator_task_tag=3)) == []
    request = bytearray(ask(end, TaskManagementFunction.TARGET_WARM_RESET))
    request[24:28] = (5).to_bytes(4)
    (answer,) = end.ask(bytes(request))
    assert (answer.response, answer.exp_cmd_sn) == (0, 5)
    assert not any(end.wire.disk)
    (answer,) = end.ask(end.read(0, 1, cmd_sn=5, initiator_task_tag=5))
    assert answer.opcode == Opcode.DATA_IN


def test_a_reset_waits_for_the_commands_before_it_that_come_by_another_connection() -> None:
    wire = Wire(offer=TARGET_OFFER)
    end = logged_in(wire, MaxConnections="2")
    session = end.engine.session
    assert session is not None
    second = wire.connect()
    names = {"InitiatorName": "iqn.2026-11.test:initiator", "TargetName": wire.target.name}
    (answer,) = second.ask(second.login_pdu(names, tsih=session.tsih, cid=1))
    assert answer.status == 0
    request = bytearray(ask(end, TaskManagementFunction.LOGICAL_UNIT_RESET))
    request[24:28] = (2).to_bytes(4)
    assert end.ask(bytes(request)) == []
    assert second.ask(second.write(0, 1, cmd_sn=1, initiator_task_tag=1)) != []
    (answer,) = end.answers()
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
    assert not session.tasks


def test_only_so_many_functions_wait_for_commands() -> None:
    wire = Wire(offer=TARGET_OFFER)
    end = logged_in(wire, MaxConnections="2")
    session = end.engine.session
    assert session is not None
    second = wire.connect()
    names = {"InitiatorName": "iqn.2026-11.test:initiator", "TargetName": wire.target.name}
    second.ask(second.login_pdu(names, tsih=session.tsih, cid=1))
    request = bytearray(ask(end, TaskManagementFunction.LOGICAL_UNIT_RESET))
    request[24:28] = (2).to_bytes(4)
    answers = end.ask(bytes(request) * 40)
    assert {(a.opcode, a.reason) for a in answers} == {(Opcode.REJECT, 0x06)}
    assert len(session.fences) == 40 - len(answers)


@pytest.mark.parametrize("function", [6, 7])
def test_a_target_is_not_reset_by_an_initiator_that_may_not_see_all_of_it(function: int) -> None:
    wire = Wire()
    end, other = logged_in(wire), other_session(wire)
    wire.router.sees_all = False
    wire.hold = True
    other.feed(other.write(0, 1, b"x" * 512))
    (answer,) = end.ask(ask(end, function))
    assert answer.response == TaskManagementResponse.FUNCTION_AUTHORIZATION_FAILED
    assert wire.router.resets == []
    wire.finish()
    (answer,) = other.answers()
    assert answer.opcode == Opcode.SCSI_RESPONSE
    assert not other.engine.closing


def test_only_so_many_functions_wait_for_the_end_of_what_they_abort() -> None:
    wire = Wire()
    end = logged_in(wire)
    wire.hold = True
    end.feed(end.write(0, 1, b"x" * 512))
    requests = ask(end, TaskManagementFunction.ABORT_TASK, 1) * 500
    answers = end.ask(requests)
    assert {answer.response for answer in answers} == {TaskManagementResponse.FUNCTION_REJECTED}
    assert len(answers) == 500 - MAX_FUNCTIONS
    wire.finish()
    assert [answer.response for answer in end.answers()] == [0] * MAX_FUNCTIONS
    (answer,) = end.ask(ask(end, TaskManagementFunction.LOGICAL_UNIT_RESET))
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE


def test_a_second_logout_while_one_waits_for_a_disk_is_rejected() -> None:
    wire = Wire()
    end = logged_in(wire)
    wire.hold = True
    end.feed(end.write(0, 1, b"x" * 512))
    logout = pdu(Opcode.LOGOUT_REQUEST, opcode=0x46, reason=0x80, initiator_task_tag=7)
    assert [answer.opcode for answer in end.ask(logout * 3)] == [Opcode.REJECT] * 2
    wire.finish()
    (answer,) = end.answers()
    assert (answer.opcode, answer.response) == (Opcode.LOGOUT_RESPONSE, 0)
    assert end.engine.closing
