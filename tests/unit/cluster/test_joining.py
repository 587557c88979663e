"""Joining over real sockets: a token is good for one node, once, in time; what is lost is asked for again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred

from csvd.cluster.admission import Admission
from csvd.cluster.errors import ClusterError, CommandRefused, OutcomeUnknown, PeerUnreachable, RemoteError
from csvd.cluster.identity.certificate import NodeIdentity, check_certificate, fingerprint, make_cluster
from csvd.cluster.identity.token import JoinToken
from csvd.cluster.joining import Joined, Joining
from csvd.cluster.names import address_of_text, text_of_address
from csvd.cluster.network import PeerEvents
from csvd.cluster.peer import PeerNetwork
from csvd.cluster.register import Register
from csvd.cluster.register_members import Member
from csvd.cluster.timeouts import Timeouts
from csvd.errors import ConfigError
from tests.own_reactor import run

NOW_S = 1_800_000_000.0
TIMES = Timeouts()


class OneNodeCluster:
    """A register with one member, whose commands are carried out at once."""

    def __init__(self, member: Member) -> None:
        self.register = Register([member])
        self.submitted: list[dict[str, Any]] = []
        self.trouble: ClusterError | None = None

    async def submit(self, command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        self.submitted.append(command)
        answer = self.register.apply(command, None)
        if self.trouble is not None:
            raise self.trouble
        if not answer["ok"]:
            raise CommandRefused(answer["why"] if "why" in answer else str(answer))
        return answer


class Rig:
    """The cluster of n1 on a real port, and nodes that join it."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.now_s = NOW_S
        self.identity = make_cluster("east", ["n1"], now_s=NOW_S)["n1"]
        self.network = PeerNetwork(
            identity=self.identity,
            listen=("127.0.0.1", 0),
            reactor=reactor,
            timeouts=TIMES,
            random=Random(1),
            wall_s=lambda: self.now_s,
        )
        self.network.start(PeerEvents(lambda peer: None, lambda peer: None, lambda peer, data: None))
        address = text_of_address(self.network.address)
        self.cluster = OneNodeCluster(Member("n1", "n1", 1, address, (self.identity.fingerprint,), is_voter=True))
        self.admission = Admission(self.cluster, lambda: self.identity, lambda: self.now_s)
        self.admission.serve(self.network)
        self.tell()

    def tell(self) -> None:
        """What the cluster does when its register changes."""
        self.network.set_members(
            {
                node: (address_of_text(member.address), member.fingerprints)
                for node, member in self.cluster.register.members.items()
            }
        )

    async def token(self, **options: Any) -> JoinToken:
        made = await self.admission.create_token(**options)
        return JoinToken.parse(made["token"])

    async def join(
        self, token: JoinToken, key: Ed25519PrivateKey, *, node: str = "n2", has_asked: bool = False
    ) -> Joined:
        joining = Joining(
            self.reactor,
            token,
            key,
            has_asked=has_asked,
            node=node,
            address=f"127.0.0.1:{7000 + int(node[1:])}",
            wall_s=lambda: self.now_s,
            timeouts=TIMES,
        )
        try:
            return await joining.join()
        finally:
            self.tell()


Scene = Callable[[Rig], Coroutine[Deferred[Any], Any, None]]


def play(scene: Scene) -> None:
    async def work(reactor: Any) -> None:
        rig = Rig(reactor)
        try:
            await scene(rig)
        finally:
            await rig.network.stop()

    run(work, time_limit_s=60)


async def refused(joining: Coroutine[Any, Any, Any], kind: type[Exception], *words: str) -> None:
    outcome: object = None
    try:
        await joining
    except kind as error:
        outcome = error
    assert isinstance(outcome, kind), "it was let in"
    for word in words:
        assert word in str(outcome)


def test_a_node_joins_by_a_token_and_gets_what_a_member_has() -> None:
    async def scene(rig: Rig) -> None:
        key = Ed25519PrivateKey.generate()
        joined = await rig.join(await rig.token(), key)
        assert check_certificate(joined.identity.certificate, rig.identity.authority.certificate, now_s=NOW_S) == "n2"
        assert joined.identity.authority.fingerprint == rig.identity.authority.fingerprint
        assert joined.identity.data_key == rig.identity.data_key
        member = rig.cluster.register.members["n2"]
        assert (member.fingerprints, member.number, member.is_voter) == ((fingerprint(key.public_key()),), 2, False)
        assert joined.members["n2"] == ("127.0.0.1:7002", member.fingerprints)
        assert joined.members["n1"][1] == (rig.identity.fingerprint,)
        assert rig.admission.tokens() == []

    play(scene)


def test_a_witness_joins_by_a_token_for_one() -> None:
    async def scene(rig: Rig) -> None:
        token = await rig.token(is_witness=True)
        assert token.is_witness
        await rig.join(token, Ed25519PrivateKey.generate())
        assert rig.cluster.register.members["n2"].is_witness

    play(scene)


def test_a_token_is_good_for_one_key_once() -> None:
    async def scene(rig: Rig) -> None:
        token = await rig.token()
        await rig.join(token, Ed25519PrivateKey.generate())
        await refused(rig.join(token, Ed25519PrivateKey.generate(), node="n3"), PeerUnreachable, "does not let this")
        assert set(rig.cluster.register.members) == {"n1", "n2"}

    play(scene)


def test_two_that_join_by_one_token_at_once_do_not_both_get_in() -> None:
    async def scene(rig: Rig) -> None:
        token = await rig.token()
        names = ("n2", "n3")
        outcomes: list[object] = []
        asking = [Deferred.fromCoroutine(rig.join(token, Ed25519PrivateKey.generate(), node=node)) for node in names]
        for one in asking:
            try:
                outcomes.append(await one)
            except (PeerUnreachable, RemoteError) as error:
                outcomes.append(error)
        assert sum(isinstance(outcome, Joined) for outcome in outcomes) == 1
        assert len(rig.cluster.register.members) == 2

    play(scene)


def test_a_node_whose_answer_was_lost_asks_again_by_its_own_key_and_is_answered_the_same() -> None:
    async def scene(rig: Rig) -> None:
        token, key = await rig.token(), Ed25519PrivateKey.generate()
        first = await rig.join(token, key)
        again = await rig.join(token, key, has_asked=True)
        assert again.identity.fingerprint == first.identity.fingerprint
        assert again.identity.data_key == first.identity.data_key
        assert again.members == first.members
        rig.now_s += 7200
        await rig.join(token, key, has_asked=True)
        assert [command["op"] for command in rig.cluster.submitted] == ["token_add", "member_join"]
        await refused(rig.join(token, key, node="n5", has_asked=True), RemoteError, "another name")

    play(scene)


def test_an_outcome_that_is_not_known_is_asked_for_again() -> None:
    async def scene(rig: Rig) -> None:
        token, key = await rig.token(), Ed25519PrivateKey.generate()
        rig.cluster.trouble = OutcomeUnknown("the leader is gone")
        submit = rig.cluster.submit

        async def submit_and_tell(command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
            try:
                return await submit(command, timeout_s=timeout_s)
            finally:
                rig.tell()

        rig.cluster.submit = submit_and_tell  # type: ignore[method-assign]
        joined = await rig.join(token, key)
        assert joined.identity.node == "n2"

    play(scene)


def test_an_expired_a_revoked_and_a_forged_token_let_nobody_in() -> None:
    async def scene(rig: Rig) -> None:
        key = Ed25519PrivateKey.generate()
        token = await rig.token(life_s=600)
        rig.now_s += 601
        await refused(rig.join(token, key), ConfigError, "has expired")
        # A joining node whose clock is behind is refused by the member's.
        is_token = rig.admission.is_token(token.id)
        assert not is_token
        rig.now_s = NOW_S
        revoked = await rig.token()
        assert (await rig.admission.revoke_token(revoked.id[:8]))["id"] == revoked.id
        await refused(rig.join(revoked, key), PeerUnreachable, "does not let this node in")
        forged = JoinToken.make(
            cluster="east",
            addresses=list(token.addresses),
            authority=token.authority,
            expires_at_s=int(NOW_S) + 600,
        )
        await refused(rig.join(forged, key), PeerUnreachable, "does not let this node in")
        assert set(rig.cluster.register.members) == {"n1"}

    play(scene)


def test_a_token_that_expires_between_the_handshake_and_the_command_is_refused() -> None:
    async def scene(rig: Rig) -> None:
        token = await rig.token(life_s=600)
        submit = rig.cluster.submit

        async def late(command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
            return await submit({**command, "at_s": token.expires_at_s}, timeout_s=timeout_s)

        rig.cluster.submit = late  # type: ignore[method-assign]
        await refused(rig.join(token, Ed25519PrivateKey.generate()), RemoteError, "has expired")

    play(scene)


def test_a_node_that_joins_talks_to_no_other_cluster_than_the_tokens() -> None:
    async def scene(rig: Rig) -> None:
        other = make_cluster("east", ["n1"], now_s=NOW_S)["n1"].authority.fingerprint
        token = await rig.token()
        wrong = JoinToken(token.cluster, token.addresses, other, token.expires_at_s, False, token.seed)
        await refused(rig.join(wrong, Ed25519PrivateKey.generate()), PeerUnreachable, "not of the cluster")
        assert set(rig.cluster.register.members) == {"n1"}

    play(scene)


def test_a_name_that_is_taken_and_a_name_that_is_none_are_refused() -> None:
    async def scene(rig: Rig) -> None:
        token = await rig.token()
        await refused(rig.join(token, Ed25519PrivateKey.generate(), node="n1"), RemoteError, "n1")
        joining = Joining(
            rig.reactor,
            token,
            Ed25519PrivateKey.generate(),
            has_asked=False,
            node="Not A Name",
            address="127.0.0.1:7009",
            wall_s=lambda: NOW_S,
            timeouts=TIMES,
        )
        await refused(joining.join(), RemoteError)
        assert set(rig.cluster.register.members) == {"n1"}

    play(scene)


def test_a_member_that_is_evicted_can_not_ask_again() -> None:
    async def scene(rig: Rig) -> None:
        token, key = await rig.token(), Ed25519PrivateKey.generate()
        await rig.join(token, key)
        rig.cluster.register.apply({"op": "member_remove", "id": "n2"}, None)
        rig.tell()
        await refused(rig.join(token, key, has_asked=True), PeerUnreachable, "does not let this node in")

    play(scene)


def test_the_next_address_is_asked_when_one_is_dead() -> None:
    async def scene(rig: Rig) -> None:
        token = await rig.token()
        more = JoinToken(
            token.cluster,
            (("127.0.0.1", 1), *token.addresses),
            token.authority,
            token.expires_at_s,
            False,
            token.seed,
        )
        assert (await rig.join(more, Ed25519PrivateKey.generate())).identity.node == "n2"

    play(scene)


@pytest.mark.parametrize("params", [{}, {"node": 1}, {"node": "n2", "address": "h:1", "request": "nonsense"}])
def test_a_request_that_is_none_is_refused(params: dict[str, Any]) -> None:
    identity: NodeIdentity = make_cluster("east", ["n1"], now_s=NOW_S)["n1"]
    cluster = OneNodeCluster(Member("n1", "n1", 1, "h:1", (identity.fingerprint,), is_voter=True))
    admission = Admission(cluster, lambda: identity, lambda: NOW_S)
    with pytest.raises(ClusterError):
        asyncio.run(admission.join("ab" * 32, params))
    assert cluster.submitted == []


def test_tokens_are_listed_without_what_they_are_made_of_and_need_an_address() -> None:
    identity = make_cluster("east", ["n1"], now_s=NOW_S)["n1"]
    cluster = OneNodeCluster(Member("n1", "n1", 1, "h:1", (identity.fingerprint,), is_voter=True))
    admission = Admission(cluster, lambda: identity, lambda: NOW_S)
    made = asyncio.run(admission.create_token())
    assert made["token"] not in str(admission.tokens())
    assert admission.tokens() == [{key: value for key, value in made.items() if key != "token"}]
    with pytest.raises(CommandRefused, match="can not live"):
        asyncio.run(admission.create_token(life_s=1))
    with pytest.raises(CommandRefused, match="no such token"):
        asyncio.run(admission.revoke_token("0000"))
    alone = OneNodeCluster(Member("n1", "n1", 1, "", (identity.fingerprint,), is_voter=True))
    with pytest.raises(CommandRefused, match="none of the cluster listens"):
        asyncio.run(Admission(alone, lambda: identity, lambda: NOW_S).create_token())
