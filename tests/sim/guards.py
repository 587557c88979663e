"""The guards that can be switched off, one at a time, to show that the checks would see what they prevent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

from csvd.cluster.election import Election
from csvd.cluster.raft_adapters import RaftLog
from csvd.cluster.raft_messages import AppendEntries, encode, from_pysyncobj


@dataclass(frozen=True, slots=True)
class Guard:
    """Something that keeps the cluster whole.

    Attributes:
        what: what it is, for docs/proof.md.
        harm: what goes wrong without it.
        switch_off: a context in which it is off.
    """

    what: str
    harm: str
    switch_off: Callable[[], contextlib.AbstractContextManager[object]]


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """A context in which a guard is off; with no name, none is."""
    if not name:
        yield
        return
    with GUARDS[name].switch_off():
        yield


@contextlib.contextmanager
def _patched(*patches: contextlib.AbstractContextManager[object]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def _no_journal_sync() -> contextlib.AbstractContextManager[object]:
    def send(self: Election, peer: str, message: Mapping[str, Any]) -> bool:
        link, raft_message = self._link_to(peer), from_pysyncobj(message, self.term)
        if link is None or raft_message is None:
            return False
        link(encode(raft_message))
        return True

    return mock.patch.object(Election, "_send", send)


def _no_entry_guard() -> contextlib.AbstractContextManager[object]:
    def as_it_came(self: Election, message: AppendEntries) -> AppendEntries:
        return message

    def cut(self: Any, entryFrom: int) -> None:  # noqa: N803 - pysyncobj's name
        if entryFrom < len(self._journal.entries):
            self._journal.cut(self._journal.entries[entryFrom][1])

    return _patched(
        mock.patch.object(Election, "_without_known_entries", as_it_came),
        mock.patch.object(RaftLog, "deleteEntriesFrom", cut),
    )


GUARDS: Final[Mapping[str, Guard]] = {
    "journal sync": Guard(
        "Raft's messages wait until the journal is durable (csvd/cluster/durability.py)",
        "after a power cut a node votes twice in one term, or has lost an entry that it said it has",
        _no_journal_sync,
    ),
    "entry guard": Guard(
        "only entries that contradict the log cut something off it (csvd/cluster/election.py)",
        "a message that came late cuts off entries that are committed",
        _no_entry_guard,
    ),
}
