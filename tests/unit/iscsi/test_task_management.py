"""Task management: what is aborted, what is answered, and that an answer means that nothing lands any more."""

from __future__ import annotations

import pytest

from csvd.iscsi.codes import Opcode, TaskManagementFunction, TaskManagementResponse
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
    (answer,) = end.ask(ask(end, TaskManagementFunction.TARGET_COLD_RESET))
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
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
