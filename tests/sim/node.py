"""One run of csvd's cluster part on a simulated host: production code on the simulated clock, network and files."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.defer import Deferred

from csvd.cluster.coordinator import Coordinator
from csvd.cluster.election import Election
from csvd.cluster.errors import ClusterError, PeerMessageError
from csvd.cluster.peer import PeerEvents
from csvd.cluster.timeouts import Timeouts
from tests.sim.hosts import BlockingCalls, Host, ProcessFiles
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
        clock = self.process.clock
        random = Random(host.random.random())
        self.calls = BlockingCalls(self.process, plan.journal_s)
        files = ProcessFiles(self.process, host.files, checks)
        self.network = SimNetwork(
            self.process,
            wires,
            host.name,
            PeerEvents(self._link_up, self._link_down, self._raft_received),
            TIMEOUTS,
            random,
        )
        self.network.set_members({name: ((f"{name}.sim", 7000), frozenset([name])) for name in plan.nodes})
        self.replicated = WatchedRegister(clock)
        journal = WatchedJournal(files, host.name, now_ms=0)
        self.election = Election(
            node=host.name,
            members=plan.nodes,
            journal=journal,
            machine=self.replicated,
            link_to=self._link_to,
            changed=self._changed,
            failed=self._failed,
            timeouts=TIMEOUTS,
            clock=clock,
            random=random,
            run_blocking=self.calls.run,
        )
        self.replicated.checks = checks
        self.replicated.election = self.election
        self.coordinator = Coordinator(
            node=host.name,
            members=plan.nodes,
            election=self.election,
            replicated=self.replicated,
            network=self.network,  # type: ignore[arg-type]
            clock=clock,
            incarnation=journal.incarnation,
        )
        self.network.start()
        self.election.start()

    def submit(self, command: dict[str, Any], timeout_s: float) -> Deferred[dict[str, Any]]:
        """Submit a command of the register at this node."""
        return Deferred.fromCoroutine(self.coordinator.submit(command, timeout_s=timeout_s))

    def stepped(self) -> None:
        """A step of this process is over."""
        self._checks.stepped(self.name, self.election)

    def _link_to(self, peer: str) -> Callable[[bytes], None] | None:
        link = self.network.link_to(peer)
        if link is None:
            return None

        def send(data: bytes) -> None:
            self._checks.sent(self.name, peer, data)
            link(data)

        return send

    def _link_up(self, peer: str) -> None:
        self.election.connected(peer)

    def _link_down(self, peer: str) -> None:
        self.election.disconnected(peer)

    def _raft_received(self, peer: str, data: bytes) -> None:
        try:
            self.election.received(peer, data)
        except PeerMessageError as error:
            raise PeerMessageError(error.what, where=peer, why=error.why) from error

    def _changed(self) -> None:
        self.coordinator.changed()

    def _failed(self, error: ClusterError) -> None:
        self.failure = error
