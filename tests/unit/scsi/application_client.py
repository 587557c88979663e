"""The other side of the device server: an application client that sends CDBs on one I_T nexus and reads the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.lun import encode_lun
from csvd.scsi.outcome import Outcome, Reply, Status, Transfer
from csvd.scsi.procedure import Procedure
from csvd.scsi.target_device import TargetDevice
from tests.unit.scsi.store import Store

NO_DATA = memoryview(b"")
BLOCKS = 204_800
IMMEDIATE_BYTES = 64


def a_unit(number: int = 0, **overrides: Any) -> LogicalUnit:
    """A 100 MiB logical unit of 512-byte blocks."""
    values: dict[str, Any] = {
        "number": number,
        "device": f"disk {number}",
        "block_bytes": 512,
        "block_count": BLOCKS,
        "identity": Identity(serial=f"csvd-{number:04}"),
    }
    return LogicalUnit(**{**values, **overrides})


@dataclass(frozen=True)
class Sense:
    """Fixed format sense data, taken apart."""

    key: int
    asc: int
    ascq: int
    specific: bytes
    information: int | None


def fixed_sense(sense: bytes) -> Sense:
    """Take fixed format sense data apart; fails where it is something else."""
    assert len(sense) == 18
    assert sense[0] & 0x7F == 0x70
    assert sense[7] == 10
    information = int.from_bytes(sense[3:7]) if sense[0] & 0x80 else None
    return Sense(sense[2], sense[12], sense[13], sense[15:18], information)


class ApplicationClient:
    """One I_T nexus of a target."""

    def __init__(self, target: TargetDevice, nexus: str = "iqn.2026-11.test:host,i,0x1") -> None:
        self.target = target
        self.nexus = nexus
        target.nexus_opened(nexus)

    @classmethod
    def of(cls, *units: LogicalUnit, nexus: str = "iqn.2026-11.test:host,i,0x1") -> ApplicationClient:
        """A target of these logical units, and a nexus that has taken its power-on unit attentions."""
        client = cls(TargetDevice({unit.number: unit for unit in units}), nexus)
        return client.ready()

    def ready(self) -> ApplicationClient:
        """Take the pending unit attention of LUN 0 to 3."""
        for number in range(4):
            self.send("03 00 00 00 12 00", lun=number)
        return self

    def send(self, cdb: str | bytes, *, lun: int = 0, raw_lun: int | None = None, data_out: bytes = b"") -> Outcome:
        """Send a CDB, given as hexadecimal digits, padded as the iSCSI PDU pads it."""
        octets = (bytes.fromhex(cdb) if isinstance(cdb, str) else cdb).ljust(16, b"\0")
        field = encode_lun(lun) if raw_lun is None else raw_lun
        # As the iSCSI layer hands it over: bytes where it was all immediate.
        data = cast(memoryview, data_out) if len(data_out) <= IMMEDIATE_BYTES else memoryview(data_out)
        return self.target.start(self.nexus, field, octets, data)

    def data(self, cdb: str | bytes, *, lun: int = 0, raw_lun: int | None = None) -> bytes:
        """Data-In of a command that must be GOOD."""
        reply = self.send(cdb, lun=lun, raw_lun=raw_lun)
        assert isinstance(reply, Reply)
        assert reply.status == Status.GOOD, reply
        assert reply.sense == b""
        return reply.data_in

    def good(self, cdb: str | bytes, *, lun: int = 0) -> None:
        """A command that must be GOOD and have no data."""
        assert self.data(cdb, lun=lun) == b""

    def transfer(self, cdb: str | bytes, *, lun: int = 0) -> Transfer:
        """The transfer of a command that must ask the disk for one."""
        outcome = self.send(cdb, lun=lun)
        assert isinstance(outcome, Transfer), outcome
        return outcome

    def run(self, cdb: str | bytes, *, lun: int = 0, data_out: bytes = b"", store: Store | None = None) -> Reply:
        """The reply of a command; where it is a procedure, its steps are run on `store`."""
        outcome = self.send(cdb, lun=lun, data_out=data_out)
        if isinstance(outcome, Procedure):
            return (store or Store()).run(outcome)
        assert isinstance(outcome, Reply), outcome
        return outcome

    def refusal(self, cdb: str | bytes, *, lun: int = 0, raw_lun: int | None = None) -> Sense:
        """Sense data of a command that must end in CHECK CONDITION."""
        reply = self.send(cdb, lun=lun, raw_lun=raw_lun)
        assert isinstance(reply, Reply), reply
        assert reply.status == Status.CHECK_CONDITION, reply
        assert reply.data_in == b""
        return fixed_sense(reply.sense)


ILLEGAL_REQUEST = 0x5
INVALID_FIELD_IN_CDB = (ILLEGAL_REQUEST, 0x24, 0x00)
LBA_OUT_OF_RANGE = (ILLEGAL_REQUEST, 0x21, 0x00)
INVALID_OPERATION_CODE = (ILLEGAL_REQUEST, 0x20, 0x00)
LUN_NOT_SUPPORTED = (ILLEGAL_REQUEST, 0x25, 0x00)
WRITE_PROTECTED = (0x7, 0x27, 0x00)
POWER_ON = (0x6, 0x29, 0x00)
NEXUS_LOSS = (0x6, 0x29, 0x07)
RESET = (0x6, 0x29, 0x03)


def code(sense: Sense) -> tuple[int, int, int]:
    """Sense key, additional sense code and qualifier."""
    return sense.key, sense.asc, sense.ascq


def cdb_pointer(sense: Sense) -> tuple[int, int | None]:
    """Byte and bit that the field pointer of a CDB names."""
    first, high, low = sense.specific
    assert first & 0xC0 == 0xC0, "SKSV and C/D"
    return high << 8 | low, first & 7 if first & 8 else None
