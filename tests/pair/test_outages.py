"""Cuts at every byte, deaf connections, restarts and a slow disk, by chance, under callers that know what they wrote:
no acknowledged write is lost or undone, nothing that is not idempotent is done twice or said to be done when it is not
known, no call outlives its deadline, and no buffer is touched after its call has ended."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from initiator.engine.requests import Command
from initiator.scsi import cdb
from tests.pair.outages.callers import Caller
from tests.pair.outages.world import World
from tests.pair.script.steps import BLOCK_BYTES

STEPS = 600
CALLERS = 5
ACTS = ("call", "call", "carry to the target", "carry to us", "carry", "carry", "disk", "time")
OUTAGES = ("cut", "deaf", "kill")
BACK_AGAIN = 0.2
"""Of a step: that a target that was killed is started."""


def play(seed: int, *, slow: bool, outages: float) -> Counter[str]:
    """Let chance have its way; give what came of the calls."""
    chance = random.Random(seed)
    world = World(chance, slow=slow)
    callers = [Caller(world, number) for number in range(CALLERS)]
    try:
        for _ in range(STEPS):
            if world.service is None and chance.random() < BACK_AGAIN:
                world.start_target()
            act(world, callers, chance.choice(OUTAGES) if chance.random() < outages else chance.choice(ACTS))
            for caller in callers:
                caller.judge_now()
        world.settle(lambda: not any(caller.waits for caller in callers) and world.road.connected)
        last_calls(world, callers)
        while world.disk.jobs:
            world.disk.finish(0)
            world.turn()
        for caller in callers:
            caller.judge_at_the_end(world.disk.content())
    finally:
        world.close()
    return sum((Counter(caller.ended) for caller in callers), Counter())


def act(world: World, callers: list[Caller], what: str) -> None:
    chance = world.chance
    match what:
        case "call":
            kind = chance.choice(("write", "write", "read", "count", "flush"))
            chance.choice(callers).do(kind, chance.randrange(8), chance.choice((0.5, 3, 10, 30)))
        case "carry to the target" | "carry to us":
            most = chance.choice((1, 20, 48, 49, 500, 4096))
            world.carry(most, both=False, to_target=what == "carry to the target")
            world.turn()
        case "carry":
            world.carry(1 << 20)
            world.turn()
        case "disk":
            world.disk.finish(chance.randrange(8))
            world.turn()
        case "time":
            world.pass_time(chance.choice((0.01, 0.1, 1)))
        case "cut":
            world.cut()
        case "deaf":
            world.go_deaf()
        case "kill":
            world.kill_target()
    world.turn()


def last_calls(world: World, callers: list[Caller]) -> None:
    """Everybody reads once more, when all is well."""
    for which in range(3):
        for caller in callers:
            caller.do("read", which, 30)
        world.settle(lambda: not any(caller.waits for caller in callers))


@given(st.integers(0, 2**32), st.booleans(), st.sampled_from((0.0, 0.02, 0.1, 0.3)))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_network_and_the_target_do_nothing_is_lost_and_nothing_is_said_that_is_not_so(
    seed: int, slow: bool, outages: float
) -> None:
    ended = play(seed, slow=slow, outages=outages)
    if not outages and not slow:
        assert ended["good"]


@pytest.mark.parametrize("slow", [False, True])
def test_calls_come_to_a_good_end_in_the_middle_of_it_all(slow: bool) -> None:
    total: Counter[str] = sum((play(seed, slow=slow, outages=0.05) for seed in range(12)), Counter())
    assert total["good"] > 2 * total["unknown"], total
    assert total["unknown"], "else the outages came at no bad moment, and the test shows nothing"


# --- the ghost


@pytest.mark.parametrize("deaf", [True, False])
def test_a_write_of_the_old_session_that_the_disk_is_still_at_undoes_nothing(deaf: bool) -> None:
    world = World(random.Random(1), slow=True)
    world.disk.warm(40, 1, warm=False)
    ended: list[bytes] = []

    def write(value: int) -> None:
        data = bytes((value,)) * BLOCK_BYTES
        command = Command(0, cdb.write(40, 1), data_out=data)
        world.road.start(command, world.reactor.seconds() + 60, lambda done: ended.append(bytes((value, done.status))))

    try:
        write(1)
        while not world.disk.jobs:
            world.carry(1 << 20)
            world.turn()
        ghost = world.disk.jobs.pop()
        world.go_deaf() if deaf else world.cut()
        for _ in range(400):
            world.carry(1 << 20)
            world.disk.finish(0)
            world.pass_time(0.02)
        assert len(world.sessions) > 1
        assert not ended, "the target holds what comes after until the disk has let go of the old write"
        ghost[0]().chainDeferred(ghost[1])
        world.settle(lambda: len(ended) == 1)
        write(2)
        world.settle(lambda: len(ended) == 2)
        assert ended == [b"\x01\0", b"\x02\0"]
        assert world.disk.content()[40 * BLOCK_BYTES : 41 * BLOCK_BYTES] == b"\x02" * BLOCK_BYTES
    finally:
        world.close()
