from __future__ import annotations

import pytest

from csvd.iscsi.codes import Opcode
from initiator.engine.requests import Command
from initiator.errors import ProtocolViolation
from tests.unit.initiator.target_script import Script, failure, logged_in

FINAL, UNDERFLOW = 0x80, 0x02
R2T_ONLY = {"InitialR2T": "Yes", "ImmediateData": "No", "MaxBurstLength": "16384", "FirstBurstLength": "8192"}


def writing(length: int, keys: dict[str, str]) -> tuple[Script, Command, bytes]:
    script = logged_in(keys)
    data = bytes(i * 7 & 0xFF for i in range(length))
    return script, script.command(data_out=data), data


def test_without_immediate_data_a_write_waits_to_be_asked() -> None:
    script, command, _ = writing(20000, R2T_ONLY)
    (request,) = script.sent()
    assert (request.flags, request.expected_data_transfer_length, request.data) == (0xA1, 20000, b"")
    assert command.sent == 0


def test_immediate_data_goes_with_the_command_up_to_a_segment() -> None:
    script, _, data = writing(20000, {"InitialR2T": "Yes", "ImmediateData": "Yes"})
    (request,) = script.sent()
    assert request.flags == 0xA1, "final: no more comes unasked"
    assert request.data == data[:8192]


def test_unsolicited_data_follows_its_command_up_to_the_first_burst() -> None:
    keys = {"InitialR2T": "No", "ImmediateData": "Yes", "FirstBurstLength": "20000"}
    script, command, data = writing(50000, keys)
    follower = script.command()
    request, second, third, next_command = script.sent()
    assert (request.flags, request.data) == (0x21, data[:8192])
    assert (second.opcode, second.flags, second.data) == (Opcode.DATA_OUT, 0, data[8192:16384])
    assert (third.flags, third.data) == (FINAL, data[16384:20000])
    assert [pdu.data_sn for pdu in (second, third)] == [0, 1]
    assert [pdu.buffer_offset for pdu in (second, third)] == [8192, 16384]
    assert {pdu.target_transfer_tag for pdu in (second, third)} == {0xFFFFFFFF}
    assert next_command.initiator_task_tag == follower.tag
    assert command.sent == 20000


def test_unsolicited_data_without_immediate_data_comes_all_in_data_out() -> None:
    keys = {"InitialR2T": "No", "ImmediateData": "No", "FirstBurstLength": "8192"}
    script, _, data = writing(1000, keys)
    request, data_out = script.sent()
    assert (request.flags, request.data) == (0x21, b"")
    assert (data_out.flags, data_out.data) == (FINAL, data)


def test_a_first_burst_that_the_command_carries_whole_needs_no_data_out() -> None:
    keys = {"InitialR2T": "No", "ImmediateData": "Yes", "FirstBurstLength": "4096"}
    script, _, data = writing(9000, keys)
    (request,) = script.sent()
    assert (request.flags, request.data) == (0xA1, data[:4096])


def test_an_r2t_is_answered_in_segments_that_the_target_takes() -> None:
    script, command, data = writing(20000, R2T_ONLY)
    script.sent()
    assert script.say(script.r2t(command, 0, 0, 16384)) == []
    first, second = script.sent()
    assert (first.data, second.data) == (data[:8192], data[8192:16384])
    assert (first.flags, second.flags) == (0, FINAL)
    assert (first.data_sn, second.data_sn) == (0, 1)
    assert (first.target_transfer_tag, first.initiator_task_tag) == (0x1000, command.tag)
    script.say(script.r2t(command, 1, 16384, 3616))
    (third,) = script.sent()
    assert (third.data, third.data_sn, third.flags) == (data[16384:], 0, FINAL)
    assert script.say(script.response(command)) == [command]


def test_data_out_is_a_view_of_the_callers_buffer() -> None:
    script, command, data = writing(8192, R2T_ONLY)
    script.sent()
    script.say(script.r2t(command, 0, 0, 8192))
    _, payload = script.engine.data_to_send()
    assert isinstance(payload, memoryview)
    assert payload.obj is data


def test_a_large_answer_to_an_r2t_is_made_piece_by_piece() -> None:
    keys = {"InitialR2T": "Yes", "ImmediateData": "No", "MaxBurstLength": "1048576", "MaxRecvDataSegmentLength": "512"}
    script, command, data = writing(1 << 20, keys)
    script.sent()
    script.say(script.r2t(command, 0, 0, 1 << 20))
    whole, batches = b"", 0
    while batch := script.engine.data_to_send():
        assert len(batch) < 600
        batches += 1
        whole += b"".join(buffer for buffer in batch if len(buffer) != 48)
    assert batches > 3
    assert whole == data


@pytest.mark.parametrize(
    ("number", "offset", "length", "fields"),
    [
        (0, 0, 0, {}),
        (0, 0, 16388, {}),  # beyond MaxBurstLength
        (0, 4096, 4096, {}),  # not where data is due
        (0, 0xFFFFF000, 0x2000, {}),
        (1, 0, 4096, {}),
        (0, 0, 4096, {"target_transfer_tag": 0xFFFFFFFF}),
        (0, 0, 4096, {"initiator_task_tag": 0x4242}),
    ],
)
def test_an_r2t_that_asks_for_what_is_not_due_is_a_violation(
    number: int, offset: int, length: int, fields: dict[str, int]
) -> None:
    script, command, _ = writing(20000, R2T_ONLY)
    script.sent()
    assert isinstance(failure(script.say(script.r2t(command, number, offset, length, **fields))), ProtocolViolation)
    assert script.sent() == []


def test_an_r2t_beyond_the_end_of_the_data_is_a_violation() -> None:
    script, command, _ = writing(4096, R2T_ONLY)
    script.sent()
    assert isinstance(failure(script.say(script.r2t(command, 0, 0, 4100))), ProtocolViolation)


def test_an_r2t_for_a_read_is_a_violation() -> None:
    script = logged_in()
    command = script.command(data_in=bytearray(512))
    script.sent()
    assert isinstance(failure(script.say(script.r2t(command, 0, 0, 512))), ProtocolViolation)


def test_more_r2ts_at_once_than_agreed_are_a_violation() -> None:
    script, command, _ = writing(20000, R2T_ONLY)
    script.sent()
    events = script.say(script.r2t(command, 0, 0, 4096), script.r2t(command, 1, 4096, 4096))
    assert isinstance(failure(events), ProtocolViolation)


def test_an_r2t_may_come_when_the_one_before_is_answered() -> None:
    script, command, _ = writing(20000, R2T_ONLY)
    script.sent()
    for number in range(4):
        assert script.say(script.r2t(command, number, number * 4096, 4096)) == []
        assert len(script.sent()) == 1


def test_good_before_all_data_was_taken_is_a_violation() -> None:
    script, command, _ = writing(20000, R2T_ONLY)
    script.sent()
    assert isinstance(failure(script.say(script.response(command))), ProtocolViolation)


def test_a_write_that_takes_less_says_so_by_a_residual() -> None:
    script, command, _ = writing(20000, R2T_ONLY)
    script.sent()
    assert script.say(script.response(command, flags=FINAL | UNDERFLOW, residual_count=20000)) == [command]
    assert command.residual == 20000


def test_data_of_a_write_that_has_failed_is_not_sent_any_more() -> None:
    script, command, _ = writing(20000, R2T_ONLY)
    script.sent()
    script.say(script.r2t(command, 0, 0, 16384))
    assert script.say(script.response(command, 2)) == [command]
    assert script.sent() == []


def test_data_out_goes_before_further_commands() -> None:
    script, command, _ = writing(8192, R2T_ONLY)
    script.sent()
    script.command()
    script.say(script.r2t(command, 0, 0, 8192))
    assert [pdu.opcode for pdu in script.sent()] == [Opcode.DATA_OUT, Opcode.SCSI_COMMAND]
