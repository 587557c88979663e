"""Parameter lists of third-party copies, as an application client makes them."""

from __future__ import annotations

from csvd.scsi.logical_unit import LogicalUnit

DC = 0x02
THIS = 0xFFFF


def identification(unit: LogicalUnit, *, pad: bool = False, block_bytes: int | None = None, kind: int = 0) -> bytes:
    """A CSCD descriptor with the NAA designator of a logical unit."""
    naa = unit.identity.naa
    size = unit.block_bytes if block_bytes is None else block_bytes
    return (
        bytes((0xE4, kind, 0, 0, 1, 3, 0, len(naa)))
        + naa.ljust(20, b"\0")
        + bytes((0x04 if pad else 0,))
        + size.to_bytes(3)
    )


def blocks(source: int, destination: int, count: int, from_lba: int, to_lba: int, *, flags: int = 0) -> bytes:
    """Segment descriptor 02h."""
    ids = source.to_bytes(2) + destination.to_bytes(2)
    return (
        bytes((0x02, flags, 0, 0x18)) + ids + bytes(2) + count.to_bytes(2) + from_lba.to_bytes(8) + to_lba.to_bytes(8)
    )


def octets(
    source: int, destination: int, count: int, from_lba: int, to_lba: int, from_offset: int = 0, to_offset: int = 0
) -> bytes:
    """Segment descriptor 0Ah."""
    ids = source.to_bytes(2) + destination.to_bytes(2)
    ends = from_lba.to_bytes(8) + to_lba.to_bytes(8) + from_offset.to_bytes(2) + to_offset.to_bytes(2)
    return bytes((0x0A, 0, 0, 0x1C)) + ids + count.to_bytes(4) + ends


def lid1(cscds: list[bytes], segments: list[bytes], *, identifier: int = 1, flags: int = 0, inline: int = 0) -> bytes:
    """The parameter list of EXTENDED COPY(LID1)."""
    listed, moved = b"".join(cscds), b"".join(segments)
    header = bytes((identifier, flags)) + len(listed).to_bytes(2) + bytes(4)
    return header + len(moved).to_bytes(4) + inline.to_bytes(4) + listed + moved


def lid4(
    cscds: list[bytes], segments: list[bytes], *, identifier: int = 1, immediate: bool = False, flags: int = 0
) -> bytes:
    """The parameter list of EXTENDED COPY(LID4)."""
    listed, moved = b"".join(cscds), b"".join(segments)
    header = bytes((1, flags, 0, 0x20)) + bytes(11) + bytes((0x02 if immediate else 0, 0xFF, 0, 0, 0))
    header += identifier.to_bytes(4) + bytes(18) + len(listed).to_bytes(2) + len(moved).to_bytes(2) + bytes(2)
    return header + listed + moved


def extended_copy(parameters: bytes, *, action: int = 0, length: int | None = None) -> bytes:
    """The CDB of EXTENDED COPY."""
    size = len(parameters) if length is None else length
    return bytes((0x83, action)) + bytes(8) + size.to_bytes(4) + bytes(2)


def receive(action: int, identifier: int = 1, allocation_length: int = 4096) -> bytes:
    """The CDB of RECEIVE COPY RESULTS, by a list identifier of one byte or, from action 05h on, of four."""
    name = identifier.to_bytes(1) + bytes(7) if action < 5 else identifier.to_bytes(4) + bytes(4)
    return bytes((0x84, action)) + name + allocation_length.to_bytes(4) + bytes(2)
