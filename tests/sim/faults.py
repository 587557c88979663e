"""The faults of a run: which comes when, and what it does to the hosts and wires."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tests.sim.plan import FAULTS
from tests.sim.wires import Pair

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation


class Faults:
    """Brings faults upon a simulation until it is told to stop."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._plan = simulation.plan
        self._random = simulation.world.random("faults")
        self._is_over = False
        self._kinds: dict[str, Callable[[str], str]] = {
            "kill": self._kill,
            "power cut": self._cut_power,
            "pause": lambda name: self._pause(name, was_suspended=False),
            "suspend": lambda name: self._pause(name, was_suspended=True),
            "partition": self._partition,
            "one way": self._cut_one_way,
            "isolate": self._isolate,
            "slow path": self._slow_path,
            "slow disk": self._slow_disk,
            "full disk": self._full_disk,
            "slow store": self._slow_store,
            "failing store": self._failing_store,
        }
        assert set(self._kinds) == set(FAULTS)

    def start(self) -> None:
        """Begin."""
        if any(self._plan.weights.values()):
            self._next()

    def stop(self) -> None:
        """No fault any more: all that were are mended."""
        self._is_over = True
        wires = self._simulation.wires
        wires.slow_s.clear()
        wires.loss = wires.duplicates = 0.0
        wires.mend()
        for name in self._plan.nodes:
            self._simulation.mend_host(name)

    def _next(self) -> None:
        self._world.later(self._random.expovariate(1 / self._plan.fault_pause_s), self._bring)

    def _bring(self) -> None:
        if self._is_over:
            return
        kind = self._random.choices(FAULTS, [self._plan.weights[fault] for fault in FAULTS])[0]
        name = self._random.choice(self._plan.nodes)
        what = self._kinds[kind](name)
        if what:
            self._simulation.counts[f"faults {kind}"] += 1
            self._world.note(name, f"FAULT {kind}{what if what != '.' else ''}")
        self._next()

    def _for_a_while(self, low_s: float, high_s: float, then: Callable[..., object], *arguments: object) -> str:
        """Do something when the fault is over; for how long it is, as text."""
        # Short ones more often than long ones, for both are of interest and the long ones hide the others.
        duration_s = low_s * (high_s / low_s) ** self._random.random()

        def over() -> None:
            if not self._is_over:
                then(*arguments)

        self._world.later(duration_s, over)
        return f" for {duration_s:.2f} s"

    def _kill(self, name: str) -> str:
        if self._simulation.node(name) is None:
            return ""
        self._simulation.end(name, power_cut=False)
        return self._for_a_while(0.05, 8.0, self._simulation.start_node, name)

    def _cut_power(self, name: str) -> str:
        names = self._plan.nodes if self._random.random() < 0.1 else (name,)
        text = ""
        for one in names:
            if self._simulation.node(one) is not None:
                self._simulation.end(one, power_cut=True)
                text = self._for_a_while(0.5, 12.0, self._simulation.start_node, one)
        return text and f" of {', '.join(names)}{text}"

    def _pause(self, name: str, *, was_suspended: bool) -> str:
        node = self._simulation.node(name)
        if node is None or node.process.is_paused:
            return ""
        process = node.process
        process.pause()

        def resume() -> None:
            if process.is_alive and process.is_paused:
                self._world.note(name, "goes on")
                process.resume(was_suspended=was_suspended, timers_first=self._random.random() < 0.5)

        return self._for_a_while(0.05, 15.0, resume)

    def _cut(self, paths: Sequence[Pair]) -> str:
        if not paths:
            return ""
        self._simulation.wires.cut(paths)
        return self._for_a_while(0.1, 15.0, self._simulation.wires.mend, paths)

    def _partition(self, name: str) -> str:
        side = [other for other in self._plan.nodes if self._random.random() < 0.5]
        rest = [other for other in self._plan.nodes if other not in side]
        text = self._cut([path for one in side for other in rest for path in ((one, other), (other, one))])
        return text and f" between {', '.join(side)} and the rest{text}"

    def _cut_one_way(self, name: str) -> str:
        others = [other for other in self._plan.nodes if other != name and self._random.random() < 0.6]
        if self._random.random() < 0.5:
            return (text := self._cut([(name, other) for other in others])) and f" to {', '.join(others)}{text}"
        return (text := self._cut([(other, name) for other in others])) and f" from {', '.join(others)}{text}"

    def _isolate(self, name: str) -> str:
        others = [other for other in self._plan.nodes if other != name]
        return self._cut([path for other in others for path in ((name, other), (other, name))])

    def _slow_path(self, name: str) -> str:
        others = [other for other in self._plan.nodes if other != name]
        if not others:
            return ""
        path = (name, self._random.choice(others))
        slow_s = self._random.choice([0.02, 0.1, 0.4, 1.5])
        wires = self._simulation.wires
        wires.slow_s[path] = slow_s
        return f" to {path[1]} by {slow_s} s{self._for_a_while(0.5, 10.0, wires.slow_s.pop, path, None)}"

    def _slow_disk(self, name: str) -> str:
        node = self._simulation.node(name)
        if node is None:
            return ""
        calls = node.calls
        usual_s, calls.mean_s = calls.mean_s, self._random.choice([0.05, 0.3, 1.0])
        return f" ({calls.mean_s} s){self._for_a_while(0.5, 8.0, setattr, calls, 'mean_s', usual_s)}"

    def _slow_store(self, name: str) -> str:
        slow_s = self._random.choice([0.02, 0.2, 1.0, 3.0])
        for store in self._simulation.stores.values():
            store.slow_s[name] = slow_s
        return f" (up to {slow_s} s){self._for_a_while(0.5, 8.0, self._simulation.mend_stores, name)}"

    def _failing_store(self, name: str) -> str:
        stores = [store for store in self._simulation.stores.values() if self._random.random() < 0.7]
        for store in stores:
            store.failing.add(name)
        return self._for_a_while(0.1, 6.0, self._simulation.mend_stores, name)

    def _full_disk(self, name: str) -> str:
        host = self._simulation.hosts[name]
        if host.is_full:
            return ""
        host.set_full(True)
        return self._for_a_while(0.1, 4.0, host.set_full, False)
