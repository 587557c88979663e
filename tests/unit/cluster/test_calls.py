"""Calls between nodes: answers, errors that travel as sentences, timeouts, limits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from csvd.cluster.calls import MAXIMUM_CALLS_AT_ONCE, Calls
from csvd.cluster.errors import ClusterError, CommandRefused, OutcomeUnknown, PeerMessageError, RemoteError
from csvd.cluster.framing import Kind
from csvd.cluster.link import Link
from tests.unit.cluster.wire import LinkPair


class End:
    """One node's calls, as the owner of its link."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.calls: Calls
        self.losses: list[str] = []

    def link_up(self, link: Link) -> None:
        pass

    def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
        self.calls.received(link, kind, body)

    def link_lost(self, link: Link, reason: str) -> None:
        self.losses.append(reason)
        self.calls.link_lost(link, reason)


class CallPair:
    """n1 calls n2."""

    def __init__(self) -> None:
        self.ends = (End("n1"), End("n2"))
        self.pair = LinkPair(owners=self.ends)
        for end in self.ends:
            end.calls = Calls(end.node, self.pair.clock)
        self.pair.pump()

    def call(self, method: str, params: dict[str, Any] | None = None, *, timeout_s: float = 1) -> list[Any]:
        """What the call came to, as soon as it has."""
        outcome: list[Any] = []
        called = self.ends[0].calls.call(self.pair.dialer, method, params or {}, timeout_s=timeout_s)
        called.addBoth(outcome.append)
        self.pair.pump()
        return outcome


async def echo(peer: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"peer": peer, **params}


def error_of(outcome: list[Any]) -> BaseException:
    failure = outcome[0]
    assert isinstance(failure, Failure)
    assert failure.value is not None
    return failure.value


def test_a_call_is_answered_with_the_callers_name_known() -> None:
    both = CallPair()
    both.ends[1].calls.serve("echo", echo)
    assert both.call("echo", {"value": [1, "two", None, b"\x00"]}) == [
        {"peer": "n1", "value": [1, "two", None, b"\x00"]}
    ]


def test_an_answer_may_come_later_and_in_another_order() -> None:
    both = CallPair()
    waiting: dict[int, Deferred[dict[str, Any]]] = {}

    async def later(peer: str, params: dict[str, Any]) -> dict[str, Any]:
        waiting[params["number"]] = Deferred()
        return await waiting[params["number"]]

    both.ends[1].calls.serve("later", later)
    outcomes = [both.call("later", {"number": number}) for number in range(3)]
    for number in (2, 0, 1):
        waiting[number].callback({"number": number})
    both.pair.pump()
    assert outcomes == [[{"number": 0}], [{"number": 1}], [{"number": 2}]]


def test_an_error_of_the_handler_comes_out_as_its_sentence() -> None:
    both = CallPair()

    async def refuse(peer: str, params: dict[str, Any]) -> dict[str, Any]:
        raise CommandRefused("it was refused", where="there", why="because", hint="do not")

    both.ends[1].calls.serve("refuse", refuse)
    error = error_of(both.call("refuse"))
    assert isinstance(error, RemoteError)
    assert str(error) == "there: it was refused: because (do not)"
    assert error.kind == "CommandRefused"


def test_a_fault_of_the_handler_does_not_show_its_inside() -> None:
    both = CallPair()

    async def fail(peer: str, params: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("a secret")

    both.ends[1].calls.serve("fail", fail)
    error = error_of(both.call("fail"))
    assert str(error) == "n2: fail failed inside: KeyError"


def test_an_answer_that_can_not_be_sent_is_an_error_and_not_a_silence() -> None:
    both = CallPair()

    async def wrong(peer: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"value": object()}

    async def long(peer: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"value": bytes(2_000_000)}

    both.ends[1].calls.serve("wrong", wrong)
    both.ends[1].calls.serve("long", long)
    assert "failed inside" in str(error_of(both.call("wrong")))
    assert "2000" in str(error_of(both.call("long")))


def test_a_method_that_is_not_served_is_an_error() -> None:
    assert "does not serve nothing" in str(error_of(CallPair().call("nothing")))


def test_no_answer_in_time_is_an_unknown_outcome_and_a_late_answer_is_dropped() -> None:
    both = CallPair()
    answer: Deferred[dict[str, Any]] = Deferred()

    async def slow(peer: str, params: dict[str, Any]) -> dict[str, Any]:
        return await answer

    both.ends[1].calls.serve("slow", slow)
    outcome = both.call("slow", timeout_s=0.5)
    both.pair.advance(0.4)
    assert outcome == []
    both.pair.advance(0.2)
    assert isinstance(error_of(outcome), OutcomeUnknown)
    answer.callback({})
    both.pair.pump()
    assert both.ends[0].losses == []


def test_a_lost_link_is_an_unknown_outcome_at_once() -> None:
    both = CallPair()

    async def never(peer: str, params: dict[str, Any]) -> dict[str, Any]:
        return await Deferred()

    both.ends[1].calls.serve("never", never)
    outcome = both.call("never", timeout_s=100)
    both.pair.listener.drop("test")
    both.pair.pump()
    error = error_of(outcome)
    assert isinstance(error, OutcomeUnknown)
    assert "the link was lost" in str(error)
    assert both.pair.clock.getDelayedCalls() == []


def test_more_calls_at_once_than_the_limit_are_refused_on_both_sides() -> None:
    both = CallPair()
    held: list[Deferred[dict[str, Any]]] = []

    async def never(peer: str, params: dict[str, Any]) -> dict[str, Any]:
        held.append(Deferred())
        return await held[-1]

    both.ends[1].calls.serve("never", never)
    for _ in range(MAXIMUM_CALLS_AT_ONCE):
        assert both.call("never", timeout_s=100) == []
    with pytest.raises(ClusterError, match="wait for an answer"):
        both.call("never")
    # The peer, when the caller keeps no count.
    both.ends[0].calls._pending.clear()
    assert "under way already" in str(error_of(both.call("never")))


def test_parameters_that_are_too_long_are_refused_before_they_are_sent() -> None:
    with pytest.raises(ClusterError, match="more than"):
        CallPair().call("echo", {"value": bytes(2_000_000)})


def test_a_method_is_served_once() -> None:
    calls = CallPair().ends[0].calls
    calls.serve("echo", echo)
    with pytest.raises(ValueError, match="already"):
        calls.serve("echo", echo)


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.ANSWER, Kind.FAILURE])
@pytest.mark.parametrize(
    "body", [b"", b"\xc0", msgspec.msgpack.encode([1, 2, 3]), b"\x91" * 5000, msgspec.msgpack.encode(["x", "y", {}])]
)
def test_what_is_no_call_is_refused(kind: Kind, body: bytes) -> None:
    both = CallPair()
    with pytest.raises(PeerMessageError, match="sent a call that is none"):
        both.ends[1].calls.received(both.pair.listener, kind, body)


def test_an_answer_to_no_call_is_dropped() -> None:
    both = CallPair()
    both.ends[1].calls.received(both.pair.listener, Kind.ANSWER, msgspec.msgpack.encode([99, {}]))
    both.ends[1].calls.received(both.pair.listener, Kind.FAILURE, msgspec.msgpack.encode([99, "Error", "what"]))
    assert both.ends[1].losses == []


def test_a_node_can_call_itself() -> None:
    calls = CallPair().ends[0].calls
    calls.serve("echo", echo)
    outcome: list[object] = []
    Deferred.fromCoroutine(calls.call_here("echo", {"value": 1})).addBoth(outcome.append)
    assert outcome == [{"peer": "n1", "value": 1}]
