"""The client's side of a QMP conversation: lines of JSON with a greeting, replies by id, and events.

It knows no transport: bytes come in by ``data_received`` and go out through ``write``, so it serves a guest on a pipe
as well as a QEMU on a Unix socket. See QEMU's "QMP specification" (docs/interop/qmp-spec).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from csvd.vm.errors import ControlProtocolError, GuestRefused, GuestTimeout, VmError
from csvd.vm.interfaces import Clock

MAXIMUM_LINE_BYTES: Final = 1 << 20


class QmpClient:
    """One conversation.

    Args:
        clock: measures the time-outs.
        write: takes the bytes that go to the peer.
        where: who the peer is, for errors.
        on_event: called with each event object.
    """

    def __init__(
        self,
        clock: Clock,
        write: Callable[[bytes], object],
        *,
        where: str,
        on_event: Callable[[dict[str, Any]], None],
    ) -> None:
        self._clock = clock
        self._write = write
        self._where = where
        self._on_event = on_event
        self._pending_line = b""
        self._greeting: dict[str, Any] | None = None
        self._last_id = 0
        self._waiting: dict[int, Deferred[dict[str, Any]]] = {}
        self._lost: VmError | None = None

    async def greeting(self, *, timeout_s: float) -> dict[str, Any]:
        """The peer's greeting, once it has come. Raises GuestTimeout, or what ``connection_lost`` was told."""
        if self._greeting is not None:
            return self._greeting
        return await self._wait(0, "its greeting", timeout_s)

    async def execute(self, command: str, *, timeout_s: float) -> dict[str, Any]:
        """Send a command and wait for its reply.

        Raises GuestRefused when the peer answers with an error, GuestTimeout when it does not answer, or what
        ``connection_lost`` was told when the channel ends before.
        """
        self._last_id += 1
        number = self._last_id
        if self._lost is None:
            self._write(json.dumps({"execute": command, "id": number}).encode() + b"\n")
        return await self._wait(number, f"an answer to {command}", timeout_s)

    def _wait(self, number: int, awaited: str, timeout_s: float) -> Deferred[dict[str, Any]]:
        reply: Deferred[dict[str, Any]] = Deferred()
        if self._lost is not None:
            reply.errback(self._lost)
            return reply
        self._waiting[number] = reply

        def give_up() -> None:
            del self._waiting[number]
            reply.errback(GuestTimeout(f"{awaited} did not come within {timeout_s:g} s", where=self._where))

        timer = self._clock.callLater(timeout_s, give_up)

        def answered(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            return result

        return reply.addBoth(answered)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the peer.

        Raises ControlProtocolError when they are no line of QMP; the channel is of no use after that.
        """
        *lines, self._pending_line = (self._pending_line + data).split(b"\n")
        if len(self._pending_line) > MAXIMUM_LINE_BYTES:
            raise ControlProtocolError(f"a control line is longer than {MAXIMUM_LINE_BYTES} bytes", where=self._where)
        for line in lines:
            if line.strip():
                self._line_received(line)

    def _line_received(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise ControlProtocolError(
                "a control line is no JSON object", where=self._where, why=repr(line[:80].decode(errors="replace"))
            )
        if "event" in message:
            self._on_event(message)
        elif "QMP" in message:
            self._greeting = message
            self._fire(0, message)
        elif "return" in message and isinstance(message["return"], dict):
            self._fire(message.get("id"), message["return"])
        elif isinstance(message.get("error"), dict):
            description = str(message["error"].get("desc", "no reason given"))
            self._fire(message.get("id"), GuestRefused("the guest refused", where=self._where, why=description))

    def _fire(self, number: object, result: dict[str, Any] | VmError) -> None:
        # A reply that nobody waits for is one that came after its time-out.
        waiting = self._waiting.pop(number, None) if isinstance(number, int) else None
        if waiting is None:
            return
        if isinstance(result, VmError):
            waiting.errback(result)
        else:
            waiting.callback(result)

    def connection_lost(self, reason: VmError) -> None:
        """The channel has ended: all who wait, and all who ask from now on, get ``reason``."""
        self._lost = reason
        waiting, self._waiting = self._waiting, {}
        for reply in waiting.values():
            reply.errback(reason)
