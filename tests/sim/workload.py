"""What clients do meanwhile: changes of the register through any node, and what they were told of them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from csvd.cluster.errors import CommandRefused, OutcomeUnknown
from tests.sim.stamps import ask
from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.simulation import Simulation


class Workload:
    """Clients of the register. Every change has a name that no other has, so that it can be found in the history."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._random = simulation.world.random("workload")
        self._number = 0
        self._is_over = False
        self.outcomes: dict[str, str] = {}

    def start(self) -> None:
        """Begin."""
        self._add_disks()
        self._next()

    def stop(self) -> None:
        """Ask for nothing more."""
        self._is_over = True

    def ask(self, node: SimNode, disk: str, timeout_s: float) -> str:
        """Ask the coordinator of a disk at a node; gives the token, under which `outcomes` will have the outcome."""
        self._number += 1
        token = f"a{self._number}"
        self.outcomes[token] = "asked"
        self._simulation.spawn(self._ask_disk(node, disk, token, timeout_s))
        return token

    async def _ask_disk(self, node: SimNode, disk: str, token: str, timeout_s: float) -> None:
        session = node.coordination.session(disk)
        if session is None:
            self.outcomes[token] = "without a session"
            return
        self.outcomes[token] = await ask(session, self._simulation.disk_checks, token, timeout_s)
        self._simulation.counts[f"asks {self.outcomes[token].split(':')[0]}"] += 1
        self._world.note(node.name, f"ask {token} of {disk} {self.outcomes[token]}")

    def _add_disks(self) -> None:
        """Have the shared disks in the register: asked for again and again, for a node may die over it."""
        nodes = self._simulation.running_nodes()
        missing = [
            disk
            for disk in self._simulation.plan.disks
            if not any(disk in node.register.disks for node in self._simulation.nodes.values())
        ]
        if missing:
            self._world.later(0.3, self._add_disks)
        if missing and nodes:
            self._simulation.spawn(self._add_disk(self._random.choice(nodes), missing[0]))

    async def _add_disk(self, node: SimNode, disk: str) -> None:
        command = {"op": "disk_add", "name": disk, "url": disk, "uuid": self._simulation.stores[disk].uuid}
        with contextlib.suppress(CommandRefused, OutcomeUnknown):
            await node.cluster.submit(command, timeout_s=2.0)

    def change(self, node: SimNode, timeout_s: float) -> str:
        """Ask for a change at a node; gives its name, under which `outcomes` will have what became of it."""
        self._number += 1
        name = f"g{self._number}"
        self.outcomes[name] = "asked"
        self._simulation.spawn(self._create(node, name, timeout_s))
        return name

    async def _create(self, node: SimNode, name: str, timeout_s: float) -> None:
        command = {"op": "guest_create", "name": name, "owner": node.name, "spec": {}}
        try:
            answer = await node.cluster.submit(command, timeout_s=timeout_s)
        except CommandRefused as error:
            self.outcomes[name] = "refused"
            self._world.note(node.name, f"change {name} refused: {error}")
        except OutcomeUnknown as error:
            self.outcomes[name] = "unknown"
            self._world.note(node.name, f"change {name} unknown: {error}")
        else:
            self.outcomes[name] = "acknowledged"
            self._simulation.counts["changes acknowledged"] += 1
            self._world.note(node.name, f"change {name} acknowledged, revision {answer['revision']}")

    async def _remove(self, node: SimNode, name: str) -> None:
        """Remove what was made, so that the register does not grow without end."""
        guest = node.register.guest(name)
        if guest is None:
            return
        command = {"op": "guest_remove", "name": name, "owner": guest.owner, "epoch": guest.epoch}
        with contextlib.suppress(CommandRefused, OutcomeUnknown):
            await node.cluster.submit(command, timeout_s=3.0)

    def check(self) -> None:
        """What was acknowledged is in the history, once; what was refused is not.

        Raises:
            Violation: it is not so.
        """
        created = self._simulation.raft_checks.created
        for name, outcome in self.outcomes.items():
            if name.startswith("a"):
                continue
            times = created.get(name, 0)
            if outcome == "acknowledged" and times != 1:
                raise Violation(f"change {name} was acknowledged, and is {times} times in the history")
            if outcome == "refused" and times:
                raise Violation(f"change {name} was refused for good, and is in the history")
            if times > 1:
                raise Violation(f"change {name} was carried out {times} times")

    def _next(self) -> None:
        self._world.later(self._random.expovariate(1 / self._simulation.plan.change_pause_s), self._ask)

    def _ask(self) -> None:
        if self._is_over:
            return
        nodes = self._simulation.running_nodes()
        if nodes:
            node = self._random.choice(nodes)
            if self._random.random() < 0.5:
                disk = self._random.choice(list(self._simulation.plan.disks))
                self.ask(node, disk, self._random.choice([1.0, 5.0, 15.0]))
            elif self._random.random() < 0.3 and self._number > 3:
                name = f"g{self._random.randrange(max(1, self._number - 20), self._number)}"
                self._simulation.spawn(self._remove(node, name))
            else:
                self.change(node, self._random.choice([0.5, 3.0, 10.0]))
        self._next()
