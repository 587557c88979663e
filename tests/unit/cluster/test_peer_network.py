"""Networks of nodes over real sockets: members are linked, at run time, too; who is removed is cut off at once."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from csvd.cluster.errors import ClusterError, PeerMessageError, PeerUnreachable, RemoteError
from csvd.cluster.identity.certificate import NodeIdentity, make_cluster
from csvd.cluster.network import Address, PeerEvents
from csvd.cluster.peer import MAXIMUM_HALF_OPEN, PeerNetwork
from csvd.cluster.stream import StreamLink
from csvd.cluster.timeouts import Timeouts
from csvd.errors import ConfigError
from tests.own_reactor import run

NOW_S = 1_800_000_000.0
NAMES = ["n1", "n2", "n3"]


class Node:
    """A network, and what it told."""

    def __init__(self, reactor: Any, identity: NodeIdentity, now_s: Callable[[], float]) -> None:
        self.identity = identity
        self.told: list[tuple[str, str]] = []
        self.raft: list[tuple[str, bytes]] = []
        self.network = PeerNetwork(
            identity=identity,
            listen=("127.0.0.1", 0),
            reactor=reactor,
            timeouts=Timeouts(),
            random=Random(1),
            wall_s=now_s,
        )
        self.network.serve("echo", self._echo)

    def start(self) -> None:
        self.network.start(
            PeerEvents(
                lambda peer: self.told.append(("up", peer)),
                lambda peer: self.told.append(("down", peer)),
                lambda peer, data: self.raft.append((peer, data)),
            )
        )

    async def _echo(self, peer: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"peer": peer, **params}


class Rig:
    """Nodes that have each other as members."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.now_s = NOW_S
        self.identities = make_cluster("east", NAMES, now_s=NOW_S)
        self.nodes = {name: Node(reactor, one, lambda: self.now_s) for name, one in self.identities.items()}
        self.fingerprints: dict[str, tuple[str, ...]] = {
            name: (one.fingerprint,) for name, one in self.identities.items()
        }
        for node in self.nodes.values():
            node.start()

    def set_members(self, *names: str, at: str = "") -> None:
        members: dict[str, tuple[Address | None, tuple[str, ...]]] = {
            name: (self.nodes[name].network.address, self.fingerprints[name]) for name in names
        }
        for node in [self.nodes[at]] if at else self.nodes.values():
            node.network.set_members(members)

    def network(self, name: str) -> PeerNetwork:
        return self.nodes[name].network

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await deferLater(self.reactor, 0.01)

    async def linked(self, *pairs: tuple[str, str], is_up: bool = True) -> None:
        await self.until(
            lambda: all(self.network(one).link_state(other)[0] is is_up for one, other in pairs),
        )

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.network.stop()


Scene = Callable[[Rig], Coroutine[Deferred[Any], Any, None]]


def play(scene: Scene) -> None:
    async def work(reactor: Any) -> None:
        rig = Rig(reactor)
        try:
            await scene(rig)
        finally:
            await rig.stop()

    run(work, time_limit_s=60)


async def fails(asking: Coroutine[Any, Any, Any], kind: type[Exception], words: str) -> None:
    outcome: object = None
    try:
        await asking
    except kind as error:
        outcome = error
    assert isinstance(outcome, kind)
    assert words in str(outcome)


def test_members_are_linked_and_call_each_other_both_ways() -> None:
    async def scene(rig: Rig) -> None:
        rig.set_members(*NAMES)
        await rig.linked(*((one, other) for one in NAMES for other in NAMES if one != other))
        assert await rig.network("n3").call("n1", "echo", {"a": 1}, timeout_s=5) == {"peer": "n3", "a": 1}
        assert await rig.network("n1").call("n3", "echo", {}, timeout_s=5) == {"peer": "n1"}
        assert await rig.network("n1").call("n1", "echo", {}, timeout_s=5) == {"peer": "n1"}
        send = rig.network("n1").link_to("n2")
        assert send is not None
        send(b"append")
        await rig.until(lambda: rig.nodes["n2"].raft == [("n1", b"append")])
        await fails(rig.network("n1").call("n2", "none", {}, timeout_s=5), RemoteError, "does not serve")
        await fails(rig.network("n1").call("n9", "echo", {}, timeout_s=5), ClusterError, "no such node")

    play(scene)


def test_streams_carry_bytes_to_who_takes_them_and_refusals_back() -> None:
    async def scene(rig: Rig) -> None:
        rig.set_members(*NAMES)
        taken: list[tuple[str, dict[str, Any], StreamLink]] = []
        rig.network("n1").serve_stream("copy", lambda peer, header, link: taken.append((peer, header, link)))
        stream = await rig.network("n3").open_stream("n1", "copy", {"size": 5})
        assert taken[0][:2] == ("n3", {"size": 5})
        received = bytearray()
        taken[0][2].on_data = received.extend
        stream.write_sequence([bytes(1_000_000), b"end"])
        await rig.until(lambda: len(received) == 1_000_003)
        await fails(rig.network("n3").open_stream("n1", "other", {}), RemoteError, "does not take streams")
        await fails(rig.network("n3").open_stream("n3", "copy", {}), ClusterError, "to itself")
        with pytest.raises(ValueError, match="already"):
            rig.network("n1").serve_stream("copy", lambda peer, header, link: None)

    play(scene)


def test_a_member_that_is_added_at_run_time_is_linked() -> None:
    async def scene(rig: Rig) -> None:
        rig.set_members("n1", "n2")
        await rig.linked(("n1", "n2"), ("n2", "n1"))
        assert rig.network("n1").link_state("n3") == (False, "")
        rig.set_members(*NAMES)
        await rig.linked(("n1", "n3"), ("n3", "n2"))
        assert rig.nodes["n1"].told == [("up", "n2"), ("up", "n3")]

    play(scene)


def test_a_member_that_is_removed_is_cut_off_at_once_with_its_streams_and_not_let_in_again() -> None:
    async def scene(rig: Rig) -> None:
        rig.set_members(*NAMES)
        await rig.linked(("n2", "n1"), ("n2", "n3"))
        streams: list[StreamLink] = []
        rig.network("n2").serve_stream("copy", lambda peer, header, link: streams.append(link))
        await rig.network("n3").open_stream("n2", "copy", {})
        lost: list[str] = []
        streams[0].on_data = lambda data: None
        streams[0].on_lost = lost.append
        rig.set_members("n1", "n2", at="n2")
        # At once: nothing has come or gone since.
        assert lost == ["its key is not a member's any more"]
        assert rig.network("n2").link_state("n3")[0] is False
        assert ("down", "n3") in rig.nodes["n2"].told
        before = rig.nodes["n3"].told.count(("up", "n2"))
        await fails(rig.network("n3").open_stream("n2", "copy", {}), PeerUnreachable, "does not let this node in")
        assert rig.nodes["n3"].told.count(("up", "n2")) == before
        assert rig.network("n2").link_state("n1")[0] is True

    play(scene)


@pytest.mark.parametrize("name", ["n1", "n3"])
def test_a_node_that_comes_back_hears_from_a_member_that_it_was_evicted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is to be dialed by all others, who do not do it any more. A member hears nothing of that kind."""
    monkeypatch.setattr("csvd.cluster.peer.KNOCK_S", 0.2)

    async def scene(rig: Rig) -> None:
        told: list[tuple[str, str]] = []
        for one, node in rig.nodes.items():
            node.network.tell_evicted(lambda key: key == rig.identities[name].fingerprint)
            node.network.on_evicted = lambda by, one=one: told.append((one, by))  # type: ignore[misc]
        others = [one for one in NAMES if one != name]
        for one in others:
            rig.set_members(*others, at=one)
        rig.set_members(*NAMES, at=name)
        await rig.linked((others[0], others[1]))
        await rig.until(lambda: bool(told))
        await deferLater(rig.reactor, 0.5)
        assert {who for who, _ in told} == {name}
        assert not any(rig.network(one).link_state(name)[0] for one in others)
        assert not rig.nodes[name].told

    play(scene)


def test_a_member_that_knocks_where_it_is_to_be_dialed_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csvd.cluster.peer.KNOCK_S", 0.05)

    async def scene(rig: Rig) -> None:
        told: list[str] = []
        for node in rig.nodes.values():
            node.network.on_evicted = told.append
        rig.set_members("n1", "n2", "n3", at="n3")
        rig.set_members("n3", at="n1")
        rig.set_members("n1", "n2", "n3", at="n2")
        await deferLater(rig.reactor, 0.5)
        rig.set_members(*NAMES)
        await rig.linked(("n1", "n2"), ("n1", "n3"), ("n2", "n3"))
        await deferLater(rig.reactor, 0.3)
        assert told == []
        await rig.linked(("n1", "n2"), ("n1", "n3"), ("n2", "n3"))

    play(scene)


def test_a_member_is_dialed_at_the_address_that_it_has_now() -> None:
    async def scene(rig: Rig) -> None:
        rig.nodes["n2"].network.set_members(
            {name: (rig.network(name).address, rig.fingerprints[name]) for name in NAMES}
        )
        dead: Address = ("127.0.0.1", 1)
        fingerprints = rig.fingerprints
        rig.network("n1").set_members({"n1": (None, fingerprints["n1"]), "n2": (dead, fingerprints["n2"])})
        await rig.until(lambda: rig.network("n1").link_state("n2")[1] != "")
        rig.set_members("n1", "n2", at="n1")
        await rig.linked(("n1", "n2"))
        rig.network("n1").set_members({"n1": (None, fingerprints["n1"]), "n2": (None, fingerprints["n2"])})
        await fails(rig.network("n1").open_stream("n2", "copy", {}), PeerUnreachable, "listens nowhere")

    play(scene)


def test_a_new_certificate_is_shown_from_then_on_and_the_old_one_can_be_taken_out() -> None:
    async def scene(rig: Rig) -> None:
        rig.set_members(*NAMES)
        await rig.linked(("n1", "n2"), ("n2", "n1"), ("n2", "n3"), ("n3", "n2"))
        renewed = rig.identities["n2"].renewed(now_s=NOW_S)
        rig.fingerprints["n2"] = (rig.identities["n2"].fingerprint, renewed.fingerprint)
        rig.set_members(*NAMES)
        assert rig.network("n1").link_state("n2")[0]
        network = rig.network("n2")
        shown = [network.shows_old]
        network.set_identity(renewed)
        shown.append(network.shows_old)
        assert shown == [False, True]
        network.renew_links()
        await rig.linked(("n1", "n2"), ("n2", "n1"), ("n2", "n3"), ("n3", "n2"))
        await rig.until(lambda: not network.shows_old)
        rig.fingerprints["n2"] = (renewed.fingerprint,)
        before = list(rig.nodes["n1"].told)
        rig.set_members(*NAMES)
        assert rig.network("n1").link_state("n2")[0]
        assert rig.network("n3").link_state("n2")[0]
        assert rig.nodes["n1"].told == before

    play(scene)


def test_a_message_of_raft_that_is_none_ends_the_link_which_is_made_again() -> None:
    async def scene(rig: Rig) -> None:
        def refuse(peer: str, data: bytes) -> None:
            raise PeerMessageError("not a message of Raft", where=peer)

        rig.set_members(*NAMES)
        await rig.linked(("n1", "n2"))
        rig.network("n2")._events = PeerEvents(lambda peer: None, lambda peer: None, refuse)
        send = rig.network("n1").link_to("n2")
        assert send is not None
        send(b"\x80\x04.")
        await rig.until(lambda: ("down", "n2") in rig.nodes["n1"].told)
        assert rig.network("n2").link_state("n1")[1] == "n1: not a message of Raft"
        await rig.linked(("n1", "n2"), ("n2", "n1"))

    play(scene)


def test_a_node_that_does_not_know_the_register_yet_has_its_first_members() -> None:
    async def scene(rig: Rig) -> None:
        network = rig.network("n3")
        network._first_members = {"n1": (rig.network("n1").address, rig.fingerprints["n1"])}
        network.set_members({})
        rig.set_members(*NAMES, at="n1")
        await rig.linked(("n3", "n1"))
        assert rig.nodes["n3"].told == [("up", "n1")]
        rig.set_members("n2", "n3", at="n3")
        assert not network.link_state("n1")[0]

    play(scene)


def test_one_host_that_says_nothing_on_many_connections_takes_the_room_of_no_other() -> None:
    async def scene(rig: Rig) -> None:
        network = rig.network("n1")
        connections = [socket.create_connection(network.address, source_address=("127.0.0.3", 0))]
        await rig.until(lambda: len(network._half_open) == 1)
        for count in range(1, MAXIMUM_HALF_OPEN + 20):
            connections.append(socket.create_connection(network.address, source_address=("127.0.0.2", 0)))
            expected = min(count + 1, MAXIMUM_HALF_OPEN)
            while len(network._half_open) != expected:
                await deferLater(rig.reactor, 0.01)
        await deferLater(rig.reactor, 0.05)
        hosts = list(network._half_open.values())
        for connection in connections:
            connection.close()
        assert len(hosts) == MAXIMUM_HALF_OPEN
        assert hosts.count("127.0.0.3") == 1

    play(scene)


def test_an_address_that_is_taken_is_one_clear_error() -> None:
    async def scene(rig: Rig) -> None:
        other = PeerNetwork(
            identity=rig.identities["n1"],
            listen=rig.network("n1").address,
            reactor=rig.reactor,
            timeouts=Timeouts(),
            random=Random(1),
            wall_s=lambda: NOW_S,
        )
        with pytest.raises(ConfigError, match="can not be listened at"):
            other.start(PeerEvents(lambda peer: None, lambda peer: None, lambda peer, data: None))

    play(scene)


def test_an_expired_certificate_makes_no_new_link() -> None:
    async def scene(rig: Rig) -> None:
        rig.now_s = rig.identities["n1"].expires_at_s + 1
        rig.set_members(*NAMES)
        await rig.until(lambda: "expired at" in rig.network("n1").link_state("n2")[1])
        assert rig.nodes["n1"].told == []

    play(scene)
