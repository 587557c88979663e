"""Registers for tests: with members, as every register of a cluster has them."""

from __future__ import annotations

from csvd.cluster.beginning import founding_members
from csvd.cluster.register import Register
from csvd.cluster.register_members import Member


def members_of(*names: str) -> list[Member]:
    """Founding members of these names, each with an address of its own."""
    return founding_members({name: f"127.0.0.1:{7000 + place}" for place, name in enumerate(names, 1)})


def register_of(*names: str) -> Register:
    """A register at its beginning, with these members."""
    return Register(members_of(*names))


def small_register() -> Register:
    """A register with the members n1, n2 and n3."""
    return register_of("n1", "n2", "n3")
