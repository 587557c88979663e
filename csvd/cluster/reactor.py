"""What the cluster needs of Twisted's reactor, as types that mypy can check (zope's interfaces it can not)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class DelayedCall(Protocol):
    """A call that was put off."""

    def cancel(self) -> None:
        """Do not call."""

    def active(self) -> bool:
        """Whether it is still to come."""

    def reset(self, seconds: float) -> None:
        """Call that many seconds from now instead."""


class Clock(Protocol):
    """The time of the event loop; `twisted.internet.task.Clock` in tests."""

    def seconds(self) -> float:
        """Seconds on a clock that only goes forward."""

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any) -> DelayedCall:  # noqa: N802, A002
        """Call after a delay in seconds."""


class Reactor(Clock, Protocol):
    """The event loop with its sockets and threads."""

    def listenTCP(self, port: int, factory: Any, backlog: int = ..., interface: str = ...) -> Any:  # noqa: N802
        """Accept connections at a port of an address."""

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = ...) -> Any:  # noqa: N802
        """Make a connection."""

    def callFromThread(self, callable: Callable[..., Any], *args: Any) -> None:  # noqa: N802, A002
        """Call in the event loop, from any thread."""
