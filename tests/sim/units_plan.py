"""What initiators do in a run with the logical unit that all nodes export. Not every seed has one: they cost time."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

KINDS: Final = (
    "write",
    "read",
    "count",
    "register",
    "unregister",
    "reserve",
    "release",
    "clear",
    "preempt",
    "preempt and abort",
    "legacy reserve",
    "legacy release",
)
SHARE: Final = 0.3
"""Of the seeds that have one."""


@dataclass(frozen=True, slots=True)
class UnitsPlan:
    """What initiators do in a run.

    Attributes:
        pause_s: the mean time between two commands of a session.
        weights: how likely each kind is.
        aptpl: the share of registrations with APTPL.
        types: which types of reservations there are.
    """

    pause_s: float
    weights: dict[str, float] = field(default_factory=dict)
    aptpl: float = 0.5
    types: tuple[int, ...] = (1, 3, 5, 6, 7, 8)


def units_plan_of(seed: int) -> UnitsPlan | None:
    """The plan of a seed; None where there is no logical unit in it."""
    random = Random(f"{seed}/units plan")
    if random.random() >= SHARE:
        return None
    weights = {kind: random.choice([0.3, 1.0, 1.0, 3.0]) for kind in KINDS}
    weights["write"] = random.choice([2.0, 6.0, 12.0])
    if random.random() < 0.7:  # they conflict with all that is persistent
        weights["legacy reserve"] = weights["legacy release"] = 0.0
    types = (1, 3, 5, 6, 7, 8)
    return UnitsPlan(
        random.choice([0.1, 0.2, 0.4]),
        weights,
        random.choice([0.0, 0.5, 1.0]),
        random.choice([types, types, (random.choice(types),)]),
    )
