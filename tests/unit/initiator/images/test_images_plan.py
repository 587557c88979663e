"""The plan of a copy on a world of its own: whatever the order of answers and flushes, and wherever it crashes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initiator.images.plan import UNBOUNDED, Ask, CopyPlan, Move, Run, Side, Zero, pieces

UNIT = 8
"""The alignment of these plans; a chunk is 32."""


@st.composite
def images(draw: st.DrawFn) -> bytes:
    """Runs of zeros and of data; neither begins at an aligned place more often than not."""
    parts = draw(st.lists(st.tuples(st.booleans(), st.integers(1, 90)), min_size=0, max_size=12))
    return b"".join(bytes(length) if zero else bytes(1 + at % 250 for at in range(length)) for zero, length in parts)


def runs_of(image: bytes, offset: int, chance: random.Random) -> list[Run]:
    """What an end tells of an image: some of the zeros, cut up, and not always up to the end."""
    found: list[Run] = []
    at = offset
    while at < len(image) and (not found or chance.random() < 0.8):
        end = at + 1
        while end < len(image) and (image[end] == 0) == (image[at] == 0) and chance.random() < 0.98:
            end += 1
        found.append(Run(at, end - at, zero=image[at] == 0 and chance.random() < 0.9))
        at = end
    return found


@dataclass
class World:
    """A source, a target with a volatile cache, and steps under way."""

    source: bytes
    stable: bytearray
    chance: random.Random
    cached: list[tuple[int, bytes]] = field(default_factory=list)
    written: int = 0

    def write(self, offset: int, data: bytes) -> None:
        self.cached.append((offset, data))
        self.written += len(data)

    @property
    def seen(self) -> bytes:
        """What a reader of the target sees."""
        image = bytearray(self.stable)
        for offset, data in self.cached:
            image[offset : offset + len(data)] = data
        return bytes(image)

    def flush(self) -> None:
        self.stable[:] = self.seen
        self.cached.clear()

    def crash(self) -> None:
        """Power is lost: any of what was not flushed has come to the medium."""
        for offset, data in self.cached:
            for at, byte in enumerate(data, offset):
                if self.chance.random() < 0.5:
                    self.stable[at] = byte
        self.cached.clear()

    def do(self, step: Move | Zero, granule: int) -> None:
        if isinstance(step, Zero):
            self.write(step.offset, bytes(step.length))
            return
        data = self.source[step.offset : step.end]
        for offset, length, zero in pieces(data, granule):
            if not (zero and step.target_zero):
                self.write(step.offset + offset, data[offset : offset + length])

    def run(self, plan: CopyPlan, *, lanes: int, crashes: bool) -> bool:
        """Run the plan; give whether it came to its end."""
        under_way: list[Move | Zero] = []
        done_of_flush: int | None = None
        while True:
            if crashes and self.chance.random() < 0.05:
                self.crash()
                return False
            choice = self.chance.random()
            if choice < 0.15:
                if done_of_flush is None:
                    done_of_flush = plan.flush_begins()
                else:
                    self.flush()
                    plan.flush_ended(done_of_flush)
                    done_of_flush = None
                self.check(plan)
                continue
            may_begin = not under_way or (len(under_way) < lanes and choice < 0.6)
            step = plan.next_step() if may_begin else None
            if isinstance(step, Ask):
                image = self.source if step.side is Side.SOURCE else self.seen
                plan.mapped(step.side, runs_of(image, step.offset, self.chance))
            elif step is not None:
                under_way.append(step)
            elif under_way:
                step = under_way.pop(self.chance.randrange(len(under_way)))
                self.do(step, UNIT)
                plan.done(step)
                assert self.seen[: plan.frontier] == self.source[: plan.frontier]
            else:
                mark = plan.flush_begins()
                self.flush()
                plan.flush_ended(mark)
                return True

    def check(self, plan: CopyPlan) -> None:
        assert bytes(self.stable[: plan.durable]) == self.source[: plan.durable]


def plan_for(world: World, *, begin: int = 0, assume_zero: bool = False, maps: bool = True) -> CopyPlan:
    sides = frozenset(Side) if maps else frozenset()
    return CopyPlan(
        len(world.source), begin=begin, chunk=32, align=UNIT, zero_chunk=64, maps=sides, assume_zero=assume_zero
    )


@given(images(), st.integers(0, 2**32), st.booleans(), st.booleans(), st.integers(1, 6))
def test_a_copy_equals_its_source_when_it_is_durable(
    source: bytes, seed: int, blank: bool, maps: bool, lanes: int
) -> None:
    chance = random.Random(seed)
    target = bytearray(len(source)) if blank else bytearray(chance.choice((0, 7)) for _ in source)
    world = World(source, target, chance)
    plan = plan_for(world, assume_zero=blank and seed % 2 == 0, maps=maps)
    assert world.run(plan, lanes=lanes, crashes=False)
    assert plan.complete
    assert bytes(world.stable) == source
    assert plan.done_bytes == len(source)


@given(images(), st.integers(0, 2**32), st.booleans())
def test_a_copy_that_crashes_again_and_again_is_gone_on_with_from_what_is_durable(
    source: bytes, seed: int, blank: bool
) -> None:
    chance = random.Random(seed)
    world = World(source, bytearray(len(source)) if blank else bytearray(b"\7" * len(source)), chance)
    durable, ended = 0, False
    while not ended:
        plan = plan_for(world, begin=durable, assume_zero=blank)
        ended = world.run(plan, lanes=3, crashes=chance.random() < 0.9)
        assert plan.durable >= durable
        durable = plan.durable
        world.check(plan)
    assert bytes(world.stable) == source


@given(images(), st.integers(0, 2**32))
def test_on_a_blank_target_only_data_is_written(source: bytes, seed: int) -> None:
    world = World(source, bytearray(len(source)), random.Random(seed))
    assert world.run(plan_for(world, assume_zero=True), lanes=2, crashes=False)
    most = sum(len(source[at : at + UNIT]) for at in range(0, len(source), UNIT) if any(source[at : at + UNIT]))
    assert world.written == most


@given(images(), st.integers(0, 2**32))
def test_a_pipe_tells_by_ending_how_long_it_is(source: bytes, seed: int) -> None:
    world = World(source, bytearray(len(source)), random.Random(seed))
    plan = CopyPlan(UNBOUNDED, chunk=32, align=UNIT)
    while (step := plan.next_step()) is not None:
        assert isinstance(step, Move)
        data = source[step.offset : step.end]
        if len(data) < step.length:
            plan.source_ends(step.offset + len(data))
        world.write(step.offset, data)
        plan.done(step)
    mark = plan.flush_begins()
    world.flush()
    plan.flush_ended(mark)
    assert plan.complete
    assert plan.length == len(source)
    assert bytes(world.stable) == source


def test_holes_of_the_source_are_skipped_where_the_target_is_zero_and_zeroed_where_not() -> None:
    plan = CopyPlan(256, chunk=32, align=UNIT, zero_chunk=64, maps=frozenset(Side))
    assert plan.next_step() == Ask(Side.SOURCE, 0, 256)
    plan.mapped(Side.SOURCE, [Run(0, 200, zero=True), Run(200, 56, zero=False)])
    assert plan.next_step() == Ask(Side.TARGET, 0, 256)
    plan.mapped(Side.TARGET, [Run(0, 100, zero=True), Run(100, 156, zero=False)])
    steps = []
    while (step := plan.next_step()) is not None:
        steps.append(step)
    assert steps == [
        Zero(96, 64),
        Zero(160, 40),
        Move(200, 24, target_zero=False),
        Move(224, 32, target_zero=False),
    ]
    assert plan.skipped_bytes == 96


def test_what_is_under_way_holds_back_what_is_durable() -> None:
    plan = CopyPlan(96, chunk=32)
    steps = [plan.next_step() for _ in range(3)]
    first, second, third = (step for step in steps if isinstance(step, Move))
    plan.done(third)
    plan.done(second)
    mark = plan.flush_begins()
    plan.done(first)
    plan.flush_ended(mark)
    assert (plan.durable, plan.frontier, plan.complete) == (0, 96, False)
    plan.flush_ended(plan.flush_begins())
    assert plan.complete


@given(st.binary(max_size=200), st.integers(1, 40))
def test_pieces_cover_data_once_and_tell_zeros(data: bytes, granule: int) -> None:
    at, last = 0, None
    for offset, length, zero in pieces(data, granule):
        assert offset == at
        assert offset % granule == 0
        assert length > 0
        assert zero is not last
        part = data[offset : offset + length]
        cells = [any(part[i : i + granule]) for i in range(0, length, granule)]
        assert not any(cells) if zero else all(cells)
        at, last = offset + length, zero
    assert at == len(data)


def test_pieces_of_a_large_buffer() -> None:
    data = bytearray(1 << 20)
    assert pieces(memoryview(data)) == [(0, 1 << 20, True)]
    data[70_000] = 1
    assert pieces(memoryview(data)) == [(0, 65536, True), (65536, 65536, False), (131072, (1 << 20) - 131072, True)]


@pytest.mark.parametrize("wrong", [{"begin": 65}, {"begin": -1}, {"align": 5}, {"align": 64}, {"align": 0}])
def test_a_plan_whose_ranges_do_not_fit_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="fit"):
        CopyPlan(64, chunk=32, **wrong)  # type: ignore[arg-type]
