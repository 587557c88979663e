"""Our initiator's road that logs in again, and our target with a slow disk, on one clock: over wires that are cut at
any byte or go deaf, and to a target that is killed and started again. Everything between is the production code."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import Deferred

from csvd.iscsi.connection import TargetConnection
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.target.connection import ServerConnection
from csvd.target.export import Export
from csvd.target.service import TargetService
from initiator.engine.connection import InitiatorConnection
from initiator.engine.login import LoginSettings
from initiator.engine.session import SessionState
from initiator.errors import ConnectFailed
from initiator.link import Link
from initiator.options import SessionOptions
from initiator.recovery import Recovery
from initiator.session import Session
from initiator.url import Portal
from tests.iscsi_wire import TARGET
from tests.pair.outages.wire import Wire
from tests.pair.script.steps import BLOCK_BYTES, DISK_BLOCKS
from tests.pair.script.world import ScriptedDisk, connect
from tests.unit.target.fake_reactor import FakeReactor

OPTIONS = SessionOptions(
    timeout_s=30,
    queue_depth=8,
    nop_interval_s=2,
    nop_timeout_s=2,
    command_timeout_s=4,
    abort_timeout_s=1,
    login_timeout_s=3,
    first_backoff_s=0.2,
    last_backoff_s=1,
)
ISID = b"\x80\0\0\0\0\x07"
COLD_BLOCKS = 400
SETTLING_TURNS = 20_000


class World:
    """The two sides and what is between them; ``chance`` decides whatever the test does not."""

    def __init__(self, chance: random.Random, *, slow: bool) -> None:
        self.chance = chance
        self.reactor = FakeReactor()
        self.disk = ScriptedDisk(slow=slow)
        if slow:
            self.disk.warm(0, COLD_BLOCKS, warm=False)
        self.blocks_taken = 0
        self.service: TargetService | None = None
        self.connections: list[ServerConnection] = []
        self.wires: list[Wire] = []
        self.sessions: list[Session] = []
        self.start_target()
        opening = Deferred.fromCoroutine(self._log_in(0.0))
        sessions: list[Session] = []
        opening.addCallback(sessions.append)
        while not sessions:
            self.turn()
            self.carry(1 << 20)
        self.road = Recovery(sessions[0], self._log_in, chance=chance.random)
        knowing = Deferred.fromCoroutine(self.road.know(0))
        while not knowing.called:
            self.disk.finish(0)
            self.turn()
            self.carry(1 << 20)

    async def _log_in(self, deadline_s: float) -> Session:
        if self.service is None:
            raise ConnectFailed("no target")
        wire = Wire()
        self.wires.append(wire)
        served = TargetConnection(
            self.service.entity, local_address="127.0.0.1:3260", peer="192.0.2.1:9", now_s=self.reactor.seconds()
        )
        self.connections.append(connect(self.reactor, wire.far, served, self.service, express=True))
        session = Session(Portal("192.0.2.1"), TARGET, OPTIONS, reactor=self.reactor)
        self.sessions.append(session)
        settings = LoginSettings(initiator_name="iqn.2026-11.test:initiator", target_name=TARGET)
        engine = InitiatorConnection(SessionState(ISID), settings)
        await session.attach(engine, Link(wire.near, engine, session, reactor=self.reactor))
        return session

    def start_target(self) -> None:
        """The target is there (again), with the disk as it is."""
        if self.service is None:
            unit = LogicalUnit(0, self.disk, BLOCK_BYTES, DISK_BLOCKS, Identity(serial="outages"))
            self.service = TargetService(self.reactor, [Export(TARGET, [unit])])

    def kill_target(self) -> None:
        """The target's process is gone: its connections, and what it had not yet given to the disk."""
        self.service = None
        self.disk.jobs.clear()
        for connection in self.connections:
            connection.abort()
        self.connections.clear()
        for wire in self.wires:
            wire.cut()

    def cut(self) -> None:
        """The newest connection breaks, and both sides come to know."""
        if self.wires:
            self.wires[-1].cut()

    def go_deaf(self) -> None:
        """The newest connection carries nothing any more; the target keeps its session."""
        if self.wires:
            self.wires[-1].deaf = True

    def carry(self, most_bytes: int, *, both: bool = True, to_target: bool = True) -> None:
        """Carry bytes over every wire that still does."""
        for wire in self.wires:
            if both or to_target:
                wire.carry(most_bytes, to_target=True)
            if both or not to_target:
                wire.carry(most_bytes, to_target=False)
        self.wires = [wire for wire in self.wires if not wire.cut_off]

    def turn(self) -> None:
        """Everybody has a turn."""
        self.reactor.turn()

    def pass_time(self, time_s: float) -> None:
        """Let time pass, in steps in which everybody has a turn."""
        self.reactor.advance(time_s)
        self.turn()

    def settle(self, is_over: Any) -> None:
        """The network is well again, the target is there, the disk goes on: let it all come to its end."""
        self.start_target()
        for _ in range(SETTLING_TURNS):
            if is_over():
                return
            self.carry(1 << 20)
            self.disk.finish(0)
            self.pass_time(0.01)
        raise AssertionError(f"it does not come to an end: {self.road!r}")

    def close(self) -> None:
        """Let go of everything."""
        self.road.abort()
        for wire in self.wires:
            wire.cut()
            wire.near.close()
            wire.far.close()
        for connection in self.connections:
            connection.abort()
        for session in self.sessions:
            session.abort()
