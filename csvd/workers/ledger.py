"""What the commands of all workers came to, so that totals never go back when a worker ends. PURE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

Json = dict[str, Any]
Key = tuple[Any, ...]

_KINDS: Final[Mapping[str, tuple[str, ...]]] = {"units": ("target", "lun"), "commands": ("target", "lun", "command")}
_COUNTS: Final = ("count", "bytes_in", "bytes_out", "seconds")


class Ledger:
    """Rows of statistics, as GET /v1/statistics shows them: what processes counted that are gone, and on top of it
    what the others said last."""

    def __init__(self) -> None:
        self._before: dict[str, dict[Key, Json]] = {kind: {} for kind in _KINDS}
        self._said: dict[int, dict[str, dict[Key, Json]]] = {}

    def said(self, worker: int, statistics: Json) -> None:
        """A worker says what it has counted since its process began."""
        self._said[worker] = {
            kind: {tuple(row[name] for name in names): row for row in statistics[kind]}
            for kind, names in _KINDS.items()
        }

    def ended(self, worker: int) -> None:
        """The process of a worker is gone: its successor begins with zeros."""
        for kind, rows in self._said.pop(worker, {}).items():
            for key, row in rows.items():
                self._carry(kind, key, row)

    def released(self, worker: int, target: str) -> None:
        """A worker serves a target no more, and another one begins with zeros."""
        for kind, rows in self._said.get(worker, {}).items():
            for key in [key for key in rows if key[0] == target]:
                self._carry(kind, key, rows.pop(key))

    def forget(self, target: str, lun: int | None = None) -> None:
        """A logical unit is gone, or with None all of a target: what has its name next begins with zeros."""
        for kind in _KINDS:
            for rows in (self._before[kind], *(said[kind] for said in self._said.values())):
                for key in [key for key in rows if key[0] == target and lun in (None, key[1])]:
                    del rows[key]

    def rows(self, kind: str) -> list[Json]:
        """All rows of ``units`` or ``commands``."""
        rows = dict(self._before[kind])
        for said in self._said.values():
            for key, row in said[kind].items():
                rows[key] = _sum(rows[key], row) if key in rows else row
        return list(rows.values())

    def _carry(self, kind: str, key: Key, row: Json) -> None:
        before = self._before[kind]
        before[key] = _sum(before[key], row) if key in before else row


def _sum(one: Json, other: Json) -> Json:
    errors: Counter[str] = Counter(one["errors"])
    errors.update(other["errors"])
    return {
        **other,
        **{name: one[name] + other[name] for name in _COUNTS},
        "errors": dict(errors),
        "buckets": [a + b for a, b in zip(one["buckets"], other["buckets"], strict=True)],
    }
