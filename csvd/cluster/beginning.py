"""How a cluster begins: a first journal, whose snapshot is a register with the founding members.

A node that is to join a cluster begins with an empty journal instead. It has no voters, so that it never stands for
election, until it has the snapshot of a leader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from csvd.cluster.errors import ClusterError
from csvd.cluster.journal import JOURNAL_NAME, JournalWrite
from csvd.cluster.journal_records import Entry, Image, Snapshot, encode_file
from csvd.cluster.register import Register
from csvd.cluster.register_members import Member
from csvd.cluster.state_directory import Files

_NO_OP: Final = b"\x01"  # pysyncobj._COMMAND_TYPE.NO_OP
FIRST_TERM: Final = 1
FIRST_ENTRIES: Final[tuple[Entry, Entry]] = ((_NO_OP, 2, FIRST_TERM), (_NO_OP, 3, FIRST_TERM))
"""What the first snapshot ends with. Above entry 1, which every empty journal has: a node that joins lacks what the
snapshot says, so that it must never be taken for one that has all before entry 2."""


def founding_members(
    addresses: Mapping[str, str], fingerprints: Mapping[str, Sequence[str]] | None = None
) -> list[Member]:
    """Members that are there from the beginning: all vote, with numbers in the order of their ids.

    Args:
        addresses: where each listens, `host:port`, by id.
        fingerprints: of the certificates of each, by id.
    """
    known = fingerprints or {}
    return [
        Member(node, node, number, address, tuple(known.get(node, ())), is_voter=True)
        for number, (node, address) in enumerate(sorted(addresses.items()), 1)
    ]


def begin_cluster(files: Files, node: str, members: Sequence[Member], *, now_ms: int) -> bool:
    """Write the first journal of a node of a cluster that begins; blocks.

    The journal of every founding member begins alike, so that each may lead.

    Args:
        files: the node's state directory.
        node: the id of this node.
        members: of the cluster, this node among them.
        now_ms: the time of day.

    Returns:
        Whether there was none: a journal that is there stays as it is.

    Raises:
        JournalError: the disk refused.
    """
    if files.read(JOURNAL_NAME) is not None:
        return False
    write_first_journal(files, node, msgspec.msgpack.encode(Register(members).snapshot()), now_ms=now_ms)
    return True


def begin_joining(files: Files, node: str, *, now_ms: int) -> None:
    """Write the first journal of a node that is to join a cluster: an empty one; blocks.

    A node has one from the beginning, so that one that is missing is known to be lost: without it a node does not know
    whom it voted for, nor what it promised to keep, and must not take part again under its old name.

    Raises:
        ClusterError: there is a journal already.
        JournalError: the disk refused.
    """
    if files.read(JOURNAL_NAME) is not None:
        raise ClusterError("this node has a journal already", where=node, why="it is in a cluster, or was in one")
    JournalWrite(files, 0, encode_file(1, Image(node, now_ms, 0, None, None, [])), None).run()


def write_first_journal(files: Files, node: str, state: bytes, *, now_ms: int) -> None:
    """Write a journal that begins with a state of the state machine; blocks.

    Raises:
        JournalError: the disk refused.
    """
    image = Image(node, now_ms, FIRST_TERM, None, Snapshot(state, *FIRST_ENTRIES), list(FIRST_ENTRIES))
    JournalWrite(files, 0, encode_file(1, image), None).run()
