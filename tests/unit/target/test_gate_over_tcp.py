"""Over TCP: what has waited at the gate of a clustered logical unit is written only while its initiator is there."""

from __future__ import annotations

import socket
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.iscsi.portals import PortalGroup
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.storage.memory import MemoryDisk
from csvd.target import connection
from csvd.target.cluster_units import ClusterUnits
from csvd.target.export import Export
from csvd.target.listener import parse_portal
from csvd.target.service import TargetService
from csvd.target.unit_service import UnitService
from tests.iscsi_wire import TARGET, End, Wire, parse_pdus
from tests.unit.cluster.loopback import Loopback
from tests.unit.target.fake_reactor import FakeReactor

SIZE_BYTES = 1 << 20
WRITE_16 = bytes((0x8A, 0)) + bytes(8) + (1).to_bytes(4) + bytes(2)
NOP_IN, SCSI_RESPONSE = 0x20, 0x21


class Rig:
    """A node that serves one clustered logical unit, and an initiator that has taken its unit attention."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.loopback = Loopback(["n1"])
        coordination = self.loopback.coordination("n1")
        coordination.add_service(lambda disk, is_system: UnitService())
        units = ClusterUnits(coordination, self.reactor, number_of=lambda node: 1, prefix="n1/1")
        self.disk = MemoryDisk(SIZE_BYTES)
        unit = LogicalUnit(0, self.disk, 512, SIZE_BYTES // 512, Identity(serial="gated"), is_clustered=True)
        self.service = TargetService(self.reactor, [], cluster_reservations=units.of)
        units.tasks = self.service
        self.service.add_target(Export(TARGET, [unit], is_clustered=True))
        (address,) = self.service.start([PortalGroup(1, ("127.0.0.1:0",))])
        self.does(self.loopback.start())
        self.turns()
        self.requests: Any = End(Wire())
        self.sock = socket.create_connection(parse_portal(address))
        self.sock.settimeout(5.0)
        self.turns()
        self.sock.sendall(self.requests.login_pdu({"InitiatorName": "iqn.2026-11.test:a", "TargetName": TARGET}))
        self.turns()
        parse_pdus(self.sock.recv(1 << 16))
        self.requests.cmd_sn = 1
        self.sock.sendall(self.requests.command(bytes(16), flags=0x80))
        self.turns()
        parse_pdus(self.sock.recv(1 << 16))

    def does(self, work: Coroutine[Any, Any, Any]) -> None:
        done = Deferred.fromCoroutine(work)
        self.turns()
        assert done.called

    def turns(self, count: int = 8) -> None:
        for _ in range(count):
            self.reactor.turn()

    def write(self) -> None:
        self.sock.sendall(self.requests.command(WRITE_16, flags=0xA0, expected=512, data=b"w" * 512))
        self.turns()

    def is_written(self) -> bool:
        buffer = memoryview(bytearray(1))
        assert self.disk.read_nowait(buffer, 0)
        return bytes(buffer) == b"w"

    def let_acknowledge(self) -> None:
        """The kernel acknowledges what nobody answers a while later, on a clock of its own."""
        (served,) = self.service._connections
        for _ in range(500):
            if not connection.unacknowledged_bytes(served._socket):
                break
            time.sleep(0.01)
        self.reactor.pump([0.02] * 5)
        self.turns()

    def close(self) -> None:
        self.sock.close()
        stopped = Deferred.fromCoroutine(self.service.stop(drain_s=0.0))
        self.reactor.pump([0.1] * 20)
        assert stopped.called


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_an_express_write_waits_and_is_done_when_the_lease_is_back(rig: Rig) -> None:
    rig.write()
    assert rig.is_written()
    assert [pdu.opcode for pdu in parse_pdus(rig.sock.recv(1 << 16))] == [SCSI_RESPONSE]
    rig.disk.write_zeroes(0, 512)
    rig.does(rig.loopback.lapse("n1"))
    rig.write()
    assert not rig.is_written()
    rig.does(rig.loopback.come_back("n1"))
    rig.let_acknowledge()
    assert rig.is_written()
    assert [pdu.opcode for pdu in parse_pdus(rig.sock.recv(1 << 16))] == [NOP_IN, SCSI_RESPONSE]


def test_a_write_whose_initiator_has_gone_meanwhile_is_not_done(rig: Rig) -> None:
    rig.does(rig.loopback.lapse("n1"))
    rig.write()
    rig.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    rig.sock.close()
    rig.does(rig.loopback.come_back("n1"))
    rig.reactor.pump([0.02] * 5)
    assert not rig.is_written()


def test_a_write_waits_for_an_initiator_whose_host_does_not_acknowledge(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a host that was cut off together with the node, and has given this connection up."""
    rig.does(rig.loopback.lapse("n1"))
    rig.write()
    monkeypatch.setattr(connection, "unacknowledged_bytes", lambda sock: 48)
    rig.does(rig.loopback.come_back("n1"))
    rig.reactor.pump([0.02] * 5)
    assert not rig.is_written()
    monkeypatch.undo()
    rig.let_acknowledge()
    assert rig.is_written()
