"""Finding the address of a portal, within a time."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from initiator.dial import dial
from initiator.errors import ConnectFailed
from initiator.url import Portal
from tests.unit.initiator.session_script import Outcome


class SilentResolver(Clock):
    """A reactor whose thread pool takes work and never ends it."""

    def getThreadPool(self) -> SilentResolver:
        return self

    def callInThreadWithCallback(self, *work: Any, **more: Any) -> None:
        self.work = work


def test_a_resolver_without_an_answer_is_a_connection_that_failed() -> None:
    clock = SilentResolver()
    dialling = Outcome(dial(Portal("target.invalid"), reactor=clock, timeout_s=3))
    clock.advance(2.9)
    assert dialling.waiting
    clock.advance(0.2)
    assert isinstance(dialling.result, ConnectFailed)
    assert "resolver" in str(dialling.result)
