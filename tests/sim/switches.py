"""How each guard of tests.sim.guards is switched off: contexts in which what it does is not done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred

from csvd.cluster.coordination.lease import CoordinatorLease
from csvd.cluster.coordination.node_session import NodeSession
from csvd.cluster.coordination.office import HeldOffice
from csvd.cluster.coordination.promises import Promises
from csvd.cluster.coordination.sessions import Session, Sessions
from csvd.cluster.coordination.takeover import Takeover
from csvd.cluster.election import Election
from csvd.cluster.journal_records import Entry
from csvd.cluster.raft_adapters import RaftLog, Snapshots
from csvd.cluster.raft_messages import AppendEntries, InstallSnapshot, RaftMessage, encode, from_pysyncobj
from csvd.cluster.register import Register
from csvd.cluster.register_fields import Answer
from csvd.shared_disk import FenceProof, OwnerBlock
from csvd.storage.cluster_disk.record_slots import Header
from tests.sim.node import SimWatchdog
from tests.sim.raft_checks import RaftChecks
from tests.sim.stamps import StampWriter
from tests.sim.stores import SimDisk

Context = contextlib.AbstractContextManager[object]


# Raft


def no_journal_sync() -> Sequence[Context]:
    def send(self: Election, peer: str, message: Mapping[str, Any]) -> bool:
        link, raft_message = self._link_to(peer), from_pysyncobj(message, self.term)
        if link is None or raft_message is None:
            return False
        link(encode(raft_message))
        return True

    return [mock.patch.object(Election, "_send", send)]


def no_entry_guard() -> Sequence[Context]:
    def as_it_came(message: AppendEntries, log: object) -> AppendEntries:
        return message

    def cut(self: Any, entryFrom: int) -> None:  # noqa: N803 - pysyncobj's name
        if entryFrom < len(self._journal.entries):
            self._journal.cut(self._journal.entries[entryFrom][1])

    return [
        mock.patch("csvd.cluster.election.without_known_entries", as_it_came),
        mock.patch.object(RaftLog, "deleteEntriesFrom", cut),
    ]


def no_snapshot_clamp() -> Sequence[Context]:
    commit_indexes: dict[tuple[int, Entry], int] = {}

    def from_raft(message: Mapping[str, Any], term: int) -> RaftMessage | None:
        made = from_pysyncobj(message, term)
        if isinstance(made, InstallSnapshot):
            commit_indexes[made.term, made.snapshot.last] = message["commit_index"]
        return made

    def to_pysyncobj(self: InstallSnapshot) -> dict[str, Any]:
        return {
            "type": "append_entries",
            "term": self.term,
            "commit_index": commit_indexes[self.term, self.snapshot.last],
            "serialized": (self.snapshot, True, True),
        }

    def take(self: Any, data: tuple[Any, bool, bool]) -> bool:
        self._received = data[0]
        return True

    return [
        mock.patch.object(Snapshots, "setTransmissionData", take),
        mock.patch("csvd.cluster.election.from_pysyncobj", from_raft),
        mock.patch.object(InstallSnapshot, "to_pysyncobj", to_pysyncobj),
    ]


def no_one_change_at_a_time() -> Sequence[Context]:
    return [mock.patch.object(Election, "_may_change_voters", lambda self: self.is_leader)]


def no_command_key() -> Sequence[Context]:
    def apply(self: Register, command: object, key: object = None) -> Answer:
        return self._execute(command)

    return [mock.patch.object(Register, "apply", apply)]


# Coordination


def no_promise_sync() -> Sequence[Context]:
    async def promise(self: Any, disk: str, epoch: int) -> int:
        if epoch > self._epochs.get(disk, 0):
            self._epochs[disk] = epoch
            Deferred.fromCoroutine(self._write()).addErrback(lambda failure: None)
        return int(self._epochs[disk])

    return [mock.patch.object(Promises, "promise", promise)]


def no_promises() -> Sequence[Context]:
    async def promise(self: Promises, disk: str, epoch: int) -> int:
        return epoch

    return [mock.patch.object(Promises, "promise", promise)]


def no_coordinator_lease() -> Sequence[Context]:
    def is_live(self: Any) -> bool:
        return not self._is_over and self.promised_at_s is not None

    def check_lapse(self: Any) -> bool:
        return bool(self._is_over)

    return [
        mock.patch.object(CoordinatorLease, "is_live", property(is_live)),
        mock.patch.object(CoordinatorLease, "_check_lapse", check_lapse),
    ]


def no_node_lease() -> Sequence[Context]:
    def is_live(self: Any) -> bool:
        return self._id is not None

    return [mock.patch.object(NodeSession, "is_live", property(is_live))]


def no_owner_compare() -> Sequence[Context]:
    def compare_and_write(self: Any, offset_bytes: int, expected: bytes, new: bytes) -> Any:
        return self.write_from((new,), offset_bytes)

    return [mock.patch.object(SimDisk, "compare_and_write", compare_and_write)]


def no_fence() -> Sequence[Context]:
    async def of_coordinator(self: Any, owner: OwnerBlock, is_wanted: Callable[[], bool]) -> FenceProof | None:
        return FenceProof("none", owner.node, "nobody looked", self._boottime())

    async def of_node(self: Any, session: Session) -> FenceProof:
        return FenceProof("none", session.node, "nobody looked", self._ground.boottime())

    return [
        mock.patch.object(Takeover, "_fenced", of_coordinator),
        mock.patch.object(Sessions, "_fenced", of_node),
    ]


def no_sessions() -> Sequence[Context]:
    return [mock.patch.object(Sessions, "load", return_value=None)]


def no_drift() -> Sequence[Context]:
    modules = ("lease", "node_session", "sessions", "takeover")
    return [mock.patch(f"csvd.cluster.coordination.{module}.CLOCK_DRIFT", 0.0) for module in modules]


def no_kept_answer() -> Sequence[Context]:
    async def keep(self: Any, changes: Mapping[str, Any], *, answer: Any = None, answers: Any = None) -> None:
        await self.kept.keep({"records": changes})

    return [mock.patch.object(HeldOffice, "keep", keep)]


def no_digest() -> Sequence[Context]:
    return [mock.patch.object(Header, "fits", return_value=True)]


# The node


def no_gate() -> Sequence[Context]:
    async def close(self: Any) -> None:
        return None

    def may_write(self: Any) -> bool:
        return self._value is not None

    return [mock.patch.object(StampWriter, "close", close), mock.patch.object(StampWriter, "may_write", may_write)]


def no_watchdog() -> Sequence[Context]:
    return [mock.patch.object(SimWatchdog, "arm", return_value=None)]


# Checks


def no_check_of_promises() -> Sequence[Context]:
    return [mock.patch.object(RaftChecks, "promised", return_value=None)]
