"""Raft around pysyncobj: on a clock of the test, with links and disks of the test."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import pysyncobj.pickle
import pytest
from twisted.python.failure import Failure

from csvd.cluster import election
from csvd.cluster.election import NotLeader
from csvd.cluster.errors import OutcomeUnknown, PeerMessageError
from csvd.cluster.journal import JOURNAL_NAME
from csvd.cluster.journal_records import JournalState, Snapshot, decode_file
from csvd.cluster.raft_messages import (
    AppendEntries,
    InstallSnapshot,
    NextIndex,
    RequestVote,
    ResponseVote,
    decode,
    encode,
)
from tests.unit.cluster.election_rig import Ledger, Rig, RigNode


def ledgers(rig: Rig) -> list[list[bytes]]:
    return [node.ledger.commands for node in rig.nodes.values()]


def test_three_nodes_elect_one_leader_that_has_committed_in_its_term() -> None:
    rig = Rig(3)
    leader = rig.leader()
    rig.run(1.0)
    assert [node.election.leader for node in rig.nodes.values()] == [leader.name] * 3
    assert leader.election.is_established
    assert leader.election.commit_index == 4


def test_a_command_is_applied_once_by_every_node_in_the_same_order() -> None:
    rig = Rig(3)
    assert [rig.commit(b"one"), rig.commit(b"two")] == [1, 2]
    rig.run(0.2)
    assert ledgers(rig) == [[b"one", b"two"]] * 3


def test_one_node_alone_leads_at_once_and_commits() -> None:
    rig = Rig(1, disk_s=0.005)
    assert rig.run_until(lambda: rig.leaders() == ["n1"]) < 0.05
    assert rig.commit(b"one") == 1


def test_one_node_alone_applies_nothing_before_it_is_durable() -> None:
    rig = Rig(1, disk_s=0.5)
    leader = rig.leader()
    rig.run_until(lambda: leader.journal.is_durable)
    leader.election.propose(b"one")
    rig.run(0.3)
    assert leader.ledger.commands == []
    rig.run(0.5)
    assert leader.ledger.commands == [b"one"]


def test_one_of_two_nodes_does_not_lead_without_the_other() -> None:
    rig = Rig(2)
    rig.disconnect("n1", "n2")
    rig.run(3)
    assert rig.leaders() == []


def test_a_node_that_does_not_lead_takes_no_command() -> None:
    rig = Rig(3)
    failures: list[Failure] = []
    rig.followers()[0].election.propose(b"one").addErrback(failures.append)
    rig.run(0.5)
    assert isinstance(failures[0].value, NotLeader)
    assert ledgers(rig) == [[], [], []]


def test_a_leader_that_is_killed_is_followed_by_another_and_comes_back_as_a_follower() -> None:
    rig = Rig(3)
    rig.commit(b"before")
    old = rig.leader()
    disk = rig.kill(old.name)
    assert rig.run_until(lambda: len(rig.leaders()) == 1) < 1.0
    rig.commit(b"after")
    rig.start(old.name, disk)
    rig.run(1.0)
    assert rig.nodes[old.name].election.leader == rig.leader().name != old.name
    assert ledgers(rig) == [[b"before", b"after"]] * 3


def test_a_node_that_comes_back_does_not_disturb_the_leader() -> None:
    rig = Rig(3)
    follower = rig.followers()[0]
    disk = rig.kill(follower.name)
    rig.run(3)
    term = rig.leader().election.term
    for seed in range(5):
        rig.random.seed(seed)
        rig.start(follower.name, disk)
        rig.run(2)
        disk = rig.kill(follower.name)
    assert rig.leader().election.term == term


def test_a_node_that_was_cut_off_for_long_does_not_disturb_the_leader() -> None:
    rig = Rig(3)
    follower = rig.followers()[0]
    term = rig.leader().election.term
    rig.isolate(follower.name)
    rig.run(10)
    rig.heal()
    rig.run(2)
    assert rig.leader().election.term == term


def test_a_leader_without_its_majority_steps_down() -> None:
    rig = Rig(3)
    leader = rig.leader()
    rig.isolate(leader.name)
    rig.run(rig.timeouts.leader_fallback_s + 0.05)
    assert not leader.election.is_leader
    assert leader.election.leader is None


def test_a_leader_that_stood_still_reads_what_was_answered_before_it_steps_down() -> None:
    rig = Rig(3)
    leader = rig.leader()
    term = leader.election.term
    for _ in range(5):
        # Its answers of before are old when it goes on; the next are there a moment later.
        for node in rig.nodes.values():
            node.election._ticking.stop()
        rig.clock.advance(rig.timeouts.leader_fallback_s + 1)
        leader.election._tick()
        assert leader.election.is_leader
        for node in rig.nodes.values():
            node.election._ticking.start(rig.timeouts.tick_s)
        rig.run(0.5)
    assert leader.election.is_leader
    assert leader.election.term == term


def test_a_node_that_is_cut_off_knows_no_leader() -> None:
    rig = Rig(3)
    leader, follower = rig.leader(), rig.followers()[0]
    known: list[str | None] = []
    rig.run(0.2)
    known.append(follower.election.leader)
    rig.isolate(follower.name)
    known.append(follower.election.leader)
    rig.heal()
    rig.run(0.2)
    known.append(follower.election.leader)
    assert known == [leader.name, None, leader.name]


def test_a_command_of_a_leader_that_is_cut_off_has_an_unknown_outcome_and_is_not_applied_there() -> None:
    rig = Rig(3)
    leader = rig.leader()
    rig.isolate(leader.name)
    failures: list[Failure] = []
    leader.election.propose(b"lost").addErrback(failures.append)
    rig.run(rig.timeouts.leader_fallback_s + 0.05)
    assert isinstance(failures[0].value, OutcomeUnknown)
    rig.run_until(lambda: len(rig.leaders()) == 1)
    rig.commit(b"kept")
    rig.heal()
    rig.run(1.0)
    assert ledgers(rig) == [[b"kept"]] * 3


def test_a_process_that_stood_still_waits_for_its_leader_before_it_stands_for_election() -> None:
    rig = Rig(3)
    leader = rig.leader()
    term = leader.election.term
    # All clocks jump at once, as when the host's processes were stopped: nobody's silence means anything.
    rig.clock.advance(5.0)
    rig.run(3)
    assert leader.election.term <= term + 1
    assert len(rig.leaders()) == 1


def test_votes_and_entries_are_durable_before_a_message_that_depends_on_them_is_sent() -> None:
    rig = Rig(3, disk_s=0.02)
    seen: list[str] = []

    def look(source: str, target: str, data: bytes) -> Sequence[bytes]:
        node = rig.nodes[source]
        on_disk = JournalState(source)
        decode_file(node.files.durable(JOURNAL_NAME), on_disk)
        message = decode(data)
        match message:
            case RequestVote(term=term):
                seen.append("candidate")
                assert (on_disk.term, on_disk.vote) == (term, source)
            case ResponseVote(term=term):
                seen.append("voter")
                assert (on_disk.term, on_disk.vote) == (term, target)
            case NextIndex(success=True, next_index=next_index):
                seen.append("follower")
                assert on_disk.entries[-1][1] >= next_index - 1
            case AppendEntries(entries=entries) if entries:
                seen.append("leader")
                assert on_disk.entries[-1][1] >= entries[-1][1]
            case _:
                pass
        return [data]

    rig.tamper = look
    rig.commit(b"one")
    rig.kill(rig.leader().name)
    rig.commit(b"two")
    assert set(seen) == {"candidate", "voter", "follower", "leader"}


def test_a_vote_that_comes_twice_counts_once() -> None:
    rig = Rig(5)
    rig.tamper = lambda source, target, data: [data] * (20 if isinstance(decode(data), ResponseVote) else 1)
    for name in ("n3", "n4", "n5"):
        rig.isolate(name)
    rig.run(5)
    assert rig.leaders() == []


def test_a_vote_of_an_earlier_term_does_not_make_a_vote_count_again() -> None:
    rig = Rig(5)
    late: list[bytes] = []

    def tamper(source: str, target: str, data: bytes) -> Sequence[bytes]:
        if isinstance(decode(data), ResponseVote):
            late.append(data)
            return [data, encode(ResponseVote(0)), data, encode(ResponseVote(0)), data]
        return [data]

    rig.tamper = tamper
    for name in ("n3", "n4", "n5"):
        rig.isolate(name)
    rig.run(5)
    assert late
    assert rig.leaders() == []


def test_an_answer_to_an_earlier_term_is_dropped() -> None:
    rig = Rig(3)
    leader = rig.leader()
    follower = rig.followers()[0]
    rig.isolate(leader.name)
    leader.election.propose(b"never").addErrback(lambda failure: None)
    rig.run(0.1)
    late = NextIndex(leader.election.term - 1, leader.journal.entries[-1][1] + 1, reset=False, success=True)
    leader.election.received(follower.name, encode(late))
    rig.run(0.1)
    assert leader.ledger.commands == []


def test_an_answer_that_has_more_than_the_leader_sent_ends_the_link() -> None:
    rig = Rig(3)
    leader = rig.leader()
    with pytest.raises(PeerMessageError, match="more of the leader's log"):
        leader.election.received(
            rig.followers()[0].name, encode(NextIndex(leader.election.term, 99, reset=False, success=True))
        )


def test_a_message_that_comes_late_does_not_cut_off_entries_that_were_promised() -> None:
    rig = Rig(3)
    leader = rig.leader()
    follower = rig.followers()[0]
    for command in (b"one", b"two", b"three"):
        rig.commit(command)
    rig.run(0.3)
    log = list(follower.journal.entries)
    late = [data for _, target, data in rig.sent if target == follower.name and isinstance(decode(data), AppendEntries)]
    for data in late:
        follower.election.received(leader.name, data)
        assert follower.journal.entries == log
    rig.run(0.5)
    assert not follower.failures
    assert follower.ledger.commands == [b"one", b"two", b"three"]


def test_a_heartbeat_commits_nothing_beyond_what_it_speaks_of() -> None:
    rig = Rig(3)
    rig.commit(b"one")
    rig.run(0.3)
    old = rig.leader()
    other = rig.followers()[0]
    rig.isolate(old.name)
    old.election.propose(b"never").addErrback(lambda failure: None)
    rig.run(0.05)
    # The leader of a later term, which has committed as many entries, but others, says only that it is there.
    log = old.journal.entries
    previous = log[-2]
    old.election.received(other.name, encode(AppendEntries(old.election.term + 1, 99, previous[1], previous[2], [])))
    rig.run(0.05)
    assert log[-1][0] == b"\x00never"
    assert old.ledger.commands == [b"one"]


def lagging_follower(rig: Rig) -> RigNode:
    """A follower whose leader has compacted its log beyond what the follower has."""
    follower = rig.followers()[0]
    rig.isolate(follower.name)
    rig.run(1)
    for number in range(30):
        rig.commit(b"%d" % number)
    assert rig.leader().journal.snapshot is not None
    return follower


def test_a_follower_that_lags_too_far_gets_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "MAXIMUM_LOG_ENTRIES", 8)
    rig = Rig(3)
    follower = lagging_follower(rig)
    rig.heal()
    rig.run(2)
    assert follower.ledger.commands == [b"%d" % number for number in range(30)]
    assert any(isinstance(decode(data), InstallSnapshot) for _, target, data in rig.sent if target == follower.name)


def test_a_log_stays_short_and_a_restart_begins_with_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "MAXIMUM_LOG_ENTRIES", 8)
    rig = Rig(3)
    for number in range(40):
        rig.commit(b"%d" % number)
    rig.run(0.3)
    assert all(len(node.journal.entries) <= 10 for node in rig.nodes.values())
    name = rig.leader().name
    disk = rig.kill(name)
    restarted = rig.start(name, disk)
    assert len(restarted.ledger.commands) >= 30
    rig.run(1)
    assert ledgers(rig) == [[b"%d" % number for number in range(40)]] * 3


def test_long_commands_make_the_log_compact_before_it_has_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "MAXIMUM_LOG_BYTES", 20_000)
    rig = Rig(3)
    for _ in range(30):
        rig.commit(bytes(2000))
    rig.run(0.3)
    assert all(node.journal.log_bytes < 25_000 for node in rig.nodes.values())


def test_a_snapshot_message_commits_nothing_of_the_followers_own_log() -> None:
    rig = Rig(3)
    leader = rig.leader()
    follower = rig.followers()[0]
    message = InstallSnapshot(leader.election.term, Snapshot(b"", (b"\x01", 1, 0), (b"\x01", 2, 1)))
    assert message.to_pysyncobj()["commit_index"] == 0
    # The follower has an entry that was never committed.
    rig.isolate(leader.name)
    leader.election.propose(b"never").addErrback(lambda failure: None)
    rig.run(0.05)
    term, log = leader.election.term, leader.journal.entries
    snapshot = Snapshot(Ledger().take(), log[0], log[1])
    leader.election.received(follower.name, encode(InstallSnapshot(term + 1, snapshot)))
    rig.run(0.05)
    assert leader.ledger.commands == []
    assert leader.journal.entries[-1][0] == b"\x00never"


def test_a_snapshot_of_what_the_log_has_does_not_cut_the_log_off() -> None:
    rig = Rig(3)
    for number in range(5):
        rig.commit(b"%d" % number)
    rig.run(0.3)
    leader, follower = rig.leader(), rig.followers()[0]
    log = list(follower.journal.entries)
    old = Ledger()
    old.commands = [b"0"]
    snapshot = Snapshot(old.take(), log[1], log[2])
    follower.election.received(leader.name, encode(InstallSnapshot(leader.election.term, snapshot)))
    rig.run(0.3)
    assert follower.journal.entries == log
    assert follower.ledger.commands == [b"0", b"1", b"2", b"3", b"4"]


def test_a_snapshot_that_is_no_state_ends_the_link_and_changes_nothing() -> None:
    rig = Rig(3)
    rig.commit(b"one")
    leader, follower = rig.leader(), rig.followers()[0]
    snapshot = Snapshot(b"garbage", (b"\x01", 100, 1), (b"\x01", 101, 1))
    with pytest.raises(PeerMessageError, match="snapshot that is none"):
        follower.election.received(leader.name, encode(InstallSnapshot(leader.election.term, snapshot)))
    rig.commit(b"two")
    rig.run(0.3)
    assert ledgers(rig) == [[b"one", b"two"]] * 3


def test_a_leader_that_contradicts_what_is_committed_stops_the_node_instead_of_changing_history() -> None:
    rig = Rig(3)
    rig.commit(b"one")
    rig.run(0.3)
    leader, follower = rig.leader(), rig.followers()[0]
    term = leader.election.term + 1
    forged = AppendEntries(term, 5, 3, 1, [(b"\x00forged", 4, term)])
    follower.election.received(leader.name, encode(forged))
    assert "contradicts entry 4" in str(follower.failures[0])
    assert follower.election.failure is follower.failures[0]
    rig.run(1)
    assert follower.ledger.commands == [b"one"]


def test_a_disk_that_fails_ends_the_nodes_part_and_another_leads() -> None:
    rig = Rig(3)
    rig.commit(b"one")
    leader = rig.leader()
    leader.files.failing = "no space left on device"
    outcomes: list[object] = []
    leader.election.propose(b"two").addErrback(outcomes.append)
    rig.run(0.1)
    assert "no space left" in str(leader.failures[0])
    assert len(leader.failures) == 1
    assert isinstance(outcomes[0], Failure)
    assert isinstance(outcomes[0].value, OutcomeUnknown)
    assert not leader.election.is_leader
    rig.kill(leader.name)
    rig.run_until(lambda: len(rig.leaders()) == 1)
    rig.commit(b"three")
    assert all(commands[-1] == b"three" for commands in ledgers(rig) if commands[1:])


def test_a_node_that_is_stopped_says_and_does_nothing_more() -> None:
    rig = Rig(3)
    leader = rig.leader()
    failures: list[Failure] = []
    leader.election.propose(b"one").addErrback(failures.append)
    leader.election.stop()
    sent = len([1 for source, _, _ in rig.sent if source == leader.name])
    rig.run(0.5)
    assert isinstance(failures[0].value, OutcomeUnknown)
    assert len([1 for source, _, _ in rig.sent if source == leader.name]) == sent


def test_nothing_is_unpickled_and_no_descriptor_or_thread_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: object) -> object:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(election, "MAXIMUM_LOG_ENTRIES", 8)
    for name in ("load", "loads"):
        monkeypatch.setattr(pysyncobj.pickle, name, fail)
    before = (set(os.listdir("/proc/self/fd")), threading.active_count())
    rig = Rig(3)
    follower = lagging_follower(rig)
    rig.heal()
    rig.run(1)
    name = rig.leader().name
    rig.start(name, rig.kill(name))
    rig.run(1)
    assert len(follower.ledger.commands) == 30
    assert (set(os.listdir("/proc/self/fd")), threading.active_count()) == before


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x91\xa5vote?", b"\x80\x04\x95garbage", bytes(100)])
def test_what_is_no_message_of_raft_is_refused(data: bytes) -> None:
    rig = Rig(3)
    rig.leader()
    with pytest.raises(PeerMessageError):
        rig.nodes["n1"].election.received("n2", data)
    assert not rig.nodes["n1"].failures
