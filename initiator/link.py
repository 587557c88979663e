"""One TCP connection to a target: the engine's bytes to and from a socket, without joining or copying payloads.

Twisted's own transport takes only ``bytes``, joins what it sends and allocates what it receives. This one reads with
``recvmsg_into`` where the engine wants the bytes, and writes the engine's buffers with one ``sendmsg``. It runs on any
reactor with addReader and addWriter.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Final, Protocol

from initiator.engine.connection import InitiatorConnection
from initiator.engine.requests import Buffer, Event
from initiator.loop_reactor import descriptors_of

READS_A_PASS: Final = 8
"""Reads of the socket before the reactor's other work gets its turn."""

UNANSWERED_BYTES: Final = 48 * 1024
"""Bytes read before what they let us send goes out, where it is a share of what the target has that it would miss."""

SENDS_A_PASS: Final = 16
IOV_LIMIT: Final = 1000
"""Buffers of one sendmsg; Linux takes 1,024."""


class LinkOwner(Protocol):
    """What a link reports to."""

    def link_events(self, events: list[Event]) -> None:
        """Something happened by the bytes of the target."""

    def link_lost(self, reason: str) -> None:
        """The connection broke. Never called after :meth:`Link.close`."""


class Link:
    """A connected socket and the engine that it serves: an IReadWriteDescriptor of its own to the reactor."""

    def __init__(self, sock: socket.socket, engine: InitiatorConnection, owner: LinkOwner, *, reactor: Any) -> None:
        self.engine = engine
        self.owner = owner
        self.bytes_received = 0
        self._sock = sock
        self._reactor = descriptors_of(reactor)
        self._unsent: list[Buffer] = []
        self._reading = False
        self._writing = False
        self._woken: Any = None
        self._closed = False

    def start(self) -> None:
        """Begin to read, and send what the engine has."""
        self._reactor.addReader(self)
        self.flush()

    def wake(self) -> None:
        """The engine may have something to send: it goes out in one batch at the end of this pass of the reactor."""
        if not (self._reading or self._writing or self._woken or self._closed):
            self._woken = self._reactor.callLater(0, self._wake)

    def keep_unsent(self) -> None:
        """Copy what is still to be sent out of buffers that may change: a batch of output at the most. Their callers
        may do with them as they like from here on."""
        self._unsent = [
            bytes(buffer) if isinstance(buffer, memoryview) and not isinstance(buffer.obj, bytes) else buffer
            for buffer in self._unsent
        ]

    def close(self) -> None:
        """Close the socket at once; nothing is reported from here on."""
        if self._closed:
            return
        self._closed = True
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        if self._woken is not None:
            self._woken.cancel()
            self._woken = None
        self._unsent = []
        self._sock.close()

    def flush(self) -> None:
        """Send as much as the socket takes now; the rest when it is writable."""
        for _ in range(SENDS_A_PASS):
            if not self._unsent:
                self._unsent = self.engine.data_to_send()
                if not self._unsent:
                    self._want_to_write(False)
                    return
            try:
                count = self._sock.sendmsg(self._unsent[:IOV_LIMIT])
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._lost(error.strerror or str(error))
                return
            self._unsent = _after(self._unsent, count)
        self._want_to_write(True)

    def _wake(self) -> None:
        self._woken = None
        self.flush()

    def _want_to_write(self, wanted: bool) -> None:
        if wanted is not self._writing:
            self._writing = wanted
            if wanted:
                self._reactor.addWriter(self)
            else:
                self._reactor.removeWriter(self)

    def _lost(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self.owner.link_lost(reason)

    # --- IReadWriteDescriptor

    def fileno(self) -> int:
        """Give the descriptor; -1 when the socket is closed."""
        return self._sock.fileno()

    def logPrefix(self) -> str:  # noqa: N802 - the name of ILoggingContext
        """Give the prefix of log lines."""
        return "initiator"

    def doRead(self) -> None:  # noqa: N802 - the name of IReadDescriptor
        """Take what the socket has, and answer it in one batch; of a lot, in several, so that the target has work.

        Not in more than need be: each send wakes the target, and where it is near, most of the cost of that is ours.
        """
        self._reading = True
        answered = self.bytes_received
        try:
            for _ in range(READS_A_PASS):
                if not self._read_once():
                    break
                if self._closed or self._writing:
                    continue
                if self.bytes_received - answered >= UNANSWERED_BYTES and self.engine.has_batch_to_send:
                    answered = self.bytes_received
                    self.flush()
        finally:
            self._reading = False
        if not (self._closed or self._writing):
            self.flush()

    def _read_once(self) -> bool:
        """Read once; give whether there may be more."""
        if self._closed:
            return False
        buffers = self.engine.buffers()
        try:
            # recv_into is the faster one.
            count = self._sock.recv_into(buffers[0]) if len(buffers) == 1 else self._sock.recvmsg_into(buffers)[0]
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lost(error.strerror or os.strerror(error.errno or 0))
            return False
        if count == 0:
            self._lost("the target closed the connection")
            return False
        self.bytes_received += count
        room = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        self.owner.link_events(self.engine.received(count))
        return count == room

    def doWrite(self) -> None:  # noqa: N802 - the name of IWriteDescriptor
        """The socket is writable again."""
        self.flush()

    def connectionLost(self, reason: Any) -> None:  # noqa: N802 - the name of IFileDescriptor
        """The reactor found the descriptor dead, or is shutting down."""
        self._lost(reason.getErrorMessage())


def _after(buffers: list[Buffer], count: int) -> list[Buffer]:
    """Give what is left of buffers when the first ``count`` bytes are gone."""
    for index, buffer in enumerate(buffers):
        if count < len(buffer):
            return [memoryview(buffer)[count:], *buffers[index + 1 :]]
        count -= len(buffer)
    return []
