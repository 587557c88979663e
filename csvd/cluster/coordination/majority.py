"""What a majority of the voters has answered. PURE."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping


def majority_time(answered_s: Mapping[str, float], voters: Collection[str]) -> float | None:
    """The latest time since which a majority of the voters has answered.

    Args:
        answered_s: for each node that has answered, the time of its latest answer; or of sending what it answered.
        voters: the nodes that count.

    Returns:
        The highest time that a majority of the voters' times are not below; None while no majority has answered.
    """
    times = sorted((answered_s[voter] for voter in voters if voter in answered_s), reverse=True)
    needed = len(voters) // 2 + 1
    return times[needed - 1] if len(times) >= needed else None


def configuration_of(voters: Collection[str]) -> str:
    """A name of a set of voters: two nodes that count by the same set have the same."""
    return hashlib.sha256(",".join(sorted(voters)).encode()).hexdigest()[:32]
