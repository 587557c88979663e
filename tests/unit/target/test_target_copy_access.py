"""Over the wire: EXTENDED COPY reaches no logical unit that the access rules hide from its initiator."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.iscsi.access import Access, InitiatorRule
from csvd.iscsi.portals import PortalGroup
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.storage.memory import MemoryDisk
from csvd.target.export import Export
from csvd.target.listener import parse_portal
from csvd.target.service import TargetService
from tests.iscsi_wire import TARGET, End, Pdu, Wire, parse_pdus
from tests.unit.scsi.copy_lists import blocks, extended_copy, identification, lid1
from tests.unit.target.fake_reactor import FakeReactor

GUEST, OWNER = "iqn.2026-11.test:guest", "iqn.2026-11.test:owner"
SIZE_BYTES = 1 << 20
COPY_TARGET_DEVICE_NOT_REACHABLE = (0xA, 0x0D, 0x02)


class Rig:
    """A target of two disks, of which the guest may see the first."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.disks = [MemoryDisk(SIZE_BYTES), MemoryDisk(SIZE_BYTES)]
        self.units = [
            LogicalUnit(number, disk, 512, SIZE_BYTES // 512, Identity(serial=f"unit {number}"))
            for number, disk in enumerate(self.disks)
        ]
        access = Access(rules={GUEST: InitiatorRule(luns=frozenset({0})), OWNER: InitiatorRule()})
        self.service = TargetService(self.reactor, [Export(TARGET, self.units, access=access)])
        (self.address,) = self.service.start([PortalGroup(1, ("127.0.0.1:0",))])
        self.socks: list[socket.socket] = []
        self.disks[1].write_from((b"secret" * 512,), 0)

    def ask(self, initiator: str, parameters: bytes) -> Pdu:
        """The response to an EXTENDED COPY at LUN 0, on a session of its own."""
        requests: Any = End(Wire())
        sock = socket.create_connection(parse_portal(self.address))
        sock.settimeout(5.0)
        self.socks.append(sock)
        self.turns()
        sock.sendall(requests.login_pdu({"InitiatorName": initiator, "TargetName": TARGET}))
        self.turns()
        (login,) = parse_pdus(sock.recv(1 << 16))
        assert login.status == 0
        requests.cmd_sn = 1
        requests.exp_stat_sn = 0
        sock.sendall(requests.command(bytes(16), flags=0x80))
        sock.sendall(requests.command(extended_copy(parameters), flags=0xA0, expected=len(parameters), data=parameters))
        self.turns()
        attention, answer = parse_pdus(sock.recv(1 << 16))
        assert attention.status == 2
        return answer

    def turns(self) -> None:
        for _ in range(8):
            self.reactor.turn()

    def first_bytes(self) -> bytes:
        buffer = bytearray(6)
        assert self.disks[0].read_nowait(memoryview(buffer), 0)
        return bytes(buffer)

    def close(self) -> None:
        for sock in self.socks:
            sock.close()
        stopped = Deferred.fromCoroutine(self.service.stop(drain_s=0.0))
        self.reactor.pump([0.1] * 20)
        assert stopped.called


@pytest.fixture
def rig() -> Iterator[Rig]:
    started = Rig()
    yield started
    started.close()


def test_a_logical_unit_outside_the_access_rules_is_not_reachable(rig: Rig) -> None:
    parameters = lid1([identification(unit) for unit in rig.units], [blocks(1, 0, 6, 0, 0)])
    refused = rig.ask(GUEST, parameters)
    assert refused.status == 2
    sense = refused.data[2:]
    assert (sense[2] & 0x0F, sense[12], sense[13]) == COPY_TARGET_DEVICE_NOT_REACHABLE
    assert rig.first_bytes() == bytes(6)
    assert rig.ask(OWNER, parameters).status == 0
    assert rig.first_bytes() == b"secret"
