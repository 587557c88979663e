"""What a seed stands for: how many nodes, how good their clocks and disks are, and which faults there are.

Not every kind of fault is in every seed: faults that come often hide what seldom ones would show (this is called swarm
testing).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

from tests.sim.stores import FENCES
from tests.sim.units_plan import UnitsPlan, units_plan_of

if TYPE_CHECKING:
    from tests.sim.stage import Script

FAULTS: Final = (
    "kill",
    "power cut",
    "pause",
    "suspend",
    "partition",
    "one way",
    "isolate",
    "slow path",
    "slow disk",
    "full disk",
    "slow store",
    "failing store",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The shape of one run.

    Attributes:
        faults_s: how long there are faults; no new ones come after it.
        quiet_s: within how long after that all must be well.
        nodes: all hosts; those that are no founders join and leave.
        administration_pause_s: the mean time between two acts of a person: joins, evictions, drains, moves, fences.
        weights: how likely each kind of fault is.
        fault_pause_s: the mean time between two faults.
        log_entries: after how many the log is compacted; few, so that snapshots are made and sent all the time.
        script: what is done besides, or instead of all faults of chance where those have no weights.
        loss: the share of Raft's messages that get lost, and of those that come twice.
    """

    seed: int
    nodes: tuple[str, ...]
    founders: tuple[str, ...]
    faults_s: float
    quiet_s: float
    fault_pause_s: float
    weights: dict[str, float]
    loss: float
    duplicates: float
    journal_s: float
    change_pause_s: float
    administration_pause_s: float
    log_entries: int
    rates: dict[str, float] = field(default_factory=dict)
    disks: dict[str, str] = field(default_factory=dict)
    """The fence of each shared disk by its name."""
    script: Script | None = None
    units: UnitsPlan | None = None
    """What initiators do with the logical unit that all nodes export; None where there is none."""


def plan_of(seed: int) -> Plan:
    """The plan of a seed."""
    random = Random(f"{seed}/plan")
    count = random.choice([1, 2, 3, 3, 3, 3, 3, 4, 5, 5])
    spare = random.choice([0, 0, 1, 2])
    nodes = tuple(f"n{number}" for number in range(1, count + spare + 1))
    return Plan(
        seed=seed,
        nodes=nodes,
        founders=nodes[:count],
        faults_s=random.uniform(13.0, 26.0),
        quiet_s=40.0,
        fault_pause_s=random.choice([0.3, 1.0, 1.0, 3.0]),
        weights={fault: random.choice([0.0, 1.0, 1.0, 4.0]) for fault in FAULTS},
        loss=random.choice([0.0, 0.0, 0.005, 0.05]),
        duplicates=random.choice([0.0, 0.01, 0.05]),
        journal_s=random.choice([0.0, 0.0005, 0.005, 0.05]),
        change_pause_s=random.choice([0.05, 0.2, 1.0]),
        disks={disk: random.choice(FENCES) for disk in ("system", "data")[: random.choice([1, 1, 2])]},
        administration_pause_s=random.choice([0.7, 3.0, 3.0, 1000.0]),
        log_entries=random.choice([12, 12, 50, 1000]),
        units=units_plan_of(seed),
        rates={name: random.choice([1.0, 0.99, 1.01, random.uniform(0.99, 1.01)]) for name in nodes},
    )
