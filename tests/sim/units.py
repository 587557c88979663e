"""The logical units that all nodes export, on one simulated node: production code, from the session of an initiator
to the disk.

The coordinator's UnitService, the node's ClusterUnits with their gates and holds, device servers, task sets, claims and
the executor are csvd's own, and so are the iSCSI engines at both ends; only sockets are left out. The disk is a
simulated store.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, fail, succeed

from csvd.cluster.coordination.faces import DiskSession, Json, Office
from csvd.iscsi.node import NetworkEntity, TargetNode
from csvd.iscsi.portals import portal_group_tag
from csvd.scsi.logical_unit import Identity, LogicalUnit, naa_of
from csvd.scsi.lun import lun_spellings
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.unit_record import Effect, UnitRecord
from csvd.shared_disk import NO_FENCE
from csvd.storage.disk import StorageError
from csvd.target.cluster_units import ClusterUnits
from csvd.target.executor import Executor
from csvd.target.steps import StepRunner
from csvd.target.unit_changes import RECORDS, Make
from csvd.target.unit_service import UnitService
from tests.sim.stores import BLOCK_BYTES, SimDisk
from tests.sim.unit_checks import UnitChecks

if TYPE_CHECKING:
    from tests.sim.initiators import Path
    from tests.sim.node import SimNode

TARGET: Final = "iqn.2026-11.sim:target"
SERIAL: Final = "simulated"
NAA: Final = naa_of(SERIAL).hex()
STORE: Final = "unit"
"""The store that all nodes have under the logical unit; a node is fenced from it by the coordinator of `system`."""
BLOCKS: Final = 64


class UnitDisk:
    """A process's way to the store of the logical unit: what a logical unit asks of a disk. Without a fence."""

    read_only = False

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        self.url = disk.url
        self.size_bytes = BLOCKS * BLOCK_BYTES
        self.capabilities = disk.capabilities
        self.read_into = disk.read_into
        self.write_from = disk.write_from
        self.flush = disk.flush
        self.close = disk.close

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        """It takes time."""
        return False

    def write_nowait(self, buffers: Sequence[Any], offset_bytes: int) -> bool:
        """It takes time."""
        return False

    def cached(self, offset_bytes: int, length_bytes: int) -> bool:
        """There is no cache."""
        return False

    def unmap(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """It can not."""
        return fail(StorageError("unmap", errno.EOPNOTSUPP, where=self.url))

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """It can not."""
        return fail(StorageError("write zeroes", errno.EOPNOTSUPP, where=self.url))

    def allocation(self, offset_bytes: int, length_bytes: int, most_runs: int = 1) -> Deferred[Any]:
        """All is allocated."""
        return succeed([(offset_bytes, length_bytes, True)])

    def prefetch(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """There is no cache."""
        return succeed(None)

    def allocated_bytes(self) -> Deferred[int | None]:
        """Nobody knows."""
        return succeed(None)

    def identity(self) -> str:
        """The same on every node."""
        return self._disk.store.uuid


class FencedUnitDisk(UnitDisk):
    """The same where the store has a fence."""

    def __init__(self, disk: SimDisk) -> None:
        super().__init__(disk)
        self.join = disk.join
        self.leave = disk.leave
        self.fence = disk.fence
        self.is_gone = disk.is_gone


class WatchedOffice:
    """An office as the service of logical units has it, under the checks."""

    def __init__(self, office: Office, checks: UnitChecks) -> None:
        self._office = office
        self._checks = checks

    def __getattr__(self, name: str) -> Any:
        """All but what is watched is the office's own."""
        return getattr(self._office, name)

    async def keep(self, changes: Mapping[str, Any], **answers: Any) -> None:
        """See `Office.keep`."""
        for key, code in changes.items():
            self._checks.keeping(self._office.node, key.removeprefix(RECORDS), code)
        await self._office.keep(changes, **answers)

    async def push(self, service: str, method: str, params: Json, **to_whom: Any) -> dict[str, Json]:
        """See `Office.push`."""
        answers = await self._office.push(service, method, params, **to_whom)
        if method == "record" and not to_whom:
            self._checks.pushed(params["naa"], params["record"])
        return answers


class WatchedUnitService(UnitService):
    """The service under the checks."""

    def __init__(self, units: ClusterUnits, checks: UnitChecks) -> None:
        super().__init__(units)
        self._checks = checks
        self._has_begun = False

    async def begin(self, office: Office) -> None:
        """See `Service`."""
        records = {key.removeprefix(RECORDS): code for key, code in office.records.items() if key.startswith(RECORDS)}
        self._checks.begun(records)
        watched: Any = WatchedOffice(office, self._checks)
        self._has_begun = False
        await super().begin(watched)
        self._has_begun = True

    async def _change(self, params: Json, make: Make, *, answers: bool = True) -> Json:
        """Look at each record that is made, also where several are kept by one write."""

        def watched(record: UnitRecord) -> tuple[UnitRecord, Effect, Json]:
            after, effect, answer = make(record)
            office = self._office
            if after is not record and office is not None and (office.is_live or not self._has_begun):
                self._checks.made(office.node, params["naa"], record, after)
            return after, effect, answer

        return await super()._change(params, watched, answers=answers)


class NodeUnits:
    """What one process of csvd has of the logical unit.

    Attributes:
        raw: its way to the store.
        paths: the sessions of initiators with this node.
    """

    def __init__(self, node: SimNode, checks: UnitChecks, random: Random) -> None:
        self.name = node.name
        self.process = node.process
        self.paths: list[Path] = []
        disk = self.raw = SimDisk(node.store(STORE), node.process)
        self.disk = UnitDisk(disk) if disk.store.fence_kind == NO_FENCE else FencedUnitDisk(disk)
        self._random = random
        self._checks = checks
        self._target: TargetNode | None = None

        def number_of(name: str) -> int:
            member = node.register.members.get(name)
            return 0 if member is None else member.number

        self._number_of = number_of
        prefix = f"{self.name} {random.getrandbits(64):x} "
        self.units = ClusterUnits(node.coordination, self.process.clock, number_of=number_of, prefix=prefix)
        self.units.tasks = self
        node.coordination.add_service(self._make_service)
        node.process.endings.append(self._ended)

    def _make_service(self, disk: str, *, is_system: bool) -> UnitService | None:
        return WatchedUnitService(self.units, self._checks) if is_system else None

    def serve(self, session: DiskSession | None) -> None:
        """Export the logical unit from now on, where this node has a session and a number."""
        number = self._number_of(self.name)
        if self._target is not None or session is None or not number:
            return
        self.tag = portal_group_tag(number)
        unit = LogicalUnit(
            0, self.disk, BLOCK_BYTES, BLOCKS, Identity(serial=SERIAL), write_cache=False, is_clustered=True
        )
        device = TargetDevice({0: unit}, name=TARGET, reservations=self.units.of)
        device.set_ports((self.tag,))
        target = self._target = TargetNode(TARGET, device)
        self.entity = NetworkEntity([target], entropy=self._random.randbytes)
        runner = StepRunner(
            self.process.clock, None, lambda unit, nexuses, done: self.abort(unit.identity.naa, nexuses, done)
        )
        self.executor: Any = Executor(device, runner)

    @property
    def record(self) -> UnitRecord:
        """What this node knows of it."""
        return self.units._units[NAA].record

    @property
    def is_served(self) -> bool:
        """Whether initiators can log in."""
        return self._target is not None

    @property
    def is_open(self) -> bool:
        """Whether commands may begin now; looks only, and changes nothing."""
        return self.is_served and self.units.may_act() and NAA in self.units._attached

    def abort(self, naa: bytes, nexuses: Sequence[str] | None, done: Callable[[], None]) -> None:
        """See `csvd.target.cluster_units.Tasks`."""
        assert self._target is not None

        def over() -> None:
            done()
            for path in list(self.paths):
                path.proceed()

        self._target.abort_tasks(set(lun_spellings(0)), nexuses, over)

    def _ended(self, *, power_cut: bool) -> None:
        for path in list(self.paths):
            path.node_ended(power_cut=power_cut)
