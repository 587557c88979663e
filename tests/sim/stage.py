"""Where a script plays: it brings chosen faults upon a simulation, in an order that chance would seldom find.

A script is a coroutine. It sees all nodes, waits for something to the very step, and does what faults and people do.
All else is as in every run: the production code runs, and the same checks look after every step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred

from csvd.cluster.coordination.office import HeldOffice
from csvd.errors import CsvdError
from tests.sim.stores import Store
from tests.sim.wires import Pair

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.simulation import Simulation

DISK: Final = "system"
_LOOK_S: Final = 0.05

Script = Callable[["Stage"], Coroutine[Deferred[Any], Any, None]]


class NotStaged(Exception):
    """What a script waits for did not come: the seed shows nothing."""


class Stage:
    """What a script sees and does."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.random = simulation.world.random("script")
        self._world = simulation.world
        self._waiting: list[tuple[Callable[[], bool], Deferred[bool]]] = []
        self._is_over = False

    def play(self, script: Script) -> None:
        """Begin a script."""
        self.simulation.spawn(self._play(script))

    def stop(self) -> None:
        """The faults are over: what a script still wants does not come any more."""
        self._is_over = True
        waiting, self._waiting = self._waiting, []
        for _, came in waiting:
            came.callback(False)

    def stepped(self) -> None:
        """A step is over: is there what the script waits for?"""
        for entry in [one for one in self._waiting if one[0]()]:
            if entry in self._waiting:
                self._waiting.remove(entry)
                entry[1].callback(True)

    async def _play(self, script: Script) -> None:
        try:
            await script(self)
        except NotStaged as error:
            self._world.note("----", f"SCRIPT ends early: {error}")
        else:
            self.simulation.counts["scripts played"] += 1

    # Waiting

    async def until(self, condition: Callable[[], bool], what: str, *, within_s: float = 10.0) -> None:
        """Wait until something is so, by a look after every step.

        Raises:
            NotStaged: it is not so in time.
        """
        if not condition():
            came: Deferred[bool] = Deferred()
            entry = (condition, came)
            self._waiting.append(entry)

            def late() -> None:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                    came.callback(False)

            self._world.later(within_s, late)
            if not await came:
                raise NotStaged(f"not so in time: {what}")
        self._world.note("----", f"SCRIPT {what}")

    async def pause(self, pause_s: float) -> None:
        """Let time pass.

        Raises:
            NotStaged: the faults are over.
        """
        passed: Deferred[None] = Deferred()
        self._world.later(pause_s, passed.callback, None)
        await passed
        if self._is_over:
            raise NotStaged("the time is up")

    async def settled(self) -> None:
        """Wait until all is well."""
        while not self.simulation.is_settled():
            await self.pause(_LOOK_S)

    async def coordinator_that_does_not_lead(self) -> str:
        """Wait until all is well, and have the disk's coordinator be on another node than Raft's leader."""
        await self.settled()
        while self.coordinator() in ("", self.leader()) or not self.simulation.is_settled():
            leader = self.leader()
            others = [name for name in self.simulation.plan.founders if name != leader]
            if self.coordinator() == leader:
                self.move(self.random.choice(others))
            await self.pause(1.0)
        self._world.note("----", f"SCRIPT {self.coordinator()} coordinates, {self.leader()} leads")
        return self.coordinator()

    # Seeing

    def node(self, name: str) -> SimNode | None:
        """The process on a host that has started, or None."""
        node = self.simulation.node(name)
        return node if node is not None and node.is_started else None

    def office(self, name: str) -> HeldOffice | None:
        """The office that a node has, or takes."""
        node = self.node(name)
        return node.offices.get(DISK) if node is not None else None

    def is_at(self, name: str, step: str) -> bool:
        """Whether a node's office is at a step."""
        office = self.office(name)
        return office is not None and office.step == step

    def coordinator(self) -> str:
        """The node that acts for the disk; empty where none does."""
        for name in self.simulation.plan.nodes:
            office = self.office(name)
            if office is not None and office.is_live:
                return name
        return ""

    def leader(self) -> str:
        """Raft's leader, where it acts; else empty."""
        for name in self.simulation.plan.nodes:
            node = self.node(name)
            if node is not None and node.cluster.is_coordinator:
                return name
        return ""

    def others(self, *names: str) -> list[str]:
        """The founders but for these, in an order of chance."""
        rest = [name for name in self.simulation.plan.founders if name not in names]
        self.random.shuffle(rest)
        return rest

    def store(self, *, is_raw: bool = False) -> Store:
        """The store of the disk, or the raw one that goes with it."""
        return self.simulation.stores[f"{DISK}-raw" if is_raw else DISK]

    # Doing

    def move(self, name: str) -> None:
        """A person wants the office on a node."""
        node = self.node(name)
        if node is not None:
            self._world.note(name, f"SCRIPT the office of {DISK} is to move to {name}")
            self.act(node.coordination.move(DISK, name))

    def act(self, act: Coroutine[Any, Any, object]) -> None:
        """A person does something; what comes of it does not matter."""
        self.simulation.spawn(self._quietly(act))

    async def _quietly(self, act: Coroutine[Any, Any, object]) -> None:
        with contextlib.suppress(CsvdError):
            await act

    def ask_often(self, name: str, pause_s: float = 0.05) -> None:
        """Ask the coordinator at a node, again and again."""
        node = self.node(name)
        if self._is_over:
            return
        if node is not None and not node.process.is_paused:
            self.simulation.workload.ask(node, DISK, 5.0)
        self._world.later(pause_s, self.ask_often, name, pause_s)

    def cut(self, name: str, others: Iterable[str]) -> None:
        """Let nothing through between a node and others, either way."""
        pairs = _between(name, others)
        self._world.note(name, f"SCRIPT cut off {', '.join(others)}")
        self.simulation.wires.cut(pairs)

    def mend(self, name: str, others: Iterable[str]) -> None:
        """Mend what `cut` has cut."""
        self._world.note(name, f"SCRIPT no more cut off {', '.join(others)}")
        self.simulation.wires.mend(_between(name, others))

    def kill(self, name: str, *, power_cut: bool = False) -> None:
        """Kill the process of a node, or cut the power of its host."""
        if self.simulation.node(name) is not None:
            self._world.note(name, f"SCRIPT {'power cut' if power_cut else 'kill'}")
            self.simulation.end(name, power_cut=power_cut)

    def start(self, name: str) -> None:
        """Start it again; the stores are as fast for it as they should be."""
        self.simulation.mend_stores(name)
        self.simulation.start_node(name)

    def slow_down(self, name: str, slow_s: float) -> None:
        """Let all that a node asks of the stores take up to so much longer."""
        for store in self.simulation.stores.values():
            store.slow_s[name] = slow_s


def _between(name: str, others: Iterable[str]) -> list[Pair]:
    return [pair for other in others for pair in ((name, other), (other, name))]
