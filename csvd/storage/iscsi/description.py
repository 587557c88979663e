"""What a LUN says of itself, and what that makes of it as a disk: VPD pages 83h and B0h to B2h, mode page 08h,
PERSISTENT RESERVE IN."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from csvd.storage.disk import DiskCapabilities
from initiator import (
    CommandFailed,
    DeviceIdentification,
    Disk,
    InitiatorError,
    LogicalBlockProvisioning,
    MalformedAnswer,
    ReservationCapabilities,
    ReservationConflict,
    ReservationType,
    SenseKey,
    UnitSerialNumber,
)
from initiator.scsi import cdb
from initiator.scsi.inquiry import VpdPage

FENCE: Final = "persistent reservation"
FENCE_UNTIL_POWER_LOSS: Final = "persistent reservation, until the target loses power"

_LONGEST_IDENTITY: Final = 64
_WP: Final = 0x80
DPOFUA: Final = 0x10
_CACHING_PAGE: Final = 0x08


@dataclass(frozen=True, slots=True)
class Description:
    """A LUN as a disk.

    Args:
        identity: the same on every node and by every road.
        fua: whether single writes can be made durable (DPOFUA).
        write_protected: whether the target refuses writes.
        provisioned: whether it can be asked which blocks are in use.
    """

    identity: str
    capabilities: DiskCapabilities
    fua: bool
    write_protected: bool
    provisioned: bool


async def describe(unit: Disk) -> Description:
    """Ask a LUN.

    Raises:
        InitiatorError: it does not answer, or has no name by which it could be known.
    """
    pages = await unit.supported_pages()
    device_specific, caches = await mode_of(unit)
    provisioning = await unit.vpd(0xB2) if 0xB2 in pages else None
    capacity = unit.capacity
    # WRITE SAME with UNMAP always leaves zeros; UNMAP alone may leave what was there (SBC-3 section 4.7.3.4).
    discard = (
        isinstance(provisioning, LogicalBlockProvisioning)
        and provisioning.write_same_16_unmap
        and capacity.provisioning_management
        and capacity.read_zeros
    )
    return Description(
        identity=_identity_of(await _page(unit, 0x83, pages), await _page(unit, 0x80, pages), unit),
        capabilities=DiskCapabilities(
            discard=discard,
            write_zeroes=True,
            volatile_cache=caches,
            fence=await _fence(unit),
            shared_between="hosts",
            physical_block_bytes=max(capacity.physical_block_bytes, capacity.block_bytes, 512),
        ),
        fua=bool(device_specific & DPOFUA),
        write_protected=bool(device_specific & _WP),
        provisioned=capacity.provisioning_management,
    )


async def _page(unit: Disk, page: int, pages: tuple[int, ...]) -> VpdPage | None:
    return await unit.vpd(page) if page in pages else None


def _identity_of(identification: VpdPage | None, serial: VpdPage | None, unit: Disk) -> str:
    name = identification.unit_identity if isinstance(identification, DeviceIdentification) else ""
    if not name and isinstance(serial, UnitSerialNumber) and serial.serial:
        name = f"serial.{serial.serial}"
    if not name:
        why = "it has no designator of the logical unit (VPD 83h) and no serial number (VPD 80h)"
        raise InitiatorError("nobody could know this LUN again", where=unit.road.where, why=why)
    if len(name) > _LONGEST_IDENTITY or not name.isascii() or not name.isprintable():
        return hashlib.sha256(name.encode()).hexdigest()[:32]
    return name


async def mode_of(unit: Disk) -> tuple[int, bool]:
    """The device-specific parameter of the mode header, and WCE of the caching page (SBC-3 sections 6.4.1, 6.4.5).

    Without the page nobody can say that there is no cache. Where others have the LUN reserved, a target may refuse the
    question.
    """
    try:
        data = await unit.ask(cdb.mode_sense_6(_CACHING_PAGE), 255)
    except ReservationConflict:
        return 0, True
    except CommandFailed as failed:
        if failed.sense_key != SenseKey.ILLEGAL_REQUEST:
            raise
        return 0, True
    if len(data) < 4:
        raise MalformedAnswer(f"MODE SENSE gave {len(data)} bytes")
    at = 4 + data[3]
    if len(data) < at + 3 or data[at] & 0x3F != _CACHING_PAGE:
        raise MalformedAnswer("MODE SENSE gave no caching page")
    return data[2], bool(data[at + 2] & 0x04)


async def _fence(unit: Disk) -> str:
    try:
        return fence_by(await unit.reservations.capabilities())
    except (CommandFailed, MalformedAnswer):
        return "none"


def fence_by(capabilities: ReservationCapabilities) -> str:
    """The fence that a target can be. One that names no types of reservations is taken to have all."""
    types = capabilities.types
    if types is not None and ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY not in types:
        return "none"
    return FENCE if capabilities.persist_through_power_loss else FENCE_UNTIL_POWER_LOSS
