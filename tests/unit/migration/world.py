"""Both services on one Clock, with guests that do what the test says."""

from __future__ import annotations

import random
from pathlib import Path

from twisted.internet.task import Clock

from csvd.migration.destination import MigrationDestination
from csvd.migration.image import MemoryImage, digest_image
from csvd.migration.incoming import IncomingMigration, IncomingState
from csvd.migration.outgoing import OutgoingMigration, Surroundings
from csvd.migration.precopy import Policy
from csvd.migration.report import Report
from csvd.migration.source import MigrationSource
from tests.unit.migration.fakes import Fabric, FakeHost, FakeIncomingGuest, FakeSourceGuest, MemoryLink, run_here

PAGE = 4096
MEMORY = 8 << 20


class World:
    """Guest "g" of node1, which has 3 MiB of something in its memory, and node2."""

    def __init__(self, directory: Path, *, memory_bytes: int = MEMORY, data_bytes: int = 3 << 20) -> None:
        self.memory_bytes = memory_bytes
        self.clock = Clock()
        self.fabric = Fabric(self.clock)
        self.near, self.far = self.fabric.node("node1"), self.fabric.node("node2")
        self.fabric.apply({"op": "guest_create", "name": "g", "owner": "node1", "spec": {}})
        for name in ("near", "far"):
            (directory / name).mkdir()
        self.near_host, self.far_host = (FakeHost(self.clock, directory / side) for side in ("near", "far"))
        path = directory / "near" / "g.ram"
        self.image = MemoryImage.create(path, memory_bytes)
        self.image.write(random.Random(1).randbytes(data_bytes), memory_bytes // 8)
        self.guest = FakeSourceGuest(self.clock, path, memory_bytes)
        self.near_host.leaving["g"] = self.guest
        self.source = MigrationSource(Surroundings(self.near, self.clock, run_here), self.near_host)
        self.destination = MigrationDestination(Surroundings(self.far, self.clock, run_here), self.far_host)

    def start(self, policy: Policy | None = None) -> OutgoingMigration:
        return self.source.start("g", "node2", policy)

    def pass_s(self, seconds: float, *, step_s: float = 0.002) -> None:
        self.clock.pump([step_s] * round(seconds / step_s))

    def step_until(self, migration: OutgoingMigration, state: str) -> None:
        """Let the loop turn until the machine is in a state."""
        for _ in range(10_000):
            if migration.progress().state == state:
                return
            self.clock.advance(0.0001)
        raise AssertionError(f"it is in {migration.progress().state!r}, not in {state!r}")

    def finished(self, migration: OutgoingMigration) -> Report:
        self.pass_s(1)
        report = migration.progress().report
        assert report is not None, migration.progress().state
        return report

    @property
    def incoming(self) -> IncomingMigration:
        return self.destination.migrations()[0]

    @property
    def newcomer(self) -> FakeIncomingGuest:
        return self.far_host.came[-1]

    @property
    def links(self) -> tuple[MemoryLink, MemoryLink]:
        return self.near.links[-1], self.far.links[-1]

    def owner(self) -> tuple[str, int]:
        record = self.fabric.register.guest("g")
        assert record is not None
        return record.owner, record.epoch

    def copies_are_equal(self) -> bool:
        copy = MemoryImage.open(self.newcomer.image_path, self.memory_bytes)
        try:
            return digest_image(copy, PAGE, 0) == digest_image(self.image, PAGE, 0)
        finally:
            copy.close()


def stayed(world: World, *, was_stopped: bool = True) -> None:
    """The guest is at the source, runs, and can be used; the copy is gone."""
    assert world.owner()[0] == "node1"
    assert world.guest.did[-1] == "stay"
    if was_stopped:
        assert "resume" in world.guest.did
    assert "release" not in world.guest.did
    for newcomer in world.far_host.came:
        assert newcomer.did[-1] == "discard"
        assert "adopt" not in newcomer.did


def moved(world: World) -> None:
    """The guest is at the destination alone."""
    assert world.owner() == ("node2", 2)
    assert world.guest.did[-1] == "release"
    assert "resume" not in world.guest.did
    assert world.newcomer.did[-1] == "adopt"
    assert "discard" not in world.newcomer.did


def until_ready(world: World) -> None:
    """Let the loop turn until the copy is complete."""
    while world.incoming.state is not IncomingState.READY:
        world.clock.advance(0.0001)
