"""What a connection sends: all answers of a turn by one call, and what the socket does not take until it does."""

from __future__ import annotations

import socket
from collections import deque
from itertools import islice
from typing import Any, Final, cast

from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_DONE

from csvd.iscsi.connection import TargetConnection
from csvd.iscsi.payload import Piece, sliceable
from csvd.target.express import Scratch
from csvd.target.file_segments import FileSegments
from csvd.target.read_buffer import ReadBuffer

IOV_MAX: Final = 512
"""Buffers in one ``sendmsg``; the kernel takes 1,024."""
LARGE_BYTES: Final = 64 * 1024
"""An answer that is sent before the next one is made: while the processor's cache has it."""


class Outgoing(FileDescriptor):
    """The sending half of a connection.

    Attributes:
        engine: whose output is sent.
        turn_bytes: what was read and sent in this turn of the loop.
        segments: how large READs are sent without reading them, where this is possible.
    """

    scratch = Scratch()
    """Of all connections: at the end of a turn it is empty."""
    reads = ReadBuffer()
    """Likewise."""

    def __init__(self, reactor: Any, sock: socket.socket, engine: TargetConnection) -> None:
        super().__init__(reactor)
        self.engine = engine
        self.turn_bytes = 0
        self.segments: FileSegments | None = None
        self._socket = sock
        self._unsent: deque[Piece] = deque()
        self._unsent_bytes = 0
        self._sent_s = 0.0
        """When the peer last took bytes that had waited, or bytes began to wait."""

    def abort(self) -> None:
        """Close the socket now."""
        self.connectionLost(CONNECTION_DONE)

    def _outgoing_is_large(self) -> bool:
        output = self.engine.output
        if len(output) >= IOV_MAX or len(output[-1]) >= LARGE_BYTES:
            return True
        # Behind a data segment stands its digest.
        return len(output) > 1 and len(output[-2]) >= LARGE_BYTES

    def _send_scratch(self) -> None:
        """Send what the express path has answered, and have its buffer empty again."""
        scratch = self.scratch
        used = scratch.used
        if not used:
            return
        sent = 0
        if self._unsent:
            self._send_unsent()
        if not self._unsent and not self.disconnected:
            try:
                sent = self._socket.send(scratch.view[:used])
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self.abort()
        if sent != used and not self.disconnected:
            if not self._unsent:
                self._sent_s = self.reactor.seconds()
            self._unsent.append(bytes(scratch.view[sent:used]))
            self._unsent_bytes += used - sent
            self.startWriting()
        scratch.used = 0
        self.turn_bytes += used

    def _send(self) -> None:
        engine, unsent = self.engine, self._unsent
        output = engine.output
        if output:
            if not unsent and len(output) <= IOV_MAX:
                self._send_at_once(output)
            else:
                if not unsent:
                    self._sent_s = self.reactor.seconds()
                self._unsent_bytes += sum(map(len, output))
                self._keep(output)
            output.clear()
            self.scratch.used = 0
        self.reads.sent()
        if unsent and not self.disconnected:
            self._send_unsent()

    def _send_at_once(self, output: list[Piece]) -> None:
        """The usual case: one ``sendmsg`` takes everything."""
        total = sum(map(len, output))
        sent = self._sendmsg(output)
        if sent == total or self.disconnected:
            return
        self._keep(output)
        self._unsent_bytes = total
        self._sent_s = self.reactor.seconds()
        self._drop_sent(sent)

    def _keep(self, output: list[Piece]) -> None:
        """Keep output until the socket takes more; what lies in the scratch buffer must leave it."""
        scratch = self.scratch.buffer
        self.reads.keep()
        self._unsent.extend(
            bytes(piece) if type(piece) is memoryview and piece.obj is scratch else piece for piece in output
        )

    def _send_unsent(self) -> None:
        while self._unsent:
            batch = list(islice(self._unsent, IOV_MAX))
            sent = self._sendmsg(batch)
            if self.disconnected:
                return
            self._drop_sent(sent)
            if sent < sum(map(len, batch)):
                self.startWriting()
                return
        self.stopWriting()

    def _sendmsg(self, pieces: list[Piece]) -> int:
        try:
            if self.segments is not None and self.segments.is_used:
                return self.segments.send(pieces)
            return self._socket.sendmsg(cast(Any, pieces))
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.abort()
            return 0

    def _drop_sent(self, sent: int) -> None:
        if sent:
            self._sent_s = self.reactor.seconds()
        self._unsent_bytes -= sent
        unsent = self._unsent
        while sent:
            first = unsent[0]
            if sent < len(first):
                unsent[0] = sliceable(first)[sent:]
                return
            sent -= len(first)
            unsent.popleft()
