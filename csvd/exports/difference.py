"""What it takes to come from the targets of one configuration to those of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from csvd.config.targets import LunSection, TargetSection


@dataclass(slots=True)
class Difference:
    """What it takes to come from some targets to others.

    Args:
        gone, new, other: targets; of the last, what is not a logical unit differs.
        units_gone, units_new: (target, logical unit); one that differs is in both.
    """

    gone: list[TargetSection] = field(default_factory=list)
    new: list[TargetSection] = field(default_factory=list)
    other: list[TargetSection] = field(default_factory=list)
    units_gone: list[tuple[str, LunSection]] = field(default_factory=list)
    units_new: list[tuple[str, LunSection]] = field(default_factory=list)


def difference_of(before: Sequence[TargetSection], after: Sequence[TargetSection]) -> Difference:
    """Compare the targets, by name, and their logical units, by number."""
    difference = Difference()
    old = {section.name: section for section in before}
    new = {section.name: section for section in after}
    difference.gone = [section for name, section in old.items() if name not in new]
    difference.new = [section for name, section in new.items() if name not in old]
    for name in old.keys() & new.keys():
        was, becomes = old[name], new[name]
        old_units = {unit.number: unit for unit in was.lun}
        new_units = {unit.number: unit for unit in becomes.lun}
        difference.units_gone += [(name, unit) for unit in was.lun if new_units.get(unit.number) != unit]
        difference.units_new += [(name, unit) for unit in becomes.lun if old_units.get(unit.number) != unit]
        if _without_units(was) != _without_units(becomes):
            difference.other.append(becomes)
    return difference


def _without_units(section: TargetSection) -> Any:
    return [getattr(section, name) for name in section.__dataclass_fields__ if name != "lun"]


def lowest_free(taken: Sequence[int]) -> int:
    """The lowest number that is not taken."""
    return next(number for number in range(len(taken) + 1) if number not in taken)
