"""What the cluster exports, on simulated nodes: production code, which serves to nobody.

People create targets, let initiators log in, and take both back, at any node. Every name comes only once, so that each
change can be found again: what was acknowledged is there for every later coordinator, and served so by every node that
may serve; what was refused is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.defer import succeed

from csvd.cluster.coordination.faces import Json, Office
from csvd.cluster.errors import CommandRefused, OutcomeUnknown, RemoteError
from csvd.errors import CsvdError
from csvd.exports.catalogue import AddAcl, AnyEdit, CreateTarget, RemoveAcl, RemoveTarget
from csvd.exports.cluster_exports import ClusterExports
from csvd.exports.coordinator import NAME
from csvd.exports.joined import JoinedServing
from csvd.exports.serving import Plan
from tests.sim.world import Violation
from tests.unit.exports.exporting_cluster import FakeServing

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.simulation import Simulation

PAUSE_S: Final = 0.3
MOST: Final = 12
"""Targets at once; more cost time, and show no more."""


class ExportChecks:
    """What is known of the changes of a run.

    Attributes:
        there: targets, and entries of access lists as (target, initiator), that were acknowledged, and that nobody has
            asked to take back.
        gone: those of which it was acknowledged that they are gone, and those that were refused for good.
        revision: the highest that was acknowledged.
    """

    def __init__(self) -> None:
        self.there: set[tuple[str, str]] = set()
        self.gone: set[tuple[str, str]] = set()
        self.revision = 0

    def begun(self, revision: int, targets: Mapping[str, Any]) -> None:
        """A coordinator begins with these targets."""
        if revision < self.revision:
            raise Violation(f"a coordinator finds revision {revision} of the exports, and {self.revision} was pushed")
        self.check("a coordinator", {name: record["acl"].keys() for name, record in targets.items()})

    def check(self, who: str, targets: Mapping[str, Any]) -> None:
        """Who has these targets, with these initiators in their lists, has what was acknowledged."""
        for target, initiator in self.there:
            if target not in targets or (initiator and initiator not in targets[target]):
                raise Violation(f"{who} does not have {target} {initiator}, which was acknowledged")
        for target, initiator in self.gone:
            if target in targets and (not initiator or initiator in targets[target]):
                raise Violation(f"{who} has {target} {initiator}, which was refused, or is gone")


class ExportsWatch:
    """Looks at what a new coordinator finds; a service that does nothing."""

    name = "exports-watch"

    def __init__(self, checks: ExportChecks) -> None:
        self._checks = checks

    async def begin(self, office: Office) -> None:
        """See what there is."""
        prefix = f"{NAME}/target/"
        targets = {key.removeprefix(prefix): code for key, code in office.records.items() if key.startswith(prefix)}
        self._checks.begun(office.records.get(f"{NAME}/revision", 0), targets)

    def end(self) -> None:
        """Nothing to forget."""

    async def asked(self, node: str, method: str, params: Json) -> Json:
        """Nobody asks."""
        return {}

    def node_gone(self, node: str) -> None:
        """No matter."""

    def node_come(self, node: str) -> None:
        """No matter."""


class NodeExports:
    """What the cluster exports, at one process of csvd."""

    def __init__(self, node: SimNode, checks: ExportChecks, random: Random, on_current: Callable[[], None]) -> None:
        self.serving = FakeServing()
        self._joined = JoinedServing(self.serving)
        self._exports = ClusterExports(
            node.coordination,
            members=lambda: node.register.members,
            on_members=node.cluster.on_change,
            serving=self._joined,
            keys=None,
            portals=["0.0.0.0:3260"],
            clock=node.process.clock,
            run=lambda job: succeed(job()),
            entropy=random.randbytes,
            tell=lambda kind, text, subject: None,
            on_current=on_current,
        )
        self.targets = self._exports.targets
        node.coordination.add_service(lambda disk, is_system: ExportsWatch(checks) if is_system else None)

    async def start(self) -> None:
        """Serve from now on."""
        await self._joined.start(Plan())
        self._exports.start()

    def may_attach(self) -> bool:
        """Whether commands of the cluster's logical units may begin, as far as exports go."""
        return self.targets.is_current

    @property
    def is_current(self) -> bool:
        """Whether initiators of the cluster are served now."""
        session = self.targets.session
        return session is not None and session.is_live and self.targets.is_current

    @property
    def served(self) -> dict[str, set[str]]:
        """The targets that are served, with who may log in."""
        return {section.name: {entry.initiator for entry in section.acl} for section in self.serving.plan.targets}


class Exporters:
    """People who change what the cluster exports."""

    def __init__(self, simulation: Simulation, checks: ExportChecks) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._random = simulation.world.random("exporters")
        self._checks = checks
        self._number = 0
        self._is_over = False
        self._known: dict[str, list[str]] = {}
        """Targets that were acknowledged and not taken back, with who may log in."""

    def start(self) -> None:
        """Begin."""
        self._next()

    def stop(self) -> None:
        """Ask for nothing more."""
        self._is_over = True

    def _next(self) -> None:
        if not self._is_over:
            self._world.later(self._random.expovariate(1 / PAUSE_S), self._act)

    def _act(self) -> None:
        self._next()
        nodes = [node for node in self._simulation.running_nodes() if node.coordination.system is not None]
        if self._is_over or not nodes:
            return
        node, action = self._random.choice(nodes), self._random.random()
        self._number += 1
        name = f"iqn.2026-11.sim:t{self._number}"
        known = sorted(self._known)
        if not known or (action < 0.4 and len(known) < MOST):
            self._begin(node, CreateTarget(name), (name, ""))
            return
        target = self._random.choice(known)
        if action < 0.6:
            del self._known[target]
            self._take_back(node, RemoveTarget(target), (target, ""))
        elif action < 0.8 and self._known[target]:
            initiator = self._known[target].pop()
            self._take_back(node, RemoveAcl(target, initiator=initiator), (target, initiator))
        else:
            initiator = f"iqn.2026-11.sim:i{self._number}"
            self._begin(node, AddAcl(target, initiator=initiator), (target, initiator))

    def _take_back(self, node: SimNode, edit: AnyEdit, what: tuple[str, str]) -> None:
        """Take something back that was acknowledged; with a target goes all that it has."""
        there = self._checks.there
        there -= {one for one in there if one == what or (not what[1] and one[0] == what[0])}
        self._simulation.spawn(self._change(node, edit, what, gives=False))

    def _begin(self, node: SimNode, edit: AnyEdit, what: tuple[str, str]) -> None:
        self._simulation.spawn(self._change(node, edit, what, gives=True))

    async def _change(self, node: SimNode, edit: AnyEdit, what: tuple[str, str], *, gives: bool) -> None:
        session = node.coordination.system
        assert session is not None
        params = {"edit": msgspec.to_builtins(edit), "force": self._random.random() < 0.5}
        outcome = "acknowledged"
        answer: Json = {}
        try:
            answer = await session.ask(NAME, "change", params, timeout_s=self._random.choice([1.0, 5.0, 15.0]))
        except RemoteError as error:
            outcome = f"is wrong: {error}"
        except CommandRefused:
            outcome = "refused"
        except OutcomeUnknown:
            outcome = "unknown"
        except CsvdError as error:
            outcome = f"failed: {error}"
        self._simulation.counts[f"exports {outcome.split(':')[0]}"] += 1
        self._world.note(node.name, f"exports: {what} {'given' if gives else 'taken back'}: {outcome}")
        if outcome == "acknowledged":
            self._acknowledged(what, answer["revision"], gives=gives)
        elif outcome == "refused" and gives:
            self._checks.gone.add(what)

    def _acknowledged(self, what: tuple[str, str], revision: int, *, gives: bool) -> None:
        checks, (target, initiator) = self._checks, what
        checks.revision = max(checks.revision, revision)
        if not gives:
            checks.gone.add(what)
        elif not initiator:
            self._known[target] = []
            checks.there.add(what)
        elif target in self._known:
            self._known[target].append(initiator)
            checks.there.add(what)
        for name, node in self._simulation.nodes.items():
            exports, units = node.exports, node.units
            if exports is None or units is None or self._simulation.disk_checks.is_off(units.raw):
                continue  # One that was fenced by hand may take its lease to be good; it reaches no disk.
            if exports.is_current:
                if exports.targets.revision < revision:
                    raise Violation(f"{what} is revision {revision}, and {name} serves by {exports.targets.revision}")
                checks.check(name, exports.served)

    def check_end(self) -> None:
        """All nodes serve the same, and it is what was acknowledged.

        Raises:
            Violation: it is not so.
        """
        members = self._simulation.members()
        nodes = [node for node in self._simulation.member_nodes() if not members[node.name].is_witness]
        served = {}
        for node in nodes:
            assert node.exports is not None
            if not node.exports.is_current:
                raise Violation(f"{node.name} does not serve what the cluster exports though all is well")
            served[node.name] = node.exports.served
            self._checks.check(node.name, node.exports.served)
        if any(one != other for one in served.values() for other in served.values()):
            raise Violation(f"nodes serve different things in the end: {served}")
