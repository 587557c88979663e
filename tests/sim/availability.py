"""While enough nodes are well, every disk has a coordinator: not at once, for the one before must be off, but in time.

That is what leases, fences and watchdogs are good for together: nobody who is gone, cut off or standing still is waited
for without end.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Final

from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.simulation import Simulation

BOUND_S: Final = 20.0
"""A lease of a coordinator, an election, the sessions of nodes that do not come back, and a host that is believed to be
gone only after a while; with room."""
_LOOK_S: Final = 0.5


class Availability:
    """Looks again and again whether all disks have a coordinator, where they could."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._well: tuple[str, ...] = ()
        self._well_since_s = 0.0
        self._acted_s: dict[str, float] = {}

    def start(self) -> None:
        """Begin."""
        self._world.later(_LOOK_S, self._look)

    def _look(self) -> None:
        self._world.later(_LOOK_S, self._look)
        now_s, nodes = self._world.now_s, self._simulation.nodes.values()
        well = self._largest_group()
        if well != self._well:
            self._well, self._well_since_s = well, now_s
        for disk in self._simulation.plan.disks:
            offices = [node.offices.get(disk) for node in nodes if node.is_started]
            is_known = any(disk in node.register.disks for node in nodes)
            if not well or not is_known or any(office is not None and office.is_live for office in offices):
                self._acted_s[disk] = now_s
            elif now_s - max(self._well_since_s, self._acted_s.get(disk, 0.0)) > BOUND_S:
                raise Violation(f"no node acts for {disk} for {BOUND_S:.0f} s, though {', '.join(well)} are well")

    def _largest_group(self) -> tuple[str, ...]:
        """The most nodes that are well, hear one another and are a majority, with one that may have an office."""

        def is_enough(group: tuple[str, ...]) -> bool:
            is_majority = 2 * len(voters.intersection(group)) > len(voters)
            hear = all(self._hear(one, other) for one, other in combinations(group, 2))
            return is_majority and bool(able.intersection(group)) and hear

        members = self._simulation.members()
        voters = {name for name, member in members.items() if member.is_voter}
        able = {name for name, member in members.items() if not member.is_witness}
        well = sorted(node.name for node in self._simulation.running_nodes() if self._is_well(node))
        for count in range(len(well), len(voters) // 2, -1):
            for group in combinations(well, count):
                if is_enough(group):
                    return group
        return ()

    def _is_well(self, node: SimNode) -> bool:
        simulation, name = self._simulation, node.name
        stores = simulation.stores.values()
        return (
            not simulation.hosts[name].is_full
            and node.calls.mean_s <= simulation.plan.journal_s
            and not any(name in store.slow_s or name in store.failing for store in stores)
        )

    def _hear(self, one: str, other: str) -> bool:
        wires = self._simulation.wires
        return not any(wires.is_cut(path) or path in wires.slow_s for path in ((one, other), (other, one)))
