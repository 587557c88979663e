"""A target engine without a network, a SCSI layer or a disk: bytes in by hand, PDUs out as named fields."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from csvd.iscsi import text
from csvd.iscsi.access import OPEN, Access
from csvd.iscsi.codes import BHS_BYTES, Opcode
from csvd.iscsi.connection import TargetConnection, gather
from csvd.iscsi.keys import OFFER, SessionParameters
from csvd.iscsi.layouts import LAYOUTS, build
from csvd.iscsi.node import NetworkEntity, TargetNode
from csvd.iscsi.pdu_input import OUTPUT_PIECES
from csvd.iscsi.session import EXECUTING

TARGET = "iqn.2026-11.test:disk"
INITIATOR = "iqn.2026-11.test:initiator"
BLOCK_BYTES = 512
DISK_BYTES = 256 * 1024
SECRET = b"a secret of 20 bytes"
ISID = b"\x80\x12\x34\x56\x00\x01"

READ10, WRITE10, TEST_UNIT_READY = 0x28, 0x2A, 0x00


class Pdu(NamedTuple):
    """A PDU that the target sent."""

    opcode: Opcode
    fields: Any
    data: bytes

    def __getattr__(self, name: str) -> Any:
        return self.fields[name]


def parse_pdus(stream: bytes, *, header_digest: bool = False, data_digest: bool = False) -> list[Pdu]:
    """Cut what a target sent into PDUs, by the layouts of the declarations; check the digests."""
    pdus, start = [], 0
    while start < len(stream):
        opcode = Opcode(stream[start] & 0x3F)
        fields = LAYOUTS[opcode].parse(stream[start : start + BHS_BYTES])
        begin = start + BHS_BYTES
        if header_digest:
            assert stream[begin : begin + 4] == digest(stream[start:begin])
            begin += 4
        size = fields.lengths & 0xFFFFFF
        data = stream[begin : begin + size]
        assert len(data) == size
        start = begin + (size + 3 & ~3)
        if data_digest and size:
            assert stream[start : start + 4] == digest(stream[begin:start])
            start += 4
        pdus.append(Pdu(opcode, fields, data))
    return pdus


def digest(data: bytes) -> bytes:
    """CRC32C bit by bit, as RFC 7143 section 13.1 describes it: not the code under test."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ CRC_OF_BYTE[(value ^ byte) & 0xFF]
    return (value ^ 0xFFFFFFFF).to_bytes(4, "little")


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


CRC_OF_BYTE = [_crc_of_byte(byte) for byte in range(256)]


def digested(stream: bytes, *, header_digest: bool = True, data_digest: bool = True) -> bytes:
    """Put digests into a stream of PDUs that has none."""
    out, start = b"", 0
    while start < len(stream):
        lengths = int.from_bytes(stream[start + 4 : start + 8])
        begin = start + BHS_BYTES + (lengths >> 24) * 4
        end = begin + ((lengths & 0xFFFFFF) + 3 & ~3)
        header, data = stream[start:begin], stream[begin:end]
        out += header + (digest(header) if header_digest else b"")
        out += data + (digest(data) if data_digest and data else b"")
        start = end
    return out


def pdu(opcode: Opcode, data: bytes = b"", /, **fields: Any) -> bytes:
    """Build one PDU of an initiator."""
    header = build(opcode, **{"lengths": len(data)} | fields)
    return header + data + bytes(-len(data) % 4)


def cdb10(opcode: int, block: int, blocks: int) -> bytes:
    return bytes((opcode, 0)) + block.to_bytes(4) + b"\0" + blocks.to_bytes(2) + bytes(7)


class Router:
    """The SCSI layer's part: one LUN 0, of which READ(10) and WRITE(10) are known."""

    def __init__(self) -> None:
        self.nexuses: set[str] = set()
        self.resets: list[str] = []
        self.cleared: set[str] = set()
        self.tas = False
        self.sees_all = True
        self.attention: bytes | None = None
        self.terminated: list[tuple[str, set[int]]] = []

    def nexus_opened(
        self, nexus: str, initiator_name: str, isid: bytes, portal_group_tag: int, protocol_level: int
    ) -> None:
        self.nexuses.add(nexus)

    def nexus_lost(self, nexus: str) -> None:
        self.nexuses.discard(nexus)

    def data_out_length(self, lun: int, cdb: bytes) -> int:
        return int.from_bytes(cdb[7:9]) * BLOCK_BYTES if cdb[0] == WRITE10 and lun == 0 else 0

    def logical_unit_reset(self, lun: int, by_nexus: str) -> bool:
        self.resets.append(by_nexus)
        return lun == 0

    def commands_cleared(self, lun: int, nexuses: Iterable[str]) -> bool:
        self.cleared |= set(nexuses)
        return lun == 0

    def tasks_terminated(self, nexus: str, luns: Iterable[int]) -> None:
        self.terminated.append((nexus, set(luns)))

    def luns_of(self, nexus: str, lun: int) -> Collection[int]:
        # By peripheral and by flat addressing.
        return (0, 0x4000 << 48) if lun in (0, 0x4000 << 48) else ()

    def reset_elsewhere(self, luns: Collection[int] | None, done: Callable[[], None]) -> None:
        done()

    def clear_elsewhere(self, luns: Collection[int], nexus: str, done: Callable[[], None]) -> None:
        done()

    def release_elsewhere(self, nexus: str, done: Callable[[], None]) -> None:
        done()

    def sees_every_lun(self, nexus: str) -> bool:
        return self.sees_all

    def aborted_status(self, lun: int) -> bool:
        return self.tas

    def i_t_nexus_reset(self, nexus: str) -> None:
        self.resets.append(nexus)

    def pending_attention(self, nexus: str, lun: int) -> bytes | None:
        return self.attention

    def target_reset(self, by_nexus: str) -> None:
        self.resets.append(by_nexus)


class Wire:
    """A target with one disk in memory, and the connections to it."""

    def __init__(self, *, access: Access = OPEN, offer: SessionParameters = OFFER, queue_depth: int = 64) -> None:
        self.router = Router()
        self.target = TargetNode(TARGET, self.router, access=access, offer=offer, queue_depth=queue_depth)
        self.entity = NetworkEntity([self.target], entropy=lambda count: bytes(range(count)))
        self.disk = bytearray(DISK_BYTES)
        self.hold = False
        """Leave tasks in execution until :meth:`finish`."""
        self.held: list[Any] = []

    def connect(self, **connection: Any) -> End:
        """Connect; ``connection`` goes to :class:`TargetConnection`."""
        return End(self, **connection)

    def run(self, connection: TargetConnection) -> None:
        """Execute what is ready, as the adapter does."""
        while connection.ready:
            task = connection.ready.pop(0)
            task.state = EXECUTING
            if self.hold:
                self.held.append(task)
            else:
                self.execute(task)

    def finish(self) -> None:
        for task in self.held:
            self.execute(task)
        self.held.clear()

    def execute(self, task: Any) -> None:
        opcode, lun = task.cdb[0], task.lun
        start, size = int.from_bytes(task.cdb[2:6]) * BLOCK_BYTES, int.from_bytes(task.cdb[7:9]) * BLOCK_BYTES
        known = lun == 0 and opcode in (READ10, WRITE10, TEST_UNIT_READY)
        if task.fault is not None or not known or (opcode != TEST_UNIT_READY and start + size > DISK_BYTES):
            task.connection.respond(task, 2, bytes(18))
        elif opcode == READ10:
            task.connection.data_in(task, bytes(self.disk[start : start + size]))
        else:
            if opcode == WRITE10:
                self.disk[start : start + len(task.data)] = task.data
            task.connection.respond(task, 0)


class End:
    """The initiator's end of one connection."""

    def __init__(self, wire: Wire, **connection: Any) -> None:
        self.wire = wire
        values: dict[str, Any] = {"local_address": "127.0.0.1:3260", "peer": "test", "now_s": 0.0} | connection
        self.engine = TargetConnection(wire.entity, **values)
        self.cmd_sn = 1
        self.fields: dict[str, Any] = {}
        """Of every Login Request."""

    def feed(self, data: bytes, now_s: float = 0.0) -> None:
        """Give bytes to the engine as a socket would: into its buffers, as many as fit, then the next."""
        rest = memoryview(data)
        while rest and not self.engine.closing:
            count = 0
            for buffer in self.engine.receive_buffers():
                part = min(len(buffer), len(rest) - count)
                buffer[:part] = rest[count : count + part]
                count += part
            self.engine.received(count, now_s)
            self.wire.run(self.engine)
            while self.engine.paused and len(self.engine.output) <= OUTPUT_PIECES:
                self.engine.received(0, now_s)
                self.wire.run(self.engine)
            rest = rest[count:]

    def take(self) -> bytes:
        output = gather(self.engine.output)
        self.engine.output.clear()
        return output

    def answers(self) -> list[Pdu]:
        return parse_pdus(self.take())

    def ask(self, data: bytes) -> list[Pdu]:
        self.feed(data)
        return self.answers()

    def login_pdu(self, keys: dict[str, str], *, flags: int = 0x87, **fields: Any) -> bytes:
        values = {"opcode": 0x43, "flags": flags, "isid": ISID, "cmd_sn": self.cmd_sn} | self.fields | fields
        return pdu(Opcode.LOGIN_REQUEST, text.build(keys.items()), **values)

    def login(self, **keys: str) -> Pdu:
        """Log in to the target in one step, with these keys beside the names."""
        names = {"InitiatorName": INITIATOR, "SessionType": "Normal", "TargetName": TARGET}
        (answer,) = self.ask(self.login_pdu(names | keys))
        return answer

    def command(self, cdb: bytes, *, expected: int = 0, flags: int = 0x80, data: bytes = b"", **fields: Any) -> bytes:
        """Build a SCSI Command with the next CmdSN and a task tag of its own."""
        values = {
            "flags": flags,
            "cdb": cdb,
            "expected_data_transfer_length": expected,
            "cmd_sn": self.cmd_sn,
            "initiator_task_tag": self.cmd_sn,
        }
        self.cmd_sn = self.cmd_sn + 1 & 0xFFFFFFFF
        return pdu(Opcode.SCSI_COMMAND, data, **values | fields)

    def read(self, block: int, blocks: int, **fields: Any) -> bytes:
        return self.command(cdb10(READ10, block, blocks), **{"expected": blocks * BLOCK_BYTES, "flags": 0xC0} | fields)

    def write(self, block: int, blocks: int, data: bytes = b"", **fields: Any) -> bytes:
        values: dict[str, Any] = {"expected": blocks * BLOCK_BYTES, "flags": 0xA0, "data": data} | fields
        return self.command(cdb10(WRITE10, block, blocks), **values)
