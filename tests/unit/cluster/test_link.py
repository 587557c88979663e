"""A link: up after the handshake, alive by pings, and cut off when the peer is silent, deaf, late or wrong."""

from __future__ import annotations

import pytest

from csvd.cluster.authentication import ClusterKeys
from csvd.cluster.errors import PeerMessageError
from csvd.cluster.link import Kind, Link
from tests.unit.cluster.wire import BUFFER_BYTES, TIMEOUTS, LinkPair, Notes, dialing


def test_both_ends_are_up_after_the_handshake() -> None:
    pair = LinkPair().pump()
    assert (pair.notes[0].ups, pair.notes[1].ups) == (["n2"], ["n1"])
    assert (pair.dialer.is_up, pair.listener.is_up) == (True, True)


def test_payloads_arrive_with_their_kind() -> None:
    pair = LinkPair().pump()
    pair.dialer.send(Kind.RAFT, b"a", memoryview(b"bc"))
    pair.listener.send(Kind.ANSWER, b"d")
    pair.pump()
    assert pair.notes[1].payloads == [(Kind.RAFT, b"abc")]
    assert pair.notes[0].payloads == [(Kind.ANSWER, b"d")]


def test_a_peer_with_another_secret_gets_nothing_but_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = LinkPair(dialer=dialing(keys=ClusterKeys.from_secret(b"not the one of the tests")))
    said: list[bytes] = []
    monkeypatch.setattr(pair.wire.ends[1], "write", said.append)
    pair.pump()
    assert said == []
    assert pair.notes[0].losses == ["Connection to the other side was lost in a non-clean fashion."]
    assert pair.notes[1].losses == ["it does not know the secret of the cluster"]
    assert (pair.notes[0].ups, pair.notes[1].ups) == ([], [])


def test_a_peer_that_never_says_who_it_is_is_cut_off() -> None:
    pair = LinkPair()
    pair.wire.ends[0].outgoing.clear()
    pair.advance(TIMEOUTS.handshake_s + 0.2)
    assert "did not prove who it is" in pair.notes[1].losses[0]


def test_an_idle_link_is_kept_alive_by_pings() -> None:
    pair = LinkPair().pump()
    pair.advance(TIMEOUTS.silence_s * 5)
    assert pair.dialer.is_up
    assert pair.listener.is_up
    assert pair.notes[1].payloads == []


def test_a_peer_that_is_silent_is_cut_off() -> None:
    pair = LinkPair().pump()
    pair.clock.pump([0.1] * int(TIMEOUTS.silence_s * 10 + 10))
    assert "nothing came from it" in pair.notes[0].losses[0]
    assert not pair.dialer.is_up


def test_a_link_that_this_node_does_not_read_is_not_called_silent() -> None:
    pair = LinkPair().pump()
    pair.listener.pause_reading()
    pair.clock.pump([0.1] * int(TIMEOUTS.silence_s * 10 + 10))
    assert pair.notes[1].losses == []
    pair.listener.resume_reading()
    assert pair.wire.ends[1].is_reading


def test_a_peer_that_does_not_read_is_cut_off_before_its_queue_is_too_long() -> None:
    pair = LinkPair(maximum_queued_bytes=1_000_000).pump()
    pair.wire.ends[1].is_reading = False
    longest = 0
    while not pair.notes[0].losses:
        pair.dialer.send(Kind.RAFT, bytes(10_000))
        longest = max(longest, pair.dialer.queued_bytes)
    assert "does not read" in pair.notes[0].losses[0]
    assert longest <= 1_000_000
    assert pair.dialer.queued_bytes == 0


def test_what_waits_for_a_slow_peer_is_sent_in_order_when_it_reads() -> None:
    pair = LinkPair().pump()
    pair.wire.ends[1].is_reading = False
    sent = [bytes([number]) * 5_000 for number in range(200)]
    blocked: list[bool] = []
    pair.dialer.on_blocked = blocked.append
    for body in sent:
        pair.dialer.send(Kind.RAFT, body)
    assert len(pair.wire.ends[0].outgoing) < BUFFER_BYTES + 6_000
    pair.wire.ends[1].is_reading = True
    pair.pump()
    assert [body for _, body in pair.notes[1].payloads] == sent
    assert blocked[0] is True
    assert blocked[-1] is False


def test_a_close_sends_what_waits_before_it_ends() -> None:
    pair = LinkPair().pump()
    pair.wire.ends[1].is_reading = False
    for _ in range(50):
        pair.dialer.send(Kind.RAFT, bytes(5_000))
    pair.dialer.close("enough")
    pair.dialer.send(Kind.RAFT, b"too late")
    pair.wire.ends[1].is_reading = True
    pair.pump()
    assert len(pair.notes[1].payloads) == 50
    assert pair.notes[0].losses == ["enough"]


@pytest.mark.parametrize("payload", [b"", b"\x63x"])
def test_a_payload_of_no_known_kind_ends_the_link(payload: bytes) -> None:
    pair = LinkPair().pump()
    pair.wire.ends[0].write(b"".join(pair.dialer._channel.seal(payload)))
    pair.pump()
    assert "no known kind" in pair.notes[1].losses[0]


def test_an_owner_that_does_not_understand_ends_the_link_and_gets_nothing_more() -> None:
    class Strict(Notes):
        def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
            super().link_received(link, kind, body)
            raise PeerMessageError("that is not what was agreed", where=link.peer)

    strict = Strict()
    pair = LinkPair(owners=(Notes(), strict)).pump()
    pair.dialer.send(Kind.RAFT, b"one")
    pair.dialer.send(Kind.RAFT, b"two")
    pair.pump()
    assert strict.payloads == [(Kind.RAFT, b"one")]
    assert strict.losses == ["n1: that is not what was agreed"]


def test_an_owner_that_drops_the_link_when_it_is_up_gets_no_payload() -> None:
    class Unwilling(Notes):
        def link_up(self, link: Link) -> None:
            link.drop("not now")

    unwilling = Unwilling()
    pair = LinkPair(owners=(unwilling, Notes()))
    pair.pump()
    assert unwilling.payloads == []
    assert unwilling.losses == ["not now"]


def test_a_loss_is_told_once() -> None:
    pair = LinkPair().pump()
    pair.dialer.drop("first")
    pair.dialer.drop("second")
    pair.dialer.close("third")
    pair.pump()
    assert pair.notes[0].losses == ["first"]
    assert len(pair.notes[1].losses) == 1
    assert pair.clock.getDelayedCalls() == []
