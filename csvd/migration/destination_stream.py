"""The source's end of the stream: what the destination says, whether it takes more, whether it is still there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred

from csvd.migration.chunks import DestinationEvent, Failed
from csvd.migration.decoder import DestinationStreamDecoder
from csvd.migration.errors import MigrationError, StreamError
from csvd.migration.interfaces import Buffer, Clock, StreamLink

# It has one thing to say at a time; RUNNING may come before the register's own answer does.
_MAXIMUM_ANSWERS: Final = 4


class Superseded(MigrationError):
    """Something came up that makes the present task pointless."""


class DestinationStream:
    """A producer on the link, and the queue of the destination's answers.

    Args:
        link: the open stream.
        silence_timeout_s: how long to wait for the destination to read or to answer.
        on_failed: called when the destination gives up or breaks the rules, or the link is lost.
        is_superseded: asked after each wait; True ends it by Superseded.
    """

    def __init__(
        self,
        link: StreamLink,
        clock: Clock,
        *,
        silence_timeout_s: float,
        on_failed: Callable[[str], None],
        is_superseded: Callable[[], bool],
    ) -> None:
        self.link = link
        self._clock = clock
        self._silence_timeout_s = silence_timeout_s
        self._on_failed = on_failed
        self._is_superseded = is_superseded
        self._decoder = DestinationStreamDecoder()
        self._answers: deque[DestinationEvent] = deque()
        self._is_blocked = False
        self._lost_reason = ""
        self._waiting: Deferred[bool] | None = None
        link.transport.registerProducer(self, True)
        link.on_data = self._data_received
        link.on_lost = self._lost

    @property
    def is_lost(self) -> bool:
        """Whether the link has ended."""
        return bool(self._lost_reason)

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Send; nothing on a link that is lost."""
        if not self._lost_reason:
            self.link.write_sequence(buffers)

    async def writable(self) -> None:
        """Returns when the transport takes more. Raises Superseded, or MigrationError when nothing is read."""
        while self._is_blocked:
            await self._wait("it read nothing")
        self._check()

    async def answer(self) -> DestinationEvent:
        """The next thing that the destination says. Raises Superseded, or MigrationError when nothing comes."""
        while not self._answers:
            await self._wait("it said nothing")
        return self._answers.popleft()

    async def _wait(self, failing: str) -> None:
        self._check()
        waiting: Deferred[bool] = Deferred()
        self._waiting = waiting
        timer = self._clock.callLater(self._silence_timeout_s, self._fire, False)
        is_woken = await waiting
        if timer.active():
            timer.cancel()
        self._check()
        if not is_woken:
            raise MigrationError("the destination is silent", why=f"{failing} for {self._silence_timeout_s:g} s")

    def _check(self) -> None:
        if self._is_superseded():
            raise Superseded("overtaken")
        if self._lost_reason:
            raise MigrationError("the link to the destination was lost", why=self._lost_reason)

    def wake(self) -> None:
        """Have a wait look again at what it waits for."""
        self._fire(True)

    def _fire(self, is_woken: bool) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(is_woken)

    def _data_received(self, data: bytes) -> None:
        try:
            for event in self._decoder.feed(data):
                if isinstance(event, Failed):
                    self._fail(f"the destination gave up: {event.reason}")
                elif len(self._answers) >= _MAXIMUM_ANSWERS:
                    raise StreamError("the destination says more than it was asked")
                else:
                    self._answers.append(event)
        except StreamError as error:
            self._fail(str(error))
        self.wake()

    def _fail(self, reason: str) -> None:
        """Tell of the first failure; what follows from it is not news."""
        on_failed, self._on_failed = self._on_failed, lambda reason: None
        on_failed(reason)

    def _lost(self, reason: str) -> None:
        self._lost_reason = reason or "it was closed"
        self._fail(f"the link to the destination was lost: {self._lost_reason}")
        self.wake()

    def close(self) -> None:
        """Send what waits, then end the stream; nothing more is heard of it."""
        self._on_failed = lambda reason: None
        if not self._lost_reason:
            self.link.transport.unregisterProducer()
            self.link.lose()

    # IPushProducer, for the transport.

    def pauseProducing(self) -> None:  # noqa: N802
        """The transport has enough for now."""
        self._is_blocked = True

    def resumeProducing(self) -> None:  # noqa: N802
        """The transport takes more."""
        self._is_blocked = False
        self.wake()

    def stopProducing(self) -> None:  # noqa: N802
        """The transport takes nothing any more; the link's end is told by ``on_lost``."""
        self._is_blocked = False
        self.wake()
