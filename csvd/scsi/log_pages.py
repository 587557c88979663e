"""Log pages: one row a page (SPC-4 7.3, SBC-3 6.3). All parameters are lists that nobody can set, so PC is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from construct import Bytes, Const, Int8ub, Int16ub, Int32ub, Padding, Struct, this

from csvd.scsi.provisioning import resource_counts

if TYPE_CHECKING:
    from csvd.scsi.logical_unit import LogicalUnit

_DS: Final = 0x80
_SPF: Final = 0x40
_BINARY_LIST: Final = 0x03
ALL_SUBPAGES: Final = 0xFF

LOG_PAGE_HEADER: Final = Struct("page_code" / Int8ub, "subpage_code" / Int8ub, "page_length" / Int16ub)
LOG_PARAMETER: Final = Struct(
    "parameter_code" / Int16ub,
    "parameter_control" / Int8ub,
    "parameter_length" / Int8ub,
    "value" / Bytes(this.parameter_length),
)
RESOURCE_COUNT: Final = Struct("resource_count" / Int32ub, "scope" / Const(0, Int8ub), Padding(3))
TEMPERATURE: Final = Struct("reserved" / Const(0, Int8ub), "temperature_celsius" / Int8ub)

_AVAILABLE: Final = 0x0001
_USED: Final = 0x0002
_NO_SENSOR: Final = 0xFF

Parameters: TypeAlias = "dict[int, bytes]"
"""Values of log parameters by parameter code, ascending."""


def _every(_unit: LogicalUnit) -> bool:
    return True


def _is_thin(unit: LogicalUnit) -> bool:
    return unit.thin


@dataclass(frozen=True, slots=True)
class LogPage:
    """The row of one log page.

    Args:
        code, subpage, name: PAGE CODE, SUBPAGE CODE and name in the standard.
        body: makes the page from a parameter code on, without its header; takes the bytes of the disk that are
            allocated, None where nobody knows.
        largest: the largest parameter code; a parameter pointer behind it is refused.
        needs_usage: whether it has to know how much of the disk is allocated.
        offered: whether a logical unit has the page.
    """

    code: int
    subpage: int
    name: str
    body: Callable[[LogicalUnit, int, int | None], bytes]
    largest: int = 0
    needs_usage: bool = False
    offered: Callable[[LogicalUnit], bool] = _every

    def encode(self, unit: LogicalUnit, pointer: int, used_bytes: int | None) -> bytes:
        """The whole page from a parameter code on."""
        body = self.body(unit, pointer, used_bytes)
        header = {
            "page_code": self.code | _DS | (_SPF if self.subpage else 0),
            "subpage_code": self.subpage,
            "page_length": len(body),
        }
        return LOG_PAGE_HEADER.build(header) + body


def log_pages_of(unit: LogicalUnit) -> list[LogPage]:
    """The log pages that a logical unit has."""
    return [page for page in PAGES if page.offered(unit)]


def _encode(parameters: Parameters, pointer: int) -> bytes:
    return b"".join(
        LOG_PARAMETER.build(
            {
                "parameter_code": code,
                "parameter_control": _BINARY_LIST,
                "parameter_length": len(value),
                "value": value,
            }
        )
        for code, value in parameters.items()
        if code >= pointer
    )


def _supported_pages(unit: LogicalUnit, _pointer: int, _used_bytes: int | None) -> bytes:
    return bytes(page.code for page in log_pages_of(unit) if not page.subpage)


def _supported_subpages(unit: LogicalUnit, _pointer: int, _used_bytes: int | None) -> bytes:
    return b"".join(bytes((page.code, page.subpage)) for page in log_pages_of(unit))


def _provisioning(unit: LogicalUnit, pointer: int, used_bytes: int | None) -> bytes:
    if used_bytes is None:
        return b""
    counts = resource_counts(unit, used_bytes)
    values = {_AVAILABLE: counts.available, _USED: counts.used}
    return _encode({code: RESOURCE_COUNT.build({"resource_count": count}) for code, count in values.items()}, pointer)


def _temperature(_unit: LogicalUnit, pointer: int, _used_bytes: int | None) -> bytes:
    return _encode({0: TEMPERATURE.build({"temperature_celsius": _NO_SENSOR})}, pointer)


# Ascending by page code and subpage code, as the pages of supported pages list them.
PAGES: Final = (
    LogPage(0x00, 0x00, "Supported Log Pages", _supported_pages),
    LogPage(0x00, ALL_SUBPAGES, "Supported Log Pages and Subpages", _supported_subpages),
    LogPage(
        0x0C,
        0x00,
        "Logical Block Provisioning",
        _provisioning,
        largest=_USED,
        needs_usage=True,
        offered=_is_thin,
    ),
    LogPage(0x0D, 0x00, "Temperature", _temperature),
)
