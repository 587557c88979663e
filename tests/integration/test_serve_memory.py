"""What a daemon holds in memory: with idle sessions, under load, and for those who never read what they asked for."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from csvd.iscsi import text
from csvd.iscsi.codes import BHS_BYTES, RESERVED_TAG, Opcode
from tests.integration.served import Daemon, serving
from tests.iscsi_wire import Pdu, parse_pdus, pdu

TARGET = "iqn.2026-11.test:memory"
TIMEOUT_S = 120.0
MIB = 1 << 20
IDLE_SESSIONS = 64
SESSIONS = 8
DEPTH = 32
SEGMENT_BYTES = 262144


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with serving(tmp_path, target=TARGET, create="256M", timeout_s=TIMEOUT_S) as started:
        yield started


class Session:
    """One session: it keeps `DEPTH` commands of one kind under way."""

    def __init__(self, daemon: Daemon, number: int) -> None:
        self.sock = socket.create_connection(daemon.address, timeout=TIMEOUT_S)
        keys = {
            "InitiatorName": f"iqn.2026-11.test:memory{number}",
            "SessionType": "Normal",
            "TargetName": TARGET,
            "InitialR2T": "No",
            "ImmediateData": "Yes",
            "FirstBurstLength": "262144",
            "MaxBurstLength": "1048576",
            "MaxRecvDataSegmentLength": str(SEGMENT_BYTES),
        }
        isid = bytes((0x80, 0, 0, 0, number >> 8, number & 0xFF))
        fields: dict[str, Any] = {"opcode": 0x43, "flags": 0x87, "isid": isid, "cmd_sn": 1}
        self.sock.sendall(pdu(Opcode.LOGIN_REQUEST, text.build(keys.items()), **fields))
        assert self.answer().status == 0
        self.cmd_sn = 1
        self.command(bytes(16), 0x81)
        assert self.answer().status == 2, "power on"

    def command(self, cdb: bytes, flags: int, expected: int = 0, data: bytes = b"") -> None:
        fields = {"flags": flags, "cdb": cdb, "cmd_sn": self.cmd_sn, "initiator_task_tag": self.cmd_sn}
        self.sock.sendall(pdu(Opcode.SCSI_COMMAND, data, expected_data_transfer_length=expected, **fields))
        self.cmd_sn += 1

    def transfer(self, *, write: bool, size: int) -> None:
        """Begin a READ or a WRITE, with as much data as may go with it."""
        place = self.cmd_sn * size % (128 * MIB) // 512
        cdb = bytes((0x8A if write else 0x88, 0)) + place.to_bytes(8) + (size // 512).to_bytes(4) + bytes(2)
        self.command(cdb, 0xA1 if write else 0xC1, size, bytes(min(size, SEGMENT_BYTES)) if write else b"")

    def _exactly(self, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            received = self.sock.recv_into(view)
            assert received, "the daemon closed the connection"
            view = view[received:]
        return data

    def answer(self) -> Pdu:
        header = self._exactly(BHS_BYTES)
        data = self._exactly((int.from_bytes(header[5:8]) + 3) & ~3)
        (answer,) = parse_pdus(bytes(header) + bytes(data))
        return answer

    def run(self, count: int, size: int, *, write: bool) -> None:
        """Carry out so many transfers, `DEPTH` of them at once."""
        for _ in range(min(DEPTH, count)):
            self.transfer(write=write, size=size)
        begun, done = min(DEPTH, count), 0
        while done < count:
            header = self._exactly(BHS_BYTES)
            self._exactly((int.from_bytes(header[5:8]) + 3) & ~3)
            opcode = header[0]
            if opcode == Opcode.R2T:
                self._send_data(header)
            elif opcode == Opcode.SCSI_RESPONSE or header[1] & 1:
                assert header[3] == 0, "status GOOD"
                done += 1
                if begun < count:
                    self.transfer(write=write, size=size)
                    begun += 1

    def _send_data(self, r2t: bytearray) -> None:
        (fields,) = parse_pdus(bytes(r2t))
        offset, end = fields.buffer_offset, fields.buffer_offset + fields.desired_data_transfer_length
        data_sn = 0
        while offset < end:
            size = min(SEGMENT_BYTES, end - offset)
            values = {
                "flags": 0x80 * (offset + size == end),
                "initiator_task_tag": fields.initiator_task_tag,
                "target_transfer_tag": fields.target_transfer_tag,
                "data_sn": data_sn,
                "buffer_offset": offset,
            }
            self.sock.sendall(pdu(Opcode.DATA_OUT, bytes(size), **values))
            offset, data_sn = offset + size, data_sn + 1

    def ping(self) -> None:
        fields = {"flags": 0x80, "initiator_task_tag": 7, "target_transfer_tag": RESERVED_TAG, "cmd_sn": self.cmd_sn}
        self.sock.sendall(pdu(Opcode.NOP_OUT, opcode=0x40, **fields))


def at_once(jobs: list[Callable[[], None]]) -> None:
    """Run them in threads; what fails in one fails here."""
    with ThreadPoolExecutor(len(jobs)) as threads:
        for running in [threads.submit(job) for job in jobs]:
            running.result()


def test_idle_sessions_cost_little(daemon: Daemon) -> None:
    sessions = [Session(daemon, 0)]
    before_mib = daemon.memory_mib("VmRSS")
    sessions += [Session(daemon, number) for number in range(1, IDLE_SESSIONS + 1)]
    assert daemon.memory_mib("VmRSS") - before_mib < 64
    for session in sessions:
        session.ping()
        assert session.answer().opcode == Opcode.NOP_IN
        session.sock.close()


@pytest.mark.parametrize("size", [256 << 10, MIB])
def test_under_load_the_daemon_stays_small_whoever_does_not_read(daemon: Daemon, size: int) -> None:
    silent = [Session(daemon, 100 + number) for number in range(4)]
    for session in silent:
        for _ in range(DEPTH):
            session.transfer(write=False, size=size)
    sessions = [Session(daemon, number) for number in range(SESSIONS)]
    count = 96 * MIB // size
    at_once([partial(session.run, count, size, write=number % 2 == 1) for number, session in enumerate(sessions)])
    at_once([partial(session.run, count, size, write=True) for session in sessions])
    assert daemon.memory_mib("VmHWM") < 256
    for session in silent:
        session.ping()
        pings = reads = 0
        while reads < DEPTH or not pings:
            answer = session.answer()
            pings += answer.opcode == Opcode.NOP_IN
            reads += answer.opcode == Opcode.DATA_IN and answer.flags & 1
        session.sock.close()
    for session in sessions:
        session.sock.close()
