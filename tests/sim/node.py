"""One run of csvd's cluster part on a simulated host: production code on the simulated clock, network and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any
from unittest import mock

from twisted.internet.defer import Deferred

from csvd.cluster.beginning import begin_cluster, begin_joining, founding_members
from csvd.cluster.cluster import Cluster
from csvd.cluster.coordination.coordination import NodeCoordination
from csvd.cluster.coordination.office import HeldOffice
from csvd.cluster.election import Election
from csvd.cluster.errors import ClusterError
from csvd.cluster.register import Register
from csvd.cluster.register_disks import DiskRecord
from csvd.cluster.timeouts import Timeouts
from csvd.shared_disk import SharedDisk
from csvd.storage.cluster_disk.disk import ClusterDisk
from csvd.storage.cluster_disk.formatting import read_superblock
from tests.sim.exports import NodeExports
from tests.sim.hosts import BlockingCalls, Host, ProcessFiles, fingerprint_of
from tests.sim.network import SimNetwork
from tests.sim.raft_checks import WatchedJournal, WatchedRegister
from tests.sim.stamps import StampService, StampWriter
from tests.sim.stores import SimDisk, Store
from tests.sim.units import NodeUnits
from tests.sim.world import Event, Process

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

TIMEOUTS = Timeouts(tick_s=0.05)
"""As in production, but Raft's clock is looked at less often; messages are handled at once all the same."""


class SimNode:
    """A process of csvd from its start to its end."""

    def __init__(self, simulation: Simulation, host: Host) -> None:
        self.name = host.name
        self.process = host.new_process()
        self.failure: ClusterError | None = None
        self.is_started = False
        self._simulation = simulation
        plan, checks = simulation.plan, simulation.raft_checks
        clock = self.process.clock
        random = Random(host.random.random())
        self.calls = BlockingCalls(self.process, plan.journal_s)
        files = ProcessFiles(self.process, host.files, checks)
        self.network = SimNetwork(
            self.process, simulation.wires, host.fingerprint, TIMEOUTS, random, checks, host.contacts
        )
        if host.is_blank and simulation.is_founder(host):
            addresses = {name: f"{name}.sim:7000" for name in plan.founders}
            members = founding_members(addresses, {name: [fingerprint_of(name)] for name in plan.founders})
            begin_cluster(files, host.name, members, now_ms=self._now_ms())
        elif host.is_blank:
            begin_joining(files, host.name, now_ms=self._now_ms())
        with mock.patch("csvd.cluster.cluster.ReplicatedRegister", WatchedRegister):
            self.cluster = Cluster(
                node=host.name,
                network=self.network,
                files=files,
                clock=clock,
                boottime=clock.boottime,
                now_ms=self._now_ms,
                run_blocking=self.calls.run,
                random=random,
                timeouts=TIMEOUTS,
                failed=self._failed,
            )
        replicated = self.cluster._replicated
        assert isinstance(replicated, WatchedRegister)
        replicated.watch(checks, self.cluster)
        self.coordination = NodeCoordination(
            self.cluster,
            files=files,
            run_blocking=self.calls.run,
            clock=clock,
            boottime=clock.boottime,
            now_ms=self._now_ms,
            timeouts=TIMEOUTS,
            open_disk=self._open_disk,
            watchdog=SimWatchdog(self.process, self._bitten),
            tell=self._tell,
        )
        self.coordination.add_service(self._make_service)
        self.units: NodeUnits | None = None
        self.exports: NodeExports | None = None
        if plan.units is not None:
            random = simulation.world.random(f"units {self.name} {simulation.world.now_s}")
            self.units = NodeUnits(self, simulation.unit_checks, random)
            self.exports = NodeExports(self, simulation.export_checks, random, self.units.units.attach)
            self.units.units.may_attach = self.exports.may_attach
        self.coordination.on_sessions(self._sessions_changed)
        self._writers: dict[str, StampWriter] = {}
        self._raws: dict[str, SimDisk] = {}

    async def start(self) -> None:
        """Take part from now on.

        Raises:
            ClusterError: the state directory can not be written.
        """
        await self.coordination.start()
        with (
            mock.patch("csvd.cluster.cluster.Journal", WatchedJournal),
            mock.patch("csvd.cluster.election.MAXIMUM_LOG_ENTRIES", self._simulation.plan.log_entries),
        ):
            await self.cluster.start()
        if self.exports is not None:
            await self.exports.start()
        self.is_started = True

    @property
    def election(self) -> Election:
        """Raft, once it is started."""
        election = self.cluster._election
        assert election is not None
        return election

    @property
    def register(self) -> Register:
        """The register here."""
        return self.cluster.register

    def store(self, name: str) -> Store:
        """A store that all nodes see."""
        return self._simulation.stores[name]

    def number_of(self, node: str) -> int:
        """The number of a member; of one that is none any more, the one that it had."""
        member = self.register.members.get(node)
        numbers = self._simulation.numbers
        if member is not None:
            numbers[node] = member.number
        return numbers[node]

    @property
    def offices(self) -> Mapping[str, HeldOffice | None]:
        """The office that it has, or takes, by disk."""
        return {name: part.office for name, part in self.coordination._parts.items()}

    def count(self, what: str) -> None:
        """Count something, to see how much of it a run had."""
        self._simulation.counts[what] += 1

    def stepped(self) -> None:
        """A step of this process is over."""
        if self.is_started:
            self._simulation.raft_checks.stepped(self.name, self.election)
            self._simulation.disk_checks.stepped(self.name, self.offices)

    # What coordination is given

    async def _open(self, record: DiskRecord) -> SharedDisk:
        disk: Any = SimDisk(self._simulation.stores[record.url], self.process)
        return ClusterDisk(disk, await read_superblock(disk))

    def _open_disk(self, record: DiskRecord) -> Deferred[SharedDisk]:
        return Deferred.fromCoroutine(self._open(record))

    def _raw(self, disk: str) -> SimDisk:
        """This process's way to the raw disk that goes with a shared disk."""
        if disk not in self._raws:
            self._raws[disk] = SimDisk(self._simulation.stores[f"{disk}-raw"], self.process)
        return self._raws[disk]

    def _make_service(self, disk: str, *, is_system: bool) -> StampService:
        return StampService(self, disk, self._raw(disk), self._simulation.disk_checks)

    def _sessions_changed(self) -> None:
        for disk in self.register.disks:
            session = self.coordination.session(disk)
            if session is not None and disk not in self._writers:
                sequence = self._simulation.next_sequence
                self._writers[disk] = StampWriter(self, session, self._raw(disk), sequence)
        if self.units is not None:
            self.units.serve(self.coordination.system)

    def _tell(self, kind: str, text: str, subject: str) -> None:
        self.process.world.note(self.name, f"{kind}: {text}")

    def _now_ms(self) -> int:
        return 1_700_000_000_000 + int(self.process.world.now_s * 1000)

    def _failed(self, error: ClusterError) -> None:
        self.failure = error

    def _bitten(self) -> None:
        self._simulation.bitten(self)


class SimWatchdog:
    """The kernel's timer that kills a process, also one that stands still."""

    def __init__(self, process: Process, bite: Callable[[], None]) -> None:
        self._process = process
        self._bite = bite
        self._timer: Event | None = None

    def arm(self, deadline_boottime_s: float) -> None:
        """Kill it at that time."""
        self.disarm()
        clock = self._process.clock
        left_s = max(0.0, deadline_boottime_s - clock.boottime()) / clock.rate
        self._timer = self._process.world.later(left_s, self._bites)

    def disarm(self) -> None:
        """Let it live."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _bites(self) -> None:
        self._timer = None
        if self._process.is_alive:
            self._bite()
