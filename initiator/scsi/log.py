"""Log pages: LOG SENSE (SPC-4 sections 6.7 and 7.3, SBC-3 section 6.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from initiator.errors import MalformedAnswer

SUPPORTED_PAGES: Final = 0x00
PROVISIONING_PAGE: Final = 0x0C
TEMPERATURE_PAGE: Final = 0x0D
ALL_SUBPAGES: Final = 0xFF

_CUMULATIVE: Final = 0x40
_SPF: Final = 0x40
_NO_SENSOR: Final = 0xFF


@dataclass(frozen=True, slots=True)
class LogPage:
    """A log page: its parameters by their codes, in order; ``body`` is all of it as bytes."""

    code: int
    subpage: int
    parameters: dict[int, bytes]
    body: bytes

    @property
    def temperature_celsius(self) -> int | None:
        """Of page 0Dh: the temperature, where there is a sensor."""
        value = self.parameters.get(0, b"") if self.code == TEMPERATURE_PAGE else b""
        return value[1] if len(value) >= 2 and value[1] != _NO_SENSOR else None

    @property
    def available_resources(self) -> int | None:
        """Of page 0Ch: how many more LBA mapping resources, in units of the threshold set, there are."""
        return self._resources(1)

    @property
    def used_resources(self) -> int | None:
        """Of page 0Ch: how many LBA mapping resources, in units of the threshold set, are used."""
        return self._resources(2)

    def _resources(self, parameter: int) -> int | None:
        value = self.parameters.get(parameter, b"") if self.code == PROVISIONING_PAGE else b""
        return int.from_bytes(value[:4], "big") if len(value) >= 4 else None


def cdb(page: int, subpage: int, allocation_length: int, *, parameter: int = 0) -> bytes:
    """LOG SENSE, cumulative values, from a parameter code on (SPC-4 section 6.7)."""
    return struct.pack(">BBBBBHHB", 0x4D, 0, _CUMULATIVE | page, subpage, 0, parameter, allocation_length, 0)


def parse(page: int, subpage: int, data: bytes) -> LogPage:
    """Parse a log page.

    Raises:
        MalformedAnswer: it is another page, or shorter than it says, or a parameter runs past its end.
    """
    if len(data) < 4 or data[0] & 0x3F != page or (data[1] if data[0] & _SPF else 0) != subpage:
        raise MalformedAnswer(f"asked for log page {page:02X}h/{subpage:02X}h and got {data[:4].hex() or 'nothing'}")
    end = 4 + int.from_bytes(data[2:4], "big")
    if len(data) < end:
        raise MalformedAnswer(f"log page {page:02X}h says {end - 4} bytes and has {len(data) - 4}")
    body = bytes(data[4:end])
    # The pages of supported pages are lists without parameters.
    listing = page == SUPPORTED_PAGES or subpage == ALL_SUBPAGES
    return LogPage(page, subpage, {} if listing else _parameters(page, body), body)


def parse_supported(page: LogPage) -> list[tuple[int, int]]:
    """Give the page and subpage codes of a page of supported pages (00h/00h or 00h/FFh)."""
    if page.subpage != ALL_SUBPAGES:
        return [(code, 0) for code in page.body]
    return [(page.body[at], page.body[at + 1]) for at in range(0, len(page.body) - 1, 2)]


def _parameters(page: int, body: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(body):
        first = at + 4
        end = first + body[at + 3] if first <= len(body) else first
        if end > len(body):
            raise MalformedAnswer(f"a parameter of log page {page:02X}h runs past its end")
        found[int.from_bytes(body[at : at + 2], "big")] = body[first:end]
        at = end
    return found
