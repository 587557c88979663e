"""The service of targets: sessions that are dropped or asked to log out, and the end of it all."""

from __future__ import annotations

import socket
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from csvd.iscsi.access import Access, InitiatorRule
from csvd.iscsi.codes import AsyncEvent, Opcode
from csvd.iscsi.keepalive import Keepalive
from csvd.iscsi.portals import PortalGroup
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.target_ports import AccessState
from csvd.storage.memory import MemoryDisk
from csvd.target.crowd import oldest_of_crowd
from csvd.target.export import Export
from csvd.target.listener import SPARE_DESCRIPTORS, listening_socket, parse_portal
from csvd.target.service import FAREWELL_S, MAX_HALF_OPEN, TargetService
from tests.iscsi_wire import TARGET, End, Pdu, Wire, parse_pdus, pdu
from tests.unit.target.fake_reactor import FakeReactor


class Rig:
    """A service at a free port of the loopback, on a reactor that the test turns."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        unit = LogicalUnit(0, MemoryDisk(1 << 20), 512, 2048, Identity())
        self.service = TargetService(
            self.reactor, [Export(TARGET, [unit])], keepalive=Keepalive(idle_s=5.0, dead_s=20.0)
        )
        (self.address,) = self.service.start([PortalGroup(1, ("127.0.0.1:0",))])
        self.requests = End(Wire())
        """Builds the requests."""
        self.socks: list[socket.socket] = []
        self.logins = 0

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        sock = socket.create_connection(parse_portal(self.address), source_address=(source, 0))
        sock.settimeout(5.0)
        self.socks.append(sock)
        self.reactor.turn()
        return sock

    def login(self) -> socket.socket:
        sock = self.connect()
        self.logins += 1
        names = {"InitiatorName": "iqn.2026-11.test:i", "TargetName": TARGET}
        sock.sendall(self.requests.login_pdu(names, isid=bytes((0x80, 0, 0, 0, 0, self.logins))))
        self.turns()
        (answer,) = self.received(sock)
        assert answer.status == 0
        return sock

    def turns(self) -> None:
        for _ in range(5):
            self.reactor.turn()

    def received(self, sock: socket.socket) -> list[Pdu]:
        return parse_pdus(sock.recv(1 << 16))

    def tsih(self) -> int:
        (session,) = self.service.sessions()
        tsih: int = session["tsih"]
        return tsih

    def close(self) -> None:
        for sock in self.socks:
            sock.close()
        stopped = Deferred.fromCoroutine(self.service.stop(drain_s=0.0))
        self.reactor.pump([0.1] * 20)
        assert stopped.called


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_a_session_is_dropped_and_its_initiator_told(rig: Rig) -> None:
    sock = rig.login()
    assert rig.service.drop_session(TARGET, rig.tsih())
    rig.turns()
    (notice,) = rig.received(sock)
    assert (notice.opcode, notice.async_event) == (Opcode.ASYNC_MESSAGE, AsyncEvent.SESSION_DROP)
    assert sock.recv(1) == b""
    assert rig.service.sessions() == []


def test_an_initiator_is_asked_to_log_out_and_dropped_after_the_grace(rig: Rig) -> None:
    sock = rig.login()
    assert rig.service.request_logout(TARGET, rig.tsih(), 3)
    rig.turns()
    (request,) = rig.received(sock)
    assert (request.async_event, request.parameter3) == (AsyncEvent.LOGOUT_REQUEST, 3)
    rig.reactor.pump([1.0] * 5)
    rig.turns()
    (notice,) = rig.received(sock)
    assert notice.async_event == AsyncEvent.SESSION_DROP
    assert sock.recv(1) == b""


def test_a_session_that_is_not_there_is_not_dropped(rig: Rig) -> None:
    assert not rig.service.drop_session(TARGET, 77)
    assert not rig.service.request_logout("iqn.2026-11.test:none", 1, 3)


def test_when_a_target_is_removed_its_initiators_are_told(rig: Rig) -> None:
    sock = rig.login()
    Deferred.fromCoroutine(rig.service.remove_target(TARGET))
    rig.turns()
    (notice,) = rig.received(sock)
    assert notice.async_event == AsyncEvent.SESSION_DROP


def test_the_stop_answers_what_was_taken_tells_every_session_and_waits_for_no_reader(rig: Rig) -> None:
    sock, silent = rig.login(), rig.connect()
    ping = pdu(Opcode.NOP_OUT, opcode=0x40, flags=0x80, initiator_task_tag=9, target_transfer_tag=0xFFFFFFFF)
    sock.sendall(ping)
    rig.turns()
    stopped = Deferred.fromCoroutine(rig.service.stop())
    rig.reactor.pump([0.02] * 20)
    assert stopped.called
    answers = rig.received(sock)
    assert [answer.opcode for answer in answers] == [Opcode.NOP_IN, Opcode.ASYNC_MESSAGE]
    assert sock.recv(1) == b""
    assert silent.recv(1) == b""


def test_the_stop_waits_only_so_long_for_who_does_not_read(rig: Rig) -> None:
    sock = rig.login()
    for _ in range(40):
        sock.sendall(rig.requests.read(0, 2048))
        rig.turns()
    stopped = Deferred.fromCoroutine(rig.service.stop(drain_s=0.5))
    rig.reactor.pump([0.05] * int((FAREWELL_S + 1.0) / 0.05))
    assert stopped.called


def test_the_kernel_finds_out_that_a_host_is_gone(rig: Rig) -> None:
    rig.login()
    (connection,) = rig.service._connections
    near = connection._socket
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
    probes = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
    assert 5 + probes * near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) <= 20


def test_a_crowd_of_slow_logins_crowds_out_itself_and_nobody_from_another_address(rig: Rig) -> None:
    slow = rig.connect()
    crowd = [rig.connect("127.0.0.2") for _ in range(MAX_HALF_OPEN + 10)]
    rig.turns()
    assert [sock.recv(1) for sock in crowd[:11]] == [b""] * 11, "the oldest of the crowd are gone"
    crowd[-1].setblocking(False)
    with pytest.raises(BlockingIOError):
        crowd[-1].recv(1)
    slow.sendall(rig.requests.login_pdu({"InitiatorName": "iqn.2026-11.test:i", "TargetName": TARGET}))
    rig.turns()
    (answer,) = rig.received(slow)
    assert answer.status == 0


def test_a_host_with_many_ipv6_addresses_is_one_host() -> None:
    peers = [f"[2001:db8::{number:x}]:1" for number in range(3)] + ["[2001:db8:1::1]:1", "192.0.2.1:1"]
    connections = [Namespace(engine=End(Wire(), peer=peer).engine) for peer in reversed(peers)]
    assert oldest_of_crowd(cast(Any, connections)) is cast(Any, connections[2])


def test_connections_leave_room_for_other_files_and_discovery_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (SPARE_DESCRIPTORS + 2, 4096))
    rig = Rig()
    try:
        discovery = rig.connect()
        names = {"InitiatorName": "iqn.2026-11.test:i", "SessionType": "Discovery"}
        discovery.sendall(rig.requests.login_pdu(names))
        rig.turns()
        assert rig.received(discovery)[0].status == 0
        rig.login()
        third = rig.login()
        assert discovery.recv(1) == b"", "it can be had again"
        assert rig.connect().recv(1) == b"", "there is no room, and nobody goes for it"
        assert rig.service._turned_away == 1
        third.setblocking(False)
        with pytest.raises(BlockingIOError):
            third.recv(1)
    finally:
        rig.close()


def test_a_change_of_access_shows_other_luns_at_once_and_ends_who_has_no_right(rig: Rig) -> None:
    sock = rig.login()
    device = rig.service.device(TARGET)
    (nexus,) = device.nexuses.values()
    assert nexus.numbers == [0]
    rule = InitiatorRule(luns=frozenset({1}))
    rig.service.change_target(Export(TARGET, [], access=Access(rules={"iqn.2026-11.test:i": rule})))
    assert nexus.numbers == []
    assert len(rig.service.sessions()) == 1
    rig.service.change_target(Export(TARGET, [], access=Access(initiators=frozenset({"iqn.2026-11.test:other"}))))
    rig.turns()
    (notice,) = rig.received(sock)
    assert (notice.opcode, notice.async_event) == (Opcode.ASYNC_MESSAGE, AsyncEvent.SESSION_DROP)
    assert rig.service.sessions() == []


def test_behind_a_portal_initiators_know_only_the_portal(rig: Rig) -> None:
    """A socket of another port stands behind it: whoever comes there is told of the portal."""
    near = listening_socket("127.0.0.1:0")
    port = near.getsockname()[1]
    rig.service.adopt_portal(2, "127.0.0.1:3260", near)
    assert rig.service.groups()[2] == {"127.0.0.1:3260": "127.0.0.1:3260"}
    sock = socket.create_connection(("127.0.0.1", port))
    sock.settimeout(5.0)
    rig.socks.append(sock)
    rig.turns()
    sock.sendall(rig.requests.login_pdu({"InitiatorName": "iqn.2026-11.test:i", "SessionType": "Discovery"}))
    rig.turns()
    assert rig.received(sock)[0].status == 0
    sock.sendall(
        pdu(Opcode.TEXT_REQUEST, b"SendTargets=All\0", opcode=0x44, flags=0x80, target_transfer_tag=0xFFFFFFFF)
    )
    rig.turns()
    told = rig.received(sock)[0].data
    assert b"TargetAddress=127.0.0.1:3260,2\0" in told
    assert str(port).encode() not in told
    again = listening_socket("127.0.0.1:0")
    rig.service.adopt_portal(2, "127.0.0.1:3260", again)
    rig.service.adopt_portal(2, "127.0.0.1:3261", listening_socket("127.0.0.1:0"))
    assert (near.fileno(), len(rig.service.groups()[2])) == (-1, 2)
    rig.service.drop_portal(2, "127.0.0.1:3260")
    rig.service.drop_portal(2, "127.0.0.1:3260")
    assert (again.fileno(), len(rig.service.groups()[2])) == (-1, 1)
    rig.service.drop_portal(2, "127.0.0.1:3261")
    assert 2 not in rig.service.groups()


def test_the_access_states_of_groups_that_are_said_hold_and_those_that_initiators_set_stay(rig: Rig) -> None:
    states = {2: AccessState.STANDBY}
    rig.service.add_target(Export("iqn.2026-11.test:second", [], access_states=states))
    ports = rig.service.device("iqn.2026-11.test:second").ports
    rig.service.set_group(PortalGroup(2, ("127.0.0.1:0",)))

    def found() -> list[AccessState]:
        return [group.state for group in ports.groups.values()]

    assert found() == [AccessState.ACTIVE_OPTIMIZED, AccessState.STANDBY]
    rig.service.device("iqn.2026-11.test:second").set_access_states(
        {2: AccessState.UNAVAILABLE}, by_nexus="an initiator"
    )
    rig.service.change_target(Export("iqn.2026-11.test:second", [], alias="x", access_states=states))
    assert found()[1] is AccessState.UNAVAILABLE
    states = {2: AccessState.ACTIVE_NON_OPTIMIZED}
    rig.service.change_target(Export("iqn.2026-11.test:second", [], access_states=states))
    assert found()[1] is AccessState.ACTIVE_NON_OPTIMIZED


def test_a_free_port_that_is_asked_for_twice_is_two_ports(rig: Rig) -> None:
    addresses = rig.service.set_group(PortalGroup(2, ("127.0.0.1:0", "127.0.0.1:0")))

    assert len(set(addresses)) == 2
    assert rig.service.set_group(PortalGroup(2, ("127.0.0.1:0", "127.0.0.1:0"))) == addresses
    assert rig.service.set_group(PortalGroup(2, ("127.0.0.1:0",))) == addresses[:1]
