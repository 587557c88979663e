"""What must always hold of offices and shared disks.

At most one node may act for a disk at any moment; the epochs on the disk only grow; nothing of an earlier epoch, and
nothing of a node that was proven to be off, comes to a disk; what was acknowledged is still there for every later
coordinator; and when a push has returned no node writes by what was before.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from csvd.cluster.coordination.office import ACTING, HeldOffice
from csvd.shared_disk import FenceProof, OwnerBlock, RecordSlot
from csvd.storage.cluster_disk import layout
from csvd.storage.cluster_disk.record_slots import pack_slot, parse_header
from tests.sim.stores import BLOCK_BYTES, Landing, SimDisk, Store
from tests.sim.world import Violation, World

_STAMP: Final = struct.Struct(">8sQQB")
_STAMP_MAGIC: Final = b"simstamp"
_OWNER_NUMBER: Final = layout.OWNER_OFFSET // BLOCK_BYTES
_SLOT_NUMBERS: Final = tuple(offset // BLOCK_BYTES for offset in layout.SLOT_OFFSETS)


def format_store(store: Store) -> None:
    """Put the area of a shared disk on a store."""
    uuid = UUID(store.uuid)
    superblock = layout.pack_superblock(layout.Superblock(uuid, store.name, store.size_bytes))
    blocks = {
        layout.SUPERBLOCK_OFFSET: superblock,
        layout.COPY_OFFSET: superblock,
        layout.OWNER_OFFSET: layout.pack_owner(OwnerBlock(), uuid),
        layout.SLOT_OFFSETS[0]: pack_slot(RecordSlot(), uuid)[:BLOCK_BYTES],
    }
    store.blocks.update({offset // BLOCK_BYTES: block for offset, block in blocks.items()})


def pack_stamp(value: int, sequence: int, number: int) -> bytes:
    """A block that a node writes to a raw disk: the value that it was told, and the number of the write."""
    return _STAMP.pack(_STAMP_MAGIC, value, sequence, number).ljust(BLOCK_BYTES, b"\0")


@dataclass(slots=True)
class _DiskState:
    """What is known of one shared disk."""

    owner: OwnerBlock = field(default_factory=OwnerBlock)
    kept: int = 0
    barrier: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    values: dict[int, str] = field(default_factory=dict)


class DiskChecks:
    """The checks of all shared disks, and of the raw disks that are fenced with them."""

    def __init__(self, world: World, counts: Counter[str]) -> None:
        self._world = world
        self._counts = counts
        self._disks: dict[str, _DiskState] = {}
        self._proofs: dict[tuple[str, str], float] = {}
        self._acting: dict[tuple[str, str], HeldOffice] = {}

    def watch(self, store: Store, disk: str, *, is_raw: bool) -> None:
        """Look at all that comes to a store; a raw one goes with a shared disk."""
        if not is_raw:
            self._disks[disk] = _DiskState()
        store.landed = self._raw_landed(disk) if is_raw else self._area_landed(disk)
        store.proven = self.proven

    # Offices

    def stepped(self, node: str, offices: Mapping[str, HeldOffice | None]) -> None:
        """A step of a node is over: which offices it has."""
        for disk, office in offices.items():
            key = (disk, node)
            if office is not None and office.step == ACTING:
                if self._acting.get(key) is not office:
                    self._counts["takeovers"] += 1
                    self._acting[key] = office
            elif key in self._acting:
                del self._acting[key]
        if len(self._acting) > 1:
            self._check_alone()

    def gone(self, node: str) -> None:
        """A process is no more."""
        for key in [key for key in self._acting if key[1] == node]:
            del self._acting[key]

    def _check_alone(self) -> None:
        live: dict[str, str] = {}
        for (disk, node), office in self._acting.items():
            if office.is_live:
                other = live.setdefault(disk, node)
                if other != node:
                    raise Violation(f"{node} may act for {disk}, and so may {other}")

    # What comes to the disks

    def proven(self, store: Store, disk: SimDisk, proof: FenceProof) -> None:
        """A node is off a store."""
        self._proofs[store.name, proof.node] = self._world.now_s
        self._counts["fences"] += 1
        self._world.note(disk.process.name, f"{proof.node} is proven to be off {store.name}: {proof.kind}")

    def is_off(self, disk: SimDisk) -> bool:
        """Whether a node was proven to be off a store, and has not joined it since."""
        proven_at_s = self._proofs.get((disk.store.name, disk.process.name))
        return proven_at_s is not None and (disk.joined_at_s is None or disk.joined_at_s < proven_at_s)

    def check_not_fenced(self, landing: Landing) -> None:
        """See that what comes to a store is of no node that is off it."""
        disk = landing.disk
        if self.is_off(disk):
            raise Violation(f"a write of {disk.process.name} comes to {landing.store.name} after it was proven off")

    def _area_landed(self, name: str) -> Callable[[Landing], None]:
        state = self._disks[name]

        def landed(landing: Landing) -> None:
            self.check_not_fenced(landing)
            if landing.number == _OWNER_NUMBER:
                self._owner_landed(name, state, landing)
            elif landing.number >= _SLOT_NUMBERS[0]:
                header = parse_header(landing.first, UUID(landing.store.uuid))
                if header is None:
                    raise Violation(f"{landing.disk.process.name} writes to {name} what are no records")
                owner = state.owner
                if header.epoch < owner.epoch or (header.epoch == owner.epoch and owner.is_released):
                    text = f"records of epoch {header.epoch} come to {name} when its owner block says {owner}"
                    raise Violation(f"{text}; they are {landing.disk.process.name}'s")

        return landed

    def _owner_landed(self, name: str, state: _DiskState, landing: Landing) -> None:
        new = layout.parse_owner(landing.data, UUID(landing.store.uuid), name)
        old = state.owner
        is_release = (new.epoch, new.node, new.is_released) == (old.epoch, old.node, True) and not old.is_released
        if new.epoch <= old.epoch and not is_release and new != old:
            raise Violation(f"the owner block of {name} went from {old} to {new}")
        if new.node != landing.disk.process.name:
            raise Violation(f"{landing.disk.process.name} writes {new} into the owner block")
        state.owner = new
        self._world.note(new.node, f"owner block of {name}: epoch {new.epoch}{' released' * new.is_released}")

    def _raw_landed(self, name: str) -> Callable[[Landing], None]:
        state = self._disks[name]

        def landed(landing: Landing) -> None:
            self.check_not_fenced(landing)
            node = landing.disk.process.name
            _, value, sequence, _ = _STAMP.unpack_from(landing.data)
            if value < state.barrier:
                raise Violation(f"{node} writes by {value} when all nodes were told {state.barrier}")
            if landing.before:
                _, _, before, _ = _STAMP.unpack_from(landing.before)
                if sequence < before:
                    raise Violation(f"write {sequence} of {node} comes after its write {before}")

        return landed

    # What the service says

    def begun(self, disk: str, value: int) -> None:
        """A coordinator has begun with a value that it found in the records."""
        kept = self._disks[disk].kept
        if value < kept:
            raise Violation(f"a coordinator of {disk} finds {value}, and {kept} was acknowledged")

    def kept(self, disk: str, token: str, value: int) -> None:
        """A change was durable, or a node was told so."""
        state = self._disks[disk]
        state.kept = max(state.kept, value)
        if state.tokens.setdefault(token, value) != value:
            raise Violation(f"ask {token} was carried out twice: as {state.tokens[token]} and as {value}")
        if state.values.setdefault(value, token) != token:
            raise Violation(f"asks {token} and {state.values[value]} were both carried out as {value}")

    def kept_tokens(self, disk: str) -> Mapping[str, int]:
        """The asks whose changes are durable, each with the value that it made."""
        return self._disks[disk].tokens

    def refused(self, disk: str, token: str) -> None:
        """A node was told that nothing was done, and that nothing will be."""
        if token in self._disks[disk].tokens:
            raise Violation(f"ask {token} was refused for good, and was carried out")

    def pushed(self, disk: str, value: int) -> None:
        """A push has returned: every node was told, or is gone."""
        self._counts["pushes"] += 1
        state = self._disks[disk]
        state.barrier = max(state.barrier, value)
