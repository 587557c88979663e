"""Who votes: promoted and removed, one at a time, also the leader itself; and those who are not there meanwhile."""

from __future__ import annotations

import pytest
from twisted.python.failure import Failure

from csvd.cluster import election
from csvd.cluster.beginning import begin_joining
from csvd.cluster.election import NotLeader
from csvd.cluster.errors import ClusterError, PeerMessageError
from csvd.cluster.raft_messages import AppendEntries, RequestVote, ResponseVote, decode, encode
from csvd.cluster.voters import CHANGE, encode_change
from tests.unit.cluster.election_rig import Rig
from tests.unit.cluster.simulated_files import SimulatedFiles


def voters(rig: Rig) -> list[set[str]]:
    return [set(node.election.voters) for node in rig.nodes.values()]


def joined(rig: Rig, name: str) -> None:
    """Add a node and have it learn all there is."""
    rig.add(name)
    rig.commit(b"join:" + name.encode())
    rig.run_until(lambda: name in rig.leader().election.caught_up)


def test_a_node_that_joins_learns_all_and_is_not_counted() -> None:
    rig = Rig(1)
    rig.commit(b"one")
    joined(rig, "n2")
    rig.run(0.2)
    assert rig.nodes["n2"].ledger.commands == [b"one", b"join:n2"]
    assert voters(rig) == [{"n1"}, {"n1"}]
    rig.kill("n2")
    assert rig.commit(b"two") == 3


def test_a_node_that_joins_gets_the_first_state_of_a_cluster_that_has_done_nothing() -> None:
    rig = Rig(1)
    rig.leader()
    rig.add("n2")
    rig.run(0.3)
    assert rig.nodes["n2"].ledger.voters == {"n1"}
    assert rig.leader().name == "n1"


def test_one_node_becomes_two_without_a_moment_in_which_it_does_not_lead_or_commit() -> None:
    rig = Rig(1)
    term = rig.leader().election.term
    longest_s = 0.0
    for number in range(40):
        if number == 10:
            rig.add("n2")
        if number == 25:
            rig.run_until(lambda: "n2" in rig.leader().election.caught_up)
            assert rig.change("n1", "n2") == 26
        begin_s = rig.clock.seconds()
        rig.commit(b"%d" % number)
        longest_s = max(longest_s, rig.clock.seconds() - begin_s)
    assert longest_s < 0.05
    assert rig.leader().election.term == term
    rig.run(0.2)
    assert voters(rig) == [{"n1", "n2"}] * 2
    assert rig.nodes["n1"].ledger.commands == rig.nodes["n2"].ledger.commands


def test_a_node_that_joined_and_votes_is_counted_from_the_moment_that_it_is_in_the_log() -> None:
    rig = Rig(1)
    joined(rig, "n2")
    leader = rig.leader()
    rig.disconnect("n1", "n2")
    outcomes: list[object] = []
    leader.election.propose_voters(frozenset({"n1", "n2"}), b"voters:n1,n2").addBoth(outcomes.append)
    rig.run(0.3)
    assert leader.election.voters == {"n1", "n2"}
    assert leader.ledger.voters == {"n1"}
    assert outcomes == []
    rig.heal()
    rig.run(1)
    assert voters(rig) == [{"n1", "n2"}] * 2
    rig.commit(b"x")


def test_a_node_that_only_learns_or_knows_nobody_never_stands_for_election() -> None:
    rig = Rig(1)
    joined(rig, "n2")
    rig.add("n3")
    rig.disconnect("n1", "n3")
    rig.kill("n1")
    rig.run(5)
    assert not any(isinstance(decode(data), RequestVote) for _, _, data in rig.sent)
    assert rig.leaders() == []


def test_a_node_that_knows_nobody_gives_no_vote() -> None:
    rig = Rig(1)
    rig.add("n2")
    rig.disconnect("n1", "n2")
    fresh = SimulatedFiles()
    begin_joining(fresh, "n3", now_ms=0)
    rig.names.append("n3")
    node = rig.start("n3", fresh)
    rig.disconnect("n1", "n3")
    before = len(rig.sent)
    node.election.received("n2", encode(RequestVote(9, 9, 9)))
    rig.run(0.1)
    assert not any(isinstance(decode(data), ResponseVote) for _, _, data in rig.sent[before:])


def test_three_nodes_become_five_and_then_one() -> None:
    rig = Rig(3)
    names = {"n1", "n2", "n3"}
    for name in ("n4", "n5"):
        joined(rig, name)
        names.add(name)
        assert not isinstance(rig.change(*names), Failure)
    rig.run(0.3)
    assert voters(rig) == [{"n1", "n2", "n3", "n4", "n5"}] * 5
    while len(names) > 1:
        leader = rig.leader().name
        gone = next(name for name in sorted(names) if name != leader)
        names.remove(gone)
        assert not isinstance(rig.change(*names), Failure)
        rig.kill(gone)
        rig.names.remove(gone)
    rig.commit(b"alone")
    assert rig.leader().election.voters == names


def test_a_leader_that_removes_itself_leads_until_it_is_committed_and_is_followed_by_another() -> None:
    rig = Rig(3)
    rig.commit(b"one")
    old = rig.leader()
    rest = {"n1", "n2", "n3"} - {old.name}
    assert rig.change(*rest) == 2
    assert old.ledger.voters == rest
    rig.run_until(lambda: not old.election.is_leader, limit_s=0.1)
    took_s = rig.run_until(lambda: len(rig.leaders()) == 1)
    assert took_s < 1.5
    assert rig.leader().name in rest
    rig.commit(b"two")
    rig.run(3)
    assert rig.leader().name in rest
    assert all(node.ledger.commands == [b"one", rig.leader().ledger.commands[1], b"two"] for node in rig.nodes.values())


@pytest.mark.parametrize("reachable", [0, 1, 2])
def test_a_leader_that_removes_itself_from_three_does_not_count_itself(reachable: int) -> None:
    rig = Rig(3)
    rig.commit(b"one")
    rig.run(0.2)
    old = rig.leader()
    others = [name for name in rig.names if name != old.name]
    for name in others[reachable:]:
        rig.disconnect(old.name, name)
    old.election.propose_voters(frozenset(others), b"voters:" + ",".join(others).encode()).addErrback(lambda _: None)
    rig.run(0.2)
    assert (old.ledger.commands[-1:] != [b"one"]) == (reachable == 2)


def test_a_dead_node_is_removed() -> None:
    rig = Rig(3)
    dead = rig.followers()[0].name
    rig.kill(dead)
    rest = {"n1", "n2", "n3"} - {dead}
    rig.change(*rest)
    rig.run(0.2)
    assert voters(rig) == [rest] * 2


def test_the_witness_of_two_nodes_lets_either_of_them_die_and_be_replaced() -> None:
    rig = Rig(2)
    joined(rig, "w")
    rig.change("n1", "n2", "w")
    rig.kill("n1")
    rig.run_until(lambda: len(rig.leaders()) == 1)
    rig.commit(b"one")
    rig.change("n2", "w")
    rig.names.remove("n1")
    joined(rig, "n3")
    assert not isinstance(rig.change("n2", "n3", "w"), Failure)
    rig.run(0.3)
    assert voters(rig) == [{"n2", "n3", "w"}] * 3


def test_a_node_that_was_removed_while_it_was_away_changes_nothing_when_it_is_back() -> None:
    rig = Rig(3)
    away = rig.followers()[0].name
    disk = rig.kill(away)
    rest = sorted({"n1", "n2", "n3"} - {away})
    rig.change(*rest)
    rig.run(0.3)
    term = rig.leader().election.term
    # Its links are refused by all that have applied its removal.
    rig.refuses = lambda one, other: away in (one, other)
    node = rig.start(away, disk)
    rig.run(5)
    assert node.election.voters == {"n1", "n2", "n3"}
    assert node.election.term <= term
    assert rig.leader().election.term == term


def test_two_changes_at_once_are_refused() -> None:
    rig = Rig(3)
    joined(rig, "n4")
    joined(rig, "n5")
    leader = rig.leader()
    for name in rig.names:
        if name != leader.name:
            rig.disconnect(leader.name, name)
    refused: list[Failure] = []
    leader.election.propose_voters(frozenset({"n1", "n2", "n3", "n4"}), b"voters:n1,n2,n3,n4").addErrback(
        lambda _: None
    )
    rig.run(0.1)
    assert leader.election.voters == {"n1", "n2", "n3", "n4"}
    leader.election._outstanding = None
    change = frozenset({"n1", "n2", "n3", "n4", "n5"})
    leader.election.propose_voters(change, b"voters:n1,n2,n3,n4,n5").addErrback(refused.append)
    assert isinstance(refused[0].value, NotLeader)
    with pytest.raises(AssertionError):
        leader.election.propose_voters(frozenset({"n1", "n2"}), b"voters:n1,n2")


def test_a_leader_that_has_not_committed_in_its_term_changes_no_voters() -> None:
    rig = Rig(3)
    refused: list[Failure] = []

    def look() -> bool:
        for node in rig.nodes.values():
            if node.election.is_leader and not node.election.is_established:
                node.election.propose_voters(frozenset({"n1", "n2"}), b"voters:n1,n2").addErrback(refused.append)
                return True
        return False

    rig.run_until(look)
    assert isinstance(refused[0].value, NotLeader)


def test_a_change_that_was_not_committed_is_undone_with_its_entry() -> None:
    rig = Rig(3)
    rig.commit(b"one")
    old = rig.leader()
    rest = {"n1", "n2", "n3"} - {old.name}
    removed = sorted(rest)[0]
    rig.isolate(old.name)
    kept = {"n1", "n2", "n3"} - {removed}
    old.election.propose_voters(frozenset(kept), b"voters:x").addErrback(lambda _: None)
    rig.run(0.05)
    assert old.election.voters == kept
    rig.run_until(lambda: len(rig.leaders()) == 1 and rig.leaders() != [old.name])
    rig.commit(b"two")
    rig.heal()
    rig.run(1)
    assert old.election.voters == {"n1", "n2", "n3"}
    assert old.ledger.commands == [b"one", b"two"]


def test_voters_are_those_of_the_journal_after_a_restart_also_when_the_change_is_not_applied() -> None:
    rig = Rig(3)
    joined(rig, "n4")
    leader = rig.leader()
    for name in rig.names:
        if name != leader.name:
            rig.disconnect(leader.name, name)
    changed = frozenset({"n1", "n2", "n3", "n4"})
    leader.election.propose_voters(changed, b"voters:n1,n2,n3,n4").addErrback(lambda _: None)
    rig.run(0.1)
    node = rig.start(leader.name, rig.kill(leader.name))
    assert node.election.voters == changed
    assert node.ledger.voters == {"n1", "n2", "n3"}


def test_voters_are_in_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "MAXIMUM_LOG_ENTRIES", 8)
    rig = Rig(3)
    joined(rig, "n4")
    rig.change("n1", "n2", "n3", "n4")
    for number in range(30):
        rig.commit(b"%d" % number)
    rig.run(0.3)
    late = rig.add("n5")
    rig.run(1)
    assert late.election.voters == {"n1", "n2", "n3", "n4"}
    follower = rig.followers()[0]
    again = rig.start(follower.name, rig.kill(follower.name))
    assert again.election.voters == {"n1", "n2", "n3", "n4"}


def test_a_node_that_comes_again_under_the_name_of_one_that_was_removed_is_not_taken_for_it() -> None:
    rig = Rig(3)
    gone = rig.followers()[0].name
    rest = sorted({"n1", "n2", "n3"} - {gone})
    rig.commit(b"one")
    rig.kill(gone)
    rig.change(*rest)
    rig.names.remove(gone)
    rig.tamper = lambda source, target, data: [] if source == gone else [data]
    rig.add(gone)
    rig.run(0.3)
    assert gone not in rig.leader().election.caught_up
    rig.tamper = lambda source, target, data: [data]
    rig.run_until(lambda: gone in rig.leader().election.caught_up)
    assert rig.nodes[gone].ledger.commands == rig.leader().ledger.commands


def test_votes_of_those_who_do_not_vote_do_not_count() -> None:
    rig = Rig(3)
    for name in ("n4", "n5"):
        joined(rig, name)
    lonely = rig.followers()[0]
    for name in ("n1", "n2", "n3"):
        rig.disconnect(lonely.name, name)
    # It stands for election, and the two that only learn give it their votes.
    before = lonely.election.term
    rig.run(3)
    term = lonely.election.term
    assert term > before
    for name in ("n4", "n5"):
        lonely.election.received(name, encode(ResponseVote(term)))
    rig.run(0.05)
    assert not lonely.election.is_leader


@pytest.mark.parametrize(
    "command",
    [
        bytes([CHANGE]),
        bytes([CHANGE]) + b"garbage",
        bytes([CHANGE]) + encode_change([], b""),
        bytes([CHANGE]) + encode_change(["n" * 64], b""),
        bytes([CHANGE]) + encode_change([f"n{number}" for number in range(33)], b""),
    ],
)
def test_a_change_of_the_voters_that_is_none_ends_the_link(command: bytes) -> None:
    rig = Rig(3)
    leader, follower = rig.leader(), rig.followers()[0]
    rig.run(0.2)
    _, index, term = follower.journal.entries[-1]
    forged = AppendEntries(leader.election.term, 0, index, term, [(command, index + 1, leader.election.term)])
    with pytest.raises(PeerMessageError, match="change of the voters"):
        follower.election.received(leader.name, encode(forged))
    assert not follower.failures


def test_a_change_that_the_state_does_not_follow_stops_the_node() -> None:
    rig = Rig(3)
    leader = rig.leader()
    gone = next(name for name in rig.names if name != leader.name)
    leader.election.propose_voters(frozenset(rig.names) - {gone}, b"nothing").addErrback(lambda _: None)
    rig.run(0.3)
    assert "do not have the same voters" in str(leader.failures[0])


def test_a_second_journal_is_not_begun_over_the_first() -> None:
    files = SimulatedFiles()
    begin_joining(files, "n1", now_ms=0)
    with pytest.raises(ClusterError, match="has a journal already"):
        begin_joining(files, "n1", now_ms=0)
