"""PERSISTENT RESERVE IN and OUT as a fence needs them (SPC-4 sections 6.15 and 6.16). PURE."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from initiator.errors import MalformedAnswer

READ_KEYS: Final = 0x00
READ_RESERVATION: Final = 0x01
REPORT_CAPABILITIES: Final = 0x02

REGISTER: Final = 0x00
RESERVE: Final = 0x01
PREEMPT: Final = 0x04
PREEMPT_AND_ABORT: Final = 0x05
REGISTER_AND_IGNORE_EXISTING_KEY: Final = 0x06

WRITE_EXCLUSIVE_REGISTRANTS_ONLY: Final = 0x05

TYPE_NAMES: Final = {
    0x01: "WRITE EXCLUSIVE",
    0x03: "EXCLUSIVE ACCESS",
    0x05: "WRITE EXCLUSIVE - REGISTRANTS ONLY",
    0x06: "EXCLUSIVE ACCESS - REGISTRANTS ONLY",
    0x07: "WRITE EXCLUSIVE - ALL REGISTRANTS",
    0x08: "EXCLUSIVE ACCESS - ALL REGISTRANTS",
}

MOST_KEYS: Final = 4096
"""Registrations of which the keys are read: as many as an answer of 32 KiB holds."""
KEYS_BYTES: Final = 8 + 8 * MOST_KEYS
RESERVATION_BYTES: Final = 24
CAPABILITIES_BYTES: Final = 8

_CDB_IN: Final = struct.Struct(">BB5xHB")
_CDB_OUT: Final = struct.Struct(">BBB2xIB")
_PARAMETERS: Final = struct.Struct(">QQ4xB3x")
_APTPL: Final = 0x01
_PTPL_C: Final = 0x01
_TMV: Final = 0x80
_WR_EX_RO: Final = 0x20


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation that is held: the holder's key, 0 of an all registrants type, and the type."""

    key: int
    kind: int

    def __str__(self) -> str:
        name = TYPE_NAMES.get(self.kind, f"type {self.kind:#x}")
        return f"{name} by the key {self.key:#018x}" if self.key else name


@dataclass(frozen=True, slots=True)
class ReservationCapabilities:
    """What a device server can do: whether the type that a fence needs is there, and whether registrations outlive a
    loss of power where that is asked for (PTPL_C)."""

    registrants_only: bool
    outlives_power: bool


def reserve_in(service_action: int, allocation_length: int) -> bytes:
    """The CDB of PERSISTENT RESERVE IN."""
    return _CDB_IN.pack(0x5E, service_action, allocation_length, 0)


def reserve_out(service_action: int, kind: int = 0) -> bytes:
    """The CDB of PERSISTENT RESERVE OUT; ``kind`` is the type, the scope that of the logical unit."""
    return _CDB_OUT.pack(0x5F, service_action, kind, _PARAMETERS.size, 0)


def out_parameters(key: int, service_action_key: int = 0, *, outlive_power: bool = False) -> bytes:
    """The parameter list of PERSISTENT RESERVE OUT."""
    return _PARAMETERS.pack(key, service_action_key, _APTPL if outlive_power else 0)


def parse_keys(data: bytes) -> set[int]:
    """The registered keys.

    Raises:
        MalformedAnswer: it is too short, or there are more keys than were asked for.
    """
    length = _additional_length(data, "READ KEYS")
    if length > 8 * MOST_KEYS:
        raise MalformedAnswer(f"READ KEYS tells of {length // 8} registrations", why=f"at most {MOST_KEYS} are read")
    if length % 8 or len(data) < 8 + length:
        raise MalformedAnswer(f"READ KEYS has {len(data)} bytes, and says {8 + length}")
    return {key for (key,) in struct.iter_unpack(">Q", data[8 : 8 + length])}


def parse_reservation(data: bytes) -> Reservation | None:
    """The reservation that is held, or None.

    Raises:
        MalformedAnswer: it is too short.
    """
    if not _additional_length(data, "READ RESERVATION"):
        return None
    if len(data) < RESERVATION_BYTES:
        raise MalformedAnswer(f"READ RESERVATION has {len(data)} bytes")
    return Reservation(int.from_bytes(data[8:16], "big"), data[21] & 0x0F)


def parse_capabilities(data: bytes) -> ReservationCapabilities:
    """What the device server can do. One that names no types is taken to have all.

    Raises:
        MalformedAnswer: it is too short.
    """
    if len(data) < CAPABILITIES_BYTES:
        raise MalformedAnswer(f"REPORT CAPABILITIES has {len(data)} bytes")
    names_types = bool(data[3] & _TMV)
    return ReservationCapabilities(not names_types or bool(data[4] & _WR_EX_RO), bool(data[2] & _PTPL_C))


def _additional_length(data: bytes, name: str) -> int:
    if len(data) < 8:
        raise MalformedAnswer(f"{name} has {len(data)} bytes")
    return int.from_bytes(data[4:8], "big")
