"""One guest on its way to this node, from the prepared image to the verdict on who runs it.

Before READY was sent, any failure means: throw the copy away and say so. From READY on the source may hand over at any
moment, even when the link is gone, and this copy may be the only one soon: then only the register decides, or the
source's ABORT, which it sends only when it is certain.

| state     | what ends it                                                                                   |
|-----------|------------------------------------------------------------------------------------------------|
| waiting   | the stream opens: receiving; time runs out, the source calls it off: discarded                 |
| receiving | complete, the digest right, the guest ready: ready; anything else: discarded                   |
| ready     | the register names this node: starting; it says that the guest stays, or ABORT: discarded      |
| starting  | the guest runs: running; it does not: stopped, with a whole image, and owned by this node      |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from csvd.errors import CsvdError
from csvd.migration.chunks import (
    Abort,
    HandedOver,
    Opening,
    RoundEnd,
    encode_failed,
    encode_ready,
    encode_round_received,
    encode_running,
)
from csvd.migration.errors import MigrationError, one_line
from csvd.migration.handover import HandOver
from csvd.migration.image import MemoryImage
from csvd.migration.interfaces import IncomingGuest, StreamLink, Timer
from csvd.migration.outgoing import Surroundings, boot_id
from csvd.migration.precopy import Verdict
from csvd.migration.receiver import Complete, ImageWriter, Notice, Receiver

STREAM_TIMEOUT_S: Final = 30.0
IDLE_TIMEOUT_S: Final = 60.0
PATIENCE_S: Final = 15.0
_LOOK_EVERY_S: Final = 1.0
# While a round finds nothing dirty the source sends nothing; it looks at no less than this a second.
_SLOWEST_SCAN_BYTES_PER_S: Final = 1 << 28


class IncomingState(Enum):
    """Where it is; the value is what people and the API are shown."""

    WAITING = "waiting"
    RECEIVING = "receiving"
    READY = "ready"
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Arrival:
    """What source and destination agreed on.

    Args:
        epoch: the source's ownership.
        is_running: whether the guest is to run here; a paused one stays paused.
    """

    source: str
    epoch: int
    opening: Opening
    spec: Mapping[str, Any]
    is_running: bool


class IncomingMigration:
    """One guest on its way to this node.

    Args:
        guest: its image and its paused process.
        image: the same image, open for writing.
        writer: puts the stream into it.
    """

    _log = Logger()

    def __init__(
        self,
        surroundings: Surroundings,
        arrival: Arrival,
        guest: IncomingGuest,
        image: MemoryImage,
        writer: ImageWriter,
    ) -> None:
        self.arrival = arrival
        self.state = IncomingState.WAITING
        self.reason = ""
        self._clock = surroundings.clock
        self._cluster = surroundings.cluster
        self._run_in_thread = surroundings.run_in_thread
        self._guest = guest
        self._image = image
        self._hand_over = HandOver(
            surroundings.cluster,
            surroundings.clock,
            guest=arrival.opening.guest,
            source=arrival.source,
            destination=surroundings.cluster.node,
            epoch=arrival.epoch,
            is_under_way=True,
        )
        # Large, so dropped when all is over.
        self._writer: ImageWriter | None = writer
        self._received_bytes = 0
        self._receiver: Receiver | None = None
        self._link: StreamLink | None = None
        self._complete: Deferred[Complete] = Deferred()
        self._heard_s = self._clock.seconds()
        self._lost_s: float | None = None
        self._is_handed_over = False
        self._is_aborted = False
        self._woken: Deferred[None] | None = None
        self._timer: Timer | None = None
        self._is_over = False
        self._watchers: list[Deferred[None]] = []

    @property
    def migration_id(self) -> str:
        """The id that the source gave it."""
        return self.arrival.opening.migration_id.hex()

    @property
    def is_orphaned(self) -> bool:
        """Whether no source is at the other end any more."""
        return self._link is None or self._lost_s is not None

    async def run(self) -> None:
        """See it through to one of its ends."""
        try:
            await self._run()
        finally:
            self._is_over = True
            self._link = None
            watchers, self._watchers = self._watchers, []
            for watcher in watchers:
                watcher.callback(None)

    def when_over(self) -> Deferred[None]:
        """Fires when it has come to its end."""
        watcher: Deferred[None] = Deferred()
        if self._is_over:
            watcher.callback(None)
        else:
            self._watchers.append(watcher)
        return watcher

    async def _run(self) -> None:
        try:
            digest = await self._received()
            await self._guest.ready()
        except CsvdError as error:
            await self._discard(one_line(error))
            return
        self.state = IncomingState.READY
        self._image.close()
        self._send(encode_ready(digest))
        verdict = await self._decided()
        if verdict is Verdict.MOVED:
            await self._adopt()
        else:
            await self._discard(self.reason or f"the register: {verdict.value}")

    async def _received(self) -> bytes:
        """Wait until all is in place. Returns its digest; raises MigrationError when it comes to nothing."""
        self._timer = self._clock.callLater(_LOOK_EVERY_S, self._look)
        try:
            complete = await self._complete
        finally:
            if self._timer.active():
                self._timer.cancel()
        if complete.expected != complete.found:
            raise MigrationError(
                "the copy differs from the original", why="the digests of the two images are not the same"
            )
        return complete.found

    def _look(self) -> None:
        """Give up when nothing has come for too long."""
        silent_s = self._clock.seconds() - self._heard_s
        if self._link is None and silent_s > STREAM_TIMEOUT_S:
            self.fail(MigrationError("the source did not open its stream", why=f"for {STREAM_TIMEOUT_S:g} s"))
        elif silent_s > IDLE_TIMEOUT_S + self.arrival.opening.memory_bytes / _SLOWEST_SCAN_BYTES_PER_S:
            self.fail(MigrationError("the source is silent", why=f"for {silent_s:.0f} s"))
        else:
            self._timer = self._clock.callLater(_LOOK_EVERY_S, self._look)

    def attach(self, link: StreamLink) -> None:
        """The source's stream. Raises MigrationError when there is one already, or it comes too late."""
        if self._link is not None or self.state is not IncomingState.WAITING:
            raise MigrationError("this migration takes no stream now", where=self.migration_id, why=self.state.value)
        assert self._writer is not None
        self._link = link
        self.state = IncomingState.RECEIVING
        receiver = self._receiver = Receiver(
            self._writer,
            link.transport,
            self._run_in_thread,
            on_notice=self._noticed,
            on_failed=self.fail,
        )

        def data_received(data: bytes) -> None:
            self._heard_s = self._clock.seconds()
            self._received_bytes += len(data)
            receiver.data_received(data)

        def lost(reason: str) -> None:
            # What came before the end counts: the source may have said ABORT as its last word.
            receiver.when_idle().addCallback(lambda _: self._lost(reason))

        link.on_data = data_received
        link.on_lost = lost

    def abort(self, reason: str) -> None:
        """The source is certain that the guest stays there."""
        if self.state not in (IncomingState.WAITING, IncomingState.RECEIVING, IncomingState.READY):
            return
        self.reason = f"called off by {self.arrival.source}: {reason}"
        self._is_aborted = True
        self.fail(MigrationError(self.reason))
        self._wake()

    def _noticed(self, notice: Notice) -> None:
        match notice:
            case RoundEnd(number):
                self._send(encode_round_received(number))
            case Complete():
                if not self._complete.called:
                    self._complete.callback(notice)
            case HandedOver():
                self._is_handed_over = True
                self._wake()
            case Abort(reason):
                self.abort(reason)

    def _lost(self, reason: str) -> None:
        self._lost_s = self._clock.seconds()
        self.fail(MigrationError("the link to the source was lost", why=reason))
        self._wake()

    def fail(self, error: CsvdError) -> None:
        """Give up, when the copy is not complete yet; the source is told."""
        if not self._complete.called:
            self._complete.errback(error)

    def _send(self, frame: bytes) -> None:
        if self._link is not None and self._lost_s is None:
            self._link.write_sequence([frame])

    async def _decided(self) -> Verdict:
        """Wait until the register, or the source's ABORT, has decided."""
        unsubscribe = self._cluster.on_change(lambda *_: self._wake())
        try:
            while True:
                verdict = self._hand_over.judge_applied()
                if verdict is not None:
                    return verdict
                if self._is_aborted:
                    return Verdict.KEPT
                is_left = self._lost_s is not None and self._clock.seconds() - self._lost_s >= PATIENCE_S
                if is_left or self._is_handed_over:
                    return await self._hand_over.settle(lambda: self.arrival.source)
                await self._wait()
        finally:
            unsubscribe()

    async def _wait(self) -> None:
        woken: Deferred[None] = Deferred()
        self._woken = woken
        timer = self._clock.callLater(_LOOK_EVERY_S, self._wake)
        await woken
        if timer.active():
            timer.cancel()

    def _wake(self) -> None:
        woken, self._woken = self._woken, None
        if woken is not None:
            woken.callback(None)

    async def _adopt(self) -> None:
        self.state = IncomingState.STARTING
        try:
            boottime_ns = await self._guest.adopt()
        except CsvdError as error:
            self.reason = one_line(error)
            self._log.error(
                "guest {guest} is this node's, but does not run: {reason}",
                guest=self.arrival.opening.guest,
                reason=self.reason,
            )
            self._send(encode_failed(self.reason))
            self.state = IncomingState.STOPPED
        else:
            self._send(encode_running(boottime_ns or 0, boot_id()))
            self.state = IncomingState.RUNNING
        await self._close()

    async def _discard(self, reason: str) -> None:
        self.reason = reason
        if not self._is_aborted:
            self._send(encode_failed(reason))
        if self._link is not None and self._lost_s is None:
            self._link.lose()
        await self._close()
        try:
            await self._guest.discard()
        except CsvdError as error:
            self._log.warn(
                "the copy of guest {guest} is not removed: {error}", guest=self.arrival.opening.guest, error=error
            )
        self.state = IncomingState.DISCARDED

    async def _close(self) -> None:
        if self._receiver is not None:
            await self._receiver.close()
        self._image.close()
        self._writer = self._receiver = None

    def to_json(self) -> dict[str, Any]:
        """What it says of itself."""
        return {
            "migration_id": self.migration_id,
            "guest": self.arrival.opening.guest,
            "source": self.arrival.source,
            "state": self.state.value,
            "reason": self.reason,
            "memory_bytes": self.arrival.opening.memory_bytes,
            "bytes_received": self._received_bytes,
        }
