from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from initiator.errors import CommandFailed, ConnectFailed, LoginRefused, SessionLost
from initiator.watching import FACTS_EVERY, FIRST_BACKOFF_S, Event, Facts, Watcher, changes

GROUPS = ((1, "active/optimized", True), (2, "standby", False))
FACTS = Facts(4096, 512, GROUPS, (0x10, 0x20), "write-exclusive by 0x10")


def kinds(before: Facts | None, after: Facts) -> list[str]:
    return [event.kind for event in changes(before, after)]


def test_at_first_everything_is_told_that_there_is() -> None:
    assert kinds(None, FACTS) == ["capacity", "access_state", "access_state", "registrations", "reservation"]
    assert kinds(None, Facts(4096, 512)) == ["capacity"]
    assert kinds(None, Facts(4096, 512, (), (), "")) == ["capacity"]
    assert kinds(FACTS, FACTS) == []


@pytest.mark.parametrize(
    ("after", "text"),
    [
        (Facts(8192, 512, GROUPS, FACTS.keys, FACTS.reservation), "8192 bytes in blocks of 512, was 4096"),
        (
            Facts(4096, 512, (GROUPS[0], (2, "offline", False)), FACTS.keys, FACTS.reservation),
            "target port group 2 is offline, was standby",
        ),
        (Facts(4096, 512, GROUPS, (0x20,), FACTS.reservation), "registered keys: 0x20"),
        (Facts(4096, 512, GROUPS, (), FACTS.reservation), "registered keys: none"),
        (Facts(4096, 512, GROUPS, FACTS.keys, ""), "the reservation is gone"),
        (Facts(4096, 512, GROUPS, FACTS.keys, "exclusive-access by 0x20"), "reserved: exclusive-access by 0x20"),
    ],
)
def test_a_change_is_one_event(after: Facts, text: str) -> None:
    (event,) = changes(FACTS, after)
    assert event.text == text


class Unit:
    """A LUN in words: what each call raises is what the test has set."""

    def __init__(self) -> None:
        self.size_bytes = 4096
        self.error: Exception | None = None
        self.on_unit_attention: list[Callable[[Any], None]] = []
        self.polls = 0
        self.asked = 0
        self.closed = False
        self.road = SimpleNamespace(alive=True)
        self.reservations = SimpleNamespace(keys=self._refuse, reservation=self._refuse)

    async def _refuse(self) -> Any:
        raise CommandFailed("PERSISTENT RESERVE IN", 2, None)

    async def target_port_groups(self) -> Any:
        raise CommandFailed("REPORT TARGET PORT GROUPS", 2, None)

    async def test_unit_ready(self) -> None:
        self.polls += 1
        if self.error is not None:
            raise self.error

    async def read_capacity(self) -> Any:
        self.asked += 1
        return SimpleNamespace(size_bytes=self.size_bytes, block_bytes=512)

    async def close(self) -> None:
        self.closed = True


class Rig:
    def __init__(self) -> None:
        self.clock = Clock()
        self.unit = Unit()
        self.logins: list[Exception | None] = []
        self.told: list[Event] = []
        self.outcome: list[Any] = []
        watcher = Watcher(self.clock, self.connect, self.told.append, interval_s=1.0)
        self.running = Deferred.fromCoroutine(watcher.run())
        self.running.addBoth(self.outcome.append)

    def connect(self) -> Awaitable[Any]:
        async def login() -> Unit:
            error = self.logins.pop(0) if self.logins else None
            if error is not None:
                raise error
            return self.unit

        return login()

    def kinds(self) -> list[str]:
        kinds = [event.kind for event in self.told]
        self.told.clear()
        return kinds


def test_it_polls_cheaply_and_asks_for_all_now_and_then() -> None:
    rig = Rig()
    assert rig.kinds() == ["capacity"]
    rig.clock.pump([1.0] * FACTS_EVERY)
    assert (rig.unit.polls, rig.unit.asked) == (FACTS_EVERY, 2)
    assert rig.kinds() == []


def test_a_unit_attention_is_told_and_what_changed_by_it() -> None:
    rig = Rig()
    rig.kinds()
    rig.unit.size_bytes = 8192
    (listener,) = rig.unit.on_unit_attention
    listener(SimpleNamespace(asc=0x2A, ascq=0x09))
    rig.clock.advance(1.0)
    assert rig.kinds() == ["unit_attention", "capacity"]


def test_a_unit_that_is_not_ready_is_told_once_and_when_it_is_again() -> None:
    rig = Rig()
    rig.kinds()
    rig.unit.error = CommandFailed("TEST UNIT READY", 2, None)
    rig.clock.pump([1.0, 1.0])
    rig.unit.error = None
    rig.clock.pump([1.0, 1.0])
    assert rig.kinds() == ["not_ready", "ready"]


def test_a_lost_session_is_logged_in_again_with_backoff() -> None:
    rig = Rig()
    rig.kinds()
    first, rig.unit = rig.unit, Unit()
    first.error = SessionLost("lost")
    rig.logins = [ConnectFailed("refused"), ConnectFailed("refused")]
    rig.clock.advance(1.0)
    assert rig.kinds() == ["session_gone", "unreachable"]
    assert first.closed
    rig.clock.advance(FIRST_BACKOFF_S)
    assert rig.kinds() == []
    rig.unit.size_bytes = 512
    rig.clock.advance(2 * FIRST_BACKOFF_S)
    assert rig.kinds() == ["logged_in_again", "capacity"]


def test_a_login_that_is_refused_ends_it() -> None:
    rig = Rig()
    rig.unit.error = SessionLost("lost")
    rig.logins = [LoginRefused(0x0202)]
    rig.clock.advance(1.0)
    (failure,) = rig.outcome
    assert isinstance(failure, Failure)
    assert isinstance(failure.value, LoginRefused)


def test_cancelled_it_closes_the_session() -> None:
    rig = Rig()
    rig.running.cancel()
    assert rig.unit.closed
    assert len(rig.outcome) == 1
