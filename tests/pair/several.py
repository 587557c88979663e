"""A session of several connections in one room: each with streams of its own, which a seed moves on in any order."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.task import Clock

from csvd.iscsi.access import OPEN, Access
from csvd.iscsi.chap import Credentials
from csvd.iscsi.connection import TargetConnection, gather
from csvd.iscsi.keys import OFFER, SessionParameters
from csvd.iscsi.node import TARGET_OFFER, NetworkEntity, TargetNode
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.target_device import TargetDevice
from csvd.storage.memory import MemoryDisk
from csvd.target.executor import Executor
from csvd.target.steps import StepRunner
from initiator.engine.connection import InitiatorConnection
from initiator.engine.login import LoginSettings
from initiator.engine.requests import Command, Event
from initiator.engine.session import SessionState
from tests.fake_adapter import FakeAdapter
from tests.pair.joined import BLOCK_BYTES, DISK_BYTES, INITIATOR, ISID, TARGET, feed_target


class Leg(FakeAdapter):
    """One connection: both engines, and the bytes that are on their way between them."""

    def __init__(self, engine: TargetConnection, initiator: InitiatorConnection) -> None:
        super().__init__()
        self.engine = engine
        self.initiator = initiator
        self.to_target = bytearray()
        self.to_initiator = bytearray()

    @property
    def quiet(self) -> bool:
        """Whether nothing is on its way and nobody has anything to say."""
        return not (self.to_target or self.to_initiator or self.engine.output or self.initiator.has_data_to_send)


class Room:
    """A target with one LUN, and a session with it.

    Args:
        seed: of the order in which bytes move.
        target_offer: how many connections the target takes, and the rest.
    """

    def __init__(
        self,
        seed: int,
        *,
        target_offer: SessionParameters = TARGET_OFFER,
        initiator_offer: SessionParameters = OFFER,
        access: Access = OPEN,
        credentials: Credentials | None = None,
        target_credentials: Credentials | None = None,
    ) -> None:
        self.chance = random.Random(seed)
        unit = LogicalUnit(
            0, MemoryDisk(DISK_BYTES), BLOCK_BYTES, DISK_BYTES // BLOCK_BYTES, Identity(serial="several")
        )
        device = TargetDevice({0: unit})
        self.node = TargetNode(TARGET, device, offer=target_offer, access=access)
        self._entity = NetworkEntity([self.node], entropy=self.chance.randbytes)
        self.clock = Clock()
        self.executor: Any = Executor(device, StepRunner(self.clock, None, lambda unit, nexuses, done: done()))
        self._login: dict[str, Any] = {
            "initiator_name": INITIATOR,
            "target_name": TARGET,
            "credentials": credentials,
            "target_credentials": target_credentials,
            "offer": initiator_offer,
        }
        self.session = SessionState(ISID)
        self.legs: list[Leg] = []
        self.held: set[int] = set()
        """Numbers of legs whose bytes to the target stand still."""

    def connect(self, count: int = 1) -> list[Event]:
        """Add connections, one login after the other; give what came of them."""
        events: list[Event] = []
        for _ in range(count):
            settings = LoginSettings(
                connection_id=len(self.legs), target_challenge=self.chance.randbytes(33), **self._login
            )
            engine = TargetConnection(self._entity, local_address="127.0.0.1:3260", peer="several", now_s=0.0)
            self.legs.append(Leg(engine, InitiatorConnection(self.session, settings)))
            events += self.run()
        return events

    def send(self, command: Command) -> Leg:
        """Hand a command to a connection at random."""
        leg = self.chance.choice([leg for leg in self.legs if leg.initiator.failed is None])
        leg.initiator.send(command)
        return leg

    def run(self) -> list[Event]:
        """Move bytes until nobody has anything to say; give the initiator's events."""
        events: list[Event] = []
        while True:
            moving = [
                (number, leg) for number, leg in enumerate(self.legs) if not leg.quiet and not self._stands(number)
            ]
            if not moving and not self.clock.getDelayedCalls():
                return events
            if moving:
                number, leg = self.chance.choice(moving)
                events += self._move(leg, number in self.held)
            self.clock.advance(0)

    def _stands(self, number: int) -> bool:
        leg = self.legs[number]
        return number in self.held and not (leg.to_initiator or leg.engine.output)

    def _move(self, leg: Leg, held: bool) -> list[Event]:
        if not held:
            if not leg.to_target:
                leg.to_target += b"".join(leg.initiator.data_to_send())
            count = min(len(leg.to_target), self._piece())
            if leg.engine.closing:
                leg.to_target.clear()
            else:
                self.feed_target(leg, bytes(leg.to_target[:count]))
                del leg.to_target[:count]
        leg.to_initiator += gather(leg.engine.output)
        leg.engine.output.clear()
        count = min(len(leg.to_initiator), self._piece())
        piece = bytes(leg.to_initiator[:count])
        del leg.to_initiator[:count]
        return leg.initiator.feed(piece)

    def feed_target(self, leg: Leg, data: bytes) -> None:
        """Let the target take bytes of a connection, and execute what is ready."""
        feed_target(leg.engine, data, self._execute)

    def _execute(self) -> None:
        """Execute what is ready, of whichever connection: a command by one may have let others go."""
        while any(leg.engine.ready for leg in self.legs):
            for leg in self.legs:
                while leg.engine.ready:
                    self.executor.execute(leg, leg.engine.ready.pop(0))

    def _piece(self) -> int:
        return self.chance.choice((1, 7, 48, 500, 4096, 1 << 17))

    def read(self, lba: int, blocks: int) -> tuple[Command, bytearray]:
        buffer = bytearray(blocks * BLOCK_BYTES)
        cdb = bytes((0x88, 0)) + lba.to_bytes(8) + blocks.to_bytes(4) + bytes(2)
        return Command(0, cdb, data_in=buffer), buffer

    def write(self, lba: int, data: bytes) -> Command:
        cdb = bytes((0x8A, 0)) + lba.to_bytes(8) + (len(data) // BLOCK_BYTES).to_bytes(4) + bytes(2)
        return Command(0, cdb, data_out=data)
