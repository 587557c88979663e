"""What a guest is made of: the ``spec`` of its record in the cluster's register."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from csvd.errors import ConfigError
from csvd.vm.layout import MINIMUM_PAGES, PAGE_BYTES

DRIVER_PROCESS: Final = "process"
BACKING_FILE: Final = "file"
BACKING_SHARED_MEMORY: Final = "shm"
_KEYS: Final = frozenset({"driver", "memory_bytes", "pages_per_s", "backing"})


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """The settings of one guest.

    Args:
        memory_bytes: its RAM; a whole number of pages.
        pages_per_s: pages that the demonstration guest rewrites each second.
        backing: ``file`` keeps its RAM in the node's guest directory, ``shm`` in /dev/shm.
        driver: which hypervisor runs it; ``process`` is the demonstration guest.

    Raises ConfigError for a value out of range.
    """

    memory_bytes: int
    pages_per_s: float = 0.0
    backing: str = BACKING_FILE
    driver: str = DRIVER_PROCESS

    def __post_init__(self) -> None:
        if not _is_int(self.memory_bytes) or self.memory_bytes % PAGE_BYTES or not self.memory_bytes:
            raise ConfigError(
                f"memory_bytes must be a whole number of pages of {PAGE_BYTES} bytes", why=_found(self.memory_bytes)
            )
        if not MINIMUM_PAGES * PAGE_BYTES <= self.memory_bytes <= 1 << 44:
            raise ConfigError(
                f"memory_bytes must be between {MINIMUM_PAGES * PAGE_BYTES} and 16 TiB", why=_found(self.memory_bytes)
            )
        if not isinstance(self.pages_per_s, int | float) or not 0 <= self.pages_per_s <= 1_000_000:
            raise ConfigError("pages_per_s must be between 0 and 1,000,000", why=_found(self.pages_per_s))
        if self.backing not in (BACKING_FILE, BACKING_SHARED_MEMORY):
            raise ConfigError("backing must be 'file' or 'shm'", why=_found(self.backing))
        if self.driver != DRIVER_PROCESS:
            raise ConfigError("driver must be 'process'", why=_found(self.driver))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GuestSpec:
        """Read the ``spec`` of a record or of a request. Raises ConfigError."""
        unknown = sorted(set(value) - _KEYS)
        if unknown:
            raise ConfigError(f"a guest has no setting {unknown[0]!r}", hint=f"settings: {', '.join(sorted(_KEYS))}")
        if "memory_bytes" not in value:
            raise ConfigError("a guest needs memory_bytes")
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """The ``spec`` as the register keeps it."""
        return {
            "driver": self.driver,
            "memory_bytes": self.memory_bytes,
            "pages_per_s": self.pages_per_s,
            "backing": self.backing,
        }


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _found(value: object) -> str:
    return f"it is {value!r}"
