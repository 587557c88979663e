"""Sense data: keys, additional sense codes, and the one place that turns a `CheckCondition` into bytes (SPC-4 4.5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple, Protocol

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
    IO_PROCESS_TERMINATED = AdditionalSense(0x00, 0x06)
    OPERATION_IN_PROGRESS = AdditionalSense(0x00, 0x16)
    LOGICAL_UNIT_NOT_READY_CAUSE_NOT_REPORTABLE = AdditionalSense(0x04, 0x00)
    LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY = AdditionalSense(0x04, 0x01)
    LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED = AdditionalSense(0x04, 0x02)
    LOGICAL_UNIT_NOT_READY_FORMAT_IN_PROGRESS = AdditionalSense(0x04, 0x04)
    LOGICAL_UNIT_NOT_ACCESSIBLE_ASYMMETRIC_ACCESS_STATE_TRANSITION = AdditionalSense(0x04, 0x0A)
    LOGICAL_UNIT_NOT_ACCESSIBLE_TARGET_PORT_IN_STANDBY_STATE = AdditionalSense(0x04, 0x0B)
    LOGICAL_UNIT_NOT_ACCESSIBLE_TARGET_PORT_IN_UNAVAILABLE_STATE = AdditionalSense(0x04, 0x0C)
    LOGICAL_UNIT_NOT_READY_SANITIZE_IN_PROGRESS = AdditionalSense(0x04, 0x1B)
    LOGICAL_UNIT_COMMUNICATION_FAILURE = AdditionalSense(0x08, 0x00)
    LOGICAL_UNIT_COMMUNICATION_TIME_OUT = AdditionalSense(0x08, 0x01)
    WRITE_ERROR = AdditionalSense(0x0C, 0x00)
    WRITE_ERROR_UNEXPECTED_UNSOLICITED_DATA = AdditionalSense(0x0C, 0x0C)
    WRITE_ERROR_NOT_ENOUGH_UNSOLICITED_DATA = AdditionalSense(0x0C, 0x0D)
    THIRD_PARTY_DEVICE_FAILURE = AdditionalSense(0x0D, 0x01)
    COPY_TARGET_DEVICE_NOT_REACHABLE = AdditionalSense(0x0D, 0x02)
    INCORRECT_COPY_TARGET_DEVICE_TYPE = AdditionalSense(0x0D, 0x03)
    INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT = AdditionalSense(0x0E, 0x03)
    UNRECOVERED_READ_ERROR = AdditionalSense(0x11, 0x00)
    DEFECT_LIST_ERROR = AdditionalSense(0x19, 0x00)
    PARAMETER_LIST_LENGTH_ERROR = AdditionalSense(0x1A, 0x00)
    DEFECT_LIST_NOT_FOUND = AdditionalSense(0x1C, 0x00)
    MISCOMPARE_DURING_VERIFY_OPERATION = AdditionalSense(0x1D, 0x00)
    MISCOMPARE_VERIFY_OF_UNMAPPED_LBA = AdditionalSense(0x1D, 0x01)
    INVALID_COMMAND_OPERATION_CODE = AdditionalSense(0x20, 0x00)
    LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE = AdditionalSense(0x21, 0x00)
    INVALID_TOKEN_OPERATION_CAUSE_NOT_REPORTABLE = AdditionalSense(0x23, 0x00)
    INVALID_TOKEN_OPERATION_UNSUPPORTED_TOKEN_TYPE = AdditionalSense(0x23, 0x01)
    INVALID_TOKEN_OPERATION_REMOTE_TOKEN_USAGE_NOT_SUPPORTED = AdditionalSense(0x23, 0x02)
    INVALID_TOKEN_OPERATION_REMOTE_ROD_TOKEN_CREATION_NOT_SUPPORTED = AdditionalSense(0x23, 0x03)
    INVALID_TOKEN_OPERATION_TOKEN_UNKNOWN = AdditionalSense(0x23, 0x04)
    INVALID_TOKEN_OPERATION_TOKEN_CORRUPT = AdditionalSense(0x23, 0x05)
    INVALID_TOKEN_OPERATION_TOKEN_REVOKED = AdditionalSense(0x23, 0x06)
    INVALID_TOKEN_OPERATION_TOKEN_EXPIRED = AdditionalSense(0x23, 0x07)
    INVALID_TOKEN_OPERATION_TOKEN_CANCELLED = AdditionalSense(0x23, 0x08)
    INVALID_TOKEN_OPERATION_TOKEN_DELETED = AdditionalSense(0x23, 0x09)
    INVALID_TOKEN_OPERATION_INVALID_TOKEN_LENGTH = AdditionalSense(0x23, 0x0A)
    INVALID_FIELD_IN_CDB = AdditionalSense(0x24, 0x00)
    LOGICAL_UNIT_NOT_SUPPORTED = AdditionalSense(0x25, 0x00)
    INVALID_FIELD_IN_PARAMETER_LIST = AdditionalSense(0x26, 0x00)
    PARAMETER_VALUE_INVALID = AdditionalSense(0x26, 0x02)
    THRESHOLD_PARAMETERS_NOT_SUPPORTED = AdditionalSense(0x26, 0x03)
    INVALID_RELEASE_OF_PERSISTENT_RESERVATION = AdditionalSense(0x26, 0x04)
    TOO_MANY_TARGET_DESCRIPTORS = AdditionalSense(0x26, 0x06)
    UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE = AdditionalSense(0x26, 0x07)
    TOO_MANY_SEGMENT_DESCRIPTORS = AdditionalSense(0x26, 0x08)
    UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE = AdditionalSense(0x26, 0x09)
    UNEXPECTED_INEXACT_SEGMENT = AdditionalSense(0x26, 0x0A)
    INLINE_DATA_LENGTH_EXCEEDED = AdditionalSense(0x26, 0x0B)
    INVALID_OPERATION_FOR_COPY_SOURCE_OR_DESTINATION = AdditionalSense(0x26, 0x0C)
    COPY_SEGMENT_GRANULARITY_VIOLATION = AdditionalSense(0x26, 0x0D)
    WRITE_PROTECTED = AdditionalSense(0x27, 0x00)
    SOFTWARE_WRITE_PROTECTED = AdditionalSense(0x27, 0x02)
    SPACE_ALLOCATION_FAILED_WRITE_PROTECT = AdditionalSense(0x27, 0x07)
    NOT_READY_TO_READY_CHANGE_MEDIUM_MAY_HAVE_CHANGED = AdditionalSense(0x28, 0x00)
    POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED = AdditionalSense(0x29, 0x00)
    BUS_DEVICE_RESET_FUNCTION_OCCURRED = AdditionalSense(0x29, 0x03)
    I_T_NEXUS_LOSS_OCCURRED = AdditionalSense(0x29, 0x07)
    MODE_PARAMETERS_CHANGED = AdditionalSense(0x2A, 0x01)
    LOG_PARAMETERS_CHANGED = AdditionalSense(0x2A, 0x02)
    RESERVATIONS_PREEMPTED = AdditionalSense(0x2A, 0x03)
    RESERVATIONS_RELEASED = AdditionalSense(0x2A, 0x04)
    REGISTRATIONS_PREEMPTED = AdditionalSense(0x2A, 0x05)
    ASYMMETRIC_ACCESS_STATE_CHANGED = AdditionalSense(0x2A, 0x06)
    IMPLICIT_ASYMMETRIC_ACCESS_STATE_TRANSITION_FAILED = AdditionalSense(0x2A, 0x07)
    CAPACITY_DATA_HAS_CHANGED = AdditionalSense(0x2A, 0x09)
    COMMAND_SEQUENCE_ERROR = AdditionalSense(0x2C, 0x00)
    COMMANDS_CLEARED_BY_ANOTHER_INITIATOR = AdditionalSense(0x2F, 0x00)
    COMMANDS_CLEARED_BY_DEVICE_SERVER = AdditionalSense(0x2F, 0x02)
    MEDIUM_FORMAT_CORRUPTED = AdditionalSense(0x31, 0x00)
    FORMAT_COMMAND_FAILED = AdditionalSense(0x31, 0x01)
    SANITIZE_COMMAND_FAILED = AdditionalSense(0x31, 0x03)
    THIN_PROVISIONING_SOFT_THRESHOLD_REACHED = AdditionalSense(0x38, 0x07)
    SAVING_PARAMETERS_NOT_SUPPORTED = AdditionalSense(0x39, 0x00)
    MEDIUM_NOT_PRESENT = AdditionalSense(0x3A, 0x00)
    MEDIUM_NOT_PRESENT_LOADABLE = AdditionalSense(0x3A, 0x03)
    INQUIRY_DATA_HAS_CHANGED = AdditionalSense(0x3F, 0x03)
    DEVICE_IDENTIFIER_CHANGED = AdditionalSense(0x3F, 0x05)
    REPORTED_LUNS_DATA_HAS_CHANGED = AdditionalSense(0x3F, 0x0E)
    INTERNAL_TARGET_FAILURE = AdditionalSense(0x44, 0x00)
    PROTOCOL_SERVICE_CRC_ERROR = AdditionalSense(0x47, 0x05)
    SOME_COMMANDS_CLEARED_BY_ISCSI_PROTOCOL_EVENT = AdditionalSense(0x47, 0x7F)
    INVALID_MESSAGE_ERROR = AdditionalSense(0x49, 0x00)
    DATA_PHASE_ERROR = AdditionalSense(0x4B, 0x00)
    MEDIUM_REMOVAL_PREVENTED = AdditionalSense(0x53, 0x02)
    SYSTEM_RESOURCE_FAILURE = AdditionalSense(0x55, 0x00)
    INSUFFICIENT_RESOURCES = AdditionalSense(0x55, 0x03)
    INSUFFICIENT_REGISTRATION_RESOURCES = AdditionalSense(0x55, 0x04)
    SET_TARGET_PORT_GROUPS_COMMAND_FAILED = AdditionalSense(0x67, 0x0A)


class SenseKeySpecific(Protocol):
    """What the three bytes of sense-key specific data say (SPC-4 4.5.2.4)."""

    def encode(self) -> bytes:
        """The three bytes."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Sense-key specific data of NOT READY and NO SENSE: how far an operation is (SPC-4 4.5.2.4.4).

    Args:
        done, total: in any unit; equal when it is about to end.
    """

    done: int
    total: int

    def encode(self) -> bytes:
        """SKSV, and PROGRESS INDICATION as 65,536ths."""
        return b"\x80" + min(self.done * 0x10000 // self.total, 0xFFFF).to_bytes(2)


@dataclass(frozen=True, slots=True)
class SegmentPointer:
    """Sense-key specific data of COPY ABORTED: which field of a parameter list or segment is wrong (SPC-4 4.5.2.4.5).

    Args:
        byte: offset of the field's first byte.
        in_segment: the offset counts from the beginning of the segment descriptor, not of the parameter list.
    """

    byte: int
    in_segment: bool

    def encode(self) -> bytes:
        """The three bytes SKSV, SD and FIELD POINTER."""
        return bytes((0x80 | (0x20 if self.in_segment else 0), self.byte >> 8 & 0xFF, self.byte & 0xFF))


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
        field: the field in error, for ILLEGAL REQUEST; or what else sense-key specific data says.
        information: INFORMATION field; for a medium error the LBA of the first block that failed.
        command_specific: COMMAND-SPECIFIC INFORMATION; for COPY ABORTED the number of the segment.
    """

    def __init__(
        self,
        key: SenseKey,
        asc: Asc,
        *,
        field: SenseKeySpecific | None = None,
        information: int | None = None,
        command_specific: int | None = None,
    ) -> None:
        self.key = key
        self.asc = asc
        self.field = field
        self.information = information
        self.command_specific = command_specific
        code = f"{asc.value.code:02X}h/{asc.value.qualifier:02X}h"
        super().__init__(f"{key.name}, {asc.name} ({code})".replace("_", " "))


def illegal_request(asc: Asc, field: FieldPointer | None = None) -> CheckCondition:
    """ILLEGAL REQUEST with this code; `field` says which field of the CDB or parameter list is wrong."""
    return CheckCondition(SenseKey.ILLEGAL_REQUEST, asc, field=field)


def invalid_field_in_cdb(field: FieldPointer) -> CheckCondition:
    """ILLEGAL REQUEST, INVALID FIELD IN CDB, with the pointer at the field."""
    return illegal_request(Asc.INVALID_FIELD_IN_CDB, field)


def wrong_in_list(
    byte: int, bit: int | None = None, *, asc: Asc = Asc.INVALID_FIELD_IN_PARAMETER_LIST
) -> CheckCondition:
    """ILLEGAL REQUEST with this code, and the pointer at a field of the parameter list."""
    return illegal_request(asc, FieldPointer(byte, bit, in_cdb=False))


# Response codes 70h and 72h, current errors. Deferred ones are not made: the command that an error hit reports it.
FIXED_FORMAT = Struct(
    "valid_and_response_code" / Int8ub,
    "obsolete" / Const(0, Int8ub),
    "sense_key" / Int8ub,
    "information" / Int32ub,
    "additional_sense_length" / Const(10, Int8ub),
    "command_specific_information" / Int32ub,
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
COMMAND_SPECIFIC_DESCRIPTOR = Struct(
    "descriptor_type" / Const(0x01, Int8ub),
    "additional_length" / Const(0x0A, Int8ub),
    "reserved" / Const(0, Int16ub),
    "command_specific_information" / Int64ub,
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
            "command_specific_information": condition.command_specific or 0,
            "additional_sense_code": condition.asc.value.code,
            "additional_sense_code_qualifier": condition.asc.value.qualifier,
            "sense_key_specific": condition.field.encode() if condition.field else bytes(3),
        }
    )


def _descriptor_format(condition: CheckCondition) -> bytes:
    descriptors = b""
    if condition.information is not None:
        descriptors += INFORMATION_DESCRIPTOR.build({"information": condition.information})
    if condition.command_specific is not None:
        descriptors += COMMAND_SPECIFIC_DESCRIPTOR.build({"command_specific_information": condition.command_specific})
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
