"""What pysyncobj is given in place of its own journal, serializer, transport, poller and logger.

pysyncobj calls these by its own camelCase names; tests/unit/cluster/test_pysyncobj_names.py holds the names that we
rely on. Nothing here imports pysyncobj.
"""
# ruff: noqa: N802, N803 - the names are pysyncobj's

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.logger import Logger

from csvd.cluster.errors import JournalError
from csvd.cluster.journal import Journal
from csvd.cluster.journal_records import Entry, Snapshot
from csvd.cluster.voters import VoterHistory

# pysyncobj.SERIALIZER_STATE
_NOT_SERIALIZING: Final = 0
_SUCCESS: Final = 2


class RaftLog:
    """pysyncobj's journal interface over a Journal. Positions are counted from the log's first entry that is there.

    While `keeps_entries` is set nothing is dropped: pysyncobj drops all that comes after what a message speaks of, also
    where the message only came late.

    Args:
        journal: where the entries are.
        snapshots: what the log may begin with.
        last_applied: up to which entry the state machine has applied the log.
        history: told of all that may change who votes.
        state_voters: the voters of the state machine as it is now.
        voters_changed: called after another set of voters counts.
    """

    def __init__(
        self,
        journal: Journal,
        snapshots: Snapshots,
        last_applied: Callable[[], int],
        *,
        history: VoterHistory,
        state_voters: Callable[[], frozenset[str]],
        voters_changed: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._snapshots = snapshots
        self._last_applied = last_applied
        self._history = history
        self._state_voters = state_voters
        self._voters_changed = voters_changed
        self._entries_of_snapshot: list[Entry] = []
        self.keeps_entries = False

    def __len__(self) -> int:
        return len(self._journal.entries)

    def __getitem__(self, position: int | slice) -> Entry | list[Entry]:
        return self._journal.entries[position]

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Add an entry; the two of a snapshot that is being installed are there already."""
        entry = (bytes(command), idx, term)
        if self._entries_of_snapshot:
            if entry != self._entries_of_snapshot.pop(0):
                raise JournalError("an installed snapshot is not followed by its own entries")
            return
        self._journal.append(entry)
        if self._history.appended(entry):
            self._voters_changed()

    def clear(self) -> None:
        """pysyncobj does this only to install the snapshot that it has just taken from us."""
        snapshot = self._snapshots.take_received()
        self._journal.install(snapshot)
        self._entries_of_snapshot = [snapshot.previous, snapshot.last]
        self._history.installed(snapshot.last[1], self._state_voters())
        self._voters_changed()

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Drop all entries at a position and above; never one that was applied, as pysyncobj would."""
        if entryFrom >= len(self._journal.entries) or self.keeps_entries:
            return
        index = self._journal.entries[entryFrom][1]
        if index <= self._last_applied():
            raise JournalError(f"the leader's log contradicts entry {index}, which was committed and applied")
        self._journal.cut(index)
        if self._history.cut(index):
            self._voters_changed()

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Drop the entries below a position: the log is compacted to the snapshot that was taken there."""
        snapshot = self._snapshots.take_made()
        self._journal.compact(snapshot)
        self._history.compacted(snapshot.last[1])

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Note the term and the vote."""
        if (term, votedForNodeId) != (self._journal.term, self._journal.vote):
            self._journal.set_term(term, votedForNodeId)

    def getCurrentTerm(self) -> int:
        """The term of the last run."""
        return self._journal.term

    def getVotedForNodeId(self) -> str | None:
        """The vote of the last run, in its term."""
        return self._journal.vote

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Not kept: a node that starts again learns it from the leader, and what a snapshot has is committed."""

    def getRaftCommitIndex(self) -> int:
        """What is known to be committed at the start."""
        return self._journal.snapshot.last[1] if self._journal.snapshot else 1

    def onOneSecondTimer(self) -> None:
        """Nothing is late."""

    def _destroy(self) -> None:
        """The journal's owner closes it."""


class Snapshots:
    """pysyncobj's serializer interface: makes, gives and takes snapshots of the replicated state, in memory.

    Args:
        journal: holds the snapshot that is in force.
        take_state: the replicated state now, as bytes.
        restore_state: makes a state the replicated state.
    """

    _log = Logger()

    def __init__(
        self,
        journal: Journal,
        take_state: Callable[[], bytes],
        restore_state: Callable[[bytes], None],
    ) -> None:
        self._journal = journal
        self._take_state = take_state
        self._restore_state = restore_state
        self._made: Snapshot | None = None
        self._made_id = 0
        self._received: Snapshot | None = None

    def serialize(self, data: tuple[Any, Entry, Entry, Any], serializeID: int) -> None:
        """Make a snapshot: pysyncobj gives the last applied entry and the one before it, in this order."""
        self._made = Snapshot(self._take_state(), previous=data[2], last=data[1])
        self._made_id = serializeID

    def checkSerializing(self) -> tuple[int, int | None]:
        """Whether a snapshot was made; said once, and followed by a compaction of the log to it."""
        if self._made is None:
            return _NOT_SERIALIZING, None
        return _SUCCESS, self._made_id

    def take_made(self) -> Snapshot:
        """The snapshot that was made, for the compaction; not given twice."""
        made, self._made = self._made, None
        if made is None:
            raise JournalError("pysyncobj compacts the log without a snapshot")
        return made

    def getTransmissionData(self, transmissionID: object) -> tuple[Snapshot, bool, bool]:
        """The snapshot in force, in one piece: (data, is first, is last)."""
        snapshot = self._journal.snapshot
        if snapshot is None:
            raise JournalError("a snapshot is wanted of a log that begins with its first entry")
        return snapshot, True, True

    def setTransmissionData(self, data: tuple[Snapshot, bool, bool]) -> bool:
        """A snapshot came from the leader; whether it is to be installed.

        It is not where this log has the snapshot's last entry: then the log has all that the snapshot has, and perhaps
        entries after it that this node has promised to the leader to keep.
        """
        snapshot = data[0]
        first = self._journal.entries[0][1]
        position = snapshot.last[1] - first
        if position < len(self._journal.entries) and (
            position < 0 or self._journal.entries[position][2] == snapshot.last[2]
        ):
            return False
        self._received = snapshot
        return True

    def take_received(self) -> Snapshot:
        """The snapshot that was taken from the leader, to be installed in the journal; not given twice."""
        received, self._received = self._received, None
        if received is None:
            raise JournalError("pysyncobj clears the log without a snapshot")
        return received

    def deserialize(self) -> tuple[None, Entry, Entry, tuple[()]]:
        """Make the snapshot (received, else in force) the replicated state, and say which entries it ends with."""
        snapshot = self._received or self._journal.snapshot
        if snapshot is None:
            raise JournalError("pysyncobj loads a snapshot where there is none")
        self._restore_state(snapshot.state)
        return None, snapshot.last, snapshot.previous, ()

    def cancelTransmisstion(self, transmissionID: object) -> None:  # spelled so by pysyncobj
        """Nothing is under way: snapshots go in one piece."""


class RaftTransport:
    """pysyncobj's transport interface: hands its messages to `send`, and ours to its callbacks.

    Args:
        send: takes the name of the node and pysyncobj's message; whether there is a link to it.
    """

    ready = True

    def __init__(self, send: Callable[[str, Mapping[str, Any]], bool]) -> None:
        self._send = send
        self.received: Callable[[Any, Mapping[str, Any]], None] = lambda node, message: None
        self.connected: Callable[[Any], None] = lambda node: None
        self.disconnected: Callable[[Any], None] = lambda node: None

    def send(self, node: Any, message: Mapping[str, Any]) -> bool:
        """Send a message to a node."""
        return self._send(node.id, message)

    def setOnMessageReceivedCallback(self, callback: Callable[[Any, Mapping[str, Any]], None]) -> None:
        """What is to be called with each message."""
        self.received = callback

    def setOnNodeConnectedCallback(self, callback: Callable[[Any], None]) -> None:
        """What is to be called when there is a link."""
        self.connected = callback

    def setOnNodeDisconnectedCallback(self, callback: Callable[[Any], None]) -> None:
        """What is to be called when there is none any more."""
        self.disconnected = callback

    def setOnReadonlyNodeConnectedCallback(self, callback: object) -> None:
        """The nodes that only learn are told by csvd.cluster.raft_peers."""

    def setOnReadonlyNodeDisconnectedCallback(self, callback: object) -> None:
        """The nodes that only learn are told by csvd.cluster.raft_peers."""

    def setOnUtilityMessageCallback(self, message: str, callback: object) -> None:
        """pysyncobj's own administration is not reachable through csvd."""

    def tryGetReady(self) -> None:
        """It is."""

    def destroy(self) -> None:
        """The links belong to the node, not to pysyncobj."""


class NoPoller:
    """pysyncobj's poller interface with nothing to poll: its sockets are not used."""

    def subscribe(self, descr: int, callback: object, eventMask: int) -> None:
        """Refused: whatever wants a descriptor polled does not belong here."""
        raise JournalError("pysyncobj wants to poll a descriptor of its own")

    def poll(self, timeout: float) -> None:
        """Nothing to wait for."""


class NoPipe:
    """pysyncobj's PipeNotifier without a pipe: the node's loop calls the next tick itself."""

    def __init__(self, poller: NoPoller) -> None:
        """No descriptors are made."""

    def notify(self) -> None:
        """The caller of `propose` wakes the loop."""


class RaftLogger:
    """pysyncobj's `logging` logger, on Twisted's; what it swallows after logging stops the node instead.

    Args:
        failed: told the sentence of what pysyncobj caught and would go on after.
        keeps_entries: whether the log keeps what pysyncobj warns that it drops.
    """

    _log = Logger(namespace="csvd.cluster.pysyncobj")

    def __init__(self, failed: Callable[[str], None], keeps_entries: Callable[[], bool]) -> None:
        self._failed = failed
        self._keeps_entries = keeps_entries

    def info(self, text: str, *arguments: object) -> None:
        """A message of level info."""
        self._log.info("{text}", text=text % arguments)

    def warning(self, text: str, *arguments: object) -> None:
        """A message of level warning."""
        self._log.warn("{text}", text=text % arguments)

    def error(self, text: str, *arguments: object) -> None:
        """A message of level error."""
        self._log.error("{text}", text=text % arguments)

    def critical(self, text: str, *arguments: object) -> None:
        """A message of level critical: entries that were applied are about to be dropped."""
        if not self._keeps_entries():
            self._log.critical("{text}", text=text % arguments)

    def exception(self, text: str, *arguments: object) -> None:
        """An exception that pysyncobj caught: it would go on with a state that is not what it should be."""
        self._log.failure("{text}", text=text % arguments)
        self._failed(text % arguments)
