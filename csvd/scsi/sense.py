"""Sense data: keys, additional sense codes, and the one place that turns a `CheckCondition` into bytes (SPC-4 4.5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

from construct import Const, Int8ub, Int16ub, Int32ub, Int64ub, Struct

from csvd.errors import CsvdError


class SenseKey(IntEnum):
    """Sense keys (SPC-4 4.5.6)."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    COPY_ABORTED = 0xA
    ABORTED_COMMAND = 0xB
    VOLUME_OVERFLOW = 0xD
    MISCOMPARE = 0xE
    COMPLETED = 0xF


class AdditionalSense(NamedTuple):
    """ADDITIONAL SENSE CODE and ADDITIONAL SENSE CODE QUALIFIER."""

    code: int
    qualifier: int


class Asc(Enum):
    """The additional sense codes that this target answers with, by their names in SPC-4 annex F."""

    NO_ADDITIONAL_SENSE_INFORMATION = AdditionalSense(0x00, 0x00)
    WRITE_ERROR = AdditionalSense(0x0C, 0x00)
    UNRECOVERED_READ_ERROR = AdditionalSense(0x11, 0x00)
    INVALID_COMMAND_OPERATION_CODE = AdditionalSense(0x20, 0x00)
    LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE = AdditionalSense(0x21, 0x00)
    INVALID_FIELD_IN_CDB = AdditionalSense(0x24, 0x00)
    LOGICAL_UNIT_NOT_SUPPORTED = AdditionalSense(0x25, 0x00)
    WRITE_PROTECTED = AdditionalSense(0x27, 0x00)
    SPACE_ALLOCATION_FAILED_WRITE_PROTECT = AdditionalSense(0x27, 0x07)
    POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED = AdditionalSense(0x29, 0x00)
    BUS_DEVICE_RESET_FUNCTION_OCCURRED = AdditionalSense(0x29, 0x03)
    COMMANDS_CLEARED_BY_ANOTHER_INITIATOR = AdditionalSense(0x2F, 0x00)
    SAVING_PARAMETERS_NOT_SUPPORTED = AdditionalSense(0x39, 0x00)
    INTERNAL_TARGET_FAILURE = AdditionalSense(0x44, 0x00)
    DATA_PHASE_ERROR = AdditionalSense(0x4B, 0x00)


@dataclass(frozen=True, slots=True)
class FieldPointer:
    """Sense-key specific data of ILLEGAL REQUEST: which field is wrong (SPC-4 4.5).

    Args:
        byte: offset of the field's first byte.
        bit: its most significant bit when it is not whole bytes.
        in_cdb: True for the CDB, False for the parameter list.
    """

    byte: int
    bit: int | None = None
    in_cdb: bool = True

    def encode(self) -> bytes:
        """The three bytes SKSV, C/D, BPV, BIT POINTER and FIELD POINTER."""
        first = 0x80 | (0x40 if self.in_cdb else 0)
        if self.bit is not None:
            first |= 0x08 | self.bit
        return bytes((first, self.byte >> 8 & 0xFF, self.byte & 0xFF))


class CheckCondition(CsvdError):
    """A command that ends in CHECK CONDITION; the handlers raise it, the device server answers with its sense data.

    Args:
        key: sense key.
        asc: additional sense code.
        field: the field in error, for ILLEGAL REQUEST.
        information: INFORMATION field; for a medium error the LBA of the first block that failed.
    """

    def __init__(
        self, key: SenseKey, asc: Asc, *, field: FieldPointer | None = None, information: int | None = None
    ) -> None:
        self.key = key
        self.asc = asc
        self.field = field
        self.information = information
        code = f"{asc.value.code:02X}h/{asc.value.qualifier:02X}h"
        super().__init__(f"{key.name}, {asc.name} ({code})".replace("_", " "))


def illegal_request(asc: Asc, field: FieldPointer | None = None) -> CheckCondition:
    """ILLEGAL REQUEST with this code; `field` says which field of the CDB or parameter list is wrong."""
    return CheckCondition(SenseKey.ILLEGAL_REQUEST, asc, field=field)


def invalid_field_in_cdb(field: FieldPointer) -> CheckCondition:
    """ILLEGAL REQUEST, INVALID FIELD IN CDB, with the pointer at the field."""
    return illegal_request(Asc.INVALID_FIELD_IN_CDB, field)


# Response codes 70h and 72h, current errors. Deferred ones are not made: the command that an error hit reports it.
FIXED_FORMAT = Struct(
    "valid_and_response_code" / Int8ub,
    "obsolete" / Const(0, Int8ub),
    "sense_key" / Int8ub,
    "information" / Int32ub,
    "additional_sense_length" / Const(10, Int8ub),
    "command_specific_information" / Const(0, Int32ub),
    "additional_sense_code" / Int8ub,
    "additional_sense_code_qualifier" / Int8ub,
    "field_replaceable_unit_code" / Const(0, Int8ub),
    "sense_key_specific" / Int8ub[3],
)
DESCRIPTOR_FORMAT_HEADER = Struct(
    "response_code" / Const(0x72, Int8ub),
    "sense_key" / Int8ub,
    "additional_sense_code" / Int8ub,
    "additional_sense_code_qualifier" / Int8ub,
    "reserved" / Const(bytes(3)),
    "additional_sense_length" / Int8ub,
)
INFORMATION_DESCRIPTOR = Struct(
    "descriptor_type" / Const(0x00, Int8ub),
    "additional_length" / Const(0x0A, Int8ub),
    "valid" / Const(0x80, Int8ub),
    "reserved" / Const(0, Int8ub),
    "information" / Int64ub,
)
SENSE_KEY_SPECIFIC_DESCRIPTOR = Struct(
    "descriptor_type" / Const(0x02, Int8ub),
    "additional_length" / Const(0x06, Int8ub),
    "reserved" / Const(0, Int16ub),
    "sense_key_specific" / Int8ub[3],
    "reserved_2" / Const(0, Int8ub),
)


def encode_sense(condition: CheckCondition, *, descriptor: bool) -> bytes:
    """Sense data of `condition`: descriptor format where D_SENSE or DESC asks for it, else 18 bytes of fixed format.

    An INFORMATION value over 32 bits does not fit the fixed format: VALID is zero there (SPC-4 4.5.3).
    """
    return _descriptor_format(condition) if descriptor else _fixed_format(condition)


def _fixed_format(condition: CheckCondition) -> bytes:
    information = condition.information
    valid = information is not None and information <= 0xFFFF_FFFF
    return FIXED_FORMAT.build(
        {
            "valid_and_response_code": 0xF0 if valid else 0x70,
            "sense_key": condition.key,
            "information": information if valid else 0,
            "additional_sense_code": condition.asc.value.code,
            "additional_sense_code_qualifier": condition.asc.value.qualifier,
            "sense_key_specific": condition.field.encode() if condition.field else bytes(3),
        }
    )


def _descriptor_format(condition: CheckCondition) -> bytes:
    descriptors = b""
    if condition.information is not None:
        descriptors += INFORMATION_DESCRIPTOR.build({"information": condition.information})
    if condition.field is not None:
        descriptors += SENSE_KEY_SPECIFIC_DESCRIPTOR.build({"sense_key_specific": condition.field.encode()})
    header = DESCRIPTOR_FORMAT_HEADER.build(
        {
            "sense_key": condition.key,
            "additional_sense_code": condition.asc.value.code,
            "additional_sense_code_qualifier": condition.asc.value.qualifier,
            "additional_sense_length": len(descriptors),
        }
    )
    return header + descriptors
