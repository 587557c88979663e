"""Writes over several paths under random failures: none that was acknowledged is lost or undone, none is doubled that
must not be. The nodes may execute what they have received at any time, also after its session is gone."""

from __future__ import annotations

import random
from typing import Any

import pytest

from initiator.engine.paths import PathSettings, Policy
from initiator.engine.requests import Command
from initiator.errors import InitiatorError
from initiator.multipath_options import StalePolicy
from initiator.road import submit
from initiator.scsi.target_ports import AccessState
from tests.unit.initiator.path_world import BLOCK_BYTES, P1, P2, P3, Node, World, disk_of
from tests.unit.initiator.session_script import Outcome

BLOCKS = 3
STEPS = 150
SEEDS = 40
UNSAFE = 0x89
TIMES_S = (0.0, 0.0, 0.1, 0.3, 2.0, 6.0)
KINDS = ("one group", "two groups", "two nodes", "both")


class Counted(Node):
    """Counts how often each command that must not be doubled is executed."""

    def apply(self, task: Any) -> tuple[int, bytes, bytes]:
        if task.cdb[0] == UNSAFE:
            counts = self.__dict__.setdefault("executed", {})
            counts[task.cdb] = counts.get(task.cdb, 0) + 1
        return super().apply(task)


def nodes_of(kind: str, disk: bytearray) -> list[Node]:
    match kind:
        case "one group":
            return [Counted({P1: 1, P2: 1}, disk)]
        case "two groups":
            return [Counted({P1: 1, P2: 2}, disk)]
        case "two nodes":
            return [Counted({P1: 1}, disk), Counted({P2: 1}, disk)]
        case _:
            return [Counted({P1: 1, P2: 2}, disk), Counted({P3: 1}, disk)]


class Walk:
    """One writer a block, each write a newer version, the next when the one before has ended; and failures."""

    def __init__(self, seed: int, stale_writes: StalePolicy) -> None:
        chance = self.chance = random.Random(seed)
        self.disk = disk_of(BLOCKS)
        nodes = nodes_of(chance.choice(KINDS), self.disk)
        for node in nodes:
            node.executes_on_reinstatement = chance.random() < 0.5
        policy = PathSettings(policy=chance.choice(list(Policy)))
        depth = chance.choice([1, 2, 32])
        self.world = World(*nodes, queue_depth=depth, paths=policy, stale_writes=stale_writes).open()
        self.version, self.safe = [0] * BLOCKS, [0] * BLOCKS
        """The newest version that was begun, and the newest that was acknowledged."""
        self.writing: list[Outcome | None] = [None] * BLOCKS
        self.unsafe: list[tuple[bytes, Outcome]] = []

    def run(self) -> None:
        actions = {
            self.write: 40,
            self.execute: 30,
            self.execute_all: 4,
            self.pass_time: 20,
            self.cut: 6,
            self.heal: 5,
            self.freeze: 4,
            self.change_state: 2,
            self.unsafe_command: 4,
        }
        for action in self.chance.choices(list(actions), list(actions.values()), k=STEPS):
            action()
            self.check()
        self.end()

    # --- what may happen

    def write(self) -> None:
        block = self.chance.randrange(BLOCKS)
        if self.writing[block] is None and self.version[block] < 255:
            self.version[block] += 1
            timeout_s = self.chance.choice([0.5, 3.0, 60.0])
            _, self.writing[block] = self.world.write(block, self.version[block], timeout_s)

    def unsafe_command(self) -> None:
        # On blocks of its own: what it leaves behind holds no write of the others.
        number = (1 << 40 | len(self.unsafe)).to_bytes(8, "big")
        cdb = bytes((UNSAFE, 0)) + number + b"\0\0\0\1\0\0"
        command = Command(0, cdb, data_out=bytes(2 * BLOCK_BYTES))
        self.unsafe.append((cdb, Outcome(submit(self.world.road, command, 60.0))))

    def execute(self) -> None:
        if self.world.tasks:
            task = self.chance.choice(self.world.tasks)
            next(node for node in self.world.nodes if task in node.tasks).execute(task)

    def execute_all(self) -> None:
        for node in self.world.nodes:
            node.execute_all()

    def pass_time(self) -> None:
        self.world.settle(self.chance.choice(TIMES_S))

    def cut(self) -> None:
        node = self.chance.choice(self.world.nodes)
        node.cut(self.chance.choice(sorted(node.portals, key=str)), and_keep_it_so=self.chance.random() < 0.5)

    def heal(self) -> None:
        for node in self.world.nodes:
            node.unreachable.clear()
            node.frozen = False

    def freeze(self) -> None:
        self.chance.choice(self.world.nodes).frozen = True

    def change_state(self) -> None:
        node = self.chance.choice(self.world.nodes)
        state = self.chance.choice([AccessState.ACTIVE_OPTIMIZED, AccessState.STANDBY])
        node.set_state(self.chance.choice(sorted(node.portals.values())), state)

    # --- what must hold

    def check(self) -> None:
        for block, outcome in enumerate(self.writing):
            if outcome is not None and not outcome.waiting:
                self.writing[block] = None
                if isinstance(outcome.result, Command) and outcome.result.status == 0:
                    self.safe[block] = self.version[block]
                else:
                    assert isinstance(outcome.result, InitiatorError | Command)
        for block in range(BLOCKS):
            on_disk = self.disk[block * BLOCK_BYTES]
            assert self.safe[block] <= on_disk <= self.version[block], f"block {block} is at {on_disk}"
        counts: dict[bytes, int] = {}
        for node in self.world.nodes:
            counts |= {cdb: counts.get(cdb, 0) + n for cdb, n in node.__dict__.get("executed", {}).items()}
        assert all(count == 1 for count in counts.values())
        for cdb, outcome in self.unsafe:
            if isinstance(outcome.result, Command) and outcome.result.status == 0:
                assert counts.get(cdb) == 1, "acknowledged, and never executed"

    def end(self) -> None:
        """When all heals everything ends, and within its time; every path is up."""
        self.heal()
        for node in self.world.nodes:
            for tag in node.portals.values():
                node.set_state(tag, AccessState.ACTIVE_OPTIMIZED)
        for _ in range(20):
            self.world.settle(1.0)
            for _ in range(8):
                self.execute_all()
                self.check()
        assert not any(outcome is not None and outcome.waiting for outcome in self.writing)
        assert not any(outcome.waiting for _, outcome in self.unsafe)
        assert [path.words for path in self.world.road.paths] == ["active/optimized"] * len(self.world.places)
        assert all(path.in_flight == 0 for path in self.world.road.paths)
        assert not self.world.road.stale_write_count
        self.world.road.abort()
        self.world.settle(1.0)
        assert not self.world.clock.getDelayedCalls()


@pytest.mark.parametrize("policy", [StalePolicy.PROVE, StalePolicy.HOLD_OVERLAPPING])
def test_no_acknowledged_write_is_lost_or_undone_and_nothing_unsafe_is_doubled(policy: StalePolicy) -> None:
    for seed in range(SEEDS):
        try:
            Walk(seed, policy).run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_where_nothing_is_held_the_same_walks_find_writes_undone() -> None:
    undone = 0
    for seed in range(SEEDS):
        try:
            Walk(seed, StalePolicy.IGNORE).run()
        except AssertionError as error:
            undone += "block" in str(error)
    assert undone


def test_the_write_that_was_left_behind_undoes_a_newer_one_where_nothing_is_held() -> None:
    """The very sequence that the holding is for."""
    disk = disk_of(BLOCKS)
    one, other = nodes_of("two nodes", disk)
    world = World(one, other, paths=PathSettings(policy=Policy.FAILOVER), stale_writes=StalePolicy.IGNORE).open()
    _, first = world.write(0, 1)
    one.cut(P1)
    other.execute_all()
    _, second = world.write(0, 2)
    other.execute_all()
    assert first.result.status == 0
    assert second.result.status == 0
    assert disk[0] == 2
    one.execute_all()
    assert disk[0] == 1
    world.road.abort()
