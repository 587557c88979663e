"""Our initiator engine and our target engine in one room: real SCSI, a disk in memory, bytes cut as the test wants."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock

from csvd.iscsi.access import OPEN, Access
from csvd.iscsi.chap import ALGORITHMS, Algorithm, Credentials
from csvd.iscsi.connection import TargetConnection, gather
from csvd.iscsi.keys import OFFER, SessionParameters
from csvd.iscsi.node import NetworkEntity, TargetNode
from csvd.iscsi.pdu_input import OUTPUT_PIECES
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.target_device import TargetDevice
from csvd.storage.memory import MemoryDisk
from csvd.target.executor import Executor
from csvd.target.steps import StepRunner
from initiator.engine.connection import InitiatorConnection
from initiator.engine.login import LoginSettings
from initiator.engine.requests import Command, Event, Request
from initiator.engine.session import SessionState
from tests.fake_adapter import FakeAdapter

TARGET = "iqn.2026-11.test:pair"
INITIATOR = "iqn.2026-11.test:initiator"
BLOCK_BYTES = 512
DISK_BYTES = 1 << 20
ISID = b"\x80\0\0\0\0\1"


def feed_target(
    engine: TargetConnection, data: bytes, execute: Callable[[], None], piece: Callable[[], int] | None = None
) -> None:
    """Let a target take bytes, and execute what is ready.

    Args:
        execute: executes it.
        piece: gives how many bytes come at once, at most; without one, as many as it has buffers for.
    """
    rest = memoryview(data)
    while rest and not engine.closing:
        buffers = engine.receive_buffers()
        count = min(len(rest), sum(map(len, buffers)))
        if piece is not None:
            count = min(count, piece())
        at = 0
        for buffer in buffers:
            part = min(len(buffer), count - at)
            buffer[:part] = rest[at : at + part]
            at += part
        engine.received(count, 0.0)
        execute()
        while engine.paused and len(engine.output) <= OUTPUT_PIECES:
            engine.received(0, 0.0)
            execute()
        rest = rest[count:]


class Pair(FakeAdapter):
    """A target with one LUN, one initiator, and the two directions between them."""

    def __init__(
        self,
        seed: int = 0,
        *,
        target_offer: SessionParameters = OFFER,
        initiator_offer: SessionParameters = OFFER,
        access: Access = OPEN,
        credentials: Credentials | None = None,
        target_credentials: Credentials | None = None,
        algorithms: tuple[Algorithm, ...] = ALGORITHMS,
        target_name: str = TARGET,
        read_only: bool = False,
        thin: bool = False,
        soft_threshold_percent: int = 0,
    ) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self.disk = MemoryDisk(DISK_BYTES, read_only=read_only)
        unit = LogicalUnit(
            0,
            self.disk,
            BLOCK_BYTES,
            DISK_BYTES // BLOCK_BYTES,
            Identity(serial="pair"),
            read_only=read_only,
            thin=thin,
            soft_threshold_percent=soft_threshold_percent,
        )
        device = TargetDevice({0: unit})
        node = TargetNode(TARGET, device, offer=target_offer, access=access)
        entity = NetworkEntity([node], entropy=self._random.randbytes)
        self.engine = TargetConnection(entity, local_address="127.0.0.1:3260", peer="pair", now_s=0.0)
        self.clock = Clock()
        self.executor: Any = Executor(device, StepRunner(self.clock, None, lambda unit, nexuses, done: done()))
        settings = LoginSettings(
            initiator_name=INITIATOR,
            target_name=target_name,
            credentials=credentials,
            target_credentials=target_credentials,
            target_challenge=self._random.randbytes(33),
            algorithms=algorithms,
            offer=initiator_offer,
        )
        self.initiator = InitiatorConnection(SessionState(ISID), settings)
        self.events: list[Event] = []

    def run(self) -> list[Event]:
        """Carry bytes both ways until nobody has anything to say; give the initiator's events."""
        quiet = False
        while not quiet:
            to_target = gather(self._all_to_send())
            self._feed_target(to_target)
            to_initiator = gather(self.engine.output)
            self.engine.output.clear()
            self._feed_initiator(to_initiator)
            quiet = not to_target and not to_initiator and not self.clock.getDelayedCalls()
            self.clock.advance(0)
        events, self.events = self.events, []
        return events

    def _all_to_send(self) -> list[Any]:
        everything: list[Any] = []
        while batch := self.initiator.data_to_send():
            everything += batch
        return everything

    def _feed_target(self, data: bytes) -> None:
        feed_target(self.engine, data, self._execute, self._piece)

    def _execute(self) -> None:
        while self.engine.ready:
            self.executor.execute(self, self.engine.ready.pop(0))

    def _feed_initiator(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            count = self._piece()
            self.events += self.initiator.feed(data[at : at + count])
            at += count

    def _piece(self) -> int:
        """Pieces of all sizes: some of a few bytes, some of many PDUs."""
        return self._random.choice((1, 7, 47, 48, 49, 500, 4096, 1 << 17))

    def ask(self, *requests: Request) -> list[Event]:
        """Send requests at once and let both sides talk until all is said."""
        for request in requests:
            self.initiator.send(request)
        return self.run()

    def read(self, lba: int, blocks: int) -> tuple[Command, bytearray]:
        buffer = bytearray(blocks * BLOCK_BYTES)
        cdb = bytes((0x88, 0)) + lba.to_bytes(8) + blocks.to_bytes(4) + bytes(2)
        return Command(0, cdb, data_in=buffer), buffer

    def write(self, lba: int, data: bytes, *, fua: bool = False) -> Command:
        cdb = bytes((0x8A, 8 * fua)) + lba.to_bytes(8) + (len(data) // BLOCK_BYTES).to_bytes(4) + bytes(2)
        return Command(0, cdb, data_out=data)
