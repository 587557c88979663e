"""Making and joining a cluster on files: the order in which it is stored makes every crash one that can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.cluster import founding
from csvd.cluster.admission import Admission
from csvd.cluster.beginning import begin_cluster, founding_members
from csvd.cluster.errors import ClusterError, JournalError
from csvd.cluster.founding import Founder, found_cluster, join_cluster
from csvd.cluster.identity.certificate import NodeIdentity
from csvd.cluster.identity.files import has_identity, load_identity
from csvd.cluster.identity.joining_files import is_joining, load_first_members
from csvd.cluster.identity.token import JoinToken
from csvd.cluster.journal import JOURNAL_NAME, Journal
from csvd.cluster.names import address_of_text, text_of_address
from csvd.cluster.network import PeerEvents
from csvd.cluster.peer import PeerNetwork
from csvd.cluster.register_members import Member
from csvd.cluster.state_directory import StateDirectory
from csvd.cluster.timeouts import Timeouts
from csvd.errors import ConfigError
from tests.own_reactor import run
from tests.unit.cluster.test_joining import OneNodeCluster

NOW_S = 1_800_000_000.0


def test_the_first_node_is_a_voter_with_its_key_and_its_address(tmp_path: Path) -> None:
    identity = found_cluster(Founder(tmp_path, "n1", "h:1"), "east", now_s=NOW_S)
    assert load_identity(tmp_path).fingerprint == identity.fingerprint
    assert (identity.cluster, identity.node) == ("east", "n1")
    files = StateDirectory(tmp_path)
    journal = Journal(files, "n1", now_ms=1)
    assert journal.snapshot is not None
    assert identity.fingerprint.encode() in journal.snapshot.state
    assert b"h:1" in journal.snapshot.state
    files.close()


def test_a_node_is_of_one_cluster_only(tmp_path: Path) -> None:
    found_cluster(Founder(tmp_path, "n1", "h:1"), "east", now_s=NOW_S)
    with pytest.raises(ConfigError, match="n1 of cluster east already"):
        found_cluster(Founder(tmp_path, "n1", "h:1"), "west", now_s=NOW_S)


@pytest.mark.parametrize(("cluster", "node"), [("", "n1"), ("no spaces", "n1"), ("x" * 64, "n1"), ("east", "N 1")])
def test_names_that_can_not_be_are_refused(tmp_path: Path, cluster: str, node: str) -> None:
    with pytest.raises(ConfigError, match="can not be the name"):
        found_cluster(Founder(tmp_path, node, "h:1"), cluster, now_s=NOW_S)
    assert not has_identity(tmp_path)


def test_a_node_that_ran_by_itself_keeps_its_journal(tmp_path: Path) -> None:
    files = StateDirectory(tmp_path)
    begin_cluster(files, "n1", founding_members({"n1": ""}), now_ms=1)
    before = Journal(files, "n1", now_ms=2).snapshot
    files.close()
    with pytest.raises(JournalError, match="belongs to node n1"):
        found_cluster(Founder(tmp_path, "n2", "h:1"), "east", now_s=NOW_S)
    found_cluster(Founder(tmp_path, "n1", "h:1"), "east", now_s=NOW_S)
    files = StateDirectory(tmp_path)
    assert Journal(files, "n1", now_ms=3).snapshot == before
    files.close()


def test_a_state_directory_that_is_in_use_is_one_clear_error(tmp_path: Path) -> None:
    files = StateDirectory(tmp_path)
    with pytest.raises(ConfigError, match="another process uses it"):
        found_cluster(Founder(tmp_path, "n1", "h:1"), "east", now_s=NOW_S)
    files.close()


class Rig:
    """A cluster of one on a real port, and the directories of two hosts."""

    def __init__(self, reactor: Any, directory: Path) -> None:
        self.reactor = reactor
        self.identity = found_cluster(Founder(directory / "one", "n1", "h:1"), "east", now_s=NOW_S)
        self.network = PeerNetwork(
            identity=self.identity,
            listen=("127.0.0.1", 0),
            reactor=reactor,
            timeouts=Timeouts(),
            random=Random(1),
            wall_s=lambda: NOW_S,
        )
        self.network.start(PeerEvents(lambda peer: None, lambda peer: None, lambda peer, data: None))
        address = text_of_address(self.network.address)
        self.cluster = OneNodeCluster(Member("n1", "n1", 1, address, (self.identity.fingerprint,), is_voter=True))
        self.admission = Admission(self.cluster, lambda: self.identity, lambda: NOW_S)
        self.admission.serve(self.network)
        self.founder = Founder(directory / "two", "n2", "h:2")

    async def token(self) -> JoinToken:
        return JoinToken.parse((await self.admission.create_token())["token"])

    async def join(self, token: JoinToken) -> NodeIdentity:
        self.network.set_members(
            {
                node: (address_of_text(member.address), member.fingerprints)
                for node, member in self.cluster.register.members.items()
            }
        )
        return await join_cluster(self.founder, token, reactor=self.reactor, wall_s=lambda: NOW_S, timeouts=Timeouts())


def play(directory: Path, scene: Callable[[Rig], Coroutine[Deferred[Any], Any, None]]) -> None:
    async def work(reactor: Any) -> None:
        rig = Rig(reactor, directory)
        try:
            await scene(rig)
        finally:
            await rig.network.stop()

    run(work, time_limit_s=60)


class Crash(Exception):
    """The power is gone."""


def crashing(*arguments: object, **options: object) -> None:
    raise Crash


@pytest.mark.parametrize("step", ["asked", "answered", "journal"])
def test_a_join_that_crashes_is_done_again_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async def scene(rig: Rig) -> None:
        token = await rig.token()
        with monkeypatch.context() as patched:
            if step == "asked":
                patched.setattr(founding, "Joining", crashing)
            elif step == "answered":
                patched.setattr(founding, "begin_joining", crashing)
            else:
                patched.setattr(founding, "store_joined", crashing)
            with pytest.raises(Crash):
                await rig.join(token)
        assert not has_identity(rig.founder.directory)
        assert is_joining(rig.founder.directory)
        assert ("n2" in rig.cluster.register.members) == (step != "asked")
        identity = await rig.join(token)
        assert rig.cluster.register.members["n2"].fingerprints == (identity.fingerprint,)
        assert load_identity(rig.founder.directory).fingerprint == identity.fingerprint
        assert set(load_first_members(rig.founder.directory)) == {"n1", "n2"}
        assert (rig.founder.directory / JOURNAL_NAME).exists()
        assert (await rig.join(token)).fingerprint == identity.fingerprint

    play(tmp_path, scene)


def test_a_node_that_ran_by_itself_does_not_join_and_lose_its_register(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        files = StateDirectory(rig.founder.directory)
        begin_cluster(files, "n2", founding_members({"n2": ""}), now_ms=1)
        files.close()
        token = await rig.token()
        with pytest.raises(ClusterError, match="has run by itself"):
            await rig.join(token)
        assert set(rig.cluster.register.members) == {"n1"}

    play(tmp_path, scene)


def test_a_node_of_another_cluster_does_not_join(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        found_cluster(rig.founder, "west", now_s=NOW_S)
        token = await rig.token()
        with pytest.raises(ConfigError, match="n2 of cluster west already"):
            await rig.join(token)

    play(tmp_path, scene)
