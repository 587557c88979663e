"""What must always hold of Raft and of the register, checked as it happens, on every node and over all of their lives.

One leader a term; one vote a term; logs that have an entry in common are the same up to it; what was committed stays,
and every later leader has it; what the nodes apply are prefixes of one history; the coordinator's epochs only grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from csvd.cluster.cluster import Cluster
from csvd.cluster.election import Election
from csvd.cluster.journal import Journal
from csvd.cluster.journal_records import Entry, Snapshot
from csvd.cluster.raft_messages import ResponseVote, decode
from csvd.cluster.register_fields import Answer
from csvd.cluster.replicated_register import ReplicatedRegister
from tests.sim.world import Violation

Place = tuple[int, int]
"""Of a command: the index of its entry, and its number in the batch."""

_decode_entry: Final = msgspec.msgpack.Decoder(list[tuple[str | None, dict[str, Any]]]).decode


@dataclass(slots=True)
class _Seen:
    """What was last seen of a node's Raft, so that only changes are looked at."""

    leads_term: int = 0
    term: int = 0


class RaftChecks:
    """The checks of all nodes of a cluster."""

    def __init__(self) -> None:
        self.leader_of_term: dict[int, str] = {}
        self.votes: dict[tuple[str, int], str] = {}
        self.entries: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.promises: dict[tuple[str, str], int] = {}
        self.committed: dict[int, Entry] = {}
        self.committed_by: dict[int, int] = {}
        """By index: the term in which it was known to be committed; it was in that term or an earlier one."""
        self.last_committed = 1
        self.coordinators: dict[int, str] = {}
        self.answers: dict[Place, Answer] = {}
        self.keys: set[str] = set()
        self.created: dict[str, int] = {}
        self._seen: dict[str, _Seen] = {}

    def stepped(self, node: str, election: Election) -> None:
        """A step of a node is over."""
        seen = self._seen.get(node)
        if seen is None:
            seen = self._seen[node] = _Seen()
        term = election.term
        if term < seen.term:
            raise Violation(f"{node} went from term {seen.term} back to term {term}")
        seen.term = term
        if election.is_leader and seen.leads_term != term:
            seen.leads_term = term
            other = self.leader_of_term.setdefault(term, node)
            if other != node:
                raise Violation(f"{node} leads in term {term}, and so does {other}")
            self._check_completeness(node, election._journal)

    def forget(self, node: str, *, durable_term: int) -> None:
        """A node starts again: its term is at least what it had made durable, and known to others."""
        self._seen[node] = _Seen(term=durable_term)

    def wiped(self, node: str) -> None:
        """A node has left the cluster and forgotten all: if it comes back, it comes as another."""
        self._seen[node] = _Seen()
        for key in [key for key in self.votes if key[0] == node]:
            del self.votes[key]
        for disk in [disk for name, disk in self.promises if name == node]:
            del self.promises[node, disk]

    def promised(self, node: str, disk: str, epoch: int) -> None:
        """A node says which epoch of a disk it has promised: it refuses all lower ones for ever."""
        before = self.promises.setdefault((node, disk), epoch)
        if epoch < before:
            raise Violation(f"{node} says that it has promised epoch {epoch}, and had promised epoch {before}")
        self.promises[node, disk] = epoch

    def sent(self, source: str, target: str, data: bytes) -> None:
        """A message of Raft leaves a node."""
        message = decode(data)
        if isinstance(message, ResponseVote):
            voted = self.votes.setdefault((source, message.term), target)
            if voted != target:
                raise Violation(f"{source} voted in term {message.term} for {voted} and for {target}")

    def appended(self, node: str, entry: Entry, previous_term: int) -> None:
        """A node added an entry to its log."""
        command, index, term = entry
        known = self.entries.setdefault((index, term), (command, previous_term))
        if known != (command, previous_term):
            raise Violation(f"{node}: entry {index} of term {term} differs from another node's, or what is before it")

    def dropped(self, node: str, entries: list[Entry]) -> None:
        """A node dropped entries off the end of its log."""
        for entry in entries:
            if self.committed.get(entry[1]) == entry:
                raise Violation(f"{node} drops entry {entry[1]} of term {entry[2]}, which is committed")

    def applied(self, node: str, entry: Entry, term: int) -> None:
        """A node in a term applies an entry."""
        self.committed_by.setdefault(entry[1], term)
        known = self.committed.setdefault(entry[1], entry)
        if known != entry:
            raise Violation(f"{node} applies {_short(entry)} where another node applied {_short(known)}")
        self.last_committed = max(self.last_committed, entry[1])

    def restored(self, node: str, snapshot: Snapshot) -> None:
        """A node takes over a snapshot."""
        known = self.committed.get(snapshot.last[1])
        if known is not None and known != snapshot.last:
            raise Violation(f"{node} takes a snapshot that ends with {_short(snapshot.last)}, not {_short(known)}")

    def answered(self, node: str, command: Mapping[str, Any], key: str | None, answer: Answer, place: Place) -> None:
        """A node applied a command of the register: the same answer on every node."""
        known = self.answers.setdefault(place, answer)
        if known != answer:
            raise Violation(f"{node} answers {command} by {answer}, and another node by {known}")
        if known is not answer or not answer["ok"]:
            return
        # So it is seen for the first time.
        if command["op"] == "claim_coordinator":
            if answer["epoch"] <= max(self.coordinators, default=0):
                raise Violation(f"epoch {answer['epoch']} of the coordinator comes after {max(self.coordinators)}")
            self.coordinators[answer["epoch"]] = answer["node"]
        if command["op"] == "guest_create" and key not in self.keys:
            self.created[command["name"]] = self.created.get(command["name"], 0) + 1
        if key is not None:
            self.keys.add(key)

    def _check_completeness(self, node: str, journal: Journal) -> None:
        """A new leader has all that was committed in earlier terms."""
        entries = journal.entries
        first = entries[0][1]
        for index in range(max(first, self.last_committed - 50), self.last_committed + 1):
            committed = self.committed.get(index)
            if committed is None or self.committed_by[index] >= journal.term:
                continue  # A leader of an earlier term, by votes that came late, need not have it.
            position = index - first
            if position >= len(entries) or entries[position] != committed:
                raise Violation(f"{node} leads in term {journal.term} without entry {index}, which is committed")


def _short(entry: Entry) -> str:
    return f"entry {entry[1]} of term {entry[2]} ({entry[0][:60]!r})"


class WatchedJournal(Journal):
    """The journal of a node under the checks; which node's, and whose checks, its files know."""

    def __init__(self, files: Any, node: str, *, now_ms: int) -> None:
        self._checks: RaftChecks = files.raft_checks
        self._node = node
        super().__init__(files, node, now_ms=now_ms)
        for before, entry in zip(self.entries, self.entries[1:], strict=False):
            self._checks.appended(node, entry, before[2])
        self._checks.forget(node, durable_term=self.term)

    def append(self, entry: Entry) -> None:
        """Add an entry."""
        if self.entries:
            self._checks.appended(self._node, entry, self.entries[-1][2])
        super().append(entry)

    def cut(self, index: int) -> None:
        """Drop entries."""
        if self.entries:
            self._checks.dropped(self._node, self.entries[max(0, index - self.entries[0][1]) :])
        super().cut(index)

    def install(self, snapshot: Snapshot) -> None:
        """Take a leader's snapshot."""
        self._checks.restored(self._node, snapshot)
        self._checks.dropped(self._node, [entry for entry in self.entries if entry[1] > snapshot.last[1]])
        super().install(snapshot)


class WatchedRegister(ReplicatedRegister):
    """The replicated register under the checks."""

    _checks: RaftChecks
    _cluster: Cluster

    def watch(self, checks: RaftChecks, cluster: Cluster) -> None:
        """Whose register it is, and what checks it."""
        self._checks = checks
        self._cluster = cluster

    def apply(self, command: bytes) -> list[Answer]:
        """Carry out an entry."""
        answers = super().apply(command)
        election, node = self._cluster._election, self._cluster.node
        assert election is not None
        index = int(election._raft.raftLastApplied) + 1
        entries = election._journal.entries
        self._checks.applied(node, entries[index - entries[0][1]], election.term)
        for number, ((key, fields), answer) in enumerate(zip(_decode_entry(command), answers, strict=True)):
            self._checks.answered(node, fields, key, answer, (index, number))
        return answers
