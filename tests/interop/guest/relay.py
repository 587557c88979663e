"""A path between the guest and a portal, which a test can cut and mend."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Final

CHUNK_BYTES: Final = 1 << 18


class Relay:
    """Listens on a loopback port of its own, and carries each connection to a portal.

    Args:
        portal: `HOST:PORT` behind it.
    """

    def __init__(self, portal: str) -> None:
        host, _, port = portal.rpartition(":")
        self._behind = (host, int(port))
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    @property
    def portal(self) -> str:
        """`HOST:PORT` in front of it."""
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """End every connection, and take no more."""
        with self._lock:
            ended = {self._listener, *self._sockets}
            self._sockets.clear()
        for one in ended:
            # A thread that is in a call on it returns by this, and not by a close.
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def mend(self) -> None:
        """Take connections again, on the same port."""
        self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                front, _ = listener.accept()
            except OSError:
                return
            try:
                behind = socket.create_connection(self._behind)
            except OSError:
                front.close()
                continue
            with self._lock:
                self._sockets |= {front, behind}
            for source, sink in ((front, behind), (behind, front)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while chunk := source.recv(CHUNK_BYTES):
                sink.sendall(chunk)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets.discard(source)
        source.close()
