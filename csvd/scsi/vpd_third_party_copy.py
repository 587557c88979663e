"""VPD page 8Fh: what third-party copies a logical unit can do (SPC-4 7.8.17), from the command table and the limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Bytes, Const, Int8ub, Int16ub, Int32ub, Int64ub, Padding, Struct, this

from csvd.scsi.copy_list import IMPLEMENTED_DESCRIPTORS, THIS_LOGICAL_UNIT
from csvd.scsi.rod_tokens import (
    ACCESS_UPON_REFERENCE,
    BLOCK_DEVICE_ZERO,
    DEFAULT_INACTIVITY_TIMEOUT_S,
    MAXIMUM_INACTIVITY_TIMEOUT_S,
    MAXIMUM_RANGES,
    MAXIMUM_TOKEN_BYTES,
)
from csvd.scsi.third_party_copy import (
    MAXIMUM_COPIES,
    MAXIMUM_DESCRIPTOR_LIST_BYTES,
    MAXIMUM_SEGMENT_BYTES,
    MAXIMUM_SEGMENT_DESCRIPTORS,
    MAXIMUM_TARGET_DESCRIPTORS,
)

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus

THIRD_PARTY_COPY_DESCRIPTOR: Final = Struct(
    "third_party_copy_descriptor_type" / Int16ub,
    "third_party_copy_descriptor_length" / Int16ub,
    "body" / Bytes(this.third_party_copy_descriptor_length),
)
BLOCK_DEVICE_ROD_LIMITS: Final = Struct(
    Padding(6),
    "maximum_range_descriptors" / Int16ub,
    "maximum_inactivity_timeout" / Int32ub,
    "default_inactivity_timeout" / Int32ub,
    "maximum_token_transfer_size" / Int64ub,
    "optimal_transfer_count" / Int64ub,
)
PARAMETER_DATA: Final = Struct(
    Padding(4),
    "maximum_cscd_descriptor_count" / Int16ub,
    "maximum_segment_descriptor_count" / Int16ub,
    "maximum_descriptor_list_length" / Int32ub,
    "maximum_inline_data_length" / Const(0, Int32ub),
    Padding(12),
)
GENERAL_COPY_OPERATIONS: Final = Struct(
    "total_concurrent_copies" / Int32ub,
    "maximum_identified_concurrent_copies" / Int32ub,
    "maximum_segment_length" / Int32ub,
    "data_segment_granularity" / Const(0, Int8ub),
    "inline_data_granularity" / Const(0, Int8ub),
    Padding(18),
)
ROD_TOKEN_FEATURES: Final = Struct(
    "remote_tokens" / Const(0, Int8ub),
    Padding(11),
    "minimum_token_lifetime" / Const(0, Int32ub),
    "maximum_token_lifetime" / Const(0, Int32ub),
    "maximum_token_inactivity_timeout" / Int32ub,
    Padding(18),
    "rod_device_type_specific_features_descriptors_length" / Const(48, Int16ub),
    "descriptor_format_and_peripheral_device_type" / Const(0, Int8ub),
    Padding(1),
    "descriptor_length" / Const(44, Int16ub),
    Padding(2),
    "optimal_block_rod_length_granularity" / Const(0, Int16ub),
    "maximum_bytes_in_block_rod" / Int64ub,
    "optimal_bytes_in_block_rod_transfer" / Const(0, Int64ub),
    "optimal_bytes_to_token_per_segment" / Const(0, Int64ub),
    "optimal_bytes_from_token_per_segment" / Const(0, Int64ub),
    Padding(8),
)
ROD_TYPE_DESCRIPTOR: Final = Struct(
    "rod_type" / Int32ub,
    "ecpy_int_token_in_and_token_out" / Int8ub,
    Padding(1),
    "preference_indicator" / Int16ub,
    Padding(56),
)
HELD_DATA: Final = Struct(
    "held_data_limit" / Const(0, Int32ub), "held_data_granularity" / Const(0, Int8ub), Padding(23)
)

_COPY_CODES: Final = (0x83, 0x84)
_TOKEN_IN: Final = 0x02
_TOKEN_OUT: Final = 0x01


def _padded(body: bytes) -> bytes:
    """To a multiple of four bytes, as descriptors are with their header."""
    return body + bytes(-len(body) % 4)


def _supported_commands(server: DeviceServer) -> bytes:
    listed = b""
    for code in _COPY_CODES:
        actions = bytes(row.service_action or 0 for row in server.commands if row.operation_code == code)
        listed += bytes((code, len(actions))) + actions
    return _padded(bytes((len(listed),)) + listed)


def _rod_types() -> bytes:
    types = b"".join(
        ROD_TYPE_DESCRIPTOR.build({"rod_type": kind, "ecpy_int_token_in_and_token_out": use, "preference_indicator": 0})
        for kind, use in ((ACCESS_UPON_REFERENCE, _TOKEN_IN | _TOKEN_OUT), (BLOCK_DEVICE_ZERO, _TOKEN_IN))
    )
    return bytes(2) + len(types).to_bytes(2) + types


def third_party_copy(nexus: ItlNexus) -> bytes:
    """8Fh: the descriptors, ascending by type."""
    server, block_bytes = nexus.server, nexus.unit.block_bytes
    limits = {
        "maximum_range_descriptors": MAXIMUM_RANGES,
        "maximum_inactivity_timeout": MAXIMUM_INACTIVITY_TIMEOUT_S,
        "default_inactivity_timeout": DEFAULT_INACTIVITY_TIMEOUT_S,
        "maximum_token_transfer_size": MAXIMUM_TOKEN_BYTES // block_bytes,
        "optimal_transfer_count": 0,
    }
    parameters = {
        "maximum_cscd_descriptor_count": MAXIMUM_TARGET_DESCRIPTORS,
        "maximum_segment_descriptor_count": MAXIMUM_SEGMENT_DESCRIPTORS,
        "maximum_descriptor_list_length": MAXIMUM_DESCRIPTOR_LIST_BYTES,
    }
    features = {
        "maximum_token_inactivity_timeout": MAXIMUM_INACTIVITY_TIMEOUT_S,
        "maximum_bytes_in_block_rod": MAXIMUM_TOKEN_BYTES,
    }
    general = {
        "total_concurrent_copies": MAXIMUM_COPIES,
        "maximum_identified_concurrent_copies": MAXIMUM_COPIES,
        "maximum_segment_length": MAXIMUM_SEGMENT_BYTES,
    }
    descriptors = (
        (0x0000, BLOCK_DEVICE_ROD_LIMITS.build(limits)),
        (0x0001, _supported_commands(server)),
        (0x0004, PARAMETER_DATA.build(parameters)),
        (0x0008, _padded(bytes((len(IMPLEMENTED_DESCRIPTORS),)) + IMPLEMENTED_DESCRIPTORS)),
        (0x000C, _padded((2).to_bytes(2) + THIS_LOGICAL_UNIT.to_bytes(2))),
        (0x0106, ROD_TOKEN_FEATURES.build(features)),
        (0x0108, _rod_types()),
        (0x8001, GENERAL_COPY_OPERATIONS.build(general)),
        (0xC001, HELD_DATA.build({})),
    )
    return b"".join(
        THIRD_PARTY_COPY_DESCRIPTOR.build(
            {
                "third_party_copy_descriptor_type": kind,
                "third_party_copy_descriptor_length": len(body),
                "body": body,
            }
        )
        for kind, body in descriptors
    )
