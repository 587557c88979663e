"""Source and destination among links, register and daemons that fail at random: never two run, in the end one does."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.migration.incoming import PATIENCE_S
from csvd.migration.outgoing import OutgoingMigration
from csvd.vm.errors import GuestEnded
from tests.unit.migration.fakes import Fate
from tests.unit.migration.world import World

MEMORY = 4 << 20
# Long enough for one attempt, in which anything may happen; after it all is well again.
TROUBLE_S = 1.0


class Trouble:
    """What goes wrong, drawn from a seed."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.migration: OutgoingMigration = world.start()
        self.source_is_dead = False
        self.destination_is_dead = False
        for act in (self.cut, self.cancel, self.kill_source, self.kill_destination, self.kill_guest):
            if self.random.random() < 0.3:
                # A whole migration takes about 30 ms here.
                world.clock.callLater(self.random.uniform(0, 0.04), act)
        world.fabric.delay_s = self.random.choice([0.0005, 0.002, 0.01])
        self.fates = self.random.choices(list(Fate), weights=[6, 1, 1, 1, 1], k=6)
        world.fabric.fate = self.fate

    def fate(self, command: dict[str, Any]) -> Fate:
        return self.fates.pop() if self.fates and command["op"] == "guest_move" else Fate.CARRIED_OUT

    def cut(self) -> None:
        for link in self.world.near.links:
            link.cut()

    def cancel(self) -> None:
        if self.migration.progress().is_cancellable:
            self.migration.cancel()

    def kill_source(self) -> None:
        self.source_is_dead = True
        self.world.near.go_down()

    def kill_destination(self) -> None:
        self.destination_is_dead = True
        self.world.far.go_down()

    def kill_guest(self) -> None:
        self.world.guest.ended.callback(GuestEnded("its process ended", why="killed by the test"))

    def source_runs(self) -> bool:
        """By the last word to the guest; one that a dead daemon gives is not heard."""
        words = [word for word in self.world.guest.did if word in ("stop", "resume", "release", "end")]
        return not words or words[-1] == "resume"

    def destination_runs(self) -> bool:
        return any(newcomer.did[-1:] == ["adopt"] for newcomer in self.world.far_host.came)

    def check(self) -> None:
        assert not (self.source_runs() and self.destination_runs())
        if self.destination_runs():
            assert self.world.owner() == ("node2", 2)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**48))
def test_never_do_both_run_and_the_owner_does(seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory), memory_bytes=MEMORY, data_bytes=1 << 20)
        trouble = Trouble(world, seed)
        while world.clock.seconds() < TROUBLE_S:
            world.clock.advance(0.0005)
            trouble.check()
        while world.clock.seconds() < TROUBLE_S + PATIENCE_S + 60:
            world.clock.advance(0.1)
            trouble.check()

        owner = world.owner()[0]
        report = trouble.migration.progress().report
        if not trouble.source_is_dead:
            assert report is not None
            assert (report.state == "completed") is (owner == "node2")
            assert trouble.source_runs() is (owner == "node1")
        if not trouble.destination_is_dead:
            assert trouble.destination_runs() is (owner == "node2")
            for newcomer in world.far_host.came:
                assert newcomer.did[-1] in ("adopt", "discard")
        if owner == "node2":
            assert world.copies_are_equal()
        if not (trouble.source_is_dead or trouble.destination_is_dead):
            assert world.fabric.watchers == []
            assert world.clock.getDelayedCalls() == []
        world.image.close()
