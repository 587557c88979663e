"""A TCP connection in a test's hands: it carries as many bytes as the test says, and is cut where the test says."""

from __future__ import annotations

import socket


class Wire:
    """Two socket pairs, and between them what is on its way. ``near`` is the initiator's end, ``far`` the target's."""

    def __init__(self) -> None:
        self.near, self._at_near = _pair()
        self._at_far, self.far = _pair()
        self._to_target = bytearray()
        self._to_initiator = bytearray()
        self.deaf = False
        """It carries nothing any more, and nobody is told."""
        self.cut_off = False

    def carry(self, most_bytes: int, *, to_target: bool) -> int:
        """Carry bytes one way; give how many arrived."""
        if self.deaf or self.cut_off:
            return 0
        source, sink = (self._at_near, self._at_far) if to_target else (self._at_far, self._at_near)
        queue = self._to_target if to_target else self._to_initiator
        try:
            if len(queue) < most_bytes:
                data = source.recv(most_bytes - len(queue))
                if not data:
                    self.cut()
                    return 0
                queue += data
        except BlockingIOError:
            pass
        except OSError:
            self.cut()
            return 0
        try:
            sent = sink.send(queue[:most_bytes]) if queue else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self.cut()
            return 0
        del queue[:sent]
        return sent

    def cut(self) -> None:
        """Close it in both directions; what is on its way is gone."""
        if not self.cut_off:
            self.cut_off = True
            self._at_near.close()
            self._at_far.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return one, other
