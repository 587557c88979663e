"""Several connections of one session to a daemon, over real sockets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from csvd.iscsi import text
from csvd.iscsi.codes import BHS_BYTES, Opcode
from csvd.iscsi.keys import KEYS
from tests.integration.served import Daemon, serving
from tests.iscsi_wire import ISID, READ10, TEST_UNIT_READY, WRITE10, Pdu, cdb10, parse_pdus, pdu

INITIATOR = "iqn.2026-11.test:several"
TARGET = "iqn.2026-11.test:served"
TIMEOUT_S = 30.0
NAMES = {"InitiatorName": INITIATOR, "SessionType": "Normal", "TargetName": TARGET}
DATA = bytes(range(256)) * 2


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with serving(tmp_path, target=TARGET, create="64M", timeout_s=TIMEOUT_S) as started:
        yield started


class Connection:
    """One connection of an initiator, one PDU at a time."""

    def __init__(self, daemon: Daemon, *, cid: int = 0, tsih: int = 0) -> None:
        self._socket = daemon.connect()
        keys = NAMES if tsih else NAMES | {"MaxConnections": "2", "InitialR2T": "No", "ImmediateData": "Yes"}
        fields: dict[str, Any] = {"opcode": 0x43, "flags": 0x87, "isid": ISID, "cid": cid, "tsih": tsih, "cmd_sn": 1}
        self.send(pdu(Opcode.LOGIN_REQUEST, text.build(keys.items()), **fields))
        self.login = self.answer()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            assert piece, "the daemon closed the connection"
            data += piece
        return data

    def answer(self) -> Pdu:
        header = self._exactly(BHS_BYTES)
        (answer,) = parse_pdus(header + self._exactly((int.from_bytes(header[5:8]) + 3) & ~3))
        return answer

    @property
    def is_closed(self) -> bool:
        return self._socket.recv(1) == b""

    def close(self) -> None:
        self._socket.close()


def command(cdb: bytes, cmd_sn: int, *, flags: int, data: bytes = b"", expected: int = 0) -> bytes:
    values = {"flags": flags, "cdb": cdb, "cmd_sn": cmd_sn, "initiator_task_tag": cmd_sn}
    return pdu(Opcode.SCSI_COMMAND, data, expected_data_transfer_length=expected, **values)


def two_connections(daemon: Daemon, stack: ExitStack) -> tuple[Connection, Connection]:
    first = Connection(daemon)
    stack.callback(first.close)
    assert first.login.status == 0
    second = Connection(daemon, cid=1, tsih=first.login.tsih)
    stack.callback(second.close)
    assert (second.login.status, second.login.tsih) == (0, first.login.tsih)
    first.send(command(bytes((TEST_UNIT_READY, *bytes(15))), 1, flags=0x80))
    assert first.answer().status == 2, "power on"
    return first, second


def test_commands_of_two_connections_are_one_order(daemon: Daemon) -> None:
    with ExitStack() as stack:
        first, second = two_connections(daemon, stack)
        for round_number in range(20):
            cmd_sn = 2 + 2 * round_number
            data = bytes((round_number,)) * 512
            # Delivered in order; with the ORDERED attribute it is executed in order, too (SAM-5 8.6.3).
            second.send(command(cdb10(READ10, 0, 1), cmd_sn + 1, flags=0xC2, expected=512))
            time.sleep(0.01)
            first.send(command(cdb10(WRITE10, 0, 1), cmd_sn, flags=0xA0, data=data, expected=512))
            assert first.answer().status == 0
            assert second.answer().data == data


def test_a_connection_that_is_cut_leaves_the_session_to_the_other_one(daemon: Daemon) -> None:
    with ExitStack() as stack:
        first, second = two_connections(daemon, stack)
        first.send(command(cdb10(WRITE10, 0, 8), 2, flags=0xA0, expected=4096))
        assert first.answer().opcode == Opcode.R2T
        first.close()
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:  # until the daemon has seen it: then the session has room for another connection
            third = Connection(daemon, cid=2, tsih=second.login.tsih)
            stack.callback(third.close)
            if third.login.status == 0 or time.monotonic() > deadline_s:
                break
        assert third.login.status == 0
        third.send(command(cdb10(READ10, 0, 8), 3, flags=0xC0, expected=4096))
        attention = third.answer()
        assert (attention.status, attention.data[2 + 12 : 2 + 14]) == (2, b"\x47\x7f")
        third.send(command(cdb10(READ10, 0, 8), 4, flags=0xC0, expected=4096))
        assert third.answer().data == bytes(4096)


def test_logout_of_the_session_closes_both(daemon: Daemon) -> None:
    with ExitStack() as stack:
        first, second = two_connections(daemon, stack)
        first.send(pdu(Opcode.LOGOUT_REQUEST, opcode=0x46, reason=0x80, initiator_task_tag=9))
        assert first.answer().opcode == Opcode.LOGOUT_RESPONSE
        assert first.is_closed
        assert second.is_closed


def test_the_keys_of_the_daemon_are_those_of_the_table(daemon: Daemon) -> None:
    connection = Connection(daemon)
    keys = dict(text.parse(connection.login.data))
    connection.close()
    assert keys.keys() <= KEYS.keys()
    assert keys["MaxConnections"] == "2"
