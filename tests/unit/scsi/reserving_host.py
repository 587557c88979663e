"""A host that uses reservations: the commands by name, on one I_T nexus."""

from __future__ import annotations

from collections.abc import Sequence

from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.lun import encode_lun
from csvd.scsi.outcome import Reply, Status, Transfer
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.target_ports import TargetPorts
from csvd.scsi.transport_id import encode_transport_id
from tests.unit.scsi.application_client import ApplicationClient, a_unit, code, fixed_sense
from tests.unit.scsi.store import Store

GOOD, CONFLICT = Status.GOOD, Status.RESERVATION_CONFLICT
WE, EA, WE_RO, EA_RO, WE_AR, EA_AR = 1, 3, 5, 6, 7, 8
ALL_TYPES = (WE, EA, WE_RO, EA_RO, WE_AR, EA_AR)
TARGET = "iqn.2026-11.test:target"

INVALID_FIELD_IN_CDB = (0x5, 0x24, 0x00)
INVALID_FIELD_IN_PARAMETER_LIST = (0x5, 0x26, 0x00)
INVALID_RELEASE = (0x5, 0x26, 0x04)
PARAMETER_LIST_LENGTH_ERROR = (0x5, 0x1A, 0x00)
INSUFFICIENT_REGISTRATION_RESOURCES = (0x5, 0x55, 0x04)
RESERVATIONS_PREEMPTED = (0x6, 0x2A, 0x03)
RESERVATIONS_RELEASED = (0x6, 0x2A, 0x04)
REGISTRATIONS_PREEMPTED = (0x6, 0x2A, 0x05)

Answer = int | tuple[int, int, int]
"""A status, or the sense key and code of a CHECK CONDITION."""


def a_target(*units: LogicalUnit, tags: Sequence[int] = (1,)) -> TargetDevice:
    """A target with these target ports."""
    return TargetDevice({unit.number: unit for unit in units or (a_unit(),)}, name=TARGET, ports=TargetPorts(tags))


def answer_of(reply: Reply) -> Answer:
    """What a reply says."""
    return code(fixed_sense(reply.sense)) if reply.status == Status.CHECK_CONDITION else int(reply.status)


class Host:
    """One I_T nexus of a target, past its power-on unit attention.

    Args:
        name: of the initiator.
        isid: its port.
        tag: the target port.
    """

    def __init__(self, target: TargetDevice, name: str = "a", isid: int = 1, tag: int = 1) -> None:
        self.store = Store()
        self.initiator_name = f"iqn.2026-11.test:{name}"
        self.port = f"{self.initiator_name},i,0x{isid:012x}"
        self.nexus = f"{self.port},{TARGET},t,0x{tag:04x}"
        self.isid, self.tag = isid, tag
        self.client = ApplicationClient(target, self.nexus)
        self.log_in(target)

    def log_in(self, target: TargetDevice) -> None:
        """The nexus begins, anew where it is there; its unit attention is taken."""
        self.client.target = target
        target.nexus_opened(self.nexus, self.initiator_name, self.isid.to_bytes(6), self.tag)
        self.client.ready()

    def ask(self, cdb: str | bytes, data_out: bytes = b"") -> Answer:
        """The answer to any command."""
        return answer_of(self.client.run(cdb, data_out=data_out, store=self.store))

    def attention(self) -> tuple[int, int, int] | None:
        """The next unit attention condition; None when none is pending."""
        answer = self.ask("00 00 00 00 00 00")
        assert answer == GOOD or isinstance(answer, tuple)
        return answer if isinstance(answer, tuple) else None

    # PERSISTENT RESERVE OUT

    def out(self, action: int, data: bytes, kind: int = 0, *, scope: int = 0, length: int | None = None) -> Answer:
        """PERSISTENT RESERVE OUT."""
        size = len(data) if length is None else length
        cdb = bytes((0x5F, action, scope << 4 | kind, 0, 0)) + size.to_bytes(4) + b"\0"
        return self.ask(cdb, data)

    def register(
        self,
        key: int,
        new_key: int,
        *,
        aptpl: bool = False,
        all_ports: bool = False,
        ports: Sequence[bytes] | None = None,
        action: int = 0x00,
    ) -> Answer:
        """REGISTER."""
        flags = aptpl | all_ports << 2 | (ports is not None) << 3
        return self.out(action, parameter_list(key, new_key, flags, ports))

    def register_anyway(self, new_key: int, *, aptpl: bool = False, all_ports: bool = False, key: int = 0) -> Answer:
        """REGISTER AND IGNORE EXISTING KEY."""
        return self.register(key, new_key, aptpl=aptpl, all_ports=all_ports, action=0x06)

    def reserve(self, key: int, kind: int) -> Answer:
        return self.out(0x01, parameter_list(key), kind)

    def release(self, key: int, kind: int) -> Answer:
        return self.out(0x02, parameter_list(key), kind)

    def clear(self, key: int) -> Answer:
        return self.out(0x03, parameter_list(key))

    def preempt(self, key: int, preempted: int, kind: int = WE, *, abort: bool = False) -> Answer:
        return self.out(0x05 if abort else 0x04, parameter_list(key, preempted), kind)

    def move(
        self,
        key: int,
        new_key: int,
        transport_id: bytes,
        *,
        port: int = 1,
        unregister: bool = False,
        aptpl: bool = False,
        length: int | None = None,
    ) -> Answer:
        """REGISTER AND MOVE."""
        flags = unregister << 1 | aptpl
        size = len(transport_id) if length is None else length
        head = key.to_bytes(8) + new_key.to_bytes(8) + bytes((0, flags)) + port.to_bytes(2) + size.to_bytes(4)
        return self.out(0x07, head + transport_id)

    @property
    def transport_id(self) -> bytes:
        return encode_transport_id(self.port)

    # PERSISTENT RESERVE IN

    def read(self, action: int, allocation_length: int = 0xFFFF) -> bytes:
        """Data-In of PERSISTENT RESERVE IN."""
        reply = self.client.run(bytes((0x5E, action)) + bytes(5) + allocation_length.to_bytes(2) + b"\0")
        assert reply.status == GOOD, reply
        return reply.data_in

    def generation(self) -> int:
        return int.from_bytes(self.read(0)[:4])

    def keys(self) -> list[int]:
        """READ KEYS."""
        data = self.read(0)
        assert int.from_bytes(data[4:8]) == len(data) - 8
        return [int.from_bytes(data[at : at + 8]) for at in range(8, len(data), 8)]

    def reservation(self) -> tuple[int, int] | None:
        """Key and type as READ RESERVATION has them."""
        data = self.read(1)
        assert int.from_bytes(data[4:8]) == len(data) - 8
        return (int.from_bytes(data[8:16]), data[21]) if len(data) > 8 else None

    def full_status(self) -> list[tuple[int, bool, int, int, str]]:
        """Key, whether a holder, scope and type, relative target port and initiator port of each registration."""
        data = self.read(3)
        assert int.from_bytes(data[4:8]) == len(data) - 8
        found, at = [], 8
        while at < len(data):
            length = int.from_bytes(data[at + 20 : at + 24])
            transport_id = data[at + 24 : at + 24 + length]
            assert transport_id[0] == 0x45
            assert int.from_bytes(transport_id[2:4]) == length - 4
            name = transport_id[4:].rstrip(b"\0").decode()
            found.append(
                (
                    int.from_bytes(data[at : at + 8]),
                    bool(data[at + 12] & 1),
                    data[at + 13],
                    int.from_bytes(data[at + 18 : at + 20]),
                    name,
                )
            )
            at += 24 + length
        return found

    # What a reservation lets pass

    def may_read(self) -> bool:
        return self._may("28 00 00 00 00 00 00 00 01 00")

    def may_write(self) -> bool:
        return self._may("2a 00 00 00 00 00 00 00 01 00")

    def _may(self, cdb: str) -> bool:
        outcome = self.client.send(cdb)
        if isinstance(outcome, Transfer):
            return True
        assert isinstance(outcome, Reply)
        assert outcome.status == CONFLICT, outcome
        return False

    @property
    def is_interrupted(self) -> bool:
        """Whether its commands take the slow way."""
        return self.client.target.servers[0].nexuses[self.nexus].interrupted

    def lose(self) -> None:
        """The nexus is lost."""
        self.client.target.nexus_lost(self.nexus)

    def reset(self) -> None:
        """LOGICAL UNIT RESET."""
        assert self.client.target.logical_unit_reset(encode_lun(0), self.nexus)
        self.client.ready()

    def reset_target(self) -> None:
        """TARGET WARM RESET."""
        self.client.target.target_reset(self.nexus)
        self.client.ready()


def parameter_list(key: int, new_key: int = 0, flags: int = 0, ports: Sequence[bytes] | None = None) -> bytes:
    """The basic parameter list, with TransportIDs for SPEC_I_PT."""
    data = key.to_bytes(8) + new_key.to_bytes(8) + bytes(4) + bytes((flags, 0, 0, 0))
    if ports is not None:
        listed = b"".join(ports)
        data += len(listed).to_bytes(4) + listed
    return data


def device_transport_id(name: bytes) -> bytes:
    """A TransportID without ISID."""
    text = name.ljust(len(name) + 4 - len(name) % 4, b"\0")
    return bytes((0x05, 0)) + len(text).to_bytes(2) + text


def registered(*hosts: Host) -> None:
    """Register hosts with the keys 0xA1, 0xA2, …"""
    for number, host in enumerate(hosts):
        assert host.register(0, 0xA1 + number) == GOOD
