"""Copies that the target makes by itself, between disks that it reaches: no data passes here (SPC-4 section 5.17)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Final

from initiator.errors import IllegalRequest, InitiatorError
from initiator.scsi import extended_copy, rod_token
from initiator.scsi.designators import Designator
from initiator.scsi.extended_copy import CopyStatus, Cscd, OperatingParameters, Segment
from initiator.scsi.inquiry import DeviceIdentification
from initiator.scsi.provisioning import Extent
from initiator.scsi.ranges import cut
from initiator.scsi.rod_token import TokenAnswer

if TYPE_CHECKING:
    from initiator.disk import Disk

_NO_LIMITS: Final = OperatingParameters(2, 1, 0, 0, 0, frozenset())
_BLOCKS: Final = 0xF1
"""TRANSFER COUNT UNITS of a number of blocks."""

_identifiers = count(1)
"""List identifiers: no two commands under way may have the same one (SPC-4 section 5.17.4.2)."""


async def operating_parameters(disk: Disk, *, timeout_s: float | None = None) -> OperatingParameters:
    """Ask what copies the target can make (RECEIVE COPY OPERATING PARAMETERS)."""
    asked = extended_copy.operating_parameters_cdb()
    data = await disk.ask(asked, extended_copy.OPERATING_PARAMETERS_BYTES, timeout_s=timeout_s)
    return extended_copy.parse_operating_parameters(data)


async def status_lid1(disk: Disk, list_identifier: int, *, timeout_s: float | None = None) -> CopyStatus:
    """Ask how far the EXTENDED COPY(LID1) with an identifier has come."""
    data = await disk.ask(extended_copy.status_lid1_cdb(list_identifier), 12, timeout_s=timeout_s)
    return extended_copy.parse_status_lid1(data)


async def status_lid4(disk: Disk, list_identifier: int, *, timeout_s: float | None = None) -> CopyStatus:
    """Ask how far the EXTENDED COPY(LID4) with an identifier has come."""
    data = await disk.ask(extended_copy.status_lid4_cdb(list_identifier), 288, timeout_s=timeout_s)
    return extended_copy.parse_status_lid4(data)


async def cscd_of(disk: Disk, *, timeout_s: float | None = None) -> Cscd:
    """Give by what a disk is named in a copy: its NAA designator, else EUI-64, name, or T10 vendor ID.

    Raises:
        InitiatorError: it has none that fits.
    """
    page = await disk.vpd(0x83, timeout_s=timeout_s)
    names: tuple[Designator, ...] = page.designators if isinstance(page, DeviceIdentification) else ()
    for kind in (3, 2, 8, 1):
        for name in names:
            if (name.association, name.kind) == (0, kind) and len(name.value) <= extended_copy.DESIGNATOR_BYTES:
                return Cscd(name, disk.block_bytes)
    raise InitiatorError(f"LUN {disk.lun} has no name for a third-party copy", where=disk.road.where)


async def copy_blocks(
    source: Disk,
    lba: int,
    blocks: int,
    destination: Cscd,
    destination_lba: int,
    *,
    lid4: bool = False,
    timeout_s: float | None = None,
) -> None:
    """Have the target copy blocks from one disk to another, or within one (EXTENDED COPY): see :meth:`Disk.copy_to`.

    Raises:
        CopyFailed: it ended in the middle.
        InitiatorError: the range is not on the disk, the two overlap, or block lengths differ.
    """
    deadline_s = source.deadline(timeout_s)
    source.check_range(lba, blocks)
    if source.block_bytes != destination.block_bytes:
        raise InitiatorError(
            "the blocks of the two disks differ in length", why=f"{source.block_bytes} and {destination.block_bytes}"
        )
    cscds = [await cscd_of(source, timeout_s=_left_s(source, deadline_s)), destination]
    if cscds[0] == cscds[1] and abs(lba - destination_lba) < blocks:
        raise InitiatorError("the two ranges overlap", hint="copy them in parts that do not")
    try:
        limits = await operating_parameters(source, timeout_s=_left_s(source, deadline_s))
    except IllegalRequest:
        limits = _NO_LIMITS

    def segments() -> Iterator[Segment]:
        for at, length in cut(lba, blocks, limits.segment_blocks(source.block_bytes)):
            yield Segment(0, 1, at, destination_lba + at - lba, length)

    for batch in limits.batches(segments()):
        build = extended_copy.lid4_list if lid4 else extended_copy.lid1_list
        parameters = build(cscds, batch)
        asked = extended_copy.copy_cdb(extended_copy.LID4 if lid4 else extended_copy.LID1, len(parameters))
        await source.tell(asked, parameters, timeout_s=_left_s(source, deadline_s))


async def make_token(
    source: Disk, lba: int, blocks: int, *, inactivity_timeout_s: int = 0, timeout_s: float | None = None
) -> tuple[bytes, int]:
    """Have the target make a token of blocks as they are now (POPULATE TOKEN); give it, and how many blocks it holds.

    It may hold fewer than asked for: the rest wants another one. The target forgets it after a while (0 leaves it to
    the target how long that is).

    Raises:
        InitiatorError: the range is not on the disk, or no token came of it.
    """
    source.check_range(lba, blocks)
    deadline_s = source.deadline(timeout_s)
    identifier = next(_identifiers) & 0xFFFFFFFF
    parameters = rod_token.populate_list([Extent(lba, blocks)], inactivity_timeout_s=inactivity_timeout_s)
    await source.tell(
        rod_token.populate_cdb(identifier, len(parameters)), parameters, timeout_s=_left_s(source, deadline_s)
    )
    made = await _token_answer(source, identifier, _left_s(source, deadline_s))
    held = min(blocks, made.status.transfer_count) if made.status.transfer_count_units == _BLOCKS else blocks
    if made.token is None or not held:
        raise InitiatorError("the target made no token", where=source.road.where, why=str(made.status.sense or ""))
    return made.token, held


async def write_token(
    destination: Disk,
    token: bytes,
    lba: int,
    blocks: int,
    *,
    offset_blocks: int = 0,
    timeout_s: float | None = None,
) -> int:
    """Have the target write blocks of a token, from an offset on, to a disk (WRITE USING TOKEN); give how many.

    It may be fewer than asked for: the rest is to be asked for again.

    Raises:
        IllegalRequest: the target does not know the token, or knows it no more.
        InitiatorError: the range is not on the disk, or nothing was written.
    """
    destination.check_range(lba, blocks)
    deadline_s = destination.deadline(timeout_s)
    identifier = next(_identifiers) & 0xFFFFFFFF
    parameters = rod_token.write_list(token, [Extent(lba, blocks)], offset_blocks=offset_blocks)
    await destination.tell(
        rod_token.write_cdb(identifier, len(parameters)), parameters, timeout_s=_left_s(destination, deadline_s)
    )
    status = (await _token_answer(destination, identifier, _left_s(destination, deadline_s))).status
    written = min(blocks, status.transfer_count) if status.transfer_count_units == _BLOCKS else blocks
    if status.failed or not written:
        raise InitiatorError("the token was not written", where=destination.road.where, why=str(status.sense or ""))
    return written


async def _token_answer(disk: Disk, identifier: int, timeout_s: float) -> TokenAnswer:
    data = await disk.ask(rod_token.receive_cdb(identifier), rod_token.ANSWER_BYTES, timeout_s=timeout_s)
    return rod_token.parse_answer(data)


def _left_s(disk: Disk, deadline_s: float) -> float:
    return deadline_s - float(disk.road.reactor.seconds())
