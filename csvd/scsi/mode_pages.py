"""Mode pages: one row a page, with its default values and the mask of what can be changed (SPC-4 7.5, SBC-3 6.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from construct import Const, Int8ub, Int16ub, Int32ub, Padding, Struct

if TYPE_CHECKING:
    from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.provisioning import default_threshold_count

ALL_PAGES: Final = 0x3F
ALL_SUBPAGES: Final = 0xFF
PS: Final = 0x80
SPF: Final = 0x40

PAGE_0_HEADER: Final = Struct("page_code" / Int8ub, "page_length" / Int8ub)
SUBPAGE_HEADER: Final = Struct("page_code" / Int8ub, "subpage_code" / Int8ub, "page_length" / Int16ub)

READ_WRITE_ERROR_RECOVERY: Final = Struct(
    "error_recovery_bits" / Int8ub,
    "read_retry_count" / Int8ub,
    "obsolete" / Const(bytes(3)),
    "lbpere" / Int8ub,
    "write_retry_count" / Int8ub,
    "reserved" / Const(0, Int8ub),
    "recovery_time_limit" / Int16ub,
)
DISCONNECT_RECONNECT: Final = Struct("all_zero" / Const(bytes(14)))
CACHING: Final = Struct("wce_and_rcd" / Int8ub, "all_zero" / Const(bytes(17)))
CONTROL: Final = Struct(
    "tst_d_sense_and_gltsd" / Int8ub,
    "queue_algorithm_modifier_and_qerr" / Int8ub,
    "ua_intlck_ctrl_and_swp" / Int8ub,
    "ato_tas_and_autoload" / Int8ub,
    "obsolete" / Const(0, Int16ub),
    "busy_timeout_period" / Const(0, Int16ub),
    "extended_self_test_completion_time" / Const(0, Int16ub),
)
CONTROL_EXTENSION: Final = Struct(
    "tcmos_scsip_and_ialuae" / Int8ub,
    "initial_command_priority" / Int8ub,
    "maximum_sense_data_length" / Int8ub,
    Padding(25),
)
PROTOCOL_SPECIFIC: Final = Struct("protocol_identifier" / Int8ub, Padding(5))
POWER_CONDITION: Final = Struct("all_zero" / Const(bytes(38)))
INFORMATIONAL_EXCEPTIONS_CONTROL: Final = Struct(
    "perf_to_dexcpt" / Int8ub,
    "mrie" / Const(0, Int8ub),
    Padding(8),
)
LOGICAL_BLOCK_PROVISIONING: Final = Struct(
    "situa" / Int8ub,
    "reserved" / Const(bytes(11)),
    "enabled_type_and_arming" / Int8ub,
    "threshold_resource" / Int8ub,
    "reserved_2" / Const(0, Int16ub),
    "threshold_count" / Int32ub,
)

LBPERE: Final = 0x80
WCE: Final = 0x04
D_SENSE: Final = 0x04
_GLTSD: Final = 0x02
_UNRESTRICTED_REORDERING: Final = 0x10
SWP: Final = 0x08
TAS: Final = 0x40
_IALUAE: Final = 0x01
_ISCSI: Final = 0x05
_DEXCPT: Final = 0x08
SITUA: Final = 0x01
THRESHOLD_ENABLED: Final = 0x80
_ARMED_INCREASING: Final = 0x01
_USED_LBA_MAPPING_RESOURCES: Final = 0x02


def _nothing(_unit: LogicalUnit) -> bytes:
    return b""


def _every(_unit: LogicalUnit) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ModePage:
    """The row of one mode page.

    Args:
        code, subpage, name: PAGE CODE, SUBPAGE CODE and name in the standard.
        default: makes the page's default values, without its header.
        changeable: makes the mask of the bits that MODE SELECT may change; empty for none.
        offered: whether a logical unit has the page.
    """

    code: int
    subpage: int
    name: str
    default: Callable[[LogicalUnit], bytes]
    changeable: Callable[[LogicalUnit], bytes] = _nothing
    offered: Callable[[LogicalUnit], bool] = _every

    @property
    def header_bytes(self) -> int:
        """Length of its header: four bytes with a subpage code, else two."""
        return SUBPAGE_HEADER.sizeof() if self.subpage else PAGE_0_HEADER.sizeof()

    def encode(self, body: bytes, *, saveable: bool) -> bytes:
        """The whole page with these values; `saveable` sets PS."""
        code = self.code | (PS if saveable else 0)
        if self.subpage:
            header = {"page_code": code | SPF, "subpage_code": self.subpage, "page_length": len(body)}
            return SUBPAGE_HEADER.build(header) + body
        return PAGE_0_HEADER.build({"page_code": code, "page_length": len(body)}) + body


def _error_recovery(lbpere: int) -> bytes:
    # The disk below retries and remaps by itself and says nothing of it.
    return READ_WRITE_ERROR_RECOVERY.build(
        {
            "error_recovery_bits": 0,
            "read_retry_count": 0,
            "lbpere": lbpere,
            "write_retry_count": 0,
            "recovery_time_limit": 0,
        }
    )


def _disconnect_reconnect(_unit: LogicalUnit) -> bytes:
    # No limits of its own: bursts are negotiated at login (RFC 7143 section 4.3).
    return DISCONNECT_RECONNECT.build({})


def _caching(unit: LogicalUnit) -> bytes:
    # The mask of what can be changed is the same: a disk without a volatile cache has none to enable.
    return CACHING.build({"wce_and_rcd": WCE if unit.write_cache else 0})


def _control(unit: LogicalUnit) -> bytes:
    # One task set for all nexuses (TST 0); simple commands run in any order; no log parameters to save (GLTSD).
    # QERR 0, the only one: a command that fails leaves the others alone.
    # TAS where several nodes export it: hosts reset it to be sure of what they have left behind at another node (a
    # proof that is theirs alone), and the commands of others that wait there must not leave them to their time-outs.
    return CONTROL.build(
        {
            "tst_d_sense_and_gltsd": _GLTSD,
            "queue_algorithm_modifier_and_qerr": _UNRESTRICTED_REORDERING,
            "ua_intlck_ctrl_and_swp": 0,
            "ato_tas_and_autoload": TAS if unit.is_clustered else 0,
        }
    )


def _control_changeable(_unit: LogicalUnit) -> bytes:
    return CONTROL.build(
        {
            "tst_d_sense_and_gltsd": D_SENSE,
            "queue_algorithm_modifier_and_qerr": 0,
            "ua_intlck_ctrl_and_swp": SWP,
            "ato_tas_and_autoload": TAS,
        }
    )


def _control_extension(_unit: LogicalUnit) -> bytes:
    return CONTROL_EXTENSION.build(
        {"tcmos_scsip_and_ialuae": _IALUAE, "initial_command_priority": 0, "maximum_sense_data_length": 0}
    )


def _protocol_specific(_unit: LogicalUnit) -> bytes:
    # iSCSI defines no parameters of its own for these pages.
    return PROTOCOL_SPECIFIC.build({"protocol_identifier": _ISCSI})


def _power_condition(_unit: LogicalUnit) -> bytes:
    # No timer ever changes the power condition.
    return POWER_CONDITION.build({})


def _informational_exceptions_control(_unit: LogicalUnit) -> bytes:
    # There are no failure predictions to report.
    return INFORMATIONAL_EXCEPTIONS_CONTROL.build({"perf_to_dexcpt": _DEXCPT})


def _is_thin(unit: LogicalUnit) -> bool:
    return unit.thin


def _provisioning(unit: LogicalUnit) -> bytes:
    return LOGICAL_BLOCK_PROVISIONING.build(
        {
            "situa": 0,
            "enabled_type_and_arming": _ARMED_INCREASING | (THRESHOLD_ENABLED if unit.soft_threshold_percent else 0),
            "threshold_resource": _USED_LBA_MAPPING_RESOURCES,
            "threshold_count": default_threshold_count(unit),
        }
    )


def _provisioning_changeable(_unit: LogicalUnit) -> bytes:
    return LOGICAL_BLOCK_PROVISIONING.build(
        {
            "situa": SITUA,
            "enabled_type_and_arming": THRESHOLD_ENABLED,
            "threshold_resource": 0,
            "threshold_count": 0xFFFF_FFFF,
        }
    )


READ_WRITE_ERROR_RECOVERY_PAGE: Final = ModePage(
    0x01,
    0x00,
    "Read-Write Error Recovery",
    lambda unit: _error_recovery(LBPERE if unit.thin and unit.soft_threshold_percent else 0),
    lambda unit: _error_recovery(LBPERE if unit.thin else 0),
)
CACHING_PAGE: Final = ModePage(0x08, 0x00, "Caching", _caching, _caching)
CONTROL_PAGE: Final = ModePage(0x0A, 0x00, "Control", _control, _control_changeable)
PROVISIONING_PAGE: Final = ModePage(
    0x1C, 0x02, "Logical Block Provisioning", _provisioning, _provisioning_changeable, _is_thin
)

# Ascending by page code and subpage code, as MODE SENSE returns them (SPC-4 6.13).
PAGES: Final = (
    READ_WRITE_ERROR_RECOVERY_PAGE,
    ModePage(0x02, 0x00, "Disconnect-Reconnect", _disconnect_reconnect),
    CACHING_PAGE,
    CONTROL_PAGE,
    ModePage(0x0A, 0x01, "Control Extension", _control_extension),
    ModePage(0x18, 0x00, "Protocol Specific Logical Unit", _protocol_specific),
    ModePage(0x19, 0x00, "Protocol Specific Port", _protocol_specific),
    ModePage(0x1A, 0x00, "Power Condition", _power_condition),
    ModePage(0x1C, 0x00, "Informational Exceptions Control", _informational_exceptions_control),
    PROVISIONING_PAGE,
)
