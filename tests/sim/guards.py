"""The guards that can be switched off, one at a time, to show that the checks would see what they prevent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
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
from csvd.shared_disk import FILE_LOCK, NO_FENCE, OSD_BLOCKLIST, FenceProof, OwnerBlock
from csvd.storage.cluster_disk.record_slots import Header
from tests.sim.plan import FAULTS, Plan, plan_of
from tests.sim.stamps import StampWriter
from tests.sim.stores import SimDisk

Context = contextlib.AbstractContextManager[object]


@dataclass(frozen=True, slots=True)
class Guard:
    """Something that keeps the cluster whole.

    Attributes:
        what: what it is, and where.
        harm: what goes wrong without it.
        switch_off: contexts in which it is off.
        focus: what of a seed's plan is as the harm needs it, whatever the seed says: rare coincidences become common.
    """

    what: str
    harm: str
    switch_off: Callable[[], Sequence[Context]]
    focus: Mapping[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """A context in which a guard is off; with no name, none is."""
    if not name:
        yield
        return
    guard = GUARDS[name]

    def focused(seed: int) -> Plan:
        return replace(plan_of(seed), **guard.focus)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("tests.sim.simulation.plan_of", focused))
        for context in guard.switch_off():
            stack.enter_context(context)
        yield


# Raft


def _no_journal_sync() -> Sequence[Context]:
    def send(self: Election, peer: str, message: Mapping[str, Any]) -> bool:
        link, raft_message = self._link_to(peer), from_pysyncobj(message, self.term)
        if link is None or raft_message is None:
            return False
        link(encode(raft_message))
        return True

    return [mock.patch.object(Election, "_send", send)]


def _no_entry_guard() -> Sequence[Context]:
    def as_it_came(message: AppendEntries, log: object) -> AppendEntries:
        return message

    def cut(self: Any, entryFrom: int) -> None:  # noqa: N803 - pysyncobj's name
        if entryFrom < len(self._journal.entries):
            self._journal.cut(self._journal.entries[entryFrom][1])

    return [
        mock.patch("csvd.cluster.election.without_known_entries", as_it_came),
        mock.patch.object(RaftLog, "deleteEntriesFrom", cut),
    ]


def _no_snapshot_clamp() -> Sequence[Context]:
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


# Coordination


def _no_promise_sync() -> Sequence[Context]:
    async def promise(self: Any, disk: str, epoch: int) -> int:
        if epoch > self._epochs.get(disk, 0):
            self._epochs[disk] = epoch
            Deferred.fromCoroutine(self._write()).addErrback(lambda failure: None)
        return int(self._epochs[disk])

    return [mock.patch.object(Promises, "promise", promise)]


def _no_promises() -> Sequence[Context]:
    async def promise(self: Promises, disk: str, epoch: int) -> int:
        return epoch

    return [mock.patch.object(Promises, "promise", promise)]


def _no_coordinator_lease() -> Sequence[Context]:
    def is_live(self: Any) -> bool:
        return not self._is_over and self.promised_at_s is not None

    def check_lapse(self: Any) -> bool:
        return bool(self._is_over)

    return [
        mock.patch.object(CoordinatorLease, "is_live", property(is_live)),
        mock.patch.object(CoordinatorLease, "_check_lapse", check_lapse),
    ]


def _no_node_lease() -> Sequence[Context]:
    def is_live(self: Any) -> bool:
        return self._id is not None

    return [mock.patch.object(NodeSession, "is_live", property(is_live))]


def _no_owner_compare() -> Sequence[Context]:
    async def own(self: Any) -> None:
        office = self._office
        new = OwnerBlock(office.epoch, office.node, self._number)
        owner = await office.shared_disk.read_owner()
        if owner.node != office.node:
            office.proof = await self._is_off(owner)
        await office.shared_disk.write_owner(owner, new)
        office.owner = new

    def compare_and_write(self: Any, offset_bytes: int, expected: bytes, new: bytes) -> Any:
        return self.write_from((new,), offset_bytes)

    return [
        mock.patch.object(Takeover, "_own", own),
        mock.patch.object(SimDisk, "compare_and_write", compare_and_write),
    ]


def _no_fence() -> Sequence[Context]:
    async def of_coordinator(self: Any, owner: OwnerBlock, is_wanted: Callable[[], bool]) -> FenceProof | None:
        return FenceProof("none", owner.node, "nobody looked", self._boottime())

    async def of_node(self: Any, session: Session) -> FenceProof:
        return FenceProof("none", session.node, "nobody looked", self._ground.boottime())

    return [
        mock.patch.object(Takeover, "_fenced", of_coordinator),
        mock.patch.object(Sessions, "_fenced", of_node),
    ]


def _no_kept_answer() -> Sequence[Context]:
    async def keep(self: Any, changes: Mapping[str, Any], *, answer: Any = None, answers: Any = None) -> None:
        await self.kept.keep({"records": changes})

    return [mock.patch.object(HeldOffice, "keep", keep)]


def _no_digest() -> Sequence[Context]:
    return [mock.patch.object(Header, "fits", return_value=True)]


# The node


def _no_gate() -> Sequence[Context]:
    async def close(self: Any) -> None:
        return None

    def may_write(self: Any) -> bool:
        return self._value is not None

    return [mock.patch.object(StampWriter, "close", close), mock.patch.object(StampWriter, "may_write", may_write)]


def _mostly(*faults: str) -> Mapping[str, float]:
    """Weights by which these faults are many, and others few."""
    return {fault: 6.0 if fault in faults else 0.2 for fault in FAULTS}


_THREE: Final = {"nodes": ("n1", "n2", "n3"), "founders": ("n1", "n2", "n3"), "administration_pause_s": 1000.0}

GUARDS: Final[Mapping[str, Guard]] = {
    "journal sync": Guard(
        "Raft's messages wait until the journal is durable (`csvd/cluster/durability.py`)",
        "after a power cut a node has lost an entry that it said it has, or votes twice in one term",
        _no_journal_sync,
        {**_THREE, "journal_s": 0.1, "fault_pause_s": 0.5, "weights": _mostly("power cut", "isolate")},
    ),
    "entry guard": Guard(
        "only entries that contradict the log cut something off it (`csvd/cluster/election.py`)",
        "a message that came late cuts off entries that are committed",
        _no_entry_guard,
        {**_THREE, "duplicates": 0.2},
    ),
    "snapshot clamp": Guard(
        "a snapshot neither commits nor cuts off what is in the log (`raft_messages.py`, `raft_adapters.py`)",
        "a late one takes entries from the log that are committed",
        _no_snapshot_clamp,
        {**_THREE, "log_entries": 5, "duplicates": 0.3, "weights": _mostly("slow path", "isolate")},
    ),
    "promise sync": Guard(
        "an epoch is promised once it is durable (`csvd/cluster/coordination/promises.py`)",
        "after a power cut a voter renews the lease of a coordinator that it had refused for ever",
        _no_promise_sync,
        {**_THREE, "fault_pause_s": 0.5, "journal_s": 0.1, "weights": _mostly("power cut", "one way", "isolate")},
    ),
    "promise": Guard(
        "a voter that has promised an epoch refuses all lower ones (`csvd/cluster/coordination/lease.py`)",
        "a coordinator goes on renewing its lease beside its successor",
        _no_promises,
        {**_THREE, "fault_pause_s": 0.5, "weights": _mostly("one way", "partition", "isolate")},
    ),
    "coordinator's lease": Guard(
        "a coordinator's lease is checked before every act (`csvd/cluster/coordination/lease.py`)",
        "one that was cut off acts beside its successor",
        _no_coordinator_lease,
        {**_THREE, "disks": {"system": OSD_BLOCKLIST}, "fault_pause_s": 5.0, "weights": _mostly("isolate")},
    ),
    "node's lease": Guard(
        "a node's lease is checked before every write (`csvd/cluster/coordination/node_session.py`)",
        "a node that was cut off writes on while it is taken for gone",
        _no_node_lease,
        {**_THREE, "disks": {"system": NO_FENCE}, "fault_pause_s": 5.0, "weights": _mostly("isolate")},
    ),
    "owner block": Guard(
        "the owner block is compared and written in one step (`csvd/cluster/coordination/takeover.py`)",
        "the epoch on the disk falls: two nodes take it one after the other, the later one last",
        _no_owner_compare,
        {**_THREE, "administration_pause_s": 0.4, "weights": _mostly("slow store")},
    ),
    "fence": Guard(
        "a predecessor, or a node, is proven to be off before anybody acts upon it (`takeover.py`, `sessions.py`)",
        "what it had sent comes to the disk after that",
        _no_fence,
        {**_THREE, "disks": {"system": FILE_LOCK}, "change_pause_s": 0.05, "weights": _mostly("kill", "slow store")},
    ),
    "kept answer": Guard(
        "the answer of an ask is kept in the same write as its change (`csvd/cluster/coordination/office.py`)",
        "an ask that is repeated after a takeover is carried out twice",
        _no_kept_answer,
        {**_THREE, "change_pause_s": 0.05, "weights": _mostly("kill", "pause", "isolate")},
    ),
    "record digest": Guard(
        "a record slot whose write was torn does not count (`csvd/storage/cluster_disk/record_slots.py`)",
        "a coordinator begins with half of a write",
        _no_digest,
        {**_THREE, "change_pause_s": 0.05, "weights": _mostly("kill", "slow store")},
    ),
    "gate": Guard(
        "nothing is written while the session is not live, and what is under way is waited for (a `Gate`, modelled)",
        "a node writes by what was true before its session ended",
        _no_gate,
        {**_THREE, "disks": {"system": NO_FENCE}, "change_pause_s": 0.05, "weights": _mostly("isolate")},
    ),
}
