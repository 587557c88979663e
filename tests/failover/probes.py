"""The probers of all nodes, as the program that sets the faults sees them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from tests.integration.faults.hosts import HostCluster

WHATS: Final = ("change", "write")


class Probe:
    """A prober in the host of one node.

    Args:
        prefix: by which it is started there.
        plan: see `tests.failover.prober`.
    """

    def __init__(self, prefix: Sequence[str], plan: dict[str, Any]) -> None:
        self.acknowledged: dict[str, list[tuple[float, float]]] = {what: [] for what in WHATS}
        """(begun, ended), on CLOCK_BOOTTIME, in order."""
        self.failures: list[str] = []
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.failover.prober", json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            line = json.loads(text)
            if "failed" in line:
                self.failures.append(line["failed"])
            else:
                self.acknowledged[line["what"]].append((line["begun_s"], line["ended_s"]))

    def first_after(self, what: str, moment_s: float) -> float | None:
        """When the first that was begun after a moment was acknowledged."""
        return next((ended_s for begun_s, ended_s in list(self.acknowledged[what]) if begun_s > moment_s), None)

    def longest_gap(self, what: str, from_s: float, to_s: float) -> float:
        """The longest time between two acknowledgements, of those that reach into this time."""
        ends = [ended_s for _, ended_s in list(self.acknowledged[what])]
        gaps = [later - end for end, later in pairwise(ends) if later > from_s and end < to_s]
        return max(gaps, default=0.0)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._reader.join(10)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class Probes:
    """One for each node of a cluster."""

    def __init__(self, cluster: HostCluster) -> None:
        self._probes = {
            node.name: Probe(cluster.host(node).prefix, {"url": cluster.url(node), "block": number, "key": number})
            for number, node in enumerate(cluster.nodes, 1)
        }

    def __getitem__(self, node: str) -> Probe:
        return self._probes[node]

    def all_work(self, nodes: Sequence[str], since_s: float, timeout_s: float = 60.0) -> dict[str, dict[str, float]]:
        """Wait until, through each of these nodes, something of each kind that was begun after a moment has been
        acknowledged; gives when the first was, by kind and node.

        Raises:
            AssertionError: it was not so in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            found = {
                what: {node: at for node in nodes if (at := self[node].first_after(what, since_s)) is not None}
                for what in WHATS
            }
            if all(len(by_node) == len(nodes) for by_node in found.values()):
                return found
            assert time.monotonic() < deadline_s, f"{found}; {[self[node].failures[-2:] for node in nodes]}"
            time.sleep(0.01)

    def close(self) -> None:
        """End them."""
        for probe in self._probes.values():
            probe.close()
