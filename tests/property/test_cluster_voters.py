"""Raft under random faults while nodes join, are made voters, and are removed, the leader itself among them.

Beside what csvd.cluster's Raft keeps always (tests/property/test_cluster_election.py): the sets of voters that are
committed are one apart, a node that was removed never leads, and when the faults stop the members have the same.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.cluster import election
from csvd.cluster.election import Election
from csvd.cluster.errors import PeerMessageError
from csvd.cluster.raft_peers import RaftPeers
from csvd.cluster.voters import VoterHistory
from tests.property.test_cluster_election import QUIET_S, Chaos
from tests.unit.cluster.election_rig import Ledger, Rig, RigNode
from tests.unit.cluster.simulated_files import SimulatedFiles

MAXIMUM_NODES = 7


class MembershipChaos(Chaos):
    """One run from one seed, with changes of the membership."""

    def __init__(self, seed: int, count: int, *, disk_s: float | None = None, kill_share: float = 0.4) -> None:
        super().__init__(seed, count, disk_s=disk_s, kill_share=kill_share)
        self.rig.refuses = self.refuses
        self.first_voters = frozenset(self.rig.names)
        self.last_name = count
        self.heard: dict[str, frozenset[str]] = {}
        self.changes = 0

    def refuses(self, one: str, other: str) -> bool:
        """Whether one of two nodes does not know the other as a member."""
        return any(
            source in self.rig.nodes
            and bool(self.rig.nodes[source].ledger.members)
            and target not in self.rig.nodes[source].ledger.members
            and target not in self.rig.nodes[source].election.voters  # the log names it, and needs it
            and target not in self.heard.get(source, ())
            for source, target in ((one, other), (other, one))
        )

    def hear_of_members(self) -> None:
        """A node without a leader asks those to whom it is linked (csvd.cluster.member_links)."""
        for name, node in self.rig.nodes.items():
            linked = node.election._peers.linked if node.election.leader is None else ()
            told = (self.rig.nodes[peer].ledger for peer in linked if peer in self.rig.nodes)
            further = (ledger.members for ledger in told if len(ledger.commands) > len(node.ledger.commands))
            self.heard[name] = frozenset().union(*further)

    def check(self) -> None:
        super().check()
        rig = self.rig
        for pair in list(rig.links):
            one, other = sorted(pair)
            if self.refuses(one, other):
                rig.disconnect(one, other)
        for name, node in rig.nodes.items():
            if node.election.is_leader and node.ledger.members and name not in node.ledger.members:
                assert node.election._history.index > node.election._raft.raftLastApplied or not node.ledger.voters

    def propose_some(self) -> None:
        for node in list(self.rig.nodes.values()):
            election_ = node.election
            if not election_.is_leader or election_._outstanding is not None:
                continue
            chance = self.random.random()
            if chance < 0.02:
                self.change_membership(node)
            elif chance < 0.3:
                self.propose(node)

    def change_membership(self, node: RigNode) -> None:
        """Have a leader try what its users or it itself may try at any time; what can not be now it has to refuse."""
        voters, members = node.election.voters, node.ledger.members
        learners = sorted(members - voters)
        choice = self.random.random()
        if choice < 0.35 and len(members) < MAXIMUM_NODES:
            self.join(node)
        elif choice < 0.7 and learners:
            caught_up = sorted(node.election.caught_up & set(learners))
            if caught_up:
                self.set_voters(node, voters | {self.random.choice(caught_up)})
        elif len(voters) > 1:
            self.set_voters(node, voters - {self.random.choice(sorted(voters))})

    def set_voters(self, node: RigNode, voters: frozenset[str]) -> None:
        command = b"voters:" + ",".join(sorted(voters)).encode()
        before = len(self.history)

        def changed(_: object) -> None:
            self.changes += 1
            assert command in self.history[before:] or command in node.ledger.commands

        node.election.propose_voters(voters, command).addCallbacks(changed, lambda failure: None)

    def join(self, node: RigNode) -> None:
        self.last_name += 1
        name = f"n{self.last_name}"

        def joined(_: object) -> None:
            self.rig.add(name)

        node.election.propose(b"join:" + name.encode()).addCallbacks(joined, lambda failure: None)

    def fault(self) -> None:
        if len(self.rig.names) > 1:
            super().fault()

    def run(self) -> None:
        rig = self.rig
        while rig.clock.seconds() < 8.0:
            rig.clock.advance(0.002)
            self.check()
            self.propose_some()
            self.fault()
        rig.delay_s = 0.001
        for name in list(self.dead):
            rig.start(name, self.dead.pop(name))
        end_s = rig.clock.seconds() + QUIET_S
        while rig.clock.seconds() < end_s:
            self.hear_of_members()
            rig.heal()
            for _ in range(50):
                rig.clock.advance(0.002)
                self.check()
        self.check_end()

    def check_end(self) -> None:
        rig = self.rig
        assert len(rig.leaders()) == 1
        leader = rig.leader()
        rig.commit(b"last")
        rig.run(0.5)
        self.check()
        # Whom a node that was away for so long knows may all be gone.
        linked = leader.election._peers.linked | {leader.name}
        members = [node for name, node in rig.nodes.items() if name in linked]
        assert len(linked & leader.ledger.voters) > len(leader.ledger.voters) / 2
        assert leader.name in leader.ledger.voters
        assert all(node.ledger.commands == self.history for node in members)
        assert all(node.election.voters == leader.ledger.voters for node in members)
        commands = [command for command in self.history if command.startswith(b"command")]
        assert self.acknowledged <= set(commands)
        assert len(set(commands)) == len(commands)
        self.check_sets()

    def check_sets(self) -> None:
        """The committed sets of voters, one after the other, are one apart."""
        ledger = Ledger(self.first_voters)
        for command in self.history:
            before = ledger.voters
            ledger.apply(command)
            assert len(before ^ ledger.voters) <= 1


@pytest.fixture(autouse=True)
def short_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compact often, so that voters are in snapshots that are made and installed all the time."""
    monkeypatch.setattr(election, "MAXIMUM_LOG_ENTRIES", 12)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.sampled_from([1, 2, 3, 3, 5]))
def test_members_come_and_go_whatever_fails_and_nothing_acknowledged_is_lost(seed: int, count: int) -> None:
    MembershipChaos(seed, count).run()


def test_a_run_changes_who_votes_many_times() -> None:
    changes = 0
    for seed in range(2):
        chaos = MembershipChaos(seed, 3)
        chaos.run()
        changes += chaos.changes
    assert changes >= 2


def own_removal_is_committed_by_one_of_two() -> bool:
    """A leader of three removes itself, and only one of the two that are left hears of it."""
    rig = Rig(3)
    rig.commit(b"one")
    rig.run(0.2)
    old = rig.leader()
    left = [name for name in rig.names if name != old.name]
    rig.disconnect(old.name, left[1])
    old.election.propose_voters(frozenset(left), b"voters:" + ",".join(left).encode()).addErrback(lambda _: None)
    rig.run(0.2)
    return old.ledger.commands[-1:] != [b"one"]


def test_a_leader_that_removes_itself_is_not_of_the_majority() -> None:
    assert not own_removal_is_committed_by_one_of_two()


def test_that_check_bites_when_a_node_that_does_not_vote_counts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_others(self: RaftPeers, voters: frozenset[str]) -> list[object]:
        return [self.node(name) for name in sorted(voters) if name != self._node]

    monkeypatch.setattr(RaftPeers, "others", all_others)
    assert own_removal_is_committed_by_one_of_two()


def a_change_outlives_its_entry() -> bool:
    """A leader that is cut off adds a voter; another one leads, and the log of the first is cut off below that."""
    rig = Rig(3)
    rig.add("n4")
    rig.run(0.3)
    old = rig.leader()
    rig.isolate(old.name)
    added = b"voters:n1,n2,n3,n4"
    old.election.propose_voters(frozenset(rig.names), added).addErrback(lambda _: None)
    rig.run_until(lambda: len(rig.leaders()) == 1 and rig.leaders() != [old.name])
    rig.commit(b"two")
    rig.heal()
    rig.run(1)
    assert old.ledger.commands == [b"two"]
    return old.election.voters != {"n1", "n2", "n3"}


def test_a_change_does_not_outlive_its_entry() -> None:
    assert not a_change_outlives_its_entry()


def test_that_check_bites_when_voters_stay_as_the_log_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VoterHistory, "cut", lambda self, index: False)
    assert a_change_outlives_its_entry()


def early_change(rig: Rig) -> bool:
    """Of four nodes one adds a fifth, unheard; another removes the first before it has committed in its term.

    Returns:
        Whether two sets of nodes have each had a majority of voters of its own.
    """
    rig.commit(b"one")
    first = rig.leader()
    others = [name for name in rig.names if name != first.name]
    rig.add("n5")
    rig.run(0.3)
    rig.isolate(first.name)
    rig.isolate("n5")
    rig.connect(first.name, "n5")
    added = b"voters:" + ",".join(sorted([*rig.names])).encode()
    first.election.propose_voters(frozenset(rig.names), added).addErrback(lambda _: None)
    rig.run(0.05)
    assert first.election.voters == set(rig.names)
    # One of the rest leads, and as soon as it does, before anything of its term is committed, it removes the first.
    refused: list[object] = []

    def removes() -> bool:
        for name in others:
            node = rig.nodes[name]
            if node.election.is_leader and not node.election.is_established:
                left = b"voters:" + ",".join(others).encode()
                node.election.propose_voters(frozenset(others), left).addErrback(refused.append)
                return True
        return False

    rig.run_until(removes)
    second = next(rig.nodes[name] for name in others if rig.nodes[name].election.is_leader)
    cut_off = next(name for name in others if name != second.name)
    rig.isolate(cut_off)
    rig.run(0.3)
    committed = list(second.ledger.commands)
    for name in others:
        if name != cut_off:
            rig.isolate(name)
    rig.connect(first.name, cut_off)
    rig.connect(cut_off, "n5")
    rig.connect(first.name, "n5")
    try:
        rig.run(4)
        rig.heal()
        rig.run(3)
    except PeerMessageError:
        return True
    failed = any(node.failures for node in rig.nodes.values())
    return failed or any(
        node.ledger.commands[: len(committed)] != committed for node in rig.nodes.values() if node.ledger.commands
    )


def test_a_leader_does_not_change_voters_before_it_has_committed_in_its_term() -> None:
    assert not any(early_change(Rig(4, seed=seed)) for seed in range(6))


def test_that_check_bites_when_a_leader_may_change_voters_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Election, "_may_change_voters", lambda self: self.is_leader)
    assert any(early_change(Rig(4, seed=seed)) for seed in range(6))


def test_a_power_cut_does_not_bring_back_voters_that_were_removed() -> None:
    rig = Rig(3, disk_s=0.01)
    gone = rig.followers()[0].name
    rest = sorted({"n1", "n2", "n3"} - {gone})
    rig.change(*rest)
    rig.run(0.5)
    for name in rest:
        files: SimulatedFiles = rig.nodes[name].files
        rig.kill(name)
        node = rig.start(name, files.after_power_cut(Random(3)))
        assert node.election.voters == set(rest)
