"""The servers of the control API: HTTP/1.1 on a Unix socket, and of metrics alone, at a TCP address."""

from __future__ import annotations

import os
import socket
import stat
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, resource, server

from csvd.api.errors import BadRequest, TooLarge, to_json
from csvd.api.routes import Answer, Request, Router, fault
from csvd.errors import ConfigError

MAX_BODY_BYTES: Final = 1 << 20
MAX_DISCARDED_BYTES: Final = 64 << 20
"""A body that is too long is read to its end, so that its sender hears why; a longer one than this is cut off."""
MAX_CONNECTIONS: Final = 128
IDLE_S: Final = 60.0
_PROBE_S: Final = 1.0


class ControlServer:
    """Serves a router at a Unix socket.

    Args:
        reactor: Twisted's.
        router: answers the requests.
        path: of the socket.
        mode: of the socket; who may connect.
    """

    log = Logger()

    def __init__(self, reactor: Any, router: Router, path: Path, *, mode: int = 0o600) -> None:
        self._reactor = reactor
        self._path = path
        self._mode = mode
        self._site = _ControlSite(_Root(router), reactor)
        self._port: Any = None

    def start(self) -> None:
        """Listen. A socket that a daemon left behind is removed; one that is answered at is not.

        Raises:
            ConfigError: it can not listen there.
        """
        remove_stale_socket(self._path)
        try:
            self._path.parent.mkdir(mode=0o755, exist_ok=True)
            self._port = self._reactor.listenUNIX(str(self._path), self._site, mode=self._mode)
        except (CannotListenError, OSError) as error:
            cause = error.socketError if isinstance(error, CannotListenError) else error
            raise ConfigError(
                "can not listen at the control socket", where=str(self._path), why=cause.strerror or str(cause)
            ) from error

    async def stop(self) -> None:
        """Listen no more, and end all connections; the socket is removed."""
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        self._site.end_connections()


class MetricsServer:
    """Serves a router, which should change nothing, at a TCP address.

    Args:
        reactor: Twisted's.
        router: answers the requests.
        host, port: where; port 0 takes a free one.
    """

    def __init__(self, reactor: Any, router: Router, host: str, port: int) -> None:
        self._reactor = reactor
        self._host = host
        self._wanted = port
        self._site = _ControlSite(_Root(router), reactor)
        self._port: Any = None

    def start(self) -> int:
        """Listen; give the port.

        Raises:
            ConfigError: it can not listen there.
        """
        try:
            self._port = self._reactor.listenTCP(self._wanted, self._site, interface=self._host)
        except (CannotListenError, OSError) as error:
            cause = error.socketError if isinstance(error, CannotListenError) else error
            where = f"{self._host}:{self._wanted}"
            why = getattr(cause, "strerror", None) or str(cause)
            raise ConfigError("can not listen for those who ask for metrics", where=where, why=why) from error
        return int(self._port.getHost().port)

    async def stop(self) -> None:
        """Listen no more, and end all connections."""
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        self._site.end_connections()


def remove_stale_socket(path: Path) -> None:
    """Remove a socket that nobody answers at.

    Raises:
        ConfigError: somebody answers, or there is something else than a socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError("can not listen at the control socket", where=str(path), why="there is a file already")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError("can not listen at the control socket", where=str(path), why=error.strerror or "") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ConfigError(
                "can not listen at the control socket", where=str(path), why=error.strerror or str(error)
            ) from error
    raise ConfigError(
        "can not listen at the control socket",
        where=str(path),
        why="another daemon answers there",
        hint="give each its own: control.socket",
    )


class _Body(BytesIO):
    """Keeps a body up to its limit, and only counts the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.received_bytes = 0

    @property
    def is_too_long(self) -> bool:
        return self.received_bytes > MAX_BODY_BYTES

    def write(self, data: Any) -> int:
        self.received_bytes += len(data)
        if not self.is_too_long:
            super().write(data)
        return len(data)


class _ControlRequest(server.Request):
    """A request whose body is bounded, and never in a file."""

    def gotLength(self, length: int | None) -> None:  # noqa: N802 - Twisted's name
        self._body = self.content = _Body()
        if length is not None and length > MAX_DISCARDED_BYTES:
            self.channel.loseConnection()  # type: ignore[no-untyped-call]

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        self._body.write(data)
        if self._body.received_bytes > MAX_DISCARDED_BYTES:
            self.channel.loseConnection()  # type: ignore[no-untyped-call]


class _ControlChannel(http.HTTPChannel):
    """A connection: HTTP/1.1 and nothing else; its factory knows it while it lasts."""

    factory: _ControlSite

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        self.factory.channels[self] = None
        super().connectionMade()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        self.factory.channels.pop(self, None)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class _ControlSite(server.Site):
    """Bounds the connections, and leaves the log to the handlers."""

    protocol: Any = _ControlChannel
    displayTracebacks = False  # noqa: N815 - Twisted's name
    noisy = False

    def __init__(self, root: resource.Resource, reactor: Any) -> None:
        super().__init__(root, requestFactory=_ControlRequest, timeout=IDLE_S, reactor=reactor)  # type: ignore[no-untyped-call]
        self.channels: dict[_ControlChannel, None] = {}

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - Twisted's name
        if len(self.channels) >= MAX_CONNECTIONS:
            return None
        return super().buildProtocol(addr)  # type: ignore[no-untyped-call]

    def log(self, request: Any) -> None:
        """Write no access log: what changes something is told where it is done."""

    def end_connections(self) -> None:
        """Close all; what was answered is still sent."""
        for channel in list(self.channels):
            channel.loseConnection()  # type: ignore[no-untyped-call]


class _Root(resource.Resource):
    """All paths: the router knows them."""

    isLeaf = True  # noqa: N815 - Twisted's name
    log = Logger()

    def __init__(self, router: Router) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._router = router

    def render(self, request: Any) -> int:
        """Answer, now or later."""
        gone: list[Any] = []
        request.notifyFinish().addErrback(gone.append)

        def write(answer: Answer) -> None:
            if not gone:
                status, body = self._encoded(request, answer)
                _write(request, status, body, answer.content_type)

        answering = Deferred.fromCoroutine(self._answer(request))
        answering.addCallback(write)
        answering.addErrback(lambda failure: self.log.failure("answering a control request failed", failure))
        return server.NOT_DONE_YET

    def _encoded(self, request: Any, answer: Answer) -> tuple[int, bytes]:
        if answer.text is not None:
            return answer.status, answer.text.encode()
        try:
            return answer.status, msgspec.json.encode(answer.body) + b"\n"
        except (TypeError, ValueError, msgspec.MsgspecError):
            self.log.failure("the answer to {path} can not be written as JSON", path=request.path)
            failed = fault(request.path.decode("ascii", "replace"))
            return failed.status, msgspec.json.encode(failed.body) + b"\n"

    async def _answer(self, request: Any) -> Answer:
        try:
            read = _read(request)
        except (BadRequest, TooLarge) as error:
            return Answer(error.status, to_json(error))
        return await self._router.dispatch(read)


def _read(request: Any) -> Request:
    path = request.path.decode("ascii", "replace")
    if request.content.is_too_long:
        raise TooLarge(f"a request has at most {MAX_BODY_BYTES} bytes", where=path)
    query = {}
    for name, values in request.args.items():
        if len(values) != 1:
            raise BadRequest("a name of the query is there twice", where=path)
        query[name.decode("utf-8", "replace")] = values[0].decode("utf-8", "replace")
    return Request(request.method.decode("ascii", "replace"), path, query, _read_body(request.content.getvalue(), path))


def _read_body(data: bytes, path: str) -> dict[str, Any]:
    if not data.strip():
        return {}
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest("the request's body is not JSON", where=path, why=str(error)) from error
    if not isinstance(body, dict):
        raise BadRequest("the request's body is not a JSON object", where=path)
    return body


def _write(request: Any, status: int, body: bytes, content_type: str) -> None:
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", content_type.encode())
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.setHeader(b"Cache-Control", b"no-store")
    request.write(body)
    request.finish()
