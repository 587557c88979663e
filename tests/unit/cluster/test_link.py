"""A link: up after the handshake, alive by pings, and cut off when the peer is silent, deaf, late or wrong."""

from __future__ import annotations

import pytest

from csvd.cluster.errors import PeerMessageError
from csvd.cluster.framing import Kind, Purpose, frame_header
from csvd.cluster.identity.certificate import make_cluster
from csvd.cluster.link import Link
from tests.unit.cluster.wire import BUFFER_BYTES, MEMBERS, NOW_S, TIMEOUTS, LinkPair, Notes


def test_both_ends_are_up_after_the_handshake() -> None:
    pair = LinkPair().pump()
    assert (pair.notes[0].ups, pair.notes[1].ups) == (["n2"], ["n1"])
    assert (pair.dialer.is_up, pair.listener.is_up) == (True, True)


def test_payloads_arrive_with_their_kind() -> None:
    pair = LinkPair().pump()
    pair.dialer.send(Kind.RAFT, b"a", memoryview(b"bc"))
    pair.listener.send(Kind.ANSWER, b"d")
    pair.pump()
    assert pair.notes[1].frames == [(Kind.RAFT, b"abc")]
    assert pair.notes[0].frames == [(Kind.ANSWER, b"d")]


def test_a_dialer_with_another_clusters_certificate_gets_nothing_and_is_told_where_to_look() -> None:
    stranger = make_cluster("tests", ["n1"], now_s=NOW_S)["n1"]
    pair = LinkPair(dialer=stranger).pump()
    assert pair.notes[0].losses == ["it does not let this node in; its log says why"]
    assert pair.notes[1].losses == ["its certificate is not by this cluster's authority"]
    assert (pair.notes[0].ups, pair.notes[1].ups) == ([], [])


def test_a_dialer_that_was_evicted_hears_that_and_nothing_else_and_is_not_heard() -> None:
    pair = LinkPair(is_evicted=lambda key: key == MEMBERS["n1"].fingerprint)
    pair.dialer.send(Kind.RAFT, b"not established yet")
    pair.pump()
    assert pair.dialer.told_evicted
    assert pair.notes[0].losses == ["it says that this node was evicted from the cluster"]
    assert pair.notes[1].losses == ["its certificate is not a member's: it is for n1, which was evicted"]
    assert [notes.ups + notes.frames for notes in pair.notes] == [[], []]


def test_one_that_was_evicted_and_says_on_is_cut_off_in_its_time() -> None:
    pair = LinkPair(is_evicted=lambda key: True)
    while pair.wire.ends[0].outgoing or not pair.listener._is_refused:
        assert pair.wire._carry(pair.wire.ends[0]) or pair.wire._carry(pair.wire.ends[1])
    said = bytes(pair.wire.ends[1].outgoing)
    pair.listener.dataReceived(b"anything" * 1000)
    assert bytes(pair.wire.ends[1].outgoing) == said
    pair.clock.pump([0.1] * int(TIMEOUTS.handshake_s * 10 + 1))
    assert len(pair.notes[1].losses) == 1
    assert pair.notes[1].ups == []


def test_a_dialer_shows_its_own_certificate_only_to_who_it_dialed(monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = make_cluster("tests", ["n2"], now_s=NOW_S)["n2"]
    pair = LinkPair(listener=stranger)
    said: list[bytes] = []
    hello = bytes(pair.wire.ends[0].outgoing)
    monkeypatch.setattr(pair.wire.ends[0], "write", said.append)
    pair.pump()
    assert hello
    assert said == []
    assert pair.notes[0].losses == ["its certificate is not by this cluster's authority"]
    assert len(pair.notes[1].losses) == 1


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
    assert pair.notes[1].frames == []


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
    assert [body for _, body in pair.notes[1].frames] == sent
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
    assert len(pair.notes[1].frames) == 50
    assert pair.notes[0].losses == ["enough"]


def test_a_frame_of_no_known_kind_ends_the_link() -> None:
    pair = LinkPair().pump()
    pair.wire.ends[0].write(pair.dialer._channel.seal(b"\x00\x00\x00\x02\x63x"))
    pair.pump()
    assert "kind 99, which is not known" in pair.notes[1].losses[0]


def test_a_first_frame_that_is_no_hello_ends_the_link() -> None:
    pair = LinkPair()
    pair.dialer.send = lambda kind, *body: None  # type: ignore[method-assign]
    pair.pump()
    pair.wire.ends[0].write(pair.dialer._channel.seal(frame_header(Kind.RAFT, 1), b"x"))
    pair.pump()
    assert pair.notes[1].losses == ["n1: its first frame is RAFT, not HELLO"]
    assert pair.notes[1].ups == []


def test_a_member_can_not_say_that_it_is_joining() -> None:
    pair = LinkPair(purpose=Purpose.JOIN).pump()
    assert pair.notes[1].losses == ["n1: a member makes no connection for JOIN"]


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
    assert strict.frames == [(Kind.RAFT, b"one")]
    assert strict.losses == ["n1: that is not what was agreed"]


def test_an_owner_that_drops_the_link_when_it_is_up_gets_no_payload() -> None:
    class Unwilling(Notes):
        def link_up(self, link: Link) -> None:
            link.drop("not now")

    unwilling = Unwilling()
    pair = LinkPair(owners=(unwilling, Notes()))
    pair.pump()
    assert unwilling.frames == []
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
