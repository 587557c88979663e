"""Source and destination together, on one clock: every way a hand-over can go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from csvd.migration.incoming import PATIENCE_S, IncomingState
from csvd.vm.errors import VmError
from tests.unit.migration.fakes import LATE_S, Fate
from tests.unit.migration.world import World, moved, stayed, until_ready


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def on_move(fate: Fate, *, times: int = 1) -> Any:
    """That fate for the first moves to node2, and none for other commands."""
    left = [times]

    def fate_of(command: dict[str, Any]) -> Fate:
        if command["op"] == "guest_move" and command["new_owner"] == "node2" and left[0]:
            left[0] -= 1
            return fate
        return Fate.CARRIED_OUT

    return fate_of


def test_a_refused_hand_over_lets_the_guest_go_on_at_the_source(world: World) -> None:
    world.fabric.fate = on_move(Fate.REFUSED)
    report = world.finished(world.start())
    assert report.state == "failed"
    assert "the hand-over was refused: refused by the test" in report.reason
    stayed(world)
    assert world.owner() == ("node1", 1)


def test_a_hand_over_that_was_done_unheard_goes_on_at_the_destination(world: World) -> None:
    world.fabric.fate = on_move(Fate.ANSWER_LOST)
    report = world.finished(world.start())
    assert report.state == "completed"
    moved(world)


def test_a_hand_over_that_was_never_done_is_tried_again_while_the_destination_is_there(world: World) -> None:
    world.fabric.fate = on_move(Fate.REQUEST_LOST)
    report = world.finished(world.start())
    assert report.state == "completed"
    assert "the hand-over was unknown: lost by the test" in report.notes[0]
    moved(world)


def test_a_late_hand_over_is_done_once(world: World) -> None:
    world.fabric.fate = on_move(Fate.LATE)
    report = world.finished(world.start())
    world.pass_s(LATE_S + 0.1)
    assert report.state == "completed"
    moved(world)


@pytest.mark.parametrize("fate", [Fate.REQUEST_LOST, Fate.LATE, Fate.ANSWER_LOST])
def test_with_the_destination_lost_in_doubt_exactly_one_runs(world: World, fate: Fate) -> None:
    seen = on_move(fate)

    def fate_of(command: dict[str, Any]) -> Fate:
        result: Fate = seen(command)
        if result is not Fate.CARRIED_OUT:
            world.clock.callLater(0.005, world.links[0].cut)
        elif command["op"] == "guest_read":
            # Long enough for the link to be lost before anybody proposes.
            return Fate.REQUEST_LOST if world.clock.seconds() < 0.1 else Fate.CARRIED_OUT
        return result

    migration = world.start()
    world.step_until(migration, "verifying")
    world.fabric.fate = fate_of
    report = world.finished(migration)
    world.pass_s(PATIENCE_S + 3, step_s=0.1)
    owner = world.owner()[0]
    assert ("resume" in world.guest.did) is (owner == "node1")
    assert ("adopt" in world.newcomer.did) is (owner == "node2")
    assert report.state == ("completed" if owner == "node2" else "failed")
    assert owner == ("node2" if fate is Fate.ANSWER_LOST else "node1")


def test_in_doubt_nobody_runs_until_the_register_answers(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "verifying")
    world.fabric.fate = lambda command: Fate.REQUEST_LOST
    world.pass_s(10, step_s=0.1)
    assert migration.progress().state == "in doubt"
    assert world.guest.did == ["stop"]
    assert world.newcomer.did == ["ready"]
    world.fabric.fate = lambda command: Fate.CARRIED_OUT
    world.pass_s(3, step_s=0.1)
    assert world.finished(migration).state == "completed"
    moved(world)


def test_a_guest_that_the_register_gives_to_a_third_runs_on_neither_side(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "verifying")
    world.fabric.apply({"op": "guest_move", "name": "g", "owner": "node1", "epoch": 1, "new_owner": "node3"})
    report = world.finished(migration)
    assert report.state == "failed"
    assert "neither side" in report.reason
    assert world.guest.did == ["stop", "end"]
    assert world.newcomer.did == ["ready", "discard"]


def test_a_register_that_says_the_guest_stays_frees_the_destination(world: World) -> None:
    """Someone raises the epoch while the copy is ready: the source is refused, and both see that it stays."""
    migration = world.start()
    world.step_until(migration, "verifying")
    world.fabric.apply({"op": "guest_move", "name": "g", "owner": "node1", "epoch": 1, "new_owner": "node1"})
    report = world.finished(migration)
    assert report.state == "failed"
    stayed(world)
    assert world.owner() == ("node1", 2)


def test_a_source_that_dies_before_the_submit_leaves_the_copy_to_the_register(world: World) -> None:
    """The ready destination hears nothing more; it makes the hand-over impossible, then throws its copy away."""
    migration = world.start()
    world.step_until(migration, "verifying")
    world.fabric.delay_s = 0.001
    until_ready(world)
    world.near.go_down()
    world.pass_s(PATIENCE_S - 1, step_s=0.1)
    assert world.newcomer.did == ["ready"]
    world.pass_s(3, step_s=0.1)
    assert world.newcomer.did == ["ready", "discard"]
    assert world.owner() == ("node1", 2)


def test_a_source_that_dies_after_the_submit_leaves_the_guest_to_the_destination(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "verifying")
    world.fabric.fate = on_move(Fate.LATE)
    while not any(command["op"] == "guest_move" for command in world.fabric.commands):
        world.clock.advance(0.0001)
    world.clock.advance(0.001)
    world.near.go_down()
    world.pass_s(LATE_S + 0.2)
    assert world.newcomer.did == ["ready", "adopt"]
    assert world.owner() == ("node2", 2)


def test_a_destination_lost_after_the_move_owns_the_guest_unconfirmed(world: World) -> None:
    world.fabric.fate = on_move(Fate.CARRIED_OUT)
    migration = world.start()
    world.step_until(migration, "verifying")

    def cut(command: dict[str, Any]) -> Fate:
        if command["op"] == "guest_move":
            world.links[0].cut()
        return Fate.CARRIED_OUT

    world.fabric.fate = cut
    report = world.finished(migration)
    assert report.state == "completed"
    assert report.downtime_ms is None
    assert "has not said that it runs" in report.notes[-1]
    moved(world)


def test_a_guest_that_does_not_start_at_the_destination_is_reported(world: World) -> None:
    world.far_host.incoming_fails["adopt"] = VmError("its process ended", why="killed by SIGKILL")
    report = world.finished(world.start())
    assert report.state == "completed"
    assert "killed by SIGKILL" in report.notes[-1]
    assert world.owner() == ("node2", 2)
    assert world.guest.did == ["stop", "release"]
    assert world.newcomer.did == ["ready", "adopt"]
    assert world.incoming.state is IncomingState.STOPPED


def test_a_destination_whose_process_is_not_well_is_not_handed_the_guest(world: World) -> None:
    world.far_host.incoming_fails["ready"] = VmError("its process ended")
    report = world.finished(world.start())
    assert "its process ended" in report.reason
    stayed(world)


def test_a_release_that_fails_is_a_note_not_a_failure(world: World) -> None:
    world.guest.fails["release"] = VmError("the image cannot be removed")
    report = world.finished(world.start())
    assert report.state == "completed"
    assert "the image cannot be removed" in report.notes[0]


def test_a_fault_of_this_program_leaves_the_guest_at_the_source(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = world.start()
    world.step_until(migration, "round 2")

    def broken() -> bytes:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(migration._tracker, "digest", broken)
    monkeypatch.setattr(migration, "_run_in_thread", lambda job: job())
    report = world.finished(migration)
    assert "a fault of csvd: ZeroDivisionError: oops" in report.reason
    stayed(world)
