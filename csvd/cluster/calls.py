"""Calls from node to node over their control link: a method, its parameters, an answer or an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from csvd.cluster.errors import ClusterError, OutcomeUnknown, PeerMessageError, RemoteError
from csvd.cluster.framing import Kind
from csvd.cluster.link import Link
from csvd.cluster.reactor import Clock, DelayedCall
from csvd.errors import CsvdError

MAXIMUM_CALL_BYTES: Final = 1024 * 1024
MAXIMUM_CALLS_AT_ONCE: Final = 256
"""Of one peer, in each direction."""

Handler = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_T = TypeVar("_T")


class _Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    number: _Number
    method: Annotated[str, msgspec.Meta(max_length=64)]
    params: dict[str, Any]


class _Answer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    number: _Number
    result: dict[str, Any]


class _Failure(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    number: _Number
    kind: _Text
    what: _Text
    where: _Text = ""
    why: _Text = ""
    hint: _Text = ""

    @classmethod
    def of(cls, number: int, error: CsvdError) -> _Failure:
        texts = (type(error).__name__, error.what, error.where, error.why, error.hint)
        return cls(number, *(text[:4096] for text in texts))


@dataclass(slots=True)
class _Pending:
    link: Link
    method: str
    answer: Deferred[dict[str, Any]]
    timer: DelayedCall


class Calls:
    """The calls of one node: those it makes, and those it serves.

    Args:
        node: the name of this node.
        clock: the node's loop.
        caller: what a handler is told of who calls it.
    """

    _log = Logger()

    def __init__(self, node: str, clock: Clock, *, caller: Callable[[Link], str] = lambda link: link.peer) -> None:
        self._node = node
        self._clock = clock
        self._caller = caller
        self._handlers: dict[str, Handler] = {}
        self._pending: dict[int, _Pending] = {}
        self._served: Counter[str] = Counter()
        self._last_number = 0

    def serve(self, method: str, handler: Handler) -> None:
        """Answer a method from now on; the handler gets the name of the peer and the parameters."""
        if method in self._handlers:
            raise ValueError(f"{method} is served already")
        self._handlers[method] = handler

    async def call_here(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Call a method of this node itself, with the errors that a call to a peer has."""
        try:
            return await self._handler(method)(self._node, params)
        except CsvdError as error:
            raise _remote_error(_Failure.of(0, error), self._node) from error

    def call(self, link: Link, method: str, params: dict[str, Any], *, timeout_s: float) -> Deferred[dict[str, Any]]:
        """Call a method of the peer at the other end of a link.

        Returns:
            Fires with the answer; fails with RemoteError (the peer's own error), or OutcomeUnknown when no answer came
            in time or before the link was lost. Cancelling it forgets the answer.

        Raises:
            ClusterError: the parameters are too long, or too many calls wait for this peer; nothing was sent.
        """
        self._last_number += 1
        number = self._last_number
        body = msgspec.msgpack.encode(_Request(number, method, params))
        if len(body) > MAXIMUM_CALL_BYTES:
            raise ClusterError(f"the call {method} has {len(body)} bytes, more than {MAXIMUM_CALL_BYTES}")
        if sum(pending.link is link for pending in self._pending.values()) >= MAXIMUM_CALLS_AT_ONCE:
            raise ClusterError(f"{MAXIMUM_CALLS_AT_ONCE} calls to {link.peer} wait for an answer already")
        answer: Deferred[dict[str, Any]] = Deferred(lambda _: self._cancelled(number))
        late = f"no answer to {method} within {timeout_s:g} s"
        timer = self._clock.callLater(timeout_s, self._fail, number, late)
        self._pending[number] = _Pending(link, method, answer, timer)
        link.send(Kind.REQUEST, body)
        return answer

    def received(self, link: Link, kind: Kind, body: bytes) -> None:
        """A payload of kind REQUEST, ANSWER or FAILURE came.

        Raises:
            PeerMessageError: it is not what it should be.
        """
        if kind is Kind.REQUEST:
            self._serve(link, _decoded(body, _Request, link.peer))
            return
        if kind is Kind.ANSWER:
            answer = _decoded(body, _Answer, link.peer)
            pending = self._taken(answer.number, link)
            if pending is not None:
                pending.answer.callback(answer.result)
        else:
            failure = _decoded(body, _Failure, link.peer)
            pending = self._taken(failure.number, link)
            if pending is not None:
                pending.answer.errback(_remote_error(failure, link.peer))

    def link_lost(self, link: Link, reason: str) -> None:
        """Nothing more comes over a link."""
        for number in [number for number, pending in self._pending.items() if pending.link is link]:
            self._fail(number, f"the link was lost: {reason}")

    def _serve(self, link: Link, request: _Request) -> None:
        peer = self._caller(link)
        if self._served[peer] >= MAXIMUM_CALLS_AT_ONCE:
            busy = ClusterError(f"{MAXIMUM_CALLS_AT_ONCE} calls of this peer are under way already")
            link.send(Kind.FAILURE, msgspec.msgpack.encode(_Failure.of(request.number, busy)))
            return
        self._served[peer] += 1
        Deferred.fromCoroutine(self._answer(peer, link, request)).addErrback(
            lambda failure: self._log.failure("the answer to {peer} failed", failure, peer=peer)
        )

    async def _answer(self, peer: str, link: Link, request: _Request) -> None:
        """Run the handler and send what comes of it."""
        try:
            result = await self._handler(request.method)(peer, request.params)
            body = msgspec.msgpack.encode(_Answer(request.number, result))
            if len(body) > MAXIMUM_CALL_BYTES:
                raise ClusterError(f"the answer to {request.method} has {len(body)} bytes")
            link.send(Kind.ANSWER, body)
        except CsvdError as error:
            link.send(Kind.FAILURE, msgspec.msgpack.encode(_Failure.of(request.number, error)))
        except Exception as error:  # noqa: BLE001 - logged, and the peer is told
            self._log.failure("the handler of {method} failed", method=request.method)
            inside = ClusterError(f"{request.method} failed inside", where=self._node, why=type(error).__name__)
            link.send(Kind.FAILURE, msgspec.msgpack.encode(_Failure.of(request.number, inside)))
        finally:
            self._served[peer] -= 1
            if not self._served[peer]:
                del self._served[peer]

    def _handler(self, method: str) -> Handler:
        handler = self._handlers.get(method)
        if handler is None:
            raise ClusterError(f"this node does not serve {method}", where=self._node)
        return handler

    def _cancelled(self, number: int) -> None:
        self._forget(number)

    def _forget(self, number: int) -> _Pending | None:
        pending = self._pending.pop(number, None)
        if pending is not None and pending.timer.active():
            pending.timer.cancel()
        return pending

    def _taken(self, number: int, link: Link) -> _Pending | None:
        """The call that an answer belongs to; None where it came too late, or over another link."""
        pending = self._pending.get(number)
        return self._forget(number) if pending is not None and pending.link is link else None

    def _fail(self, number: int, why: str) -> None:
        pending = self._forget(number)
        if pending is not None:
            what = f"whether {pending.method} was done is not known"
            pending.answer.errback(OutcomeUnknown(what, where=pending.link.peer, why=why))


def _remote_error(failure: _Failure, peer: str) -> RemoteError:
    where = failure.where or peer
    return RemoteError(failure.what, where=where, why=failure.why, hint=failure.hint, kind=failure.kind)


def _decoded(body: bytes, kind: type[_T], peer: str) -> _T:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise PeerMessageError("it sent a call that is none", where=peer, why=str(error)) from error
