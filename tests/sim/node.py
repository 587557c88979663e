"""One run of csvd's cluster part on a simulated host: production code on the simulated clock, network and files."""

from __future__ import annotations

from random import Random
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from csvd.cluster.beginning import begin_cluster, founding_members
from csvd.cluster.cluster import Cluster
from csvd.cluster.coordinator import Coordinator
from csvd.cluster.election import Election
from csvd.cluster.errors import ClusterError
from csvd.cluster.register import Register
from csvd.cluster.timeouts import Timeouts
from tests.sim.hosts import BlockingCalls, Host, ProcessFiles, fingerprint_of
from tests.sim.network import SimNetwork
from tests.sim.plan import Plan
from tests.sim.raft_checks import RaftChecks, WatchedJournal, WatchedRegister
from tests.sim.wires import Wires

TIMEOUTS = Timeouts(tick_s=0.05)
"""As in production, but Raft's clock is looked at less often; messages are handled at once all the same."""


class SimNode:
    """A process of csvd from its start to its end."""

    def __init__(self, host: Host, plan: Plan, wires: Wires, checks: RaftChecks) -> None:
        self.host = host
        self.name = host.name
        self.process = host.new_process()
        self.failure: ClusterError | None = None
        self._checks = checks
        random = Random(host.random.random())
        self.calls = BlockingCalls(self.process, plan.journal_s)
        files = ProcessFiles(self.process, host.files, checks)
        self.network = SimNetwork(self.process, wires, host.fingerprint, TIMEOUTS, random, checks)
        addresses = {name: f"{name}.sim:7000" for name in plan.nodes}
        fingerprints = {name: [fingerprint_of(name)] for name in plan.nodes}
        with (
            mock.patch("csvd.cluster.cluster.Journal", WatchedJournal),
            mock.patch("csvd.cluster.cluster.ReplicatedRegister", WatchedRegister),
        ):
            begin_cluster(files, host.name, founding_members(addresses, fingerprints), now_ms=self._now_ms())
            self.cluster = Cluster(
                node=host.name,
                network=self.network,
                files=files,
                clock=self.process.clock,
                boottime=self.process.clock.boottime,
                now_ms=self._now_ms,
                run_blocking=self.calls.run,
                random=random,
                timeouts=TIMEOUTS,
                failed=self._failed,
            )
            replicated = self.cluster._replicated
            assert isinstance(replicated, WatchedRegister)
            replicated.watch(checks, self.cluster)
            started = Deferred.fromCoroutine(self.cluster.start())
        problems: list[Failure] = []
        started.addErrback(problems.append)
        if problems:
            problems[0].raiseException()

    @property
    def election(self) -> Election:
        """Raft."""
        election = self.cluster._election
        assert election is not None
        return election

    @property
    def coordinator(self) -> Coordinator:
        """The coordinator of the register."""
        coordinator = self.cluster._coordinator
        assert coordinator is not None
        return coordinator

    @property
    def register(self) -> Register:
        """The register here."""
        return self.cluster.register

    def submit(self, command: dict[str, Any], timeout_s: float) -> Deferred[dict[str, Any]]:
        """Submit a command of the register at this node."""
        return Deferred.fromCoroutine(self.cluster.submit(command, timeout_s=timeout_s))

    def stepped(self) -> None:
        """A step of this process is over."""
        self._checks.stepped(self.name, self.election)

    def _now_ms(self) -> int:
        return 1_700_000_000_000 + int(self.process.world.now_s * 1000)

    def _failed(self, error: ClusterError) -> None:
        self.failure = error
