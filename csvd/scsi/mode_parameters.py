"""The mode parameters of a logical unit: current, default and saved values of its mode pages (SPC-4 7.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.mode_pages import (
    ALL_PAGES,
    ALL_SUBPAGES,
    CACHING_PAGE,
    CONTROL_PAGE,
    D_SENSE,
    LBPERE,
    LOGICAL_BLOCK_PROVISIONING,
    PAGES,
    PROVISIONING_PAGE,
    READ_WRITE_ERROR_RECOVERY_PAGE,
    SITUA,
    SWP,
    TAS,
    THRESHOLD_ENABLED,
    WCE,
    ModePage,
)

KEPT: Final = "mode parameters"
"""Under this name `LogicalUnit.kept` has the saved values: hexadecimal digits by page, ``0A-00``."""


class SoftThreshold(NamedTuple):
    """The threshold of the Logical Block Provisioning mode page (SBC-3 4.7.3.7).

    Args:
        reported: LBPERE and ENABLED: whether reaching it establishes a unit attention condition.
        single_nexus: SITUA: for one I_T nexus only.
        sets: threshold sets in use at which it is reached.
    """

    reported: bool
    single_nexus: bool
    sets: int


class ModeParameters:
    """Values of every mode page that a logical unit has. It changes nothing but itself: see `DeviceServer.set_mode`.

    Args:
        unit: whose; what it kept is taken as saved values, where it still fits.
    """

    __slots__ = ("_current", "_saved", "pages", "unit")

    def __init__(self, unit: LogicalUnit) -> None:
        self.unit = unit
        self.pages = tuple(page for page in PAGES if page.offered(unit))
        kept = unit.kept.get(KEPT) if unit.keeps and not unit.is_clustered else None
        self._saved = self._fitting(kept if isinstance(kept, dict) else {})
        self._current = dict(self._saved)

    def _fitting(self, kept: Mapping[str, Any]) -> dict[ModePage, bytes]:
        """What was kept, as far as it can be changed at all: the default values of another release may be others."""
        values = {}
        for page in self.pages:
            text = kept.get(_key(page))
            default = page.default(self.unit)
            try:
                body = bytes.fromhex(text) if isinstance(text, str) else b""
            except ValueError:
                body = b""
            if len(body) == len(default):
                values[page] = _merged(default, body, self.changeable(page))
        return values

    def select(self, code: int, subpage: int) -> list[ModePage]:
        """The pages that MODE SENSE asks for, in ascending order; none when the codes name none."""
        pages = [page for page in self.pages if code in (ALL_PAGES, page.code)]
        return pages if subpage == ALL_SUBPAGES else [page for page in pages if page.subpage == subpage]

    def default(self, page: ModePage) -> bytes:
        """Default values."""
        return page.default(self.unit)

    def current(self, page: ModePage) -> bytes:
        """Current values."""
        return self._current.get(page) or page.default(self.unit)

    def saved(self, page: ModePage) -> bytes:
        """Saved values; those never saved are the default ones."""
        return self._saved.get(page) or page.default(self.unit)

    def changeable(self, page: ModePage) -> bytes:
        """The mask of the bits that can be changed."""
        return page.changeable(self.unit) or bytes(len(page.default(self.unit)))

    def is_saveable(self, page: ModePage) -> bool:
        """PS: whether saved values of the page outlive a restart."""
        return self.unit.keeps and any(self.changeable(page))

    def change(self, values: Mapping[ModePage, bytes], *, saved: bool) -> None:
        """Set current values, and with `saved` all saved values to the current ones (SPC-4 6.11, SP)."""
        self._current.update(values)
        if saved:
            self._saved = dict(self._current)

    def take(self, current: Mapping[str, str], saved: Mapping[str, str]) -> None:
        """Take over current and saved values, both as they are kept."""
        self._current = self._fitting(current)
        self._saved = self._fitting(saved)

    def codes(self, values: Mapping[ModePage, bytes]) -> dict[str, str]:
        """Values as they are kept."""
        return {_key(page): body.hex() for page, body in values.items() if any(self.changeable(page))}

    def to_keep(self, values: Mapping[ModePage, bytes]) -> dict[str, str]:
        """What is to be kept so that a restart finds these values, and the current ones of all other pages."""
        kept = {page: self.current(page) for page in self.pages if any(self.changeable(page))} | dict(values)
        return self.codes(kept)

    def reset(self) -> None:
        """A reset: current values become the saved ones (SPC-4 7.5.1)."""
        self._current = dict(self._saved)

    @property
    def descriptor_sense(self) -> bool:
        """D_SENSE of the Control mode page."""
        return bool(self.current(CONTROL_PAGE)[0] & D_SENSE)

    @property
    def software_write_protect(self) -> bool:
        """SWP of the Control mode page."""
        return bool(self.current(CONTROL_PAGE)[2] & SWP)

    @property
    def task_aborted_status(self) -> bool:
        """TAS of the Control mode page."""
        return bool(self.current(CONTROL_PAGE)[3] & TAS)

    @property
    def write_cache(self) -> bool:
        """WCE of the Caching mode page."""
        return bool(self.current(CACHING_PAGE)[0] & WCE)

    @property
    def soft_threshold(self) -> SoftThreshold:
        """The threshold of a thin logical unit; never reported where there is none."""
        if PROVISIONING_PAGE not in self.pages:
            return SoftThreshold(False, False, 0)
        reporting = READ_WRITE_ERROR_RECOVERY_PAGE
        page = LOGICAL_BLOCK_PROVISIONING.parse(self.current(PROVISIONING_PAGE))
        enabled = bool(page.enabled_type_and_arming & THRESHOLD_ENABLED)
        return SoftThreshold(
            enabled and bool(self.current(reporting)[5] & LBPERE), bool(page.situa & SITUA), page.threshold_count
        )


def _key(page: ModePage) -> str:
    return f"{page.code:02X}-{page.subpage:02X}"


def _merged(default: bytes, changed: bytes, mask: bytes) -> bytes:
    return bytes(old & ~bits & 0xFF | new & bits for old, new, bits in zip(default, changed, mask, strict=True))
