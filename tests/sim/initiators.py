"""Initiators of the logical unit that all nodes export: sessions with several nodes, reservations and writes.

An initiator has a session with every node that lets it log in, so it is as many I_T nexuses. It writes blocks that
carry the number of the write; counts by COMPARE AND WRITE; registers, reserves, preempts, releases and clears, by keys
that come only once; and looks at what it is told. It gives up a session that does not answer, as initiators do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING, Any, Final

from csvd.iscsi.connection import TargetConnection, gather
from csvd.iscsi.keys import OFFER
from csvd.scsi.nexus import NexusIdentity, target_port_name
from csvd.scsi.reservations import TYPES, Registrant
from csvd.scsi.unit_record import UnitRecord
from initiator.engine.connection import InitiatorConnection
from initiator.engine.login import LoginSettings
from initiator.engine.requests import Command, ConnectionFailed, LoggedIn
from initiator.engine.session import SessionState
from tests.fake_adapter import FakeAdapter
from tests.pair.joined import feed_target
from tests.sim.stores import BLOCK_BYTES
from tests.sim.unit_checks import Sent, count_of, pack_block
from tests.sim.units import NAA, TARGET, NodeUnits
from tests.sim.units_plan import KINDS, UnitsPlan
from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.simulation import Simulation

GOOD: Final = 0x00
CONFLICT: Final = 0x18
_STATUSES: Final = {GOOD: "good", 0x02: "check condition", CONFLICT: "conflict"}
_ACTIONS: Final = {
    "unregister": 0,
    "reserve": 1,
    "release": 2,
    "clear": 3,
    "preempt": 4,
    "preempt and abort": 5,
    "register": 6,
}
"""Service actions of PERSISTENT RESERVE OUT; all registering ignores the existing key."""
NAMES: Final = ("a", "b", "c")
DATA_BLOCKS: Final = 8
COUNTERS: Final = (32, 33)
PATIENCE_S: Final = 8.0
AT_ONCE: Final = 3


class Path(FakeAdapter):
    """A session of an initiator with a node, at both its ends; and what passes between them, in order, with delays."""

    def __init__(self, initiators: Initiators, name: str, units: NodeUnits, random: Random) -> None:
        super().__init__()
        self._initiators = initiators
        self._world = initiators.world
        self._random = random
        self._units = units
        isid = NAMES.index(name) + 1 if name in NAMES else 99
        initiator_name = f"iqn.2026-11.sim:{name}"
        identity = NexusIdentity(initiator_name, isid.to_bytes(6), units.tag)
        self.name = f"{name}/{units.name}"
        self.who = Registrant(identity.initiator_port, target_port_name(TARGET, units.tag), units.tag)
        self._engine = TargetConnection(
            units.entity, local_address="127.0.0.1:3260", peer=name, now_s=0.0, portal_group_tag=units.tag
        )
        settings = LoginSettings(
            initiator_name=initiator_name, target_name=TARGET, offer=OFFER, target_challenge=bytes(33)
        )
        self._initiator = InitiatorConnection(SessionState(isid.to_bytes(6)), settings)
        self._there_at_s = self._back_at_s = 0.0
        self._waiting: dict[Command, Callable[[Command], None]] = {}
        self.is_logged_in = False
        self.is_over = False
        self.key = 0
        units.paths.append(self)
        self._send()

    @property
    def load(self) -> int:
        """Commands that have no answer."""
        return len(self._waiting)

    # The initiator's end

    def ask(self, cdb: bytes, done: Callable[[Command], None], *, out: bytes | None = None, length: int = 0) -> None:
        """Send a command."""
        command = Command(0, cdb.ljust(16, b"\0"), data_in=bytearray(length) if length else None, data_out=out)
        self._waiting[command] = done
        self._initiator.send(command)
        self._send()
        self._world.later(PATIENCE_S, self._too_late, command)

    def _too_late(self, command: Command) -> None:
        if command in self._waiting:
            self.give_up()

    def _send(self) -> None:
        parts: list[Any] = []
        while batch := self._initiator.data_to_send():
            parts += batch
        if parts:
            self._there_at_s = max(self._there_at_s + 1e-7, self._world.now_s + self._delay_s())
            delay_s = self._there_at_s - self._world.now_s
            self._world.later(delay_s, self._came_there, gather(parts), owner=self._units.process)

    def _came_back(self, data: bytes) -> None:
        if self.is_over:
            return
        for event in self._initiator.feed(data):
            if isinstance(event, LoggedIn):
                self.is_logged_in = True
            elif isinstance(event, ConnectionFailed):
                raise Violation(f"{self.name}: {event.error}")
            elif isinstance(event, Command):
                done = self._waiting.pop(event, None)
                if done is not None and event.error is None:
                    done(event)
        self._send()

    def give_up(self) -> None:
        """The initiator ends the session; the node hears of it later."""
        if self.is_over:
            return
        self._end()
        self._there_at_s = max(self._there_at_s + 1e-7, self._world.now_s + self._delay_s())
        self._world.later(self._there_at_s - self._world.now_s, self._lost, owner=self._units.process)

    def node_ended(self, *, power_cut: bool) -> None:
        """The process at the other end is gone: what was sent came, or not."""
        delay_s = self._random.uniform(2.0, 5.0) if power_cut else self._delay_s()
        self._world.later(delay_s, self._end)

    def _end(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._waiting.clear()
            self._initiators.ended(self)

    def _delay_s(self) -> float:
        delay_s = self._random.uniform(0.0002, 0.002)
        return delay_s + (self._random.uniform(0.0, 3.0) if self._random.random() < 0.005 else 0.0)

    # The node's end

    def _came_there(self, data: bytes) -> None:
        if not self._engine.closing:
            feed_target(self._engine, data, self._execute)
            self._execute()
            self.proceed()

    def _execute(self) -> None:
        while self._engine.ready:
            self._units.executor.execute(self, self._engine.ready.pop(0))

    def _lost(self) -> None:
        if self in self._units.paths:
            self._units.paths.remove(self)
            self._engine.lost()

    @property
    def engine(self) -> TargetConnection:
        """The engine at the node, for the executor."""
        return self._engine

    def proceed(self) -> None:
        """There are answers."""
        data = gather(self._engine.output)
        self._engine.output.clear()
        if data:
            self._back_at_s = max(self._back_at_s + 1e-7, self._world.now_s + self._delay_s())
            self._world.later(self._back_at_s - self._world.now_s, self._came_back, data)
        if self._engine.closing and self in self._units.paths:
            self._units.paths.remove(self)
            self._engine.lost()
            self._world.later(self._delay_s(), self._end)

    def when_there(self, there: Callable[[], None]) -> None:
        """A ping goes to the initiator and back, where it still has the session."""

        def pinged() -> None:
            if not self.is_over:
                self._world.later(self._delay_s(), answered, owner=self._units.process)

        def answered() -> None:
            if not self._engine.closing:
                there()

        self._world.later(self._delay_s(), pinged)


class Initiators:
    """All initiators of a run."""

    def __init__(self, simulation: Simulation, plan: UnitsPlan) -> None:
        self.world = simulation.world
        self._simulation = simulation
        self._checks = simulation.unit_checks
        self._plan = plan
        self._random = simulation.world.random("initiators")
        self._paths: dict[tuple[str, str], Path] = {}
        self._is_over = False
        self._number = 0
        self._sequence = 0
        self.probes: dict[str, int] = {}
        """Nodes that were asked in the end, and how many commands they have answered."""

    def start(self) -> None:
        """Begin."""
        self._next()

    def stop(self) -> None:
        """Ask for nothing more."""
        self._is_over = True

    def ended(self, path: Path) -> None:
        """A session is over."""
        for key in [key for key, other in self._paths.items() if other is path]:
            del self._paths[key]

    def _next(self) -> None:
        if self._is_over:
            return
        paths = min(3, max(1, len(self._simulation.nodes))) * len(NAMES)  # more nodes have to share, for time's sake
        self.world.later(self._random.expovariate(paths / self._plan.pause_s), self._act)

    def _act(self) -> None:
        self._next()
        nodes = [node for node in self._simulation.nodes.values() if node.units is not None and node.units.is_served]
        if self._is_over or not nodes:
            return
        node, name = self._random.choice(nodes), self._random.choice(NAMES)
        path = self._paths.get((name, node.name))
        if path is None:
            if not node.process.is_paused:
                assert node.units is not None
                self._paths[name, node.name] = Path(self, name, node.units, self._random)
        elif self._random.random() < 0.01:
            path.give_up()
        elif path.is_logged_in and path.load < AT_ONCE:
            kind = self._random.choices(KINDS, [self._plan.weights[kind] for kind in KINDS])[0]
            self._do(path, kind)

    def _do(self, path: Path, kind: str) -> None:
        match kind:
            case "write":
                self._write(path)
            case "read":
                self._read(path, self._random.randrange(DATA_BLOCKS), lambda data: None)
            case "count":
                self._count_one(path, self._random.choice(COUNTERS))
            case "legacy reserve" | "legacy release":
                self._legacy(path, reserves=kind == "legacy reserve")
            case _:
                self._reserve_out(path, kind)

    def _ask(self, path: Path, what: str, cdb: bytes, good: Callable[[Command], None], **data: Any) -> None:
        """Send a command; `good` is called when it ends in GOOD."""

        def done(command: Command) -> None:
            status = _STATUSES.get(command.status, "other")
            self._simulation.counts[f"units {what.split()[0]} {status}"] += 1
            self.world.note(path.name, f"{what}: {status} {bytes(command.sense)[2:14].hex() if command.sense else ''}")
            if command.status == GOOD:
                good(command)
            elif command.status == CONFLICT and cdb[0] == 0x5F:
                path.key = 0  # Somebody has preempted it.

        path.ask(cdb, done, **data)

    # Reading and writing

    def _sent(self, path: Path, expected: bytes | None = None) -> int:
        self._sequence += 1
        self._checks.sent(self._sequence, Sent(path.who, expected))
        return self._sequence

    def _write(self, path: Path) -> None:
        sequence, since = self._sent(path), self._checks.barrier(NAA)

        def good(command: Command) -> None:
            self._checks.written(NAA, sequence)
            if not self._checks.admits(NAA, path.who, since):
                raise Violation(f"write {sequence} of {path.name} was GOOD when all nodes were told version {since}")

        # Also where others count: what they compare must still be there when they write.
        lba = self._random.choice((*range(DATA_BLOCKS), *COUNTERS))
        self._ask(path, f"write {sequence}", _cdb(0x8A, lba), good, out=pack_block(sequence))

    def _read(self, path: Path, lba: int, then: Callable[[bytes], None]) -> None:
        since = self._checks.barrier(NAA)

        def good(command: Command) -> None:
            if not self._checks.admits(NAA, path.who, since, reads=True):
                raise Violation(f"a read of {path.name} was GOOD when all nodes were told version {since}")
            assert command.data_in is not None
            then(bytes(command.data_in))

        self._ask(path, "read", _cdb(0x88, lba), good, length=BLOCK_BYTES)

    def _count_one(self, path: Path, lba: int) -> None:
        """Read a counter, and count one more if nobody else has meanwhile."""

        def then(data: bytes) -> None:
            if path.is_over:
                return
            sequence = self._sent(path, data)
            cdb = bytes((0x89, 0)) + lba.to_bytes(8) + bytes((0, 0, 0, 1, 0, 0))
            out = data + pack_block(sequence, count_of(data) + 1)
            self._ask(path, f"compare {sequence}", cdb, lambda command: self._checks.written(NAA, sequence), out=out)

        self._read(path, lba, then)

    # Reservations

    def _legacy(self, path: Path, *, reserves: bool) -> None:
        since = self._checks.barrier(NAA)

        def holds(record: UnitRecord) -> bool:
            if record.reservations.keys:
                return True  # RESERVE is void for whoever is registered (SPC-4 5.13.3).
            return (record.legacy_holder == path.who) is reserves

        what = f"RESERVE(6) of {path.name}" if reserves else f"RELEASE(6) of {path.name}"
        cdb = bytes((0x16 if reserves else 0x17, 0, 0, 0, 0, 0))
        self._ask(path, what, cdb, lambda command: self._checks.told(NAA, what, since, holds))

    def _reserve_out(self, path: Path, kind: str) -> None:
        if not path.key and self._random.random() < 0.9:
            kind = "register"  # Nothing else is open to it.
        key, since, who, new, scope = path.key, self._checks.barrier(NAA), path.who, 0, 0
        code = self._random.choice(self._plan.types)
        if kind == "register":
            self._number += 1
            new = self._number
        elif kind.startswith("preempt"):
            others = sorted({one.key for one in self._paths.values() if one.key and one is not path})
            if not others:
                return
            new = self._random.choice(others)
        if kind not in ("register", "unregister", "clear"):
            scope = code
        what = f"{kind} of {path.name} by {key:x}{f': {new:x}' if new else ''}"

        def holds(record: UnitRecord) -> bool:
            state = record.reservations
            if kind in ("register", "unregister"):
                return state.keys.get(who, 0) == new
            if kind == "reserve":
                return state.holds(who) and state.type is TYPES[code]
            return True

        def good(command: Command) -> None:
            if kind in ("register", "unregister"):
                path.key = new
            self._checks.told(NAA, what, since, holds)
            gone = new if kind.startswith("preempt") else key
            if kind not in ("reserve", "release"):
                self._checks.gone(NAA, what, lambda record: gone in record.reservations.keys.values())

        flags = kind in ("register", "unregister") and self._random.random() < self._plan.aptpl
        data = key.to_bytes(8) + new.to_bytes(8) + bytes(4) + bytes((flags, 0, 0, 0))
        cdb = bytes((0x5F, _ACTIONS[kind], scope, 0, 0)) + len(data).to_bytes(4) + b"\0"
        self._ask(path, what, cdb, good, out=data)

    # The end

    def probe_all(self, nodes: Iterable[SimNode]) -> None:
        """Ask nodes when all is well: they must answer."""
        for node in nodes:
            self._probe(node)

    @property
    def are_probed(self) -> bool:
        """Whether all have answered."""
        return all(self.probes.values())

    def check_end(self) -> None:
        """All have answered, and what they know is the same.

        Raises:
            Violation: it is not so.
        """
        for name, count in self.probes.items():
            if not count:
                raise Violation(f"an initiator that asks {name} has no answer though all is well")
        records = {name: self._record_of(name) for name in self.probes}
        self._checks.check_end(NAA, records)

    def _record_of(self, name: str) -> UnitRecord:
        units = self._simulation.nodes[name].units
        assert units is not None
        return units.record

    def _probe(self, node: SimNode) -> None:
        units = node.units
        assert units is not None
        self.probes[node.name] = 0
        path = Path(self, "probe", units, self._random)

        def answered(command: Command) -> None:
            # Who has it by RESERVE(6) keeps it, as long as his session lasts.
            if command.status in (GOOD, CONFLICT):
                self.probes[node.name] += 1
            else:
                ask()

        def ask() -> None:
            if not path.is_logged_in:
                self.world.later(0.05, ask)
                return
            path.ask(bytes((0x5E, 3)) + bytes(5) + (0x2000).to_bytes(2) + b"\0", answered, length=0x2000)

        ask()


def _cdb(operation: int, lba: int) -> bytes:
    """READ(16) or WRITE(16) of one block."""
    return bytes((operation, 0)) + lba.to_bytes(8) + (1).to_bytes(4) + bytes(2)
