"""A portal: where initiators connect (RFC 7143 section 4.2.1)."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.abstract import FileDescriptor
from twisted.logger import Logger

from csvd.errors import ConfigError, CsvdError
from csvd.iscsi.keepalive import Keepalive
from csvd.iscsi.portals import join_address, split_address

BACKLOG: Final = 256
ACCEPTS_A_TURN: Final = 32
PROBES: Final = 6
"""Probes of TCP before a silent peer is given up."""
SPARE_DESCRIPTORS: Final = 256
"""File descriptors that connections leave to disks, the control API, the cluster and guests."""
PAUSE_S: Final = 0.5
"""How long a portal rests when there are no file descriptors left."""


class PortalError(CsvdError):
    """A portal can not be opened."""


def parse_portal(text: str) -> tuple[str, int]:
    """Parse ``HOST:PORT``, ``[V6]:PORT`` or ``HOST`` (port 3260).

    Raises:
        PortalError: it is none of them.
    """
    try:
        return split_address(text)
    except ConfigError as error:
        raise PortalError(f"{text!r} is not a portal", hint="write HOST:PORT or [ADDRESS]:PORT") from error


def format_address(address: Any) -> str:
    """Give ``host:port`` of a socket address, IPv6 in brackets."""
    host, port = address[0], address[1]
    if host.startswith("::ffff:") and "." in host:  # IPv4 through a portal of both: its initiators know no IPv6
        host = host.removeprefix("::ffff:")
    return join_address(host, port)


def bound_silence(sock: socket.socket, keepalive: Keepalive) -> None:
    """Have TCP find out that a peer's host is gone, also where the peer owes no answer: the kernel asks a silent one,
    and gives up what it does not acknowledge for ``dead_s``."""
    idle_s = max(1, int(keepalive.idle_s))
    probe_s = max(1, int((keepalive.dead_s - keepalive.idle_s) / PROBES))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(keepalive.dead_s * 1000)))


def descriptors_for_connections() -> int:
    """How many connections the limit on open files of this process leaves room for."""
    return max(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS)


def listening_socket(text: str) -> socket.socket:
    """Listen on ``text`` (see :func:`parse_portal`); port 0 takes a free one.

    Raises:
        PortalError: the address is not this host's, the port is in use, or the text is no portal.
    """
    host, port = parse_portal(text)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise PortalError("can not listen", where=text, why=error.strerror or str(error)) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise PortalError(
            "can not listen", where=text, why=error.strerror or str(error), hint="port 0 takes a free one"
        ) from error
    listening.setblocking(False)
    return listening


class Portal(FileDescriptor):
    """A listening socket that hands over each accepted one."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        listening: socket.socket,
        accepted: Callable[[socket.socket, str, str], None],
        *,
        stands_for: str = "",
    ) -> None:
        """
        Args:
            listening: see :func:`listening_socket`.
            accepted: given each connection, its peer's address, and the address that the peer connected to.
            stands_for: the portal that initiators know, where this socket stands behind it; its port is told in the
                place of the socket's own.
        """
        super().__init__(reactor)
        self._socket = listening
        self._accepted = accepted
        self._port = parse_portal(stands_for)[1] if stands_for else None
        self.address = stands_for or format_address(listening.getsockname())
        self.connected = 1

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        return f"portal {self.address}"

    def doRead(self) -> Any:  # noqa: N802 - Twisted's name
        """Accept what waits."""
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors: reading on would spin; those who wait stay in the backlog.
                self.log.error("portal {portal}: accept: {error}", portal=self.address, error=error)
                self.stopReading()
                self.reactor.callLater(PAUSE_S, self._resume)
                return
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._accepted(sock, format_address(address), self._known(sock.getsockname()))
            except OSError:  # it is gone again: no reason for the portal to go
                sock.close()

    def _known(self, local: Any) -> str:
        """The address under which an initiator knows the portal that it reached."""
        return format_address(local if self._port is None else (local[0], self._port))

    def _resume(self) -> None:
        if not self.disconnected:
            self.startReading()

    def close(self) -> None:
        """Stop listening."""
        if not self.disconnected:
            self.connectionLost(None)
            self._socket.close()
