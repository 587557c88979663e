"""Raft under random faults: power cuts that lose or tear what was not synced, kills, partitions, delays, duplicates.

Whatever happens: one leader a term, no two nodes apply different commands in one place, no command that was
acknowledged is lost, none is applied twice; and when the faults stop there is one leader, and all nodes have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.cluster import durability, election
from csvd.cluster.errors import PeerMessageError
from csvd.cluster.journal_records import Entry
from csvd.cluster.raft_adapters import RaftLog
from csvd.cluster.raft_messages import AppendEntries
from csvd.cluster.timeouts import Timeouts
from tests.unit.cluster.election_rig import Rig, RigNode
from tests.unit.cluster.simulated_files import SimulatedFiles

FAULTS_S = 8.0
QUIET_S = 5.0
HASTY = Timeouts(election_minimum_s=0.4, election_maximum_s=0.8, leader_fallback_s=0.6)
"""Twice as many elections in the time of the faults as there are by the defaults."""


class Chaos:
    """One run from one seed."""

    def __init__(self, seed: int, count: int, disk_s: float | None = None, kill_share: float = 0.4) -> None:
        self.random = Random(seed)
        self.kill_share = kill_share
        disk_s = self.random.choice([0.0, 0.0005, 0.005]) if disk_s is None else disk_s
        self.rig = Rig(count, seed=seed, disk_s=disk_s, timeouts=HASTY)
        self.rig.tamper = self.duplicate_some
        self.dead: dict[str, SimulatedFiles] = {}
        self.history: list[bytes] = []
        self.acknowledged: set[bytes] = set()
        self.leader_of_term: dict[int, str] = {}
        self.commands = 0

    def duplicate_some(self, source: str, target: str, data: bytes) -> Sequence[bytes]:
        if self.random.random() < 0.01:
            self.rig.clock.callLater(self.random.uniform(0, 0.5), self.arrive_again, source, target, data)
        return [data]

    def arrive_again(self, source: str, target: str, data: bytes) -> None:
        if target in self.rig.nodes:
            self.rig.nodes[target].election.received(source, data)

    def run(self) -> None:
        rig = self.rig
        while rig.clock.seconds() < FAULTS_S:
            rig.clock.advance(0.002)
            self.check()
            self.propose_some()
            self.fault()
        rig.delay_s = 0.001
        for name in list(self.dead):
            rig.start(name, self.dead.pop(name))
        rig.heal()
        end_s = rig.clock.seconds() + QUIET_S
        while rig.clock.seconds() < end_s:
            rig.clock.advance(0.002)
            self.check()
        assert len(rig.leaders()) == 1
        rig.commit(b"last")
        rig.run(0.3)
        self.check()
        assert self.history[-1] == b"last"
        assert all(node.ledger.commands == self.history for node in rig.nodes.values())
        assert self.acknowledged <= set(self.history)
        assert len(set(self.history)) == len(self.history)

    def check(self) -> None:
        for name, node in self.rig.nodes.items():
            assert not node.failures
            if node.election.is_leader:
                assert self.leader_of_term.setdefault(node.election.term, name) == name, "two leaders in a term"
            commands = node.ledger.commands
            common = min(len(commands), len(self.history))
            assert commands[:common] == self.history[:common], "two histories"
            self.history.extend(commands[common:])

    def propose_some(self) -> None:
        for node in self.rig.nodes.values():
            if node.election.is_leader and node.election._outstanding is None and self.random.random() < 0.3:
                self.propose(node)

    def propose(self, node: RigNode) -> None:
        self.commands += 1
        command = b"command %d" % self.commands
        proposed = node.election.propose(command)
        proposed.addCallbacks(lambda _: self.acknowledged.add(command), lambda failure: None)

    def fault(self) -> None:
        rig, chance = self.rig, self.random.random()
        one, other = self.random.sample(list(rig.names), 2)
        if chance < 0.004 and one in rig.nodes:
            files = rig.nodes[one].files
            after_kill = rig.kill(one)
            self.dead[one] = (
                after_kill if self.random.random() < self.kill_share else files.after_power_cut(self.random)
            )
        elif chance < 0.012 and one in self.dead:
            rig.start(one, self.dead.pop(one))
        elif chance < 0.018:
            rig.disconnect(one, other)
        elif chance < 0.020:
            rig.isolate(one)
        elif chance < 0.030:
            rig.heal()
        elif chance < 0.032:
            rig.delay_s = self.random.choice([0.0005, 0.01, 0.1, 0.3])
        elif chance < 0.045:
            rig.delay_s = 0.001


@pytest.fixture(autouse=True)
def short_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compact often, so that snapshots are made and installed all the time."""
    monkeypatch.setattr(election, "MAXIMUM_LOG_ENTRIES", 12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.sampled_from([3, 3, 5]))
def test_no_acknowledged_command_is_lost_or_doubled_whatever_fails(seed: int, count: int) -> None:
    Chaos(seed, count).run()


def failing_seeds(seeds: Sequence[int], *, disk_s: float | None, kill_share: float) -> list[int]:
    """Those of some runs that show a fault."""
    failing = []
    for seed in seeds:
        try:
            Chaos(seed, 3, disk_s=disk_s, kill_share=kill_share).run()
        except (AssertionError, PeerMessageError):
            failing.append(seed)
    return failing


def test_a_slow_disk_and_power_cuts_lose_nothing() -> None:
    assert failing_seeds(range(10), disk_s=0.05, kill_share=0) == []


def test_the_checks_bite_when_messages_are_sent_before_the_journal_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(gate: durability.DurabilityGate, action: Callable[[], None]) -> None:
        action()
        gate.write()

    monkeypatch.setattr(durability.DurabilityGate, "pass_when_durable", at_once)
    assert failing_seeds(range(10), disk_s=0.05, kill_share=0)


def test_the_checks_bite_when_late_messages_cut_off_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_it_came(message: AppendEntries, log: Sequence[Entry]) -> AppendEntries:
        return message

    def cut(self: RaftLog, entryFrom: int) -> None:  # noqa: N803 - pysyncobj's name
        self._journal.cut(self._journal.entries[entryFrom][1])

    monkeypatch.setattr(election, "without_known_entries", as_it_came)
    monkeypatch.setattr(RaftLog, "deleteEntriesFrom", cut)
    assert failing_seeds(range(30), disk_s=None, kill_share=0.4)
