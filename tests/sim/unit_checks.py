"""What must always hold of the logical units that all nodes export.

Every record of a logical unit that a coordinator sets out to keep is known here, by its version. When a push of a
record has returned, no node acts by an older one: that version is the *barrier*. A block that comes to the disk must be
one that some record from the barrier on permits, whoever sent it, whenever, and through whichever node. What the
barrier says is there for every later coordinator, and what initiators were told is not newer than it.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from csvd.scsi.reservations import Registrant, State
from csvd.scsi.unit_record import UnitRecord
from tests.sim.stores import BLOCK_BYTES, Landing
from tests.sim.world import Violation, World

_CONTENT: Final = struct.Struct(">8sQQ")
_MAGIC: Final = b"simunits"


def pack_block(sequence: int, count: int = 0) -> bytes:
    """A block that an initiator writes: the number of the write, and for COMPARE AND WRITE the count that it makes."""
    return _CONTENT.pack(_MAGIC, sequence, count).ljust(BLOCK_BYTES, b"\0")


def count_of(block: bytes) -> int:
    """The count that a block has; 0 of one that nobody wrote."""
    return int(_CONTENT.unpack_from(block)[2]) if block else 0


@dataclass(frozen=True, slots=True)
class Sent:
    """A write of an initiator: by which nexus, and for COMPARE AND WRITE what it expects to find."""

    who: Registrant
    expected: bytes | None = None


@dataclass(slots=True)
class _Unit:
    """What is known of a logical unit.

    Attributes:
        records: those that a coordinator has set out to keep, by version; of a version that was lost with its
            coordinator there can be several.
        barrier: no node acts by a record of a lower version.
        latest: the highest version.
    """

    records: dict[int, list[UnitRecord]] = field(default_factory=lambda: {0: [UnitRecord()]})
    barrier: int = 0
    latest: int = 0
    landed: set[int] = field(default_factory=set)


class UnitChecks:
    """The checks of one simulation; logical units go by their NAA designators in hexadecimal digits.

    Args:
        serving: gives the nodes that may carry out commands of it now.
    """

    def __init__(self, world: World, counts: Counter[str], serving: Callable[[], Sequence[str]]) -> None:
        self._world = world
        self._counts = counts
        self._serving = serving
        self._units: dict[str, _Unit] = {}
        self._sent: dict[int, Sent] = {}

    def _unit(self, naa: str) -> _Unit:
        return self._units.setdefault(naa, _Unit())

    # What coordinators do

    def begun(self, codes: Mapping[str, Any]) -> None:
        """A coordinator begins with these records, by NAA designator."""
        for naa, unit in self._units.items():
            if naa not in codes and unit.barrier:
                raise Violation(f"a coordinator finds nothing of {naa}, and version {unit.barrier} was pushed")
        for naa, code in codes.items():
            unit, record = self._unit(naa), UnitRecord.of(code)
            if record.version < unit.barrier:
                raise Violation(f"a coordinator finds version {record.version} of {naa}, and {unit.barrier} was pushed")
            if record not in unit.records.get(record.version, ()):
                raise Violation(f"a coordinator finds a version {record.version} of {naa} that nobody made: {record}")
            # What others had set out to keep after it is lost, and can not come any more.
            unit.records[record.version] = [record]
            unit.latest = record.version
            for version in [version for version in unit.records if version > record.version]:
                del unit.records[version]

    def made(self, coordinator: str, naa: str, before: UnitRecord, after: UnitRecord) -> None:
        """A coordinator makes the next record; perhaps not the one that it keeps, when more changes wait."""
        unit = self._unit(naa)
        if after.power != before.power or not _may_follow(before, after):
            raise Violation(f"{coordinator} makes {after} of {naa}, which can not follow {before}")
        if after.version > unit.barrier:
            unit.records.setdefault(after.version, []).append(after)
            unit.latest = max(unit.latest, after.version)

    def keeping(self, coordinator: str, naa: str, code: Any) -> None:
        """A coordinator sets out to keep a record."""
        unit, record = self._unit(naa), UnitRecord.of(code)
        if record in unit.records.get(record.version, ()):
            return  # It was made by changes that were looked at.
        befores = unit.records.get(record.version - 1)
        if befores is None:
            return  # Of an office that is over and does not know it: nothing is written.
        if not any(_may_follow(before, record) for before in befores):
            raise Violation(f"{coordinator} makes {record} of {naa}, which can not follow {befores}")
        if all(before.power != record.power for before in befores):
            self._check_nobody_serves(coordinator, naa, record)
        unit.records.setdefault(record.version, []).append(record)
        unit.latest = max(unit.latest, record.version)

    def _check_nobody_serves(self, coordinator: str, naa: str, record: UnitRecord) -> None:
        """A power-on forgets what no APTPL keeps: no node may have it on."""
        self._counts["units switched on"] += 1
        self._world.note(coordinator, f"unit {naa[-4:]} is switched on: {len(record.reservations.keys)} keys")
        serving = self._serving()
        if serving:
            raise Violation(f"{coordinator} takes {naa} to be switched on while {', '.join(serving)} serves it")

    def pushed(self, naa: str, code: Any) -> None:
        """A push has returned: every node has heard of this record, or is gone."""
        unit, record = self._unit(naa), UnitRecord.of(code)
        self._counts["unit pushes"] += 1
        if record.version > unit.barrier:
            unit.barrier = record.version
            unit.latest = max(unit.latest, unit.barrier)
            unit.records[record.version] = [record]

    # What comes to the disk

    def sent(self, sequence: int, sent: Sent) -> None:
        """An initiator sends a write of this number."""
        self._sent[sequence] = sent

    def landed(self, naa: str, landing: Landing) -> None:
        """A block has come to the disk."""
        magic, sequence, count = _CONTENT.unpack_from(landing.data)
        assert magic == _MAGIC
        unit, sent, node = self._unit(naa), self._sent[sequence], landing.disk.process.name
        self._counts["unit writes"] += 1
        unit.landed.add(sequence)
        if not self.admits(naa, sent.who, unit.barrier):
            state = unit.records[unit.barrier][0].reservations
            raise Violation(
                f"write {sequence} of {_name(sent.who)} comes to the disk through {node}, when all nodes were told "
                f"version {unit.barrier}, which forbids it: {_shown(state)}"
            )
        if sent.expected is not None and (landing.before or bytes(BLOCK_BYTES)) != sent.expected:
            raise Violation(
                f"COMPARE AND WRITE {sequence} of {_name(sent.who)} through {node} makes {count} of "
                f"{count_of(landing.before)}: something came between"
            )

    def admits(self, naa: str, who: Registrant, since: int, *, reads: bool = False) -> bool:
        """Whether some record from a version on permits a nexus to write, or to read."""
        return any(_admits(record, who, reads=reads) for record in self._records(naa, since))

    def _records(self, naa: str, since: int) -> Iterator[UnitRecord]:
        unit = self._unit(naa)
        for version in range(since, unit.latest + 1):
            yield from unit.records.get(version, ())

    # What initiators are told

    def barrier(self, naa: str) -> int:
        """The version that all nodes have, at least."""
        return self._unit(naa).barrier

    def written(self, naa: str, sequence: int) -> None:
        """An initiator was told that a write is done."""
        if sequence not in self._unit(naa).landed:
            raise Violation(f"write {sequence} was answered, and has not come to the disk")

    def told(self, naa: str, what: str, since: int, holds: Callable[[UnitRecord], bool]) -> None:
        """An initiator was told that it has been done what it asked for when all nodes had a version.

        Raises:
            Violation: it is so by no record that all nodes had since then.
        """
        unit = self._unit(naa)
        if not any(holds(record) for record in self._records(naa, since) if record.version <= unit.barrier):
            records = [f"{record.version} {_shown(record.reservations)}" for record in self._records(naa, since)]
            raise Violation(f"{what} was answered, and not all nodes know: they have {unit.barrier} of {records}")

    def gone(self, naa: str, what: str, is_there: Callable[[UnitRecord], bool]) -> None:
        """An initiator was told that something is so no more, which never comes back: all nodes know that.

        Raises:
            Violation: a node may still act by it.
        """
        for record in self._records(naa, self.barrier(naa)):
            if is_there(record):
                raise Violation(f"{what} was answered, and nodes may still act by {_shown(record.reservations)}")

    def check_end(self, naa: str, records: Mapping[str, UnitRecord]) -> None:
        """When all is well every node has the same record: the latest."""
        unit = self._unit(naa)
        for node, record in records.items():
            if record.version < unit.barrier or record not in unit.records.get(record.version, ()):
                raise Violation(f"{node} has {record} of {naa} in the end, and not what was pushed: {unit.records}")
        if len({record.version for record in records.values()}) > 1:
            raise Violation(f"the records of {naa} differ in the end: {records}")


def _admits(record: UnitRecord, who: Registrant, *, reads: bool) -> bool:
    state = record.reservations
    if record.legacy_holder not in (None, who):
        return False
    return state.admits(who) or (reads and state.type is not None and not state.type.exclusive_access)


def _may_follow(before: UnitRecord, after: UnitRecord) -> bool:
    """Whether a record can be the next one."""
    old, new = before.reservations, after.reservations
    if after.power == before.power:
        # PRGENERATION counts, and wraps around after more changes than there are here.
        return new.generation >= old.generation
    if after.power != before.power + 1 or after.legacy_holder is not None:
        return False
    if not old.aptpl:
        return new == State()
    return (dict(new.keys), new.type, new.holder) == (dict(old.keys), old.type, old.holder)


def _name(who: Registrant) -> str:
    """A nexus in a few characters."""
    initiator = who.initiator_port.partition(",")[0].rpartition(":")[2]
    return f"{initiator} through port {who.relative_target_port}"


def _shown(state: State) -> str:
    keys = ", ".join(f"{_name(who)}: {key:x}" for who, key in state.keys.items())
    kind = "none" if state.type is None else state.type.name
    return f"[{keys}] {kind}{'' if state.holder is None else ' of ' + _name(state.holder)}"
