"""Third-party copies: EXTENDED COPY (LID1) and (LID4), and what tells of them (SPC-4 6.3, 6.4, 6.19, 6.23, 6.24)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from initiator.errors import InitiatorError, MalformedAnswer
from initiator.scsi import sense
from initiator.scsi.designators import Designator
from initiator.scsi.sense import Sense

SEGMENT_BLOCKS: Final = 0xFFFF
"""Blocks that one block-to-block segment can copy."""
SEGMENT_BYTES: Final = 28
CSCD_BYTES: Final = 32
DESIGNATOR_BYTES: Final = 20
OPERATING_PARAMETERS_BYTES: Final = 512

LID1: Final = 0x00
LID4: Final = 0x01

_COPY: Final = struct.Struct(">BB8xIBB")
_LID1_HEADER: Final = struct.Struct(">BBH4xII")
_LID4_HEADER: Final = struct.Struct(">BBH11xBB3xI18xHHH")
_CSCD: Final = struct.Struct(">BBHBBBB20sB3s")
_SEGMENT: Final = struct.Struct(">BBHHH2xHQQ")
_IDENTIFICATION: Final = 0xE4
_BLOCKS_TO_BLOCKS: Final = 0x02
_LIST_ID_UNUSED: Final = 0x18


@dataclass(frozen=True, slots=True)
class Cscd:
    """A copy source or copy destination: a logical unit by one of its designators (CSCD descriptor E4h)."""

    designator: Designator
    block_bytes: int
    device_type: int = 0

    def encode(self) -> bytes:
        """Give the descriptor.

        Raises:
            InitiatorError: the designator has more than 20 bytes.
        """
        name = self.designator
        if len(name.value) > DESIGNATOR_BYTES:
            raise InitiatorError(f"a designator of {len(name.value)} bytes", why="EXTENDED COPY takes 20")
        association = name.association << 4 | name.kind
        block = self.block_bytes.to_bytes(3, "big")
        value = name.value.ljust(DESIGNATOR_BYTES, b"\0")
        return _CSCD.pack(
            _IDENTIFICATION, self.device_type, 0, name.code_set, association, 0, len(name.value), value, 0, block
        )


@dataclass(frozen=True, slots=True)
class Segment:
    """Blocks to copy from one CSCD to another, both by their places in the list (segment descriptor 02h)."""

    source: int
    destination: int
    source_lba: int
    destination_lba: int
    blocks: int

    def encode(self) -> bytes:
        """Give the descriptor."""
        return _SEGMENT.pack(
            _BLOCKS_TO_BLOCKS,
            0,
            SEGMENT_BYTES - 4,
            self.source,
            self.destination,
            self.blocks,
            self.source_lba,
            self.destination_lba,
        )


def copy_cdb(service_action: int, parameter_list_length: int) -> bytes:
    """EXTENDED COPY: service action LID1 or LID4 (SPC-4 sections 6.3 and 6.4)."""
    return _COPY.pack(0x83, service_action, parameter_list_length, 0, 0)


def lid1_list(cscds: Sequence[Cscd], segments: Sequence[Segment], *, list_identifier: int | None = None) -> bytes:
    """Build the parameter list of EXTENDED COPY(LID1); without an identifier nobody can ask for its status."""
    targets, parts = _encoded(cscds, segments)
    flags = _LIST_ID_UNUSED if list_identifier is None else 0
    return _LID1_HEADER.pack(list_identifier or 0, flags, len(targets), len(parts), 0) + targets + parts


def lid4_list(
    cscds: Sequence[Cscd],
    segments: Sequence[Segment],
    *,
    list_identifier: int | None = None,
    immediate: bool = False,
) -> bytes:
    """Build the parameter list of EXTENDED COPY(LID4); ``immediate`` wants an identifier to ask for its status by."""
    targets, parts = _encoded(cscds, segments)
    flags = _LIST_ID_UNUSED if list_identifier is None else 0
    header = _LID4_HEADER.pack(
        0x01, flags, 0x20, immediate << 1, 0xFF, list_identifier or 0, len(targets), len(parts), 0
    )
    return header + targets + parts


def _encoded(cscds: Sequence[Cscd], segments: Sequence[Segment]) -> tuple[bytes, bytes]:
    return b"".join(cscd.encode() for cscd in cscds), b"".join(segment.encode() for segment in segments)


@dataclass(frozen=True, slots=True)
class OperatingParameters:
    """RECEIVE COPY OPERATING PARAMETERS; 0 is no limit reported."""

    maximum_cscd_descriptors: int
    maximum_segment_descriptors: int
    maximum_descriptor_list_bytes: int
    maximum_segment_bytes: int
    maximum_concurrent_copies: int
    descriptor_types: frozenset[int]

    def batches(self, segments: Iterator[Segment]) -> Iterator[list[Segment]]:
        """Give the segments of one command after the other, for a list of two CSCD descriptors."""
        most = self.maximum_segment_descriptors or 1
        if self.maximum_descriptor_list_bytes:
            most = min(most, (self.maximum_descriptor_list_bytes - 2 * CSCD_BYTES) // SEGMENT_BYTES)
        batch: list[Segment] = []
        for segment in segments:
            batch.append(segment)
            if len(batch) >= max(1, most):
                yield batch
                batch = []
        if batch:
            yield batch

    def segment_blocks(self, block_bytes: int) -> int:
        """Give the most blocks of a segment."""
        return max(1, min(SEGMENT_BLOCKS, (self.maximum_segment_bytes or SEGMENT_BLOCKS << 20) // block_bytes))


@dataclass(frozen=True, slots=True)
class CopyStatus:
    """RECEIVE COPY STATUS: how far a copy has come."""

    status: int
    """0 under way, 1 done, 2 failed; others as in SPC-4 table 228."""
    segments_processed: int
    transfer_count: int
    transfer_count_units: int
    """0 to 8: bytes, KiB, MiB and so on; F1h: logical blocks."""
    sense: Sense | None = None

    @property
    def under_way(self) -> bool:
        """Whether it goes on."""
        return self.status in (0x00, 0x10, 0x11, 0x12)

    @property
    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self.status == 0x02


def operating_parameters_cdb() -> bytes:
    """RECEIVE COPY OPERATING PARAMETERS (SPC-4 section 6.19)."""
    return _COPY.pack(0x84, 0x03, OPERATING_PARAMETERS_BYTES, 0, 0)


def status_lid1_cdb(list_identifier: int) -> bytes:
    """RECEIVE COPY STATUS(LID1) (SPC-4 section 6.24)."""
    return struct.pack(">BBB7xIBB", 0x84, 0x00, list_identifier, 12, 0, 0)


def status_lid4_cdb(list_identifier: int, allocation_length: int = 288) -> bytes:
    """RECEIVE COPY STATUS(LID4) (SPC-4 section 6.23)."""
    return struct.pack(">BBI4xIBB", 0x84, 0x05, list_identifier, allocation_length, 0, 0)


def parse_operating_parameters(data: bytes) -> OperatingParameters:
    """Parse RECEIVE COPY OPERATING PARAMETERS.

    Raises:
        MalformedAnswer: fewer than 44 bytes, or a list of descriptor types that runs past its end.
    """
    if len(data) < 44 or len(data) < 44 + data[43]:
        raise MalformedAnswer(f"RECEIVE COPY OPERATING PARAMETERS data of {len(data)} bytes")
    return OperatingParameters(
        maximum_cscd_descriptors=int.from_bytes(data[8:10], "big"),
        maximum_segment_descriptors=int.from_bytes(data[10:12], "big"),
        maximum_descriptor_list_bytes=int.from_bytes(data[12:16], "big"),
        maximum_segment_bytes=int.from_bytes(data[16:20], "big"),
        maximum_concurrent_copies=data[36],
        descriptor_types=frozenset(data[44 : 44 + data[43]]),
    )


def parse_status_lid1(data: bytes) -> CopyStatus:
    """Parse RECEIVE COPY STATUS(LID1).

    Raises:
        MalformedAnswer: fewer than 12 bytes.
    """
    if len(data) < 12:
        raise MalformedAnswer(f"RECEIVE COPY STATUS data of {len(data)} bytes")
    return CopyStatus(data[4] & 0x7F, int.from_bytes(data[5:7], "big"), int.from_bytes(data[8:12], "big"), data[7])


def parse_status_lid4(data: bytes) -> CopyStatus:
    """Parse RECEIVE COPY STATUS(LID4).

    Raises:
        MalformedAnswer: fewer than 32 bytes, or sense data that runs past its end.
    """
    if len(data) < 32 or len(data) < 32 + data[14]:
        raise MalformedAnswer(f"RECEIVE COPY STATUS data of {len(data)} bytes")
    return CopyStatus(
        status=data[5] & 0x7F,
        segments_processed=int.from_bytes(data[24:26], "big"),
        transfer_count=int.from_bytes(data[16:24], "big"),
        transfer_count_units=data[15],
        sense=sense.parse(bytes(data[32 : 32 + data[14]])) if data[14] else None,
    )
