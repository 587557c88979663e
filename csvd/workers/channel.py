"""One end of the socket pair between a daemon and a worker."""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from twisted.internet import error as network_error
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.errors import CsvdError
from csvd.workers.protocol import (
    Answer,
    Fault,
    FrameReader,
    Message,
    Notice,
    Request,
    WorkerError,
    error_of,
    fault_of,
    frame_of,
)

READ_BYTES: Final = 1 << 16
MAX_DESCRIPTORS: Final = 8
"""That come with one request, or wait for theirs."""
MAX_UNSENT_NOTICES: Final = 1024
"""Notices beyond these are dropped: they are for people to read."""

Handler: TypeAlias = Callable[[Request, Sequence[int]], Awaitable[Any]]
"""Answers a request. The descriptors are its own to close. What it raises is answered as a fault."""


def _refuse(request: Request, descriptors: Sequence[int]) -> Awaitable[Any]:
    raise WorkerError("it answers no requests", where="worker channel")


@dataclass(slots=True)
class _Unsent:
    """A frame on its way, with copies of the descriptors that go with its first byte."""

    data: memoryview
    descriptors: list[int]
    is_notice: bool


class Channel(FileDescriptor):
    """Asks, answers and tells.

    Args:
        sock: one end of a pair of stream sockets.
        answer: see Handler.
        notice: told what the other end tells.
        lost: called once when nothing more comes or goes, with the reason.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        *,
        answer: Handler = _refuse,
        notice: Callable[[Notice], None] = lambda _: None,
        lost: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(reactor)
        sock.setblocking(False)
        self._socket = sock
        self._answer = answer
        self._notice = notice
        self._lost = lost
        self._frames = FrameReader()
        self._received: deque[int] = deque()
        self._unsent: deque[_Unsent] = deque()
        self._asked: dict[int, Deferred[Any]] = {}
        self._last_number = 0
        self._ending = ""
        self.connected = 1
        self.startReading()

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        return "worker channel"

    # What goes

    def ask(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        descriptors: Sequence[int] = (),
        timeout_s: float | None = None,
    ) -> Deferred[Any]:
        """Ask the other end; fires with the result.

        Args:
            descriptors: sent along; they stay open here.

        Fails with the CsvdError that it answers, or a WorkerError: it is gone, or does not answer in time.
        """
        if self.disconnected:
            raise WorkerError("it is gone", where="worker channel")
        self._last_number += 1
        number = self._last_number
        request = Request(number, method, params or {}, len(descriptors))
        self._send(request, descriptors)

        def forget(_: Deferred[Any]) -> None:
            self._asked.pop(number, None)

        answered: Deferred[Any] = Deferred(forget)
        self._asked[number] = answered
        if timeout_s is not None:
            answered.addTimeout(timeout_s, self.reactor)
            answered.addErrback(_no_answer, method, timeout_s)
        return answered

    def tell(self, notice: Notice) -> None:
        """Tell the other end."""
        if not self.disconnected and sum(one.is_notice for one in self._unsent) < MAX_UNSENT_NOTICES:
            self._send(notice)

    def _send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        frame = frame_of(message)
        # Copies: the caller's may be closed before they are sent.
        copies = [os.dup(descriptor) for descriptor in descriptors]
        self._unsent.append(_Unsent(memoryview(frame), copies, isinstance(message, Notice)))
        self.startWriting()

    def doWrite(self) -> Any:  # noqa: N802 - Twisted's name
        """Send what waits."""
        while self._unsent:
            first = self._unsent[0]
            rights = array.array("i", first.descriptors)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
            try:
                sent = self._socket.sendmsg([first.data], ancillary)
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as error:
                return self._over(str(error))
            _close(first.descriptors)
            first.data = first.data[sent:]
            if not first.data:
                self._unsent.popleft()
        self.stopWriting()
        return None

    @property
    def is_sent(self) -> bool:
        """Whether the other end can have all that was said."""
        return not self._unsent

    # What comes

    def doRead(self) -> Any:  # noqa: N802 - Twisted's name
        """Take what came."""
        try:
            data, descriptors, flags, _ = socket.recv_fds(
                self._socket, READ_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            return self._over(str(error))
        self._received.extend(descriptors)
        if not data:
            return self._over("the other end is closed")
        if flags & socket.MSG_CTRUNC or len(self._received) > MAX_DESCRIPTORS:
            return self._over("too many file descriptors")
        try:
            for message in self._frames.feed(data):
                self._take(message)
        except WorkerError as error:
            self.log.error("{error}", error=error)
            return self._over(str(error))
        return None

    def _take(self, message: Message) -> None:
        if isinstance(message, Notice):
            self._notice(message)
        elif isinstance(message, Answer):
            asked = self._asked.pop(message.number, None)
            if asked is None:
                return  # nobody waits for it any more
            if message.fault is not None:
                asked.errback(error_of(message.fault))
            else:
                asked.callback(message.result)
        else:
            if not 0 <= message.descriptors <= len(self._received):
                raise WorkerError("the file descriptors of a request are missing", where="worker channel")
            descriptors = [self._received.popleft() for _ in range(message.descriptors)]
            Deferred.fromCoroutine(self._respond(message, descriptors))

    async def _respond(self, request: Request, descriptors: Sequence[int]) -> None:
        try:
            answer = Answer(request.number, await self._answer(request, descriptors))
        except CsvdError as error:
            answer = Answer(request.number, fault=fault_of(error))
        except Exception as error:  # noqa: BLE001 - a fault of one request must not leave the other end waiting
            self.log.failure("a fault of csvd at {method}", method=request.method)
            answer = Answer(request.number, fault=Fault(type(error).__name__, "a fault of csvd", why=str(error)))
        if self.disconnected:
            return
        try:
            self._send(answer)
        except WorkerError as error:
            self._send(Answer(request.number, fault=fault_of(error)))

    # The end

    def _over(self, why: str) -> Failure:
        self._ending = why
        return Failure(network_error.ConnectionLost(why))

    def close(self) -> None:
        """End it from here."""
        if not self.disconnected:
            self._ending = "closed"
            self.connectionLost(Failure(network_error.ConnectionDone()))

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802 - Twisted's name
        """It is over, from here or there."""
        if self.disconnected:
            return
        super().connectionLost(reason)
        self._socket.close()
        _close(self._received)
        for unsent in self._unsent:
            _close(unsent.descriptors)
        self._unsent.clear()
        why = self._ending or reason.getErrorMessage()
        asked, self._asked = self._asked, {}
        for waiting in asked.values():
            waiting.errback(WorkerError("it ended before it answered", where="worker channel", why=why))
        self._lost(why)


def _no_answer(failure: Failure, method: str, timeout_s: float) -> Failure:
    if failure.check(DeferredTimeoutError) is None:
        return failure
    return Failure(WorkerError(f"it does not answer {method} within {timeout_s:g} s", where="worker channel"))


def _close(descriptors: Any) -> None:
    while descriptors:
        os.close(descriptors.pop())
