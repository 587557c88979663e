"""A TCP proxy that cuts its connections at bytes that chance picks, in either direction."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress

PIECE_BYTES = 65536
LINGER_RST = b"\x01\0\0\0\0\0\0\0"


class CuttingProxy:
    """Carries connections to a port, each until a number of bytes has gone one way: then both ends are closed, now in
    order and now by a reset. The number of a connection is drawn when it begins; ``calm`` carries all there is.

    Args:
        most_bytes: the highest number drawn; small ones are as likely as large ones.
    """

    def __init__(self, to_port: int, seed: int, *, most_bytes: int) -> None:
        self.cuts = 0
        self.calm = False
        self._to_port = to_port
        self._chance = random.Random(seed)
        self._most_bytes = most_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._to_port))
                except OSError:
                    near.close()
                    continue
                for sock in (near, far):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                limit = int(self._most_bytes ** self._chance.random())
                cut_first = self._chance.random() < 0.5
                ends = [(near, far, limit if cut_first else None), (far, near, None if cut_first else limit)]
                for source, sink, most in ends:
                    threading.Thread(target=self._carry, args=(source, sink, most), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, most: int | None) -> None:
        with suppress(OSError):
            while most is None or self.calm or most > 0:
                data = source.recv(PIECE_BYTES if most is None or self.calm else min(PIECE_BYTES, most))
                if not data:
                    break
                sink.sendall(data)
                if most is not None:
                    most -= len(data)
            else:
                self.cuts += 1
                if self._chance.random() < 0.5:
                    sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RST)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
