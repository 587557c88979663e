"""The channel between two nodes: only a member that knows the secret gets in, and only what it sends is taken."""

from __future__ import annotations

from typing import Any

import pytest

from csvd.cluster.authentication import (
    MAXIMUM_HELLO_BYTES,
    Channel,
    ClusterKeys,
    Identity,
    Purpose,
)
from csvd.cluster.errors import AuthenticationError
from csvd.errors import ConfigError
from tests.unit.cluster.wire import KEYS, MAXIMUM_FRAME_BYTES, dialing, established, listening

OTHER_KEYS = ClusterKeys.from_secret(b"the secret of another cluster")


def frame(channel: Channel, *payload: bytes) -> bytes:
    return b"".join(channel.seal(*payload))


def test_two_members_know_each_other_after_the_handshake() -> None:
    dialer, listener = established()
    assert (dialer.is_established, listener.is_established) == (True, True)
    assert (dialer.peer, listener.peer) == ("n2", "n1")
    assert listener.purpose is Purpose.CONTROL


def test_frames_go_both_ways_whole_and_in_order() -> None:
    dialer, listener = established()
    assert listener.receive(frame(dialer, b"one", b"-two") + frame(dialer, b"")) == (b"", [b"one-two", b""])
    assert dialer.receive(frame(listener, b"three"))[1] == [b"three"]
    assert listener.receive(frame(dialer, b"four"))[1] == [b"four"]


def test_frames_may_follow_the_dialers_proof_at_once() -> None:
    dialer, listener = dialing(), listening()
    answer, _ = listener.receive(dialer.start())
    proof, _ = dialer.receive(answer)
    assert listener.receive(proof + frame(dialer, b"early")) == (b"", [b"early"])


def test_a_listener_says_nothing_to_who_does_not_know_the_secret() -> None:
    listener = listening()
    with pytest.raises(AuthenticationError, match="does not know the secret"):
        listener.receive(dialing(keys=OTHER_KEYS).start())


def test_a_dialer_proves_nothing_to_a_listener_that_does_not_know_the_secret() -> None:
    dialer = dialing()
    dialer.start()
    with pytest.raises(AuthenticationError, match="does not know the secret"):
        dialer.receive(bytes(64))


def test_a_listener_takes_only_the_proof_of_this_handshake() -> None:
    dialer, listener = dialing(), listening()
    proof, _ = dialer.receive(listener.receive(dialer.start())[0])
    replayed = listening(nonce=b"\x01" * 32)
    assert replayed.receive(dialing().start())[0]
    with pytest.raises(AuthenticationError):
        replayed.receive(proof)
    assert not replayed.is_established


def test_a_proof_that_is_sent_back_is_not_taken() -> None:
    dialer, listener = dialing(), listening()
    answer, _ = listener.receive(dialer.start())
    with pytest.raises(AuthenticationError):
        listener.receive(answer[32:])


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        ({"node": "n3", "peer": "n3"}, "another node"),
        ({"node": "stranger", "peer": "n2"}, "not a member"),
        ({"node": "n2", "peer": "n2"}, "not a member"),
    ],
)
def test_a_hello_of_the_wrong_names_is_refused(hello: dict[str, Any], why: str) -> None:
    with pytest.raises(AuthenticationError, match=why):
        listening().receive(dialing(hello["peer"], node=hello["node"]).start())


def test_other_protocols_are_refused_at_their_first_bytes() -> None:
    for data in (b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\x00"):
        with pytest.raises(AuthenticationError, match="does not speak"):
            listening().receive(data)


def test_another_version_is_refused_with_its_number() -> None:
    hello = bytearray(dialing().start())
    hello[8] = 9
    with pytest.raises(AuthenticationError, match="version 9"):
        listening().receive(bytes(hello))


def test_a_hello_longer_than_any_is_refused_before_it_is_read() -> None:
    hello = bytearray(dialing().start())
    hello[10] = hello[11] = 255
    with pytest.raises(AuthenticationError, match="too long"):
        listening().receive(bytes(hello[:12]))


def test_the_longest_names_fit() -> None:
    names = ("a" * 63, "b" * 63)
    members = frozenset(names)
    options: dict[str, Any] = {"nonce": bytes(32), "maximum_frame_bytes": 100}
    dialer = Channel.dialing(KEYS, Identity(names[0], members), names[1], Purpose.STREAM, **options)
    listener = Channel.listening(KEYS, Identity(names[1], members), **options)
    hello = dialer.start()
    assert len(hello) <= MAXIMUM_HELLO_BYTES
    listener.receive(dialer.receive(listener.receive(hello)[0])[0])
    assert (listener.peer, listener.purpose) == (names[0], Purpose.STREAM)


@pytest.mark.parametrize("position", [0, 3, 4, 6, 8, -1])
def test_a_frame_that_is_changed_ends_the_channel(position: int) -> None:
    dialer, listener = established()
    data = bytearray(frame(dialer, b"hello"))
    data[position] ^= 1
    # A changed length makes the listener wait for more, or take less.
    with pytest.raises(AuthenticationError):
        listener.receive(bytes(data) + frame(dialer, bytes(100)))
    with pytest.raises(AuthenticationError, match="closed"):
        listener.receive(b"")


def test_a_frame_that_is_repeated_ends_the_channel() -> None:
    dialer, listener = established()
    data = frame(dialer, b"hello")
    listener.receive(data)
    with pytest.raises(AuthenticationError, match="out of its order"):
        listener.receive(data)


def test_a_frame_that_is_left_out_ends_the_channel() -> None:
    dialer, listener = established()
    dialer.seal(b"lost")
    with pytest.raises(AuthenticationError, match="out of its order"):
        listener.receive(frame(dialer, b"next"))


def test_a_frame_that_is_sent_back_ends_the_channel() -> None:
    dialer, _ = established()
    with pytest.raises(AuthenticationError, match="not as it was sent"):
        dialer.receive(frame(dialer, b"hello"))


def test_a_frame_of_another_connection_ends_the_channel() -> None:
    dialer, _ = dialing(), listening()
    other = listening(nonce=b"\x01" * 32)
    other.receive(dialer.receive(other.receive(dialer.start())[0])[0])
    _, listener = established()
    with pytest.raises(AuthenticationError):
        listener.receive(frame(dialer, b"hello"))


def test_a_frame_longer_than_the_limit_is_refused_at_its_length() -> None:
    _, listener = established()
    with pytest.raises(AuthenticationError, match="longer than"):
        listener.receive((MAXIMUM_FRAME_BYTES + 1).to_bytes(4, "big"))


@pytest.mark.parametrize("length", [0, 15, 4097])
def test_a_secret_of_a_bad_length_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match="secret"):
        ClusterKeys.from_secret(bytes(length))


def test_keys_are_not_shown() -> None:
    assert repr(KEYS) == "ClusterKeys()"
