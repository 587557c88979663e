"""A session over several links: where commands go, and what the end of one link ends."""

from __future__ import annotations

from typing import Any

import pytest

import initiator
from csvd.iscsi import text
from csvd.iscsi.codes import LogoutReason, Opcode, TaskManagementFunction
from initiator import SessionOptions
from initiator.errors import ProtocolViolation, SessionClosed, SessionLost, TimedOut
from initiator.session import Session
from initiator.url import Portal
from tests.unit.initiator.conftest import Run
from tests.unit.initiator.session_script import Outcome, SessionScript, StillLink
from tests.unit.initiator.target_script import TARGET, Pdu, Script, pdu, settings, small_offer
from tests.unit.initiator.tiny_target import TinyTarget

KEYS = {"MaxConnections": "3", "MaxRecvDataSegmentLength": "8192", "ImmediateData": "Yes", "InitialR2T": "Yes"}


class Joined(StillLink):
    """A further link without a socket, and the target at its end."""

    def __init__(self, session: Session, number: int) -> None:
        super().__init__()
        self.bytes_received = 1
        self.script = Script(settings(connection_id=number), session=session.state)
        self.script.log_in({"MaxRecvDataSegmentLength": "8192"})
        self.engine = self.script.engine
        self.owner: Any = session

    def say(self, *pdus: bytes) -> None:
        self.bytes_received += len(b"".join(pdus))
        self.owner.link_events(self.engine.feed(b"".join(pdus)))


class SeveralScript(SessionScript):
    """A session with further links."""

    def __init__(self, count: int, **options: Any) -> None:
        super().__init__(**options)
        offer = small_offer(max_connections=8)
        self.script = Script(settings(offer=offer))
        link: Any = self.link
        link.engine = self.script.engine
        self.session = Session(Portal("192.0.2.1"), TARGET, SessionOptions(**options), reactor=self.clock)
        self.attaching = Outcome(self.session.attach(self.script.engine, link))
        (request,) = self.script.sent()
        self.say(self.script.login_response(request, KEYS))
        self.more = [Joined(self.session, number) for number in range(1, count)]
        for each in self.more:
            joined: Any = each
            self.session.add(joined)


def test_a_command_goes_to_the_connection_with_the_least_to_bring_to_an_end() -> None:
    script = SeveralScript(3)
    assert script.session.connections == 3
    commands = [script.submit()[0] for _ in range(7)]
    sent = [len(each.sent()) for each in (script.script, *(joined.script for joined in script.more))]
    assert sent == [3, 2, 2]
    second = [command for command in commands if command.connection is script.more[0].engine]
    for command in second:
        script.more[0].say(script.more[0].script.response(command))
    for _ in range(2):
        script.submit()
    assert len(script.more[0].script.sent()) == 2


def test_one_after_the_other_all_go_by_the_first_connection() -> None:
    script = SeveralScript(3)
    for _ in range(5):
        command, outcome = script.submit()
        assert command.connection is script.script.engine
        script.sent()
        script.good(command)
        assert outcome.result is command


def test_what_one_connection_says_lets_go_what_waits_on_another() -> None:
    script = SeveralScript(2)
    other = script.more[0]
    script.submit()
    script.sent()
    state = script.session.state
    state.max_cmd_sn = state.cmd_sn - 1
    script.submit()
    assert other.script.sent() == []
    other.wakes = 0
    script.script.max_cmd_sn += 1
    numbers = script.script.numbers(status=False)
    script.say(pdu(Opcode.NOP_IN, **numbers, initiator_task_tag=0xFFFFFFFF, target_transfer_tag=0xFFFFFFFF))
    assert other.wakes == 1
    assert [sent.opcode for sent in other.script.sent()] == [Opcode.SCSI_COMMAND]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_loss_of_any_connection_ends_the_session(which: int) -> None:
    script = SeveralScript(3)
    calls = [script.submit()[1] for _ in range(6)]
    script.session.link_lost("cut") if which == 0 else script.more[which - 1].owner.link_lost("cut")
    assert all(isinstance(outcome.result, SessionLost) for outcome in calls)
    assert script.link.closed
    assert all(link.closed for link in script.more)
    assert script.session.connections == 0
    assert isinstance(script.submit()[1].result, SessionClosed)


def test_a_violation_on_one_connection_ends_the_session() -> None:
    script = SeveralScript(2)
    calls = [script.submit()[1] for _ in range(4)]
    script.more[0].say(bytes(48))
    assert all(isinstance(outcome.result, SessionLost) for outcome in calls)
    assert all(isinstance(outcome.result.__cause__, ProtocolViolation) for outcome in calls)
    assert script.link.closed


def test_an_abort_goes_by_the_connection_of_its_command() -> None:
    script = SeveralScript(2, nop_interval_s=0)
    script.submit()
    command, outcome = script.submit(timeout_s=5)
    other = script.more[0]
    assert command.connection is other.engine
    script.sent()
    other.script.sent()
    script.clock.advance(6)
    assert isinstance(outcome.result, TimedOut)
    assert script.sent() == []
    (abort,) = other.script.sent()
    assert abort.opcode is Opcode.TASK_MANAGEMENT_REQUEST
    assert abort.referenced_task_tag == command.tag
    assert abort.function & 0x7F == TaskManagementFunction.ABORT_TASK


def test_every_connection_is_pinged_and_a_deaf_one_ends_the_session() -> None:
    script = SeveralScript(2, nop_interval_s=5.0, nop_timeout_s=10.0)
    script.clock.advance(5.0)
    script.clock.advance(5.0)
    (ping,) = script.sent()
    (other,) = script.more[0].script.sent()
    assert ping.opcode is other.opcode is Opcode.NOP_OUT
    script.answer(Opcode.NOP_IN, ping, target_transfer_tag=0xFFFFFFFF)
    script.clock.advance(9.0)
    assert script.session.alive
    script.clock.advance(2.0)
    assert not script.session.alive


def test_a_logout_does_not_mind_how_the_other_connections_end() -> None:
    script = SeveralScript(2)
    closing = Outcome(script.session.close())
    (logout,) = script.sent()
    assert logout.reason & 0x7F == LogoutReason.CLOSE_SESSION
    assert script.more[0].script.sent() == []
    script.more[0].owner.link_lost("the target closed the connection")
    assert closing.waiting
    script.answer(Opcode.LOGOUT_RESPONSE, logout)
    assert closing.result is None
    assert script.more[0].closed


def several(target: TinyTarget, answer: bytes | type[ConnectionError] | None) -> list[int]:
    """Let a target take up to three connections and say this to the second login; give the list of TSIHs asked for."""
    asked: list[int] = []

    def before(request: Pdu) -> bytes | None:
        if request.opcode is not Opcode.LOGIN_REQUEST:
            return None
        asked.append(request.tsih)
        fields: dict[str, Any] = {"initiator_task_tag": request.initiator_task_tag, "isid": request.isid}
        numbers: dict[str, Any] = {"stat_sn": 0, "exp_cmd_sn": request.cmd_sn, "max_cmd_sn": request.cmd_sn + 31}
        if request.tsih == 0:
            keys = KEYS | {"TargetPortalGroupTag": "1"}
            return pdu(Opcode.LOGIN_RESPONSE, text.build(keys.items()), flags=0x87, tsih=9, **numbers, **fields)
        if isinstance(answer, type):
            raise ConnectionError
        return answer

    target.before = before
    return asked


REFUSED = pdu(Opcode.LOGIN_RESPONSE, flags=0, status=0x0206)
OTHER_SESSION = pdu(Opcode.LOGIN_RESPONSE, flags=0x87, tsih=8, isid=bytes(6))


@pytest.mark.parametrize("answer", [REFUSED, ConnectionError], ids=["refused", "hung up"])
def test_where_there_is_no_room_for_one_more_the_session_goes_on_with_what_it_has(
    run: Run, target: TinyTarget, answer: Any
) -> None:
    asked = several(target, answer)

    async def work(reactor: Any) -> None:
        options = SessionOptions(connections=3)
        async with await initiator.connect(target.url, reactor=reactor, options=options) as disk:
            assert disk.session.connections == 1
            assert await disk.read(0, 1) == bytes(512)

    run(work)
    assert asked == [0, 9]


def test_a_target_that_breaks_the_rules_in_the_second_login_has_no_session(run: Run, target: TinyTarget) -> None:
    asked = several(target, OTHER_SESSION)

    async def work(reactor: Any) -> None:
        await initiator.connect(target.url, reactor=reactor, options=SessionOptions(connections=3))

    with pytest.raises(ProtocolViolation):
        run(work)
    assert asked == [0, 9]


def test_a_second_login_without_an_answer_is_given_up_at_half_the_time(run: Run, target: TinyTarget) -> None:
    several(target, b"")

    async def work(reactor: Any) -> None:
        options = SessionOptions(connections=3, timeout_s=2)
        async with await initiator.connect(target.url, reactor=reactor, options=options) as disk:
            assert disk.session.connections == 1

    run(work)


def test_a_target_that_takes_one_connection_is_asked_for_no_more(run: Run, target: TinyTarget) -> None:
    async def work(reactor: Any) -> None:
        options = SessionOptions(connections=3)
        async with await initiator.connect(target.url, reactor=reactor, options=options) as disk:
            assert disk.session.parameters.max_connections == 1
            assert disk.session.connections == 1

    run(work)
