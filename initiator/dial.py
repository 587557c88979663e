"""A connected socket to a portal, without blocking the reactor."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.error import ConnectionLost
from twisted.internet.threads import deferToThreadPool

from initiator.errors import ConnectFailed
from initiator.url import Portal

Address = tuple[int, Any]
"""Address family and socket address."""


async def dial(portal: Portal, *, reactor: Any, timeout_s: float) -> socket.socket:
    """Connect to a portal; every address of its name is tried in turn within the time given.

    Raises:
        ConnectFailed: none of them answered.
    """
    deadline = reactor.seconds() + timeout_s
    addresses = await _resolve(portal, reactor, timeout_s)
    reason = "no address"
    for left, (family, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        time_s = max((deadline - reactor.seconds()) / left, 0.001)
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await _connected(sock, address, reactor, time_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as failure:
            sock.close()
            reason = failure.strerror or str(failure)
        except BaseException:
            sock.close()
            raise
    raise ConnectFailed("no connection", where=str(portal), why=reason, hint="is a target listening there?")


async def _resolve(portal: Portal, reactor: Any, timeout_s: float) -> list[Address]:
    try:
        found = socket.getaddrinfo(portal.host, portal.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pool = reactor.getThreadPool()
        looking = deferToThreadPool(
            reactor, pool, socket.getaddrinfo, portal.host, portal.port, type=socket.SOCK_STREAM
        )
        looking.addTimeout(timeout_s, reactor)
        try:
            found = await looking
        except (OSError, TookTooLong, UnicodeError) as failure:
            why = getattr(failure, "strerror", None) or "no answer from the resolver"
            raise ConnectFailed("the name has no address", where=portal.host, why=why) from failure
    return [(int(family), address) for family, _, _, _, address in found]


async def _connected(sock: socket.socket, address: Any, reactor: Any, timeout_s: float) -> None:
    code = sock.connect_ex(address)
    if code == errno.EINPROGRESS:
        code = await _Connecting(sock, reactor, timeout_s).done
    if code:
        raise OSError(code, os.strerror(code))


class _Connecting:
    """A descriptor that the reactor watches until its socket is writable: the connection has come about, or failed.
    ``done`` gives the errno."""

    def __init__(self, sock: socket.socket, reactor: Any, timeout_s: float) -> None:
        self._sock = sock
        self._reactor = reactor
        self.done: Deferred[int] = Deferred(lambda _: self._stop())
        self._timer = reactor.callLater(timeout_s, self._finish, errno.ETIMEDOUT)
        reactor.addWriter(self)

    def fileno(self) -> int:
        return self._sock.fileno()

    def logPrefix(self) -> str:  # noqa: N802 - the name of ILoggingContext
        return "initiator"

    def doRead(self) -> None:  # noqa: N802 - the name of IReadDescriptor
        """Nothing is read before the connection stands."""

    def doWrite(self) -> None:  # noqa: N802 - the name of IWriteDescriptor
        self._finish(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def connectionLost(self, reason: Any) -> None:  # noqa: N802 - the name of IFileDescriptor
        self._finish(errno.ECONNREFUSED if reason.check(ConnectionLost) else errno.EIO)

    def _stop(self) -> None:
        self._reactor.removeWriter(self)
        if self._timer.active():
            self._timer.cancel()

    def _finish(self, code: int) -> None:
        self._stop()
        if not self.done.called:
            self.done.callback(code)
