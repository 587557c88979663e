"""The journal: what a node must never forget of Raft (its log, its term, its vote), and when it is durable.

Changes are made in memory and counted by `position`; `take` gives what must be written next as a JournalWrite, whose
`run` blocks on the disk and may be called in a thread; `written` then moves `durable_position` up. Whoever sends a
message that depends on a change waits until `durable_position` has come to its position.

The log is kept small by *compaction*: a file with an image of the whole state (snapshot and the log's rest) is written
beside, synced, renamed over the journal, and the directory synced. Before the rename the old file holds everything that
was ever promised, after it the new one does; at no moment less (format: csvd.cluster.journal_records).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from twisted.logger import Logger

from csvd.cluster.errors import JournalError
from csvd.cluster.journal_records import (
    Append,
    Cut,
    Entry,
    Incarnation,
    JournalState,
    Record,
    Snapshot,
    Term,
    decode_file,
    encode_batch,
    encode_file,
)
from csvd.cluster.state_directory import Files, name_of_new, replace_file

JOURNAL_NAME: Final = "journal"
MAXIMUM_APPENDED_BYTES: Final = 4 * 1024 * 1024
"""A journal that has grown by more than this since its image is written anew with the next change."""


@dataclass(frozen=True, slots=True)
class JournalWrite:
    """What is to be made durable now."""

    files: Files
    position: int
    data: bytes
    offset_bytes: int | None  # None: the data takes the place of the whole journal

    def run(self) -> None:
        """Write and sync; blocks.

        Raises:
            JournalError: the disk refused. What is durable is then unknown, and the journal must not be used on.
        """
        if self.offset_bytes is not None:
            self.files.write(JOURNAL_NAME, self.offset_bytes, self.data)
            self.files.sync(JOURNAL_NAME)
            return
        replace_file(self.files, JOURNAL_NAME, self.data)


class Journal:
    """The journal of one node. Opening reads it, cuts a torn tail, and notes the start of a new incarnation."""

    _log = Logger()

    def __init__(self, files: Files, node: str, *, now_ms: int) -> None:
        """Open or make the journal; blocks.

        Args:
            files: the state directory.
            node: the name of this node; the journal of another node is refused.
            now_ms: the time of day. The incarnation is at least this, so that it grows even when the state was lost.

        Raises:
            JournalError: it is damaged, belongs to another node, or can not be read or written.
        """
        self._files = files
        self._state = JournalState(node)
        self._pending: list[Record] = []
        self._must_rewrite = False
        self._write: JournalWrite | None = None
        self._batch_number = 0
        self._end_bytes = 0
        self._image_bytes = 0
        self.position = 0
        self.durable_position = 0
        self._load()
        self._log_bytes = self._sum_log_bytes()
        self._change(Incarnation(max(self._state.incarnation + 1, now_ms)))
        self.flush()

    @property
    def incarnation(self) -> int:
        """The number of this run of the node; higher at every start."""
        return self._state.incarnation

    @property
    def term(self) -> int:
        """The current term of Raft."""
        return self._state.term

    @property
    def vote(self) -> str | None:
        """The node that this one voted for in the current term."""
        return self._state.vote

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot that the log begins with, or None when the log begins with the first entry."""
        return self._state.snapshot

    @property
    def entries(self) -> list[Entry]:
        """The log; not to be changed by the caller."""
        return self._state.entries

    @property
    def is_durable(self) -> bool:
        """Whether every change so far is durable."""
        return self.durable_position == self.position

    @property
    def length_bytes(self) -> int:
        """The length of the file as it is known to be written."""
        return self._end_bytes

    @property
    def log_bytes(self) -> int:
        """The length of all commands in the log."""
        return self._log_bytes

    def set_term(self, term: int, vote: str | None) -> None:
        """Note the current term and the vote in it."""
        self._change(Term(term, vote))

    def append(self, entry: Entry) -> None:
        """Add an entry to the end of the log."""
        self._change(Append(entry))
        self._log_bytes += len(entry[0])

    def cut(self, index: int) -> None:
        """Drop all entries with this index and above; entries of the snapshot can not be dropped (JournalError)."""
        self._change(Cut(index))
        self._log_bytes = self._sum_log_bytes()

    def compact(self, snapshot: Snapshot) -> None:
        """Let the log begin with a snapshot of what it has applied; the entries after it stay.

        Raises:
            JournalError: the log does not have the snapshot's two entries.
        """
        entries = self._state.entries
        begin = snapshot.previous[1] - entries[0][1]
        if begin < 0 or entries[begin : begin + 2] != [snapshot.previous, snapshot.last]:
            raise JournalError("a snapshot is not of this log", why=f"its last entry is {snapshot.last[1]}")
        self._replace(snapshot, entries[begin:])

    def install(self, snapshot: Snapshot) -> None:
        """Take a leader's snapshot in place of the whole log."""
        self._replace(snapshot, [snapshot.previous, snapshot.last])

    def take(self) -> JournalWrite | None:
        """What is to be written now, or None; one at a time: `written` comes before the next `take`."""
        assert self._write is None
        if self.is_durable:
            return None
        self._batch_number += 1
        if self._must_rewrite or self._end_bytes - self._image_bytes > MAXIMUM_APPENDED_BYTES:
            data = encode_file(self._batch_number, self._state.image())
            self._write = JournalWrite(self._files, self.position, data, None)
        else:
            data = encode_batch(self._batch_number, self._pending)
            self._write = JournalWrite(self._files, self.position, data, self._end_bytes)
        self._pending = []
        self._must_rewrite = False
        return self._write

    def written(self, write: JournalWrite) -> None:
        """The write that was taken last has run without an error."""
        assert write is self._write
        self._write = None
        self.durable_position = write.position
        self._end_bytes = len(write.data) + (write.offset_bytes or 0)
        if write.offset_bytes is None:
            self._image_bytes = self._end_bytes

    def flush(self) -> None:
        """Make everything durable now; blocks, and must not be called while a write is under way."""
        while (write := self.take()) is not None:
            write.run()
            self.written(write)

    def _change(self, record: Record) -> None:
        self._state.apply(record)
        self._pending.append(record)
        self.position += 1

    def _replace(self, snapshot: Snapshot, entries: list[Entry]) -> None:
        self._state.snapshot = snapshot
        self._state.entries = entries
        self._log_bytes = self._sum_log_bytes()
        self._pending = []
        self._must_rewrite = True
        self.position += 1

    def _sum_log_bytes(self) -> int:
        return sum(len(entry[0]) for entry in self._state.entries)

    def _load(self) -> None:
        """Read what is there, or make the first file."""
        data = self._files.read(JOURNAL_NAME)
        self._files.remove(name_of_new(JOURNAL_NAME))
        if data is None:
            self._must_rewrite = True
            self.position += 1
            self.flush()
            return
        try:
            self._end_bytes, self._batch_number = decode_file(data, self._state)
        except JournalError as error:
            where = f"{JOURNAL_NAME} of node {self._state.node}"
            raise JournalError(error.what, where=where, why=error.why, hint=error.hint) from error
        if self._end_bytes < len(data):
            torn_bytes = len(data) - self._end_bytes
            self._log.warn("the last {torn_bytes} bytes of the journal are torn and cut off", torn_bytes=torn_bytes)
            self._files.truncate(JOURNAL_NAME, self._end_bytes)
            self._files.sync(JOURNAL_NAME)
