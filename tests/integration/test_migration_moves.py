"""Real guest processes moved between two nodes in one process, over a cluster in memory."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from csvd.cluster.errors import CommandRefused
from csvd.errors import CsvdError
from csvd.migration.image import MemoryImage
from csvd.migration.incoming import PATIENCE_S
from csvd.migration.outgoing import OutgoingMigration
from csvd.migration.precopy import Task
from csvd.migration.report import Report
from csvd.vm.interfaces import GuestVerification
from csvd.vm.spec import GuestSpec
from tests.unit.migration.fakes import LATE_S, Fate
from tests.unit.migration.real_reactor import run_scenario, sleep, until
from tests.unit.migration.two_nodes import Node, two_nodes

MIB = 1 << 20
SPEC = GuestSpec(64 * MIB, 4000.0)


class Scene:
    """Two nodes, and guest "g" of the first at work."""

    def __init__(self, reactor: Any, directory: Path) -> None:
        self.reactor = reactor
        self.directory = directory

    async def begin(self, spec: GuestSpec = SPEC) -> None:
        self.fabric, self.near, self.far = await two_nodes(self.reactor, self.directory)
        await self.near.guests.create("g", spec)
        await self.has_rewritten(self.near, 100)

    async def has_rewritten(self, node: Node, pages: int) -> int:
        """Wait until the guest on this node has filled its working set and rewritten so many pages of it."""
        while True:
            description = await node.guests.show("g")
            if (description.get("pages_rewritten") or 0) >= pages:
                return int(description["counter"])
            await sleep(self.reactor, 0.01)

    def start(self) -> OutgoingMigration:
        return self.near.source.start("g", "node2")

    def before(
        self, migration: OutgoingMigration, awaited: Task, act: Callable[[], Awaitable[None]], *, nth: int = 1
    ) -> None:
        """Have ``act`` done right before the migration carries out a task for the ``nth`` time."""
        carry_out = migration._done
        left = [nth]

        async def watched(task: Task) -> Any:
            if task is awaited:
                left[0] -= 1
                if left[0] == 0:
                    await act()
            return await carry_out(task)

        migration._done = watched  # type: ignore[method-assign]

    async def in_state(self, migration: OutgoingMigration, state: str) -> None:
        await until(self.reactor, lambda: migration.progress().state == state)

    async def runs_at(self, node: Node, other: Node, counter: int) -> GuestVerification:
        """The guest runs here with all its memory, went on counting, and there is nothing of it there."""
        description = await node.guests.show("g")
        assert (description["owner"], description["state"]) == (node.name, "running")
        assert description["counter"] >= counter
        later = await self.has_rewritten(node, description["pages_rewritten"] + 50)
        assert later > counter
        found = await node.guests.verify("g")
        assert found.is_intact
        assert found.pages_checked == SPEC.memory_bytes // 4096 // 2
        await until(self.reactor, lambda: other.guests.held("g") is None)
        await until(self.reactor, lambda: not list((self.directory / other.name).iterdir()))
        return found

    async def end(self) -> None:
        for node in (self.near, self.far):
            if not node.cluster.is_down:
                await node.stop()


def play(directory: Path, act: Any) -> None:
    """Run ``act(scene)`` with a guest at work, and end it all."""

    async def scenario(reactor: Any) -> None:
        scene = Scene(reactor, directory)
        await scene.begin()
        try:
            await act(scene)
        finally:
            await scene.end()

    run_scenario(scenario)


def completed(report: Report) -> None:
    assert report.state == "completed", report
    assert report.reason == ""
    assert report.downtime_ms is not None
    assert 0 < report.downtime_ms < 5000
    assert "one clock" in report.downtime_measured
    assert [result.is_last for result in report.rounds].index(True) == len(report.rounds) - 1
    assert report.rounds[0].pages_dirty == SPEC.memory_bytes // 4096 // 2 + 1
    assert report.zero_pages_elided == SPEC.memory_bytes // 4096 // 2 - 1
    assert sum(result.pages_dirty for result in report.rounds[1:]) > 0


def test_a_guest_moves_while_it_runs_and_back_again(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        for near, far in ((scene.near, scene.far), (scene.far, scene.near)):
            before = await near.guests.show("g")
            report = await near.source.start("g", far.name).when_finished()
            completed(report)
            await scene.runs_at(far, near, before["counter"])
        record = scene.fabric.register.guest("g")
        assert record is not None
        assert (record.owner, record.epoch) == ("node1", 3)

    play(tmp_path, act)


def test_progress_is_seen_while_it_moves(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        migration = scene.start()
        seen: list[str] = []
        while migration.progress().report is None:
            progress = migration.progress()
            if not seen or seen[-1] != progress.state:
                seen.append(progress.state)
            assert 0 <= progress.percent <= 100
            await sleep(scene.reactor, 0.001)
        assert {"setup", "round 1"} <= set(seen)
        assert migration.progress().state == "completed"
        assert migration.progress().percent == 100

    play(tmp_path, act)


def test_a_paused_guest_moves_and_stays_paused(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        paused = await scene.near.guests.pause("g")
        report = await scene.start().when_finished()
        assert (report.state, report.downtime_ms) == ("completed", None)
        assert (await scene.far.guests.show("g"))["state"] == "paused"
        resumed = await scene.far.guests.resume("g")
        assert resumed["counter"] >= paused["counter"]
        await scene.runs_at(scene.far, scene.near, paused["counter"])

    play(tmp_path, act)


MOMENTS = [
    (Task.SEND_ROUND, 1),
    (Task.SEND_ROUND, 2),
    (Task.STOP_GUEST, 1),
    (Task.SEND_LAST_ROUND, 1),
    (Task.SEND_END, 1),
]


@pytest.mark.parametrize(("task", "nth"), MOMENTS)
def test_a_destination_that_is_killed_leaves_the_guest_running_at_the_source(
    tmp_path: Path, task: Task, nth: int
) -> None:
    async def act(scene: Scene) -> None:
        before = await scene.near.guests.show("g")
        migration = scene.start()
        scene.before(migration, task, scene.far.kill, nth=nth)
        report = await migration.when_finished()
        assert report.state == "failed"
        assert "link to the destination was lost" in report.reason
        description = await scene.near.guests.show("g")
        assert (description["owner"], description["state"]) == ("node1", "running")
        assert description["counter"] > before["counter"]
        await scene.has_rewritten(scene.near, description["pages_rewritten"] + 50)
        assert (await scene.near.guests.verify("g")).is_intact

    play(tmp_path, act)


def test_a_destination_that_is_killed_in_the_middle_of_a_round_leaves_the_guest_running(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        migration = scene.start()
        await until(scene.reactor, lambda: migration.progress().bytes_sent > 4 * MIB)
        assert migration.progress().is_cancellable
        await scene.far.kill()
        assert (await migration.when_finished()).state == "failed"
        await scene.has_rewritten(scene.near, 200)
        assert (await scene.near.guests.verify("g")).is_intact

    play(tmp_path, act)


@pytest.mark.parametrize(("task", "nth"), MOMENTS)
def test_a_cancelled_guest_goes_on_at_the_source(tmp_path: Path, task: Task, nth: int) -> None:
    async def act(scene: Scene) -> None:
        before = await scene.near.guests.show("g")
        migration = scene.start()

        async def cancel() -> None:
            migration.cancel()

        scene.before(migration, task, cancel, nth=nth)
        assert (await migration.when_finished()).state == "cancelled"
        await scene.runs_at(scene.near, scene.far, before["counter"])
        # And it can still be moved.
        completed(await scene.start().when_finished())
        await scene.runs_at(scene.far, scene.near, before["counter"])

    play(tmp_path, act)


def test_a_guest_cancelled_at_once_goes_on_at_the_source(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        before = await scene.near.guests.show("g")
        migration = scene.start()
        migration.cancel()
        assert (await migration.when_finished()).state == "cancelled"
        await scene.runs_at(scene.near, scene.far, before["counter"])

    play(tmp_path, act)


def test_a_guest_that_is_handed_over_cannot_be_cancelled(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        before = await scene.near.guests.show("g")
        migration = scene.start()

        async def cancel() -> None:
            with pytest.raises(CsvdError, match="can no longer be cancelled"):
                migration.cancel()

        scene.before(migration, Task.SUBMIT_MOVE, cancel)
        completed(await migration.when_finished())
        await scene.runs_at(scene.far, scene.near, before["counter"])

    play(tmp_path, act)


def test_a_refused_hand_over_lets_the_guest_go_on_at_the_source(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        before = await scene.near.guests.show("g")
        scene.fabric.fate = lambda command: Fate.REFUSED if command["op"] == "guest_move" else Fate.CARRIED_OUT
        report = await scene.start().when_finished()
        assert report.state == "failed"
        assert "the hand-over was refused" in report.reason
        await scene.runs_at(scene.near, scene.far, before["counter"])

    play(tmp_path, act)


@pytest.mark.parametrize("fate", [Fate.ANSWER_LOST, Fate.REQUEST_LOST, Fate.LATE])
def test_an_unknown_hand_over_ends_with_one_that_runs(tmp_path: Path, fate: Fate) -> None:
    """Found done, found not done, and done late: the destination is there, so it goes on there in the end."""

    async def act(scene: Scene) -> None:
        before = await scene.near.guests.show("g")
        fates = [fate]
        scene.fabric.fate = lambda command: fates.pop() if command["op"] == "guest_move" and fates else Fate.CARRIED_OUT
        report = await scene.start().when_finished()
        assert report.state == "completed"
        assert "the hand-over was unknown" in report.notes[0]
        await sleep(scene.reactor, LATE_S if fate is Fate.LATE else 0)
        await scene.runs_at(scene.far, scene.near, before["counter"])
        record = scene.fabric.register.guest("g")
        assert record is not None
        assert (record.owner, record.epoch) == ("node2", 2)

    play(tmp_path, act)


def test_an_unknown_hand_over_found_not_done_goes_back_when_the_destination_is_gone(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        before = await scene.near.guests.show("g")

        def fate(command: dict[str, Any]) -> Fate:
            if command["op"] != "guest_move" or command["new_owner"] != "node2":
                return Fate.CARRIED_OUT
            scene.near.cluster.links[-1].cut()
            return Fate.REQUEST_LOST

        scene.fabric.fate = fate
        report = await scene.start().when_finished()
        assert report.state == "failed"
        record = scene.fabric.register.guest("g")
        assert record is not None
        assert (record.owner, record.epoch) == ("node1", 2)
        await scene.runs_at(scene.near, scene.far, before["counter"])

    play(tmp_path, act)


def test_nobody_runs_while_the_register_is_silent(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        before = await scene.near.guests.show("g")
        scene.fabric.fate = lambda command: Fate.REQUEST_LOST if command["op"] == "guest_move" else Fate.CARRIED_OUT
        migration = scene.start()
        await scene.in_state(migration, "in doubt")
        guests = [node.guests.held("g") for node in (scene.near, scene.far)]
        for guest in guests:
            assert guest is not None
            assert guest.driver is not None
            assert not (await guest.driver.query_status()).is_running
        scene.fabric.fate = lambda command: Fate.CARRIED_OUT
        assert (await migration.when_finished()).state == "completed"
        await scene.runs_at(scene.far, scene.near, before["counter"])

    play(tmp_path, act)


def test_a_source_that_dies_after_the_hand_over_leaves_the_guest_running_at_the_destination(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        before = await scene.near.guests.show("g")
        scene.fabric.fate = lambda command: Fate.LATE if command["op"] == "guest_move" else Fate.CARRIED_OUT
        migration = scene.start()
        await scene.in_state(migration, "in doubt")
        await scene.near.kill()
        await until(scene.reactor, lambda: scene.far.guests.list_guests()[0]["state"] == "running")
        counter = await scene.has_rewritten(scene.far, 200)
        assert counter > before["counter"]
        assert (await scene.far.guests.verify("g")).is_intact

    play(tmp_path, act)


def test_a_destination_restarted_after_the_hand_over_holds_the_whole_guest(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.fabric.fate = lambda command: Fate.LATE if command["op"] == "guest_move" else Fate.CARRIED_OUT
        migration = scene.start()
        await scene.in_state(migration, "in doubt")
        await scene.far.kill()
        scene.fabric.watchers.clear()
        await sleep(scene.reactor, LATE_S + 0.1)
        await until(scene.reactor, lambda: migration.progress().report is not None, timeout_s=PATIENCE_S)
        assert migration.progress().state == "completed"

        del scene.fabric.nodes["node2"]
        scene.fabric.fate = lambda command: Fate.CARRIED_OUT
        scene.far = Node(scene.reactor, scene.fabric, "node2", scene.directory)
        await scene.far.guests.begin()
        description = await scene.far.guests.show("g")
        assert (description["owner"], description["state"]) == ("node2", "stopped")
        assert "handed over to node2 while the daemon there was down" in description["reason"]
        await scene.far.guests.start("g")
        await scene.has_rewritten(scene.far, 200)
        assert (await scene.far.guests.verify("g")).is_intact

    play(tmp_path, act)


def test_a_guest_killed_while_it_moves_is_stopped_at_the_source(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        migration = scene.start()
        await scene.in_state(migration, "round 1")
        guest = scene.near.guests.held("g")
        assert guest is not None
        assert guest.driver is not None
        await guest.driver.kill()
        report = await migration.when_finished()
        assert report.state == "failed"
        assert "SIGKILL" in report.reason
        description = await scene.near.guests.show("g")
        assert (description["owner"], description["state"]) == ("node1", "stopped")
        await scene.near.guests.start("g")
        assert (await scene.near.guests.show("g"))["state"] == "running"

    play(tmp_path, act)


def test_a_destination_without_room_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(scene: Scene) -> None:
        before = await scene.near.guests.show("g")
        monkeypatch.setattr("csvd.vm.files.available_memory_bytes", lambda: 1000)
        report = await scene.start().when_finished()
        assert report.state == "failed"
        assert "not enough memory" in report.reason
        await scene.runs_at(scene.near, scene.far, before["counter"])

    async def scenario(reactor: Any) -> None:
        scene = Scene(reactor, tmp_path)
        await scene.begin(GuestSpec(SPEC.memory_bytes, SPEC.pages_per_s, "shm"))
        try:
            await act(scene)
            await scene.near.guests.stop("g")
            await scene.near.guests.remove("g")
        finally:
            await scene.end()

    run_scenario(scenario)


def test_memory_is_read_and_written_outside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, set[int]] = {"read": set(), "write": set()}
    read_into, write = MemoryImage.read_into, MemoryImage.write

    def noted_read(image: MemoryImage, buffer: memoryview, offset_bytes: int) -> None:
        threads["read"].add(threading.get_ident())
        read_into(image, buffer, offset_bytes)

    def noted_write(image: MemoryImage, data: bytes | memoryview, offset_bytes: int) -> None:
        threads["write"].add(threading.get_ident())
        write(image, data, offset_bytes)

    async def act(scene: Scene) -> None:
        monkeypatch.setattr(MemoryImage, "read_into", noted_read)
        monkeypatch.setattr(MemoryImage, "write", noted_write)
        completed(await scene.start().when_finished())

    play(tmp_path, act)
    for identities in threads.values():
        assert identities
        assert threading.get_ident() not in identities


def test_a_name_that_another_node_uses_is_refused(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        with pytest.raises(CommandRefused, match="exists already"):
            await scene.far.guests.create("g", SPEC)
        with pytest.raises(CsvdError, match="it is on node1"):
            await scene.far.guests.start("g")

    play(tmp_path, act)
