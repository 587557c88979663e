"""The guards that can be switched off, one at a time, to show that the checks would see what they prevent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from unittest import mock

from csvd.shared_disk import FILE_LOCK, NO_FENCE
from tests.sim import scripts, switches
from tests.sim.plan import FAULTS, Plan, plan_of
from tests.sim.unit_guards import COUNTING, RESERVING, no_gate, no_holds, no_record_kept, no_wait_at_push


@dataclass(frozen=True, slots=True)
class Guard:
    """Something that keeps the cluster whole.

    Attributes:
        what: what it is, and where.
        harm: what goes wrong without it.
        switch_off: contexts in which it is off.
        focus: what of a seed's plan is as the harm needs it, whatever the seed says: rare coincidences become common.
        aside: contexts of the run without the guard and of the one with it: another guard that stands behind this one,
            or a check that sees what is wrong before the harm is done.
        aside_what: what that is; empty where there is nothing.
    """

    what: str
    harm: str
    switch_off: Callable[[], Sequence[switches.Context]]
    focus: Mapping[str, Any] = field(default_factory=dict)
    aside: Callable[[], Sequence[switches.Context]] = lambda: ()
    aside_what: str = ""


@contextlib.contextmanager
def pointed_at(name: str, *, is_off: bool = True) -> Iterator[None]:
    """A context in which seeds are pointed at the harm that a guard prevents; with no name, nothing is changed.

    Args:
        name: of the guard.
        is_off: whether it is switched off. With it, the same seeds must pass.
    """
    if not name:
        yield
        return
    guard = GUARDS[name]

    def focused(seed: int) -> Plan:
        return replace(plan_of(seed), **{"units": None, **guard.focus})

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("tests.sim.simulation.plan_of", focused))
        for context in [*guard.aside(), *(guard.switch_off() if is_off else ())]:
            stack.enter_context(context)
        yield


def _mostly(*faults: str) -> Mapping[str, float]:
    """Weights by which these faults are many, and others few."""
    return {fault: 6.0 if fault in faults else 0.2 for fault in FAULTS}


_THREE: Final = {"nodes": ("n1", "n2", "n3"), "founders": ("n1", "n2", "n3"), "administration_pause_s": 1000.0}
_SCRIPTED: Final = {
    **_THREE,
    "weights": dict.fromkeys(FAULTS, 0.0),
    "faults_s": 20.0,
    "loss": 0.0,
    "journal_s": 0.005,
    "change_pause_s": 1000.0,
    "log_entries": 1000,
}
"""No faults of chance: what a script does is all there is."""
_FENCED: Final = {**_SCRIPTED, "disks": {"system": FILE_LOCK}}
_UNFENCED: Final = {**_SCRIPTED, "disks": {"system": NO_FENCE}}
_FIVE: Final = tuple(f"n{number}" for number in range(1, 6))

GUARDS: Final[Mapping[str, Guard]] = {
    "journal sync": Guard(
        "Raft's messages wait until the journal is durable (`csvd/cluster/durability.py`)",
        "after a power cut a node has lost an entry that it said it has, or votes twice in one term",
        switches.no_journal_sync,
        {**_THREE, "journal_s": 0.1, "fault_pause_s": 0.5, "weights": _mostly("power cut", "isolate")},
    ),
    "entry guard": Guard(
        "only entries that contradict the log cut something off it (`csvd/cluster/election.py`)",
        "a message that came late cuts off entries that are committed",
        switches.no_entry_guard,
        {**_THREE, "duplicates": 0.2},
    ),
    "snapshot clamp": Guard(
        "a snapshot neither commits nor cuts off what is in the log (`raft_messages.py`, `raft_adapters.py`)",
        "a late one takes entries from the log that are committed",
        switches.no_snapshot_clamp,
        {**_THREE, "log_entries": 5, "duplicates": 0.3, "weights": _mostly("slow path", "isolate")},
    ),
    "membership": Guard(
        "voters change one at a time, by a leader that has committed in its own term (`csvd/cluster/election.py`)",
        "two majorities that have no voter in common: one commits what the other does not know",
        switches.no_one_change_at_a_time,
        {**_FENCED, "nodes": _FIVE, "founders": _FIVE[:4], "script": scripts.two_changes_of_the_voters},
        aside_what="the coordinator, which proposes nothing before it has claimed the register in its own term: "
        "the removal is proposed without it",
    ),
    "command key": Guard(
        "the register remembers the answers of the commands that it was sent (`csvd/cluster/register.py`)",
        "a command that is sent again is refused, and was carried out",
        switches.no_command_key,
        {**_FENCED, "script": scripts.a_command_that_is_not_answered},
    ),
    "promise sync": Guard(
        "an epoch is promised once it is durable (`csvd/cluster/coordination/promises.py`)",
        "after a power cut a voter renews the lease of a coordinator that it had refused for ever",
        switches.no_promise_sync,
        {**_UNFENCED, "journal_s": 0.05, "script": scripts.a_voter_that_loses_its_power},
        switches.no_check_of_promises,
        "the check that no voter says less than it has promised, which sees it before",
    ),
    "promise": Guard(
        "a voter that has promised an epoch refuses all lower ones (`csvd/cluster/coordination/lease.py`)",
        "a coordinator goes on renewing its lease beside its successor",
        switches.no_promises,
        {**_UNFENCED, "script": scripts.two_coordinators_and_a_voter},
        switches.no_check_of_promises,
        "the same check",
    ),
    "coordinator's lease": Guard(
        "a coordinator's lease is checked before every act (`csvd/cluster/coordination/lease.py`)",
        "one that was cut off acts beside its successor",
        switches.no_coordinator_lease,
        {**_UNFENCED, "script": scripts.a_coordinator_alone},
    ),
    "node's lease": Guard(
        "a node's lease is checked before every write (`csvd/cluster/coordination/node_session.py`)",
        "a node that was cut off writes on while it is taken for gone",
        switches.no_node_lease,
        {**_UNFENCED, "script": scripts.a_node_alone},
    ),
    "clock drift": Guard(
        "who has a lease takes it for 1 % shorter, who waits for its end for 1 % longer (`csvd/cluster/timeouts.py`)",
        "a node with a slow clock writes on while it is taken for gone by a fast one",
        switches.no_drift,
        {
            **_UNFENCED,
            "rates": {"n1": 0.99, "n2": 1.01, "n3": 1.01},
            "script": scripts.a_slow_node_alone,
        },
    ),
    "owner block": Guard(
        "the owner block is compared and written in one step (`csvd/storage/cluster_disk/disk.py`)",
        "the epoch on the disk falls: two nodes take it one after the other, the later one last",
        switches.no_owner_compare,
        {**_FENCED, "script": scripts.two_takeovers},
    ),
    "fence": Guard(
        "a predecessor, or a node, is proven to be off before anybody acts upon it (`takeover.py`, `sessions.py`)",
        "what it had sent comes to the disk after that",
        switches.no_fence,
        {**_FENCED, "script": scripts.a_write_that_comes_late},
    ),
    "watchdog": Guard(
        "the kernel kills a process that has not let go of the disk in time (`Watch` in `coordination/membership.py`)",
        "one that stands still keeps its lock, and all others off, without end",
        switches.no_watchdog,
        {**_FENCED, "faults_s": 32.0, "script": scripts.a_coordinator_that_stands_still},
    ),
    "sessions": Guard(
        "a coordinator waits for all that had a session with the one before (`csvd/cluster/coordination/sessions.py`)",
        "one that it does not hear writes by what was true before",
        switches.no_sessions,
        {**_UNFENCED, "nodes": _FIVE, "founders": _FIVE, "script": scripts.a_node_that_the_successor_does_not_hear},
    ),
    "kept answer": Guard(
        "the answer of an ask is kept in the same write as its change (`csvd/cluster/coordination/office.py`)",
        "an ask that is repeated after a takeover is carried out twice",
        switches.no_kept_answer,
        {**_FENCED, "script": scripts.an_ask_that_is_not_answered},
    ),
    "record digest": Guard(
        "a record slot whose write was torn does not count (`csvd/storage/cluster_disk/record_slots.py`)",
        "a coordinator begins with half of a write",
        switches.no_digest,
        {**_FENCED, "script": scripts.a_torn_write},
    ),
    "gate": Guard(
        "nothing is written while the session is not live, and what is under way is waited for (a `Gate`, modelled)",
        "a node writes by what was true before its session ended",
        switches.no_gate,
        {**_THREE, "disks": {"system": NO_FENCE}, "change_pause_s": 0.05, "weights": _mostly("isolate")},
    ),
    "units: push": Guard(
        "a node answers a push when no write that it forbids is under way any more (`csvd/target/cluster_units.py`)",
        "a write of a preempted nexus comes to the disk after PREEMPT was answered",
        no_wait_at_push,
        {**_THREE, "units": RESERVING, "weights": _mostly("slow store")},
    ),
    "units: gate": Guard(
        "no command goes to its disk while the session is not live (`csvd/target/cluster_units.py`, `gated_disk.py`)",
        "a node that was cut off writes by reservations that are others by now",
        no_gate,
        {**_THREE, "disks": {"system": NO_FENCE}, "units": RESERVING, "weights": _mostly("isolate")},
    ),
    "units: hold": Guard(
        "a range that a command has for itself is claimed on all nodes (`csvd/target/cluster_holds.py`)",
        "a write through another node comes between the two halves of COMPARE AND WRITE",
        no_holds,
        {**_THREE, "units": COUNTING, "weights": _mostly("slow store")},
    ),
    "units: record": Guard(
        "a change is kept on the disk before nodes hear of it (`csvd/target/unit_service.py`)",
        "the next coordinator knows nothing of it",
        no_record_kept,
        {**_THREE, "units": RESERVING, "weights": _mostly("kill")},
    ),
}
