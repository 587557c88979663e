"""Who votes: the latest set of voters in the log, whether it is committed or not (Raft's thesis, section 4.1). PURE.

An entry of the log that changes the voters carries the whole set that holds from it on, and the command of the state
machine that says the same there. It counts from the moment that it is in the log; when the log is cut off below it, the
set before it counts again. A snapshot's set is that of its state machine, for all entries before it are applied.

    entry = type (1 byte, 0 or 2), command              (csvd.cluster.journal_records.Entry has index and term)
    command of type 2 = MessagePack [[voter, …], command of the state machine]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from csvd.cluster.errors import PeerMessageError
from csvd.cluster.journal_records import Entry

MAXIMUM_VOTERS: Final = 32

CHANGE: Final = 2  # pysyncobj._COMMAND_TYPE.MEMBERSHIP
"""The first byte of an entry that changes the voters."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
_Names = Annotated[list[_Name], msgspec.Meta(min_length=1, max_length=MAXIMUM_VOTERS)]


class _Change(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    voters: _Names
    command: bytes


_decoder: Final = msgspec.msgpack.Decoder(_Change)


def encode_change(voters: Iterable[str], command: bytes) -> bytes:
    """The command of an entry, without its type, that makes these the voters and has the state machine do the same."""
    return msgspec.msgpack.encode(_Change(sorted(voters), command))


def decode_change(entry: bytes) -> tuple[frozenset[str], bytes] | None:
    """The voters and the state machine's command of an entry (with its type); None where it changes no voters.

    Raises:
        PeerMessageError: it says that it does, and can not be read.
    """
    if entry[:1] != bytes([CHANGE]):
        return None
    try:
        change = _decoder.decode(entry[1:])
    except msgspec.MsgspecError as error:
        raise PeerMessageError("it sent a change of the voters that is none", why=str(error)) from error
    return frozenset(change.voters), change.command


class VoterHistory:
    """The sets of voters that the log goes through, from its snapshot on.

    Args:
        index: the last entry of the snapshot; 0 where there is none.
        voters: the set at the snapshot; empty where this node knows of none.
    """

    def __init__(self, index: int, voters: frozenset[str]) -> None:
        self._sets = [(index, voters)]

    @property
    def voters(self) -> frozenset[str]:
        """The set that counts."""
        return self._sets[-1][1]

    @property
    def index(self) -> int:
        """The entry from which it counts."""
        return self._sets[-1][0]

    def appended(self, entry: Entry) -> bool:
        """An entry was added to the log; whether it changed the voters."""
        change = decode_change(entry[0])
        if change is None or entry[1] <= self._sets[0][0]:
            return False
        self._sets.append((entry[1], change[0]))
        return True

    def cut(self, index: int) -> bool:
        """The entries with this index and above were dropped; whether another set counts now."""
        before = len(self._sets)
        while len(self._sets) > 1 and self._sets[-1][0] >= index:
            self._sets.pop()
        return len(self._sets) != before

    def compacted(self, index: int) -> None:
        """The log begins with a snapshot of all up to an entry."""
        while len(self._sets) > 1 and self._sets[1][0] <= index:
            del self._sets[0]

    def installed(self, index: int, voters: frozenset[str]) -> None:
        """The whole log was replaced by a leader's snapshot."""
        self._sets = [(index, voters)]
