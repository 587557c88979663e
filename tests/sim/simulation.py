"""One run from one seed: a cluster, its clients, faults; then quiet, in which all must become well again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from csvd.cluster.coordination.faces import LIVE
from csvd.cluster.errors import ClusterError
from csvd.cluster.names import address_of_text
from csvd.cluster.register_members import Member
from tests.sim.administration import Administration
from tests.sim.availability import Availability
from tests.sim.disk_checks import DiskChecks, format_store
from tests.sim.exports import ExportChecks, Exporters
from tests.sim.faults import Faults
from tests.sim.hosts import Host
from tests.sim.initiators import Initiators
from tests.sim.node import SimNode
from tests.sim.plan import Plan, plan_of
from tests.sim.raft_checks import RaftChecks
from tests.sim.stage import Stage
from tests.sim.stores import Landing, Store
from tests.sim.unit_checks import UnitChecks
from tests.sim.units import NAA, STORE, NodeUnits
from tests.sim.wires import Wires
from tests.sim.workload import Workload
from tests.sim.world import Process, Trace, Violation, World

REMOVED: Final = "this node was removed from the cluster"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    seed: int
    problem: str
    last: tuple[str, ...]
    checksum: int
    steps: int
    simulated_s: float
    settled_s: float
    counts: Mapping[str, int]


class Simulation:
    """A run that has not ended."""

    def __init__(self, seed: int, echo: Callable[[str], None] | None = None) -> None:
        self.plan: Plan = plan_of(seed)
        self.world = World(seed, Trace(echo))
        self.wires = Wires(self.world)
        self.wires.loss, self.wires.duplicates = self.plan.loss, self.plan.duplicates
        self.raft_checks = RaftChecks()
        self.counts: Counter[str] = Counter()
        self.disk_checks = DiskChecks(self.world, self.counts)
        self.stores: dict[str, Store] = {}
        for number, (disk, fence_kind) in enumerate(self.plan.disks.items(), 1):
            self._make_store(disk, disk, number, fence_kind)
            self._make_store(f"{disk}-raw", disk, number + 100, fence_kind)
        self.export_checks = ExportChecks()
        self.unit_checks = UnitChecks(self.world, self.counts, self._serving)
        if self.plan.units is not None:
            self._make_unit_store()
        self.numbers: dict[str, int] = {}
        self.administration = Administration(self)
        self._sequence = 0
        self.hosts = {name: Host(self.world, name, self.plan.rates.get(name, 1.0)) for name in self.plan.nodes}
        self.nodes: dict[str, SimNode] = {}
        self.faults = Faults(self)
        self.workload = Workload(self)
        self.availability = Availability(self)
        self.stage = Stage(self)
        self.initiators = None if self.plan.units is None else Initiators(self, self.plan.units)
        self.exporters = None if self.plan.units is None else Exporters(self, self.export_checks)
        self._graves: list[SimNode] = []
        self._problem: str = ""

    def run(self) -> Outcome:
        """Run it to its end, or to the first violation."""
        problem, settled_s = "", 0.0
        self.world.after_step = self._after_step
        observer = cast(ILogObserver, self._observe)
        globalLogPublisher.addObserver(observer)
        try:
            settled_s = self._run()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the seed shows
            problem = f"{type(error).__name__}: {error}" if not isinstance(error, Violation) else str(error)
            self.world.note("----", f"PROBLEM {problem}")
        finally:
            globalLogPublisher.removeObserver(observer)
            for node in self.nodes.values():
                node.process.kill()
        trace = self.world.trace
        return Outcome(
            self.plan.seed,
            problem,
            tuple(trace.last),
            trace.checksum,
            self.world.steps,
            self.world.now_s,
            settled_s,
            dict(self.counts),
        )

    def spawn(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        """Let a coroutine go on by itself; what it raises is a fault."""

        def failed(failure: Failure) -> None:
            self._problem = _said(failure, failure.getErrorMessage())

        Deferred.fromCoroutine(coroutine).addErrback(failed)

    def node(self, name: str) -> SimNode | None:
        """The process on a host, or None."""
        return self.nodes.get(name)

    def start_node(self, name: str) -> None:
        """Start csvd on a host, unless it runs."""
        host = self.hosts[name]
        if not host.is_up:
            host.off_since_s = None
            self.wires.is_down.discard(name)
        if name in self.nodes or not (self.is_founder(host) or host.contacts):
            return
        self.world.note(name, "starts")
        try:
            node = SimNode(self, host)
        except ClusterError as error:
            self._not_started(name, error)
            host.no_process()
            return
        self.nodes[name] = node
        Deferred.fromCoroutine(node.start()).addErrback(self._start_failed, node)

    def _start_failed(self, failure: Failure, node: SimNode) -> None:
        error = failure.value
        if isinstance(error, ClusterError):
            self._not_started(node.name, error)
            if self.nodes.get(node.name) is node:
                self.end(node.name, power_cut=False)
        else:
            self._problem = _said(failure, failure.getErrorMessage())

    def _not_started(self, name: str, error: ClusterError) -> None:
        if not self.hosts[name].is_full:
            raise Violation(f"{name} does not start: {error}")
        self.world.note(name, "does not start, for its disk is full")
        self.world.later(3.0, self.start_node, name)

    def may_join(self, host: Host) -> bool:
        """Whether a host is in no cluster, and can be put into this one."""
        return not self.is_founder(host) and not host.contacts and host.is_up

    def is_founder(self, host: Host) -> bool:
        """Whether a host is in the cluster from its beginning, and has not left it since."""
        return host.name in self.plan.founders and not host.life

    def members(self) -> Mapping[str, Member]:
        """The members, as the node knows them that knows most."""
        registers = [node.register for node in self.nodes.values()]
        return max(registers, key=lambda register: register.revision).members if registers else {}

    def member_nodes(self) -> list[SimNode]:
        """The processes of members that have started."""
        members = self.members()
        return [
            node
            for name, node in self.nodes.items()
            if node.is_started and name in members and self.hosts[name].fingerprint in members[name].fingerprints
        ]

    def running_nodes(self) -> list[SimNode]:
        """Those of them that are not paused: a client can ask them."""
        return [node for node in self.member_nodes() if not node.process.is_paused]

    def _left(self, name: str) -> None:
        """A node was evicted, and has ended: its host is made anew."""
        self.world.note(name, "has left the cluster")
        self.end(name, power_cut=False)
        self.hosts[name].wipe()
        self.raft_checks.wiped(name)

    def bitten(self, node: SimNode) -> None:
        """The watchdog of a process kills it."""
        self.world.note(node.name, "is killed by its watchdog")
        self.counts["bites"] += 1
        if self.nodes.get(node.name) is node:
            self.end(node.name, power_cut=False)
            self.world.later(2.0, self.start_node, node.name)

    def next_sequence(self) -> int:
        """A number that is higher than all before."""
        self._sequence += 1
        return self._sequence

    def _make_store(self, name: str, disk: str, number: int, fence_kind: str) -> None:
        uuid = f"00000000-0000-4000-8000-{number:012d}"
        store = Store(self.world, name, uuid, 1 << 30, fence_kind, self.world.random(f"store {name}"))
        is_raw = name != disk
        if not is_raw:
            format_store(store)
        self.disk_checks.watch(store, disk, is_raw=is_raw)
        self.stores[name] = store

    def _make_unit_store(self) -> None:
        """The store under the logical unit that all nodes export."""
        kind = self.plan.disks["system"]
        store = Store(self.world, STORE, "unit", 1 << 30, kind, self.world.random("store unit"))

        def landed(landing: Landing) -> None:
            self.disk_checks.check_not_fenced(landing)
            self.unit_checks.landed(NAA, landing)

        store.landed, store.proven = landed, self.disk_checks.proven
        self.stores[STORE] = store

    def _serving(self) -> list[str]:
        """The nodes that may carry out commands of the logical unit now."""
        return [node.name for node in self.nodes.values() if node.units is not None and self._serves(node, node.units)]

    def _serves(self, node: SimNode, units: NodeUnits) -> bool:
        # A node that was fenced by hand may take its lease to be good; it reaches no disk.
        return units.is_open and not self.disk_checks.is_off(units.raw)

    def end(self, name: str, *, power_cut: bool) -> None:
        """Kill csvd on a host, or cut the host's power."""
        node = self.nodes.pop(name)
        self._graves.append(node)  # its coroutines must not be collected while others run
        if power_cut:
            self.wires.is_down.add(name)
        node.network.killed(is_told=not power_cut)
        self.disk_checks.gone(name)
        self.hosts[name].end_process(node.calls, power_cut=power_cut)

    def mend_stores(self, name: str) -> None:
        """A host reaches the stores as it should."""
        for store in self.stores.values():
            store.slow_s.pop(name, None)
            store.failing.discard(name)

    def mend_host(self, name: str) -> None:
        """Whatever is wrong with a host is so no more."""
        host, node = self.hosts[name], self.nodes.get(name)
        self.mend_stores(name)
        host.set_full(False)
        if node is not None and node.failure is not None:
            self.end(name, power_cut=False)
            node = None
        if node is None:
            self.start_node(name)
            return
        node.calls.mean_s = self.plan.journal_s
        if node.process.is_paused:
            node.process.resume(was_suspended=False, timers_first=False)

    def _run(self) -> float:
        world, plan = self.world, self.plan
        for name in plan.founders:
            self.start_node(name)
        self.workload.start()
        self.administration.start()
        if self.initiators is not None:
            self.initiators.start()
        if self.exporters is not None:
            self.exporters.start()
        self.faults.start()
        self.availability.start()
        if plan.script is not None:
            self.stage.play(plan.script)
        world.run_until(plan.faults_s)
        self.workload.stop()
        if self.initiators is not None:
            self.initiators.stop()
        if self.exporters is not None:
            self.exporters.stop()
        world.note("----", "the faults stop")
        self.faults.stop()
        self.stage.stop()
        self._end_joins()
        if not world.run_until(plan.faults_s + plan.quiet_s, self.is_settled):
            raise Violation(f"there is not one coordinator {plan.quiet_s} s after the faults stopped: {self._state()}")
        settled_s = world.now_s - plan.faults_s
        world.note("----", f"settled {settled_s:.3f} s after the faults stopped")
        members, nodes = self.members(), self.member_nodes()
        last = [self.workload.change(node, 5.0) for node in nodes]
        for disk in self.plan.disks:
            last.extend(self.workload.ask(node, disk, 5.0) for node in nodes if not members[node.name].is_witness)
            if self.initiators is not None and disk == "system":
                self.initiators.probe_all(node for node in nodes if not members[node.name].is_witness)
        outcomes = self.workload.outcomes
        world.run_until(
            world.now_s + 12.0, lambda: all(outcomes[name] != "asked" for name in last) and self._are_probed()
        )
        world.run_until(world.now_s + 1.5)  # for the followers to hear of it
        for name in last:
            if self.workload.outcomes[name] != "acknowledged":
                raise Violation(f"{name} was {self.workload.outcomes[name]} though all is well")
        if self.initiators is not None:
            self.initiators.check_end()
        if self.exporters is not None:
            self.exporters.check_end()
        self._check_end()
        return settled_s

    def _are_probed(self) -> bool:
        return self.initiators is None or self.initiators.are_probed

    def _end_joins(self) -> None:
        """A node that joined, and whose answer was lost with the member that it had asked, asks again."""
        members = self.members()
        for name, member in members.items():
            host = self.hosts[name]
            if name not in self.nodes and host.fingerprint in member.fingerprints and self.may_join(host):
                host.contacts = {one.id: (address_of_text(one.address), one.fingerprints) for one in members.values()}
                self.start_node(name)
        if self.world.now_s < self.plan.faults_s + 10.0:
            self.world.later(1.0, self._end_joins)

    def is_settled(self) -> bool:
        """Whether all is well: one leader, one coordinator of each disk, a live session of every node with each."""
        nodes = self.member_nodes()
        if not nodes or len(nodes) != len(self.members()):
            return False
        if not all(node.name in node.register.members for node in nodes):
            return False
        acting = [node for node in nodes if node.cluster.is_coordinator]
        if len(acting) != 1 or any(node.election.leader != acting[0].name for node in nodes):
            return False
        return all(self._is_disk_well(disk) for disk in self.plan.disks)

    def _is_disk_well(self, disk: str) -> bool:
        """Whether a disk has a coordinator, and every node a live session with it."""
        members = self.members()
        nodes = [node for node in self.member_nodes() if not members[node.name].is_witness]
        offices = [node.offices.get(disk) for node in nodes]
        if sum(office is not None and office.is_live for office in offices) != 1:
            return False
        sessions = [node.coordination.session(disk) for node in nodes]
        return all(session is not None and session.state == LIVE for session in sessions)

    def _state(self) -> str:
        lines = []
        for name, node in self.nodes.items():
            if not node.is_started:
                lines.append(f"{name} is not started")
                continue
            lines.append(f"{name}: leader {node.election.leader}, term {node.election.term}, failure {node.failure}")
            lines.extend(f"{name}: {status}" for status in node.coordination.status())
        return "\n  ".join(lines)

    def _check_end(self) -> None:
        """All nodes have the same register, and it has all that was acknowledged."""
        snapshots = {
            name: node.register.snapshot() for name, node in ((node.name, node) for node in self.member_nodes())
        }
        first, *others = snapshots
        for other in others:
            if snapshots[other] != snapshots[first]:
                raise Violation(f"the registers of {first} and {other} differ in the end")
        self.workload.check()

    def _after_step(self, process: Process | None) -> None:
        self._stepped(process)
        self.stage.stepped()

    def _stepped(self, process: Process | None) -> None:
        if self._problem:
            raise Violation(self._problem)
        if process is None or not process.is_alive:
            return
        node = self.nodes.get(process.name)
        if node is None or node.process is not process:
            return
        node.stepped()
        if node.failure is not None and self._is_evicted(node):
            self._left(node.name)
        elif node.failure is not None:
            if not self.hosts[node.name].is_full:
                raise Violation(f"{node.name} gave up: {node.failure}")
            # What the daemon does then: it ends, and somebody starts it again.
            self.world.note(node.name, "ends, for its disk is full")
            self.end(node.name, power_cut=False)
            self.world.later(3.0, self.start_node, node.name)

    @staticmethod
    def _is_evicted(node: SimNode) -> bool:
        """Whether a node has ended for it heard that it was removed; what others know may lag behind."""
        return node.failure is not None and node.failure.what == REMOVED

    def _observe(self, event: dict[str, Any]) -> None:
        """Something was logged: an exception that was caught only to be logged is a fault."""
        level = event.get("log_level", LogLevel.info)
        if level is LogLevel.debug:
            return
        text = formatEvent(event)
        self.world.note("log", text)
        failure = event.get("log_failure")
        if failure is not None:
            self._problem = _said(failure, f"logged: {text}")


def _said(failure: Failure, otherwise: str) -> str:
    """What a check said, where it is one that has failed; otherwise this, and where it was."""
    return str(failure.value) if isinstance(failure.value, Violation) else f"{otherwise}: {failure.getTraceback()}"
