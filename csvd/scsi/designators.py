"""Designation descriptors: the names of logical unit, target port and target device (SPC-4 7.8.6)."""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import Final

from construct import Bytes, Const, Int8ub, Int16ub, Int64ub, Struct, this

from csvd.scsi.logical_unit import LOCAL_COMPANY_ID, Identity
from csvd.scsi.nexus import target_port_name

DESIGNATOR: Final = Struct(
    "protocol_and_code_set" / Int8ub,
    "association_and_type" / Int8ub,
    "reserved" / Const(0, Int8ub),
    "designator_length" / Int8ub,
    "designator" / Bytes(this.designator_length),
)
_PORT_DESIGNATOR: Final = Struct("obsolete" / Const(0, Int16ub), "value" / Int16ub)

BINARY: Final = 1
ASCII: Final = 2
UTF_8: Final = 3
_ISCSI: Final = 0x50
_PIV: Final = 0x80


class DesignatorType(IntEnum):
    """DESIGNATOR TYPE (SPC-4 7.8.6.1)."""

    T10_VENDOR_ID = 0x1
    EUI_64 = 0x2
    NAA = 0x3
    RELATIVE_TARGET_PORT = 0x4
    TARGET_PORT_GROUP = 0x5
    SCSI_NAME_STRING = 0x8


class Association(IntEnum):
    """ASSOCIATION, in its place: what the designator names."""

    LOGICAL_UNIT = 0x00
    TARGET_PORT = 0x10
    TARGET_DEVICE = 0x20


def _encode(code_set: int, kind: DesignatorType, designator: bytes, association: Association) -> bytes:
    of_port = association is not Association.LOGICAL_UNIT
    return DESIGNATOR.build(
        {
            "protocol_and_code_set": code_set | (_ISCSI if of_port else 0),
            "association_and_type": kind | association | (_PIV if of_port else 0),
            "designator_length": len(designator),
            "designator": designator,
        }
    )


def t10_vendor_designator(identity: Identity) -> bytes:
    """T10 vendor identification and what the vendor adds: product and serial number (SPC-4 7.8.6.4)."""
    text = f"{identity.vendor:<8}{identity.product:<16}{identity.serial}"
    return _encode(ASCII, DesignatorType.T10_VENDOR_ID, text.encode("ascii"), Association.LOGICAL_UNIT)


def naa_designator(identity: Identity) -> bytes:
    """NAA designator of the logical unit (SPC-4 7.8.6.6)."""
    return _encode(BINARY, DesignatorType.NAA, identity.naa, Association.LOGICAL_UNIT)


def eui_64_designator(identity: Identity) -> bytes:
    """EUI-64 based designator, made of the NAA designator: equal wherever that is equal (SPC-4 7.8.6.5)."""
    extension = int.from_bytes(hashlib.sha256(identity.naa).digest()[:5])
    eui_64: bytes = Int64ub.build(LOCAL_COMPANY_ID << 40 | extension)
    return _encode(BINARY, DesignatorType.EUI_64, eui_64, Association.LOGICAL_UNIT)


def relative_target_port_designator(port: int) -> bytes:
    """Relative target port identifier (SPC-4 7.8.6.7)."""
    value = _PORT_DESIGNATOR.build({"value": port})
    return _encode(BINARY, DesignatorType.RELATIVE_TARGET_PORT, value, Association.TARGET_PORT)


def target_port_group_designator(tag: int) -> bytes:
    """Target port group of a target port (SPC-4 7.8.6.8)."""
    value = _PORT_DESIGNATOR.build({"value": tag})
    return _encode(BINARY, DesignatorType.TARGET_PORT_GROUP, value, Association.TARGET_PORT)


def target_port_name_designator(target_name: str, port: int) -> bytes:
    """SCSI name string of a target port: iSCSI name and portal group tag (RFC 7143 section 4.4.3.2)."""
    name = _name_string(target_port_name(target_name, port))
    return _encode(UTF_8, DesignatorType.SCSI_NAME_STRING, name, Association.TARGET_PORT)


def target_device_name_designator(target_name: str) -> bytes:
    """SCSI name string of the target device: its iSCSI name (SPC-4 7.8.6.11)."""
    return _encode(UTF_8, DesignatorType.SCSI_NAME_STRING, _name_string(target_name), Association.TARGET_DEVICE)


def _name_string(name: str) -> bytes:
    """Null-terminated, and padded with nulls to a multiple of four bytes."""
    text = name.encode()
    return text.ljust(len(text) // 4 * 4 + 4, b"\0")
