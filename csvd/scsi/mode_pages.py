"""Mode pages: one row a page (SPC-4 7.5, SBC-3 6.4). No value can be changed or saved before MODE SELECT is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from construct import Const, Int8ub, Int16ub, Padding, Struct

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer

ALL_PAGES: Final = 0x3F
ALL_SUBPAGES: Final = 0xFF
_SPF: Final = 0x40

PAGE_0_HEADER: Final = Struct("page_code" / Int8ub, "page_length" / Int8ub)
SUBPAGE_HEADER: Final = Struct("page_code" / Int8ub, "subpage_code" / Int8ub, "page_length" / Int16ub)

READ_WRITE_ERROR_RECOVERY: Final = Struct("all_zero" / Const(bytes(10)))
CACHING: Final = Struct("wce_and_rcd" / Int8ub, "all_zero" / Const(bytes(17)))
CONTROL: Final = Struct(
    "tst_d_sense_and_gltsd" / Int8ub,
    "queue_algorithm_modifier_and_qerr" / Int8ub,
    "ua_intlck_ctrl_and_swp" / Int8ub,
    "ato_tas_and_autoload" / Const(0, Int8ub),
    "obsolete" / Const(0, Int16ub),
    "busy_timeout_period" / Const(0, Int16ub),
    "extended_self_test_completion_time" / Const(0, Int16ub),
)
INFORMATIONAL_EXCEPTIONS_CONTROL: Final = Struct(
    "perf_to_dexcpt" / Int8ub,
    "mrie" / Const(0, Int8ub),
    Padding(8),
)

_WCE: Final = 0x04
_D_SENSE: Final = 0x04
_GLTSD: Final = 0x02
_UNRESTRICTED_REORDERING: Final = 0x10
_SWP: Final = 0x08
_DEXCPT: Final = 0x08


@dataclass(frozen=True, slots=True)
class ModePage:
    """The row of one mode page.

    Args:
        code, subpage, name: PAGE CODE, SUBPAGE CODE and name in the standard.
        current: makes the page's current values, without its header; its default values are the same, as long as
            nothing can change them.
    """

    code: int
    subpage: int
    name: str
    current: Callable[[DeviceServer], bytes]

    def encode(self, server: DeviceServer, *, changeable: bool) -> bytes:
        """The whole page: current values, or the mask of those that can be changed, which is zeros."""
        body = self.current(server)
        if changeable:
            body = bytes(len(body))
        if self.subpage:
            header = {"page_code": self.code | _SPF, "subpage_code": self.subpage, "page_length": len(body)}
            return SUBPAGE_HEADER.build(header) + body
        return PAGE_0_HEADER.build({"page_code": self.code, "page_length": len(body)}) + body


def select_pages(code: int, subpage: int) -> list[ModePage]:
    """The pages that MODE SENSE asks for, in ascending order; none when the codes name none."""
    if subpage == ALL_SUBPAGES:
        return [page for page in PAGES if code in (ALL_PAGES, page.code)]
    return [page for page in PAGES if code in (ALL_PAGES, page.code) and page.subpage == subpage]


def _read_write_error_recovery(_server: DeviceServer) -> bytes:
    # The disk below retries and remaps by itself and says nothing of it.
    return READ_WRITE_ERROR_RECOVERY.build({})


def _caching(server: DeviceServer) -> bytes:
    return CACHING.build({"wce_and_rcd": _WCE if server.unit.write_cache else 0})


def _control(server: DeviceServer) -> bytes:
    # One task set for all nexuses (TST 0); simple commands run in any order; no log parameters to save (GLTSD).
    return CONTROL.build(
        {
            "tst_d_sense_and_gltsd": _GLTSD | (_D_SENSE if server.descriptor_sense else 0),
            "queue_algorithm_modifier_and_qerr": _UNRESTRICTED_REORDERING,
            "ua_intlck_ctrl_and_swp": _SWP if server.write_protected and not server.unit.read_only else 0,
        }
    )


def _informational_exceptions_control(_server: DeviceServer) -> bytes:
    # There are no failure predictions to report.
    return INFORMATIONAL_EXCEPTIONS_CONTROL.build({"perf_to_dexcpt": _DEXCPT})


PAGES: Final = (
    ModePage(0x01, 0x00, "Read-Write Error Recovery", _read_write_error_recovery),
    ModePage(0x08, 0x00, "Caching", _caching),
    ModePage(0x0A, 0x00, "Control", _control),
    ModePage(0x1C, 0x00, "Informational Exceptions Control", _informational_exceptions_control),
)
