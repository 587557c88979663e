"""A whole target in one room, without a network or a thread, for bytes that nobody meant: what a fuzzer drives.

The engine of the connection, the SCSI device with a thin, a removable, a read-only and a 4096-byte logical unit, the
executor and the step runner are those of a daemon; only the disks are memory. After each input the room is emptied, and
must be empty.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.task import Clock

from csvd.iscsi.connection import TargetConnection
from csvd.iscsi.node import NetworkEntity, TargetNode
from csvd.iscsi.session import Task
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.lun import lun_spellings
from csvd.scsi.outcome import Reply
from csvd.scsi.target_device import TargetDevice
from csvd.storage.memory import MemoryDisk
from csvd.target.executor import Executor
from csvd.target.steps import StepRunner
from tests.bench.targets import IQN
from tests.fake_adapter import FakeAdapter
from tests.iscsi_wire import INITIATOR, ISID, digested, pdu

DISK_BYTES: Final = 1 << 20
MOST_INPUT_BYTES: Final = 1 << 16
MOST_OUTPUT_BYTES: Final = 64 << 20
"""An input is given up when it has brought this much: a READ is rightly answered with more than was asked."""
MOST_TURNS: Final = 10_000
PIECES: Final = (1 << 20, 1, 47, 1000)

LOGGED_IN: Final = 0x01
DIGESTS: Final = 0x02
"""Flags in the first byte of an input; bits 2 and 3 choose the length of the pieces in which the rest comes."""


class _StrictExecutor(Executor):
    """A fault of a handler is what the fuzzer looks for."""

    def _handler_failed(self, task: Task) -> Reply:
        raise  # noqa: PLE0704 - it is called while the fault is handled


class Room(FakeAdapter):
    """One target and one connection to it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.units = [
            LogicalUnit(0, MemoryDisk(DISK_BYTES), 512, DISK_BYTES // 512, Identity(serial="thin"), thin=True),
            LogicalUnit(1, MemoryDisk(DISK_BYTES), 512, DISK_BYTES // 512, Identity(serial="card"), removable=True),
            LogicalUnit(2, MemoryDisk(DISK_BYTES, read_only=True), 512, DISK_BYTES // 512, Identity(), read_only=True),
            LogicalUnit(3, MemoryDisk(DISK_BYTES), 4096, DISK_BYTES // 4096, Identity(serial="4k"), thin=True),
        ]
        self.device = TargetDevice({unit.number: unit for unit in self.units}, name=IQN)
        self.node = TargetNode(IQN, self.device)
        entity = NetworkEntity([self.node], entropy=bytes)
        self.engine = TargetConnection(entity, local_address="127.0.0.1:3260", peer="fuzz", now_s=0.0)
        self.executor: Any = _StrictExecutor(self.device, StepRunner(self.clock, None, self._abort))
        self.output_bytes = 0

    def _abort(self, unit: LogicalUnit, nexuses: Any, done: Any) -> None:
        self.node.abort_tasks(set(lun_spellings(unit.number)), nexuses, done)

    def take(self, data: bytes) -> None:
        """Take one input; whatever the bytes are, nothing is raised but what is a fault of ours."""
        if not data:
            return
        mode, stream = data[0], data[1:MOST_INPUT_BYTES]
        if mode & LOGGED_IN:
            digest = "CRC32C" if mode & DIGESTS else "None"
            self._feed(login(digest), len(stream) + 1000)
        if mode & DIGESTS:
            stream = with_digests(stream)
        self._feed(stream, PIECES[mode >> 2 & 3])

    def _feed(self, stream: bytes, piece_bytes: int) -> None:
        rest = memoryview(stream)
        for now_s in range(MOST_TURNS):
            if not rest or self.engine.closing or self.output_bytes > MOST_OUTPUT_BYTES:
                return
            count = 0
            for buffer in self.engine.receive_buffers():
                part = min(len(buffer), len(rest) - count, piece_bytes - count)
                buffer[:part] = rest[count : count + part]
                count += part
            rest = rest[count:]
            self.engine.received(count, now_s / 1000)
            self._execute()

    def _execute(self) -> None:
        engine = self.engine
        for _ in range(MOST_TURNS):
            while engine.ready:
                self.executor.execute(self, engine.ready.pop(0))
            self.output_bytes += sum(map(len, engine.output))
            engine.output.clear()
            engine.events.clear()
            if engine.paused:
                engine.received(0, 0.0)
            if not engine.ready and not self.clock.getDelayedCalls():
                return
            self.clock.advance(0)

    def close(self) -> None:
        """Lose the connection; nothing may be left of it."""
        self.engine.end()
        for _ in range(MOST_TURNS):
            if not self.clock.getDelayedCalls():
                break
            self.clock.advance(1)
        assert not self.node.sessions, self.node.sessions
        assert not self.node.leaving, self.node.leaving
        assert not self.device.nexuses, self.device.nexuses
        for unit in self.units:
            assert not unit.locks.held, unit.locks.held
            assert not unit.locks.waiting, unit.locks.waiting
            assert not unit.locks.contended
            task_set = self.device.servers[unit.number].task_set
            assert not task_set.begun, unit
            assert task_set.is_free, unit
            unit.device.close()


def login(digest: str) -> bytes:
    """A login in one PDU, as libiscsi could send it."""
    from csvd.iscsi import text
    from csvd.iscsi.codes import Opcode

    keys = {
        "InitiatorName": INITIATOR,
        "SessionType": "Normal",
        "TargetName": IQN,
        "HeaderDigest": digest,
        "DataDigest": digest,
        "InitialR2T": "No",
        "MaxRecvDataSegmentLength": "262144",
    }
    return pdu(Opcode.LOGIN_REQUEST, text.build(keys.items()), opcode=0x43, flags=0x87, isid=ISID, cmd_sn=1)


def with_digests(stream: bytes) -> bytes:
    """The PDUs of a stream with the right digests, as far as it is whole PDUs: a fuzzer can not guess a CRC."""
    whole, rest = 0, len(stream)
    while whole + 48 <= rest:
        lengths = int.from_bytes(stream[whole + 4 : whole + 8])
        size = 48 + (lengths >> 24) * 4 + ((lengths & 0xFFFFFF) + 3 & ~3)
        if whole + size > rest:
            break
        whole += size
    return digested(stream[:whole], header_digest=True, data_digest=True) + stream[whole:]


def one_input(data: bytes) -> None:
    """What a fuzzer calls."""
    room = Room()
    try:
        room.take(data)
    finally:
        room.close()
