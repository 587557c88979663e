"""Which worker serves which target. PURE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """A target that is to be served.

    Args:
        units: how many logical units it has.
        shares: names of what only one process may serve; targets that have one in common are served together.
    """

    target: str
    units: int = 1
    shares: frozenset[str] = frozenset()


def assign(demands: Sequence[Demand], workers: int, before: Mapping[str, int]) -> dict[str, int]:
    """Give each target a worker, 0 to ``workers - 1``.

    A target stays where it is, unless it must join others. Targets that must be together go where the most of them
    are; those that are nowhere yet go where the fewest logical units are.

    Args:
        before: where targets are now.
    """
    loads: Counter[int] = Counter(dict.fromkeys(range(workers), 0))
    assignment: dict[str, int] = {}
    groups = [(_home(group, workers, before), group) for group in _groups(demands)]
    # Those that stay are counted first, so that what is new goes beside the least of them.
    for home, group in sorted(groups, key=lambda one: one[0] is None):
        chosen = home if home is not None else min(loads, key=lambda worker: (loads[worker], worker))
        loads[chosen] += sum(max(1, demand.units) for demand in group)
        assignment |= {demand.target: chosen for demand in group}
    return assignment


def _home(group: Iterable[Demand], workers: int, before: Mapping[str, int]) -> int | None:
    """Where the most of a group is already."""
    homes = Counter(before[demand.target] for demand in group if before.get(demand.target, workers) < workers)
    return min(homes, key=lambda worker: (-homes[worker], worker)) if homes else None


def _groups(demands: Sequence[Demand]) -> list[list[Demand]]:
    """Targets that must be together, each group and all groups in the order of the demands."""
    group_of: dict[str, list[Demand]] = {}
    groups: list[list[Demand]] = []
    for demand in demands:
        joined = [demand]
        for other in {id(group_of[name]): group_of[name] for name in demand.shares if name in group_of}.values():
            groups.remove(other)
            joined = other + joined
        groups.append(joined)
        group_of |= {name: joined for one in joined for name in one.shares}
    order = {demand.target: place for place, demand in enumerate(demands)}
    for group in groups:
        group.sort(key=lambda demand: order[demand.target])
    return sorted(groups, key=lambda group: order[group[0].target])
