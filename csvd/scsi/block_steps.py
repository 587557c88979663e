"""Steps that the block commands share: long ranges in short steps, so that memory is bounded and an abort is seen."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, TypeAlias

from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.procedure import DiskFault, Read, Request, Unmap, Write, WriteZeroes
from csvd.scsi.range_locks import Claim
from csvd.scsi.sense import Asc, CheckCondition, SenseKey, illegal_request

STEP_BYTES: Final = 1 << 20
"""The most that one step reads or writes."""
ZERO_STEP_BYTES: Final = 64 << 20
"""The most that one step unmaps or zeroes: a store that can not do it by itself writes that many zeros."""

Part: TypeAlias = "Generator[Request, Any, None]"
"""Some steps of a procedure, for its ``yield from``."""


def exclusive(unit: LogicalUnit, offset_bytes: int, length_bytes: int) -> tuple[Claim]:
    """The claim of a command that must see and change a range as one."""
    return (Claim(unit.locks, offset_bytes, length_bytes, True),)


def shared(unit: LogicalUnit, offset_bytes: int, length_bytes: int) -> tuple[Claim]:
    """The claim of a command that reads or writes as READ and WRITE do."""
    return (Claim(unit.locks, offset_bytes, length_bytes, False),)


def whole_data_out(data_out: memoryview, length_bytes: int) -> memoryview:
    """The Data-Out that a CDB asks for.

    Raises:
        CheckCondition: the initiator sent less (its expected data transfer length was short): nothing is compared or
            written by halves.
    """
    if len(data_out) < length_bytes:
        raise illegal_request(Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    return memoryview(data_out)[:length_bytes]


def miscompare(information: int) -> CheckCondition:
    """MISCOMPARE: for COMPARE AND WRITE with the offset of the first byte in the Data-Out that differs, for the verify
    commands with the LBA."""
    return CheckCondition(SenseKey.MISCOMPARE, Asc.MISCOMPARE_DURING_VERIFY_OPERATION, information=information)


def first_difference(one: memoryview, other: memoryview) -> int | None:
    """Offset of the first byte in which two ranges of one length differ; None where they are equal."""
    # Comparing bytes is one memcmp; comparing memoryviews goes element by element.
    if bytes(one) == bytes(other):
        return None
    at = next(at for at in range(0, len(one), 4096) if bytes(one[at : at + 4096]) != bytes(other[at : at + 4096]))
    return next(index for index in range(at, len(one)) if one[index] != other[index])


def read_steps(unit: LogicalUnit, offset_bytes: int, length_bytes: int) -> Part:
    """Read a range to see that it can be read."""
    for at in range(0, length_bytes, STEP_BYTES):
        yield Read(unit, offset_bytes + at, min(STEP_BYTES, length_bytes - at))


def compare_steps(unit: LogicalUnit, offset_bytes: int, data: memoryview) -> Generator[Request, Any, int | None]:
    """Compare a range with data; gives the offset in the data of the first byte that differs."""
    for at in range(0, len(data), STEP_BYTES):
        part = data[at : at + STEP_BYTES]
        found = yield Read(unit, offset_bytes + at, len(part))
        difference = first_difference(memoryview(found), part)
        if difference is not None:
            return at + difference
    return None


def write_steps(unit: LogicalUnit, offset_bytes: int, data: memoryview) -> Part:
    """Write data; not durable before a flush."""
    for at in range(0, len(data), STEP_BYTES):
        yield Write(unit, offset_bytes + at, data[at : at + STEP_BYTES])


def fill_steps(unit: LogicalUnit, offset_bytes: int, length_bytes: int, block: bytes) -> Part:
    """Write one block over and over; blocks of zeros are left to the store, which keeps them allocated."""
    if not any(block):
        yield from zero_steps(unit, offset_bytes, length_bytes)
        return
    blocks = memoryview(block * max(1, min(STEP_BYTES, length_bytes) // len(block)))
    for at in range(0, length_bytes, len(blocks)):
        yield Write(unit, offset_bytes + at, blocks[: length_bytes - at])


def zero_steps(unit: LogicalUnit, offset_bytes: int, length_bytes: int) -> Part:
    """Make a range read as zeros, allocated: what is anchored is this (SBC-3 4.7.3.4)."""
    for at in range(0, length_bytes, ZERO_STEP_BYTES):
        yield WriteZeroes(unit, offset_bytes + at, min(ZERO_STEP_BYTES, length_bytes - at))


def unmap_steps(unit: LogicalUnit, offset_bytes: int, length_bytes: int, *, anchor: bool) -> Part:
    """Deallocate a range, or anchor it: it reads as zeros then, both ways."""
    if anchor:
        yield from zero_steps(unit, offset_bytes, length_bytes)
        return
    for at in range(0, length_bytes, ZERO_STEP_BYTES):
        yield Unmap(unit, offset_bytes + at, min(ZERO_STEP_BYTES, length_bytes - at))


def replace_steps(unit: LogicalUnit, offset_bytes: int, old: memoryview, new: memoryview, *, fua: bool) -> Part:
    """Write all of the data or, as far as the disk lets it, nothing: what a failed write has changed is put back.

    The caller has the range for itself, so nobody sees a state in between. What a power cut leaves is up to the disk:
    a page cache and a file system write pages one by one.

    Args:
        old: what is there now.
        new: what is to be there; as long.

    Raises:
        DiskFault: of the write, whether or not the old data could be put back.
    """
    try:
        yield Write(unit, offset_bytes, new, fua=fua)
    except DiskFault as fault:
        written = fault.offset_bytes - offset_bytes
        # A flush that failed says nothing of the range: put all of it back. And whole blocks in any case.
        written = written + -written % unit.block_bytes if 0 <= written <= len(new) else len(new)
        if written:
            try:
                yield Write(unit, offset_bytes, old[:written])
            except DiskFault:
                raise fault from None
        raise
