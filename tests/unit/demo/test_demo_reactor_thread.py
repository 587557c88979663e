from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from csvd.demo.initiators import ReactorThread


class SlowReactor:
    """A reactor that takes its time to come up, and runs until it is stopped."""

    def __init__(self) -> None:
        time.sleep(0.2)
        self.stopped = threading.Event()

    def callWhenRunning(self, call: Callable[[], Any]) -> None:
        call()

    def callFromThread(self, call: Callable[[], Any]) -> None:
        call()

    def stop(self) -> None:
        self.stopped.set()

    def run(self, **_: Any) -> None:
        assert self.stopped.wait(10)


def test_it_can_be_stopped_before_its_reactor_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csvd.runtime.install_reactor", SlowReactor)
    thread = ReactorThread()
    thread._thread.start()
    thread.stop()
    assert not thread._thread.is_alive()
