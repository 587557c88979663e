"""One fault after another, and what the survivors saw of each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from tests.failover.probes import Probes
from tests.integration.daemon_rig import DaemonNode
from tests.integration.faults.hosts import HostCluster, boot_s

CALM_S: Final = 1.0
FAULTS: Final = ("kill -9", "SIGSTOP", "partition")


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one fault.

    Args:
        fault: of FAULTS.
        change_s: from the fault to the first change, begun after it, that was acknowledged through any survivor.
        every_change_s: the same through the last of the survivors.
        write_stall_s: the longest time between two acknowledged writes of an initiator, of the survivors' the longest.
    """

    fault: str
    change_s: float
    every_change_s: float
    write_stall_s: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Trials:
    """Faults of the coordinator of a cluster's system disk, one at a time."""

    def __init__(self, cluster: HostCluster, probes: Probes) -> None:
        self._cluster = cluster
        self._probes = probes

    def run(self, fault: str) -> Trial:
        """Wait until all is well, break the coordinator, see what the others can do, and mend it."""
        cluster = self._cluster
        self._calm(cluster.nodes)
        victim = cluster.disk_coordinator()
        survivors = cluster.others(victim)
        at_s = self._break(fault, victim)
        found = self._probes.all_work([node.name for node in survivors], at_s)
        firsts = [at - at_s for at in found["change"].values()]
        # What came behind the first change may stall once more: a node that takes part again.
        self._mend(fault, victim)
        self._calm(cluster.nodes)
        stalls = [self._probes[node.name].longest_gap("write", at_s, boot_s()) for node in survivors]
        return Trial(fault, min(firsts), max(firsts), max(stalls))

    def _calm(self, nodes: list[DaemonNode]) -> None:
        self._probes.all_work([node.name for node in nodes], boot_s())
        time.sleep(CALM_S)
        self._probes.all_work([node.name for node in nodes], boot_s())

    def _break(self, fault: str, victim: DaemonNode) -> float:
        if fault == "partition":
            self._cluster.world.cut(self._cluster.host(victim))
            return boot_s()
        at_s = boot_s()
        if fault == "kill -9":
            self._cluster.kill(victim)
        else:
            self._cluster.stop(victim)
        return at_s

    def _mend(self, fault: str, victim: DaemonNode) -> None:
        if fault == "partition":
            self._cluster.world.heal()
        elif fault == "SIGSTOP":
            self._cluster.cont(victim)
        if fault == "partition" or (fault == "SIGSTOP" and self._lives_on(victim)):
            return
        victim.kill()
        self._cluster.restart(victim)

    def _lives_on(self, victim: DaemonNode) -> bool:
        """Whether a process that was stopped and goes on has not been killed for its lease."""
        deadline_s = time.monotonic() + 3
        while time.monotonic() < deadline_s:
            if victim.process.poll() is not None:
                return False
            time.sleep(0.05)
        return True


def run_trials(trials: Trials, counts: dict[str, int]) -> Iterator[Trial]:
    """So many of each fault."""
    for fault, count in counts.items():
        for _ in range(count):
            yield trials.run(fault)
