"""The messages of Raft between nodes, in an encoding of our own. PURE.

pysyncobj hands its messages to the transport as dicts and would pickle them; nothing that comes from a network is ever
unpickled here. Each message is MessagePack of one of the types below, checked in every field, and carries the term
that its sender was in: pysyncobj's reply to a leader has none, so that an answer to an earlier term could be taken for
one to this term.

Not spoken, on purpose: forwarded commands (csvd forwards by its own calls), messages in parts (`transmission`; commands
are small), and leadership by request (`timeout_now`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec

from csvd.cluster.errors import PeerMessageError
from csvd.cluster.journal_records import MAXIMUM_NUMBER, Entry, Snapshot
from csvd.cluster.voters import decode_change

_Number = Annotated[int, msgspec.Meta(ge=0, le=MAXIMUM_NUMBER)]


class RequestVote(msgspec.Struct, frozen=True, array_like=True, tag="vote?", forbid_unknown_fields=True):
    """A candidate asks for a vote in its term, and says how far its log goes."""

    term: _Number
    last_log_index: _Number
    last_log_term: _Number

    def to_pysyncobj(self) -> dict[str, Any]:
        """The dict that pysyncobj takes."""
        return {
            "type": "request_vote",
            "term": self.term,
            "last_log_index": self.last_log_index,
            "last_log_term": self.last_log_term,
        }


class ResponseVote(msgspec.Struct, frozen=True, array_like=True, tag="vote!", forbid_unknown_fields=True):
    """A vote is given."""

    term: _Number

    def to_pysyncobj(self) -> dict[str, Any]:
        """The dict that pysyncobj takes."""
        return {"type": "response_vote", "term": self.term}


class AppendEntries(msgspec.Struct, frozen=True, array_like=True, tag="append", forbid_unknown_fields=True):
    """The leader's heartbeat, with the entries that the follower lacks as far as the leader knows."""

    term: _Number
    commit_index: _Number
    previous_index: _Number
    previous_term: _Number
    entries: list[Entry]

    def to_pysyncobj(self) -> dict[str, Any]:
        """The dict that pysyncobj takes."""
        return {
            "type": "append_entries",
            "term": self.term,
            "commit_index": self.commit_index,
            "prevLogIdx": self.previous_index,
            "prevLogTerm": self.previous_term,
            "entries": self.entries,
        }


class InstallSnapshot(msgspec.Struct, frozen=True, array_like=True, tag="snapshot", forbid_unknown_fields=True):
    """The leader's snapshot, for a follower that lacks more than the leader's log still has; always in one piece."""

    term: _Number
    snapshot: Snapshot

    def to_pysyncobj(self) -> dict[str, Any]:
        """The dict that pysyncobj takes.

        Its commit index is 0, for pysyncobj would commit up to it whatever is in the follower's log, also entries
        that were never committed; the heartbeat that follows says it again, with the check of the log before it.
        """
        return {
            "type": "append_entries",
            "term": self.term,
            "commit_index": 0,
            "serialized": (self.snapshot, True, True),
        }


class NextIndex(msgspec.Struct, frozen=True, array_like=True, tag="next", forbid_unknown_fields=True):
    """A follower's answer to AppendEntries: the index of the entry that it wants next."""

    term: _Number
    next_index: _Number
    reset: bool
    success: bool

    def to_pysyncobj(self) -> dict[str, Any]:
        """The dict that pysyncobj takes."""
        return {
            "type": "next_node_idx",
            "next_node_idx": self.next_index,
            "reset": self.reset,
            "success": self.success,
        }


RaftMessage = RequestVote | ResponseVote | AppendEntries | InstallSnapshot | NextIndex

_decoder: Final[msgspec.msgpack.Decoder[RaftMessage]] = msgspec.msgpack.Decoder(RaftMessage)
_encoder: Final = msgspec.msgpack.Encoder()


def from_pysyncobj(message: Mapping[str, Any], term: int) -> RaftMessage | None:
    """The message that pysyncobj wants to send in a term; None where it is of a kind that is not spoken here."""
    match message:
        case {"type": "request_vote"}:
            return RequestVote(message["term"], message["last_log_index"], message["last_log_term"])
        case {"type": "response_vote"}:
            return ResponseVote(message["term"])
        case {"type": "next_node_idx"}:
            return NextIndex(term, message["next_node_idx"], message["reset"], message["success"])
        case {"type": "append_entries", "serialized": (Snapshot() as snapshot, True, True)}:
            return InstallSnapshot(message["term"], snapshot)
        case {"type": "append_entries", "prevLogIdx": int() as previous_index, "entries": entries}:
            previous_term = message["prevLogTerm"]
            return AppendEntries(message["term"], message["commit_index"], previous_index, previous_term, entries)
    return None


def encode(message: RaftMessage) -> bytes:
    """The bytes of a message."""
    return _encoder.encode(message)


def decode(data: bytes) -> RaftMessage:
    """The message of bytes from a peer.

    Raises:
        PeerMessageError: it is not a message of Raft, its entries do not follow one another, or one can not be read.
    """
    try:
        message = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise PeerMessageError("it sent what is not a message of Raft", why=str(error)) from error
    if isinstance(message, AppendEntries):
        _check_entries(message)
    elif isinstance(message, InstallSnapshot):
        snapshot = message.snapshot
        if snapshot.last[1] != snapshot.previous[1] + 1 or snapshot.last[2] > message.term:
            raise PeerMessageError("it sent a snapshot whose last entries do not follow one another")
    return message


def _check_entries(message: AppendEntries) -> None:
    index, term = message.previous_index, message.previous_term
    for entry in message.entries:
        if entry[1] != index + 1 or not term <= entry[2] <= message.term or not entry[0]:
            raise PeerMessageError("it sent entries that do not follow one another")
        decode_change(entry[0])
        index, term = entry[1], entry[2]


def without_known_entries(message: AppendEntries, log: Sequence[Entry]) -> AppendEntries:
    """The message without the entries that are in the log already.

    Two logs that have an entry of the same index and term are the same up to it (Raft's log matching), so the last
    such entry can stand for all before it. The commit index is not beyond what the message speaks of, for the log
    may go on after that with entries that were never committed.
    """
    last_index = message.previous_index + len(message.entries)
    message = msgspec.structs.replace(message, commit_index=min(message.commit_index, last_index))
    first = log[0][1]
    for known in range(len(message.entries), 0, -1):
        _, index, term = message.entries[known - 1]
        if 0 <= index - first < len(log) and log[index - first][2] == term:
            rest = message.entries[known:]
            return msgspec.structs.replace(message, previous_index=index, previous_term=term, entries=rest)
    return message
