"""What a new session asks a logical unit before anything else: its unit attentions, and whether it is the same one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from initiator.engine.requests import CHECK_CONDITION, GOOD, Command
from initiator.errors import ConnectFailed, DiskChanged, MalformedAnswer
from initiator.road import Road, submit
from initiator.scsi import answers, cdb, inquiry, sense
from initiator.scsi.inquiry import DeviceIdentification, UnitSerialNumber
from initiator.scsi.sense import Sense, SenseKey

MOST_ATTENTIONS: Final = 32
"""Unit attentions in a row after which a command is repeated no more."""

_ROOM_BYTES: Final = 1024

Heard = Callable[[int, Sense], None]
"""Takes a LUN field and a unit attention."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a logical unit is known by: its designator of VPD 83h, else its serial number, else its size."""

    designator: str
    block_bytes: int
    block_count: int

    def check(self, found: Identity, where: str) -> None:
        """See that what was found after a new login is the same logical unit. Its size may have changed where it has a
        name.

        Raises:
            ConnectFailed: it does not say now what it is; it did before.
            DiskChanged: it is not.
        """
        if self.designator and not found.designator:
            raise ConnectFailed("the disk at the LUN does not say which it is now", where=where, why=f"it was {self}")
        same_name = (self.designator, self.block_bytes) == (found.designator, found.block_bytes)
        if not same_name or (not self.designator and self.block_count != found.block_count):
            raise DiskChanged("another disk stands behind the LUN now", where=where, why=f"it was {self}, is {found}")

    def __str__(self) -> str:
        return f"{self.designator or 'nameless'}, {self.block_count} blocks of {self.block_bytes} bytes"


def attention_of(command: Command) -> Sense | None:
    """Give the unit attention by which a command ended, if it did."""
    told = sense.parse(command.sense) if command.status == CHECK_CONDITION and not command.response else None
    return told if told is not None and told.key is SenseKey.UNIT_ATTENTION else None


class Questions:
    """Asks one logical unit, and repeats what meets a unit attention.

    Args:
        lun: the LUN field.
        timeout_s: for each command.
    """

    def __init__(self, road: Road, lun: int, timeout_s: float, heard: Heard) -> None:
        self._road = road
        self._lun = lun
        self._timeout_s = timeout_s
        self._heard = heard

    async def take_attentions(self) -> None:
        """Have it report its unit attentions until there are no more (SAM-5 section 5.14)."""
        await self._ask(cdb.TEST_UNIT_READY, 0)

    async def identify(self) -> Identity:
        """Ask it what it is.

        Raises:
            ConnectFailed: there is no logical unit of a known size now.
            MalformedAnswer: it gives an impossible size.
            TimedOut, SessionLost, SessionClosed.
        """
        long = await self._ask(cdb.read_capacity_16(), 32)
        if long is not None:
            capacity = answers.parse_capacity_16(long)
        else:
            # A device of SBC-2's time may know READ CAPACITY(10) alone.
            short = await self._ask(cdb.read_capacity_10(), 8)
            small = None if short is None else answers.parse_capacity_10(short)
            if small is None:
                raise ConnectFailed("there is no disk at the LUN now", where=self._road.where)
            capacity = small
        return Identity(await self._designator(), capacity.block_bytes, capacity.block_count)

    async def has_no_cache(self) -> bool:
        """Ask whether it says that it has no volatile write cache in use (WCE of the caching mode page)."""
        data = await self._ask(cdb.mode_sense_6(answers.CACHING_PAGE), 255)
        try:
            return data is not None and not answers.parse_write_cache(data)
        except MalformedAnswer:
            return False

    async def _designator(self) -> str:
        for page in (0x83, 0x80):
            data = await self._ask(cdb.inquiry(_ROOM_BYTES, page=page), _ROOM_BYTES)
            try:
                found = None if data is None else inquiry.parse_vpd(page, data)
            except MalformedAnswer:
                found = None
            if isinstance(found, DeviceIdentification) and found.unit_identity:
                return found.unit_identity
            if isinstance(found, UnitSerialNumber) and found.serial:
                return f"serial {found.serial}"
        return ""

    async def _ask(self, cdb_bytes: bytes, room_bytes: int) -> bytes | None:
        """Give the Data-In of a command; None when it does not end with GOOD."""
        for _ in range(MOST_ATTENTIONS):
            buffer = bytearray(room_bytes)
            command = Command(self._lun, cdb_bytes, data_in=buffer if room_bytes else None)
            await submit(self._road, command, self._timeout_s)
            attention = attention_of(command)
            if attention is None:
                good = command.status == GOOD and not command.response
                return bytes(buffer[: command.received]) if good else None
            self._heard(self._lun, attention)
        return None
