from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import own_reactor
from tests.unit.initiator.tiny_target import TinyTarget

Run = Callable[[own_reactor.Work], Any]


@pytest.fixture
def run() -> Run:
    """Run ``work(reactor)`` on a reactor of its own; give its result or raise its error."""
    return own_reactor.run


@pytest.fixture
def target() -> Iterator[TinyTarget]:
    tiny = TinyTarget()
    yield tiny
    tiny.close()
