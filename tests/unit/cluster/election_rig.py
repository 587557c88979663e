"""Nodes of Raft in one process on a clock of the test: no sockets, no threads, no disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random

import msgspec
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.cluster.beginning import begin_joining, write_first_journal
from csvd.cluster.election import Election
from csvd.cluster.errors import ClusterError
from csvd.cluster.journal import Journal
from csvd.cluster.timeouts import Timeouts
from tests.unit.cluster.simulated_files import SimulatedFiles


class Ledger:
    """A state machine that remembers every command, in order. `join:NAME` and `voters:NAME,…` change who is there."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.commands: list[bytes] = []
        self.voters = frozenset(names)
        self.members = self.voters

    def apply(self, command: bytes) -> object:
        self.commands.append(command)
        kind, _, names = command.decode().partition(":")
        if kind == "join":
            self.members |= {names}
        elif kind == "voters":
            voters = frozenset(names.split(","))
            self.members = (self.members | voters) - (self.voters - voters)
            self.voters = voters
        return len(self.commands)

    def take(self) -> bytes:
        return msgspec.msgpack.encode((self.commands, sorted(self.voters), sorted(self.members)))

    def check(self, state: bytes) -> None:
        try:
            msgspec.msgpack.decode(state, type=tuple[list[bytes], list[str], list[str]])
        except msgspec.MsgspecError as error:
            raise ClusterError("not a ledger") from error

    def restore(self, state: bytes) -> None:
        self.commands, voters, members = msgspec.msgpack.decode(state, type=tuple[list[bytes], list[str], list[str]])
        self.voters, self.members = frozenset(voters), frozenset(members)


class RigNode:
    """One node: its disk, its journal, its election."""

    def __init__(self, rig: Rig, name: str, files: SimulatedFiles) -> None:
        self.name = name
        self.files = files
        self.ledger = Ledger()
        self.failures: list[ClusterError] = []
        self.journal = Journal(files, name, now_ms=0)
        self.election = Election(
            node=name,
            journal=self.journal,
            machine=self.ledger,
            link_to=lambda peer: rig.link(name, peer),
            changed=lambda: None,
            failed=self.failures.append,
            timeouts=rig.timeouts,
            clock=rig.clock,
            random=Random(rig.random.random()),
            run_blocking=rig.run_blocking,
        )


class Rig:
    """A cluster on one clock; messages take `delay_s`, writes of the journal `disk_s`."""

    def __init__(
        self,
        count: int = 3,
        *,
        seed: int = 1,
        delay_s: float = 0.001,
        disk_s: float = 0.0,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.clock = Clock()
        self.random = Random(seed)
        self.timeouts = timeouts or Timeouts()
        self.names = [f"n{number}" for number in range(1, count + 1)]
        self.delay_s = delay_s
        self.disk_s = disk_s
        self.nodes: dict[str, RigNode] = {}
        self.links: dict[frozenset[str], object] = {}
        self._last_arrival_s: dict[tuple[str, str], float] = {}
        self.sent: list[tuple[str, str, bytes]] = []
        self.refuses: Callable[[str, str], bool] = lambda one, other: False
        self.tamper: Callable[[str, str, bytes], Sequence[bytes]] = lambda source, target, data: [data]
        for name in list(self.names):
            files = SimulatedFiles()
            write_first_journal(files, name, Ledger(self.names).take(), now_ms=0)
            self.start(name, files)

    def run_blocking(self, call: Callable[[], None]) -> Deferred[None]:
        if not self.disk_s:
            return defer.execute(call)
        done: Deferred[None] = Deferred()
        self.clock.callLater(self.disk_s, lambda: defer.execute(call).chainDeferred(done))
        return done

    def start(self, name: str, files: SimulatedFiles) -> RigNode:
        node = self.nodes[name] = RigNode(self, name, files)
        node.election.start()
        for other in self.names:
            if other != name and other in self.nodes:
                self.connect(name, other)
        return node

    def add(self, name: str) -> RigNode:
        """Start a node that knows nobody; it is linked, as one that has joined is."""
        files = SimulatedFiles()
        begin_joining(files, name, now_ms=0)
        self.names.append(name)
        return self.start(name, files)

    def kill(self, name: str) -> SimulatedFiles:
        """End a node without a word; gives its disk."""
        for other in self.names:
            self.disconnect(name, other)
        node = self.nodes.pop(name)
        node.election.stop()
        return node.files.after_kill()

    def connect(self, one: str, other: str) -> None:
        if frozenset((one, other)) not in self.links and not self.refuses(one, other):
            self.links[frozenset((one, other))] = object()
            self.nodes[one].election.connected(other)
            self.nodes[other].election.connected(one)

    def disconnect(self, one: str, other: str) -> None:
        if self.links.pop(frozenset((one, other)), None):
            self.nodes[one].election.disconnected(other)
            self.nodes[other].election.disconnected(one)

    def isolate(self, name: str) -> None:
        for other in self.names:
            self.disconnect(name, other)

    def heal(self) -> None:
        for one in self.nodes:
            for other in self.nodes:
                if one < other:
                    self.connect(one, other)

    def link(self, source: str, target: str) -> Callable[[bytes], None] | None:
        pair = frozenset((source, target))
        connection = self.links.get(pair)
        if connection is None:
            return None

        def send(data: bytes) -> None:
            self.sent.append((source, target, data))
            for copy in self.tamper(source, target, data):
                # In order, as TCP does it, whatever the delay is.
                now_s = self.clock.seconds()
                arrival_s = max(now_s + self.delay_s, self._last_arrival_s.get((source, target), 0.0))
                self._last_arrival_s[source, target] = arrival_s
                self.clock.callLater(arrival_s - now_s, arrive, copy)

        def arrive(data: bytes) -> None:
            if self.links.get(pair) is connection:
                self.nodes[target].election.received(source, data)

        return send

    def run(self, seconds: float, step_s: float = 0.001) -> None:
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(step_s)

    def run_until(self, condition: Callable[[], bool], limit_s: float = 10.0) -> float:
        """Run until a condition holds; the seconds it took."""
        begin = self.clock.seconds()
        while not condition():
            assert self.clock.seconds() - begin < limit_s, "it did not come to pass"
            self.clock.advance(0.001)
        return self.clock.seconds() - begin

    def leaders(self) -> list[str]:
        return [name for name, node in self.nodes.items() if node.election.is_established]

    def leader(self) -> RigNode:
        self.run_until(lambda: len(self.leaders()) == 1)
        return self.nodes[self.leaders()[0]]

    def followers(self) -> list[RigNode]:
        leader = self.leader()
        return [node for node in self.nodes.values() if node is not leader]

    def change(self, *voters: str) -> object:
        """Have the leader make these the voters; its answer."""
        answers: list[object] = []
        command = b"voters:" + ",".join(sorted(voters)).encode()
        self.leader().election.propose_voters(frozenset(voters), command).addBoth(answers.append)
        self.run_until(lambda: bool(answers))
        return answers[0]

    def commit(self, command: bytes) -> object:
        """Have the leader commit a command; its answer."""
        answers: list[object] = []
        self.leader().election.propose(command).addBoth(answers.append)
        self.run_until(lambda: bool(answers))
        return answers[0]
