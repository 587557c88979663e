"""Source and destination together, on one clock: the way through, and what can go wrong before the hand-over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from csvd.migration import outgoing
from csvd.migration.chunks import HEADER_BYTES, RoundReceived, encode_round_received, encode_zero
from csvd.migration.errors import ImageError, MigrationError
from csvd.migration.incoming import PATIENCE_S, IncomingState
from csvd.migration.outgoing import boot_id, boottime_ns
from csvd.migration.precopy import NoConvergence, Policy, Task, Verified
from csvd.vm.errors import GuestEnded, VmError
from tests.unit.migration.world import MEMORY, PAGE, World, moved, stayed

BEFORE_SUBMIT = ["setup", "round 1", "round 2", "stopping", "last round", "verifying"]
STOPPED = {"stopping", "last round", "verifying"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_guest_is_moved_with_every_byte(world: World) -> None:
    report = world.finished(world.start())
    moved(world)
    assert world.copies_are_equal()
    assert report.state == "completed"
    assert report.reason == ""
    assert report.notes == []
    assert report.tracker == "page-compare"
    assert [result.pages_dirty for result in report.rounds] == [768, 0, 0]
    assert [result.is_last for result in report.rounds] == [False, False, True]
    assert report.zero_pages_elided == (MEMORY >> 12) - 768
    assert report.bytes_sent == 768 * PAGE + (3 + 3) * HEADER_BYTES
    assert world.guest.did == ["stop", "release"]
    assert world.newcomer.did == ["ready", "adopt"]
    assert world.incoming.state is IncomingState.RUNNING
    assert all(link.is_lost for link in world.links)
    assert world.clock.getDelayedCalls() == []
    assert world.fabric.watchers == []


def test_what_the_guest_writes_meanwhile_is_moved_too(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "round 2")
    world.image.write(b"late" * 1024, 5 * PAGE)
    world.image.write_zeroes(1 << 20, PAGE)
    world.guest.on_stop = lambda: world.image.write(b"last" * 1024, 2047 * PAGE)
    report = world.finished(migration)
    assert report.state == "completed"
    assert world.copies_are_equal()
    assert sum(result.pages_zero for result in report.rounds) == 1


def test_the_downtime_is_told_by_the_one_clock_of_the_host(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = boottime_ns()

    async def stop() -> int:
        return now_ns

    async def adopt() -> int:
        return now_ns + 500_000

    monkeypatch.setattr(world.guest, "stop", stop)
    migration = world.start()
    world.step_until(migration, "round 1")
    monkeypatch.setattr(world.newcomer, "adopt", adopt)
    time.sleep(0.001)
    report = world.finished(migration)
    assert report.downtime_ms == 0.5
    assert "one clock" in report.downtime_measured


@pytest.mark.parametrize("there_ns", [-1, 10**15])
def test_a_clock_that_cannot_be_the_same_is_not_believed(
    world: World, monkeypatch: pytest.MonkeyPatch, there_ns: int
) -> None:
    now_ns = boottime_ns()

    async def stop() -> int:
        return now_ns

    async def adopt() -> int:
        return now_ns + there_ns

    monkeypatch.setattr(world.guest, "stop", stop)
    migration = world.start()
    world.step_until(migration, "round 1")
    monkeypatch.setattr(world.newcomer, "adopt", adopt)
    report = world.finished(migration)
    assert report.downtime_ms is not None
    assert 0 < report.downtime_ms < 60_000
    assert "source's clock" in report.downtime_measured


def test_between_hosts_the_source_takes_its_own_clock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csvd.migration.incoming.boot_id", lambda: bytes(16))
    monkeypatch.setattr("csvd.migration.outgoing.boottime_ns", lambda: 7_000_001)
    report = world.finished(world.start())
    assert report.downtime_ms == 7.0
    assert "source's clock" in report.downtime_measured


def test_the_boot_id_is_that_of_the_kernel() -> None:
    text = Path("/proc/sys/kernel/random/boot_id").read_text()
    assert boot_id().hex() == text.strip().replace("-", "")


def test_a_paused_guest_is_moved_paused_and_has_no_downtime(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.guest.is_running = False
    asked: list[dict[str, Any]] = []
    arrive = world.far_host.arrive

    async def watched(name: str, **arguments: Any) -> Any:
        asked.append(arguments)
        return await arrive(name, **arguments)

    monkeypatch.setattr(world.far_host, "arrive", watched)
    report = world.finished(world.start())
    assert report.state == "completed"
    assert report.downtime_ms is None
    assert [arguments["is_running"] for arguments in asked] == [False]


def test_progress_can_be_polled_all_the_way(world: World) -> None:
    migration = world.start()
    seen: list[str] = []
    left: dict[str, list[int]] = {}
    for _ in range(3000):
        progress = migration.progress()
        assert progress.to_json()["guest"] == "g"
        left.setdefault(progress.state, []).append(progress.remaining_bytes)
        assert 0 <= progress.percent <= 100
        assert progress.is_cancellable is (progress.state in BEFORE_SUBMIT)
        if progress.state not in seen:
            seen.append(progress.state)
        world.clock.advance(0.0001)
    assert seen[:2] == ["setup", "round 1"]
    assert seen[-1] == "completed"
    # The first round counts down; after it nothing is left of a guest that writes nothing.
    assert left["round 1"] == sorted(left["round 1"], reverse=True)
    assert left["setup"][0] == MEMORY
    assert 0 < left["round 1"][0] < MEMORY
    assert {0} == {value for state in ("round 2", "last round", "verifying") for value in left[state]}
    last = migration.progress()
    assert (last.percent, last.remaining_bytes) == (100.0, 0)
    assert last.report is not None
    assert last.report.to_json()["rounds"][0]["number"] == 1


@pytest.mark.parametrize("state", BEFORE_SUBMIT)
def test_it_can_be_cancelled_in_every_state_before_the_submit(world: World, state: str) -> None:
    migration = world.start()
    world.step_until(migration, state)
    migration.cancel("changed my mind")
    report = world.finished(migration)
    assert (report.state, report.reason) == ("cancelled", "changed my mind")
    stayed(world, was_stopped=state in STOPPED)
    assert world.clock.getDelayedCalls() == []
    assert world.fabric.watchers == []
    # And nothing stands against the next attempt.
    assert world.finished(world.start()).state == "completed"


def test_it_cannot_be_cancelled_once_the_hand_over_is_submitted(world: World) -> None:
    world.fabric.delay_s = 0.2
    migration = world.start()
    world.pass_s(0.3)
    assert migration.progress().state == "handing over"
    with pytest.raises(MigrationError, match="handing over"):
        migration.cancel()
    assert world.finished(migration).state == "completed"
    moved(world)


@pytest.mark.parametrize("state", BEFORE_SUBMIT[1:])
def test_a_link_lost_before_the_submit_leaves_the_guest_at_the_source(world: World, state: str) -> None:
    migration = world.start()
    world.step_until(migration, state)
    world.links[0].cut()
    report = world.finished(migration)
    assert report.state == "failed"
    assert "link to the destination was lost: cut by the test" in report.reason
    # One that was ready waits for a while before it settles with the register that the guest stays.
    world.pass_s(PATIENCE_S + 2, step_s=0.1)
    stayed(world, was_stopped=state in STOPPED)


def test_a_destination_that_is_not_there_leaves_the_guest_running(world: World) -> None:
    world.far.go_down()
    report = world.finished(world.start())
    assert report.state == "failed"
    assert "no link" in report.reason
    assert world.guest.did == ["stay"]


def test_a_destination_that_refuses_says_why(world: World) -> None:
    world.far_host.refuses = VmError("not enough space for the memory image", why="1 byte is free")
    report = world.finished(world.start())
    assert "not enough space for the memory image" in report.reason
    assert "1 byte is free" in report.reason
    assert world.guest.did == ["stay"]


def test_a_destination_whose_disk_is_full_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = world.start()
    world.step_until(migration, "round 1")

    def full(data: object, offset_bytes: int) -> None:
        raise ImageError("writing failed", why="No space left on device", errno=28)

    monkeypatch.setattr(world.incoming._image, "write", full)
    report = world.finished(migration)
    assert "the destination gave up" in report.reason
    assert "No space left on device" in report.reason
    stayed(world, was_stopped=False)


def test_a_damaged_stream_is_noticed_by_the_destination(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "round 1")
    world.links[1].tamper = lambda data: data if len(data) < PAGE else data[:-1] + bytes([data[-1] ^ 1])
    report = world.finished(migration)
    assert "CRC32C" in report.reason
    stayed(world, was_stopped=False)


def test_a_copy_with_another_digest_is_never_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = world.start()
    world.step_until(migration, "round 2")
    world.guest.on_stop = lambda: world.image.write(b"y" * PAGE, 0)
    copy = world.incoming._image
    original = copy.write

    def lossy(data: Any, offset_bytes: int) -> None:
        original(bytes(len(data)) if offset_bytes == 0 else data, offset_bytes)

    monkeypatch.setattr(copy, "write", lossy)
    report = world.finished(migration)
    assert "the copy differs from the original" in report.reason
    stayed(world)


def test_a_destination_that_breaks_the_rules_is_left(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "round 1")
    world.links[1].write_sequence([encode_zero(0, PAGE)])
    report = world.finished(migration)
    assert "may not come here" in report.reason
    stayed(world, was_stopped=False)


def test_an_answer_out_of_turn_is_left_too(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "round 1")
    world.links[1].write_sequence([encode_round_received(9)])
    report = world.finished(migration)
    assert str(RoundReceived(9)) in report.reason
    stayed(world, was_stopped=False)


def test_a_destination_that_talks_without_being_asked_is_left(world: World) -> None:
    world.fabric.delay_s = 0.5
    migration = world.start()
    world.pass_s(0.6)
    assert migration.progress().state == "handing over"
    for _ in range(3):
        world.links[1].write_sequence([encode_round_received(9)] * 100)
    assert world.finished(migration).state == "completed"
    notes = migration.progress().report.notes  # type: ignore[union-attr]
    assert [note for note in notes if "more than it was asked" in note] == notes[:1]


def test_a_destination_that_falls_silent_is_left(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "round 1")
    world.links[1].is_reading = False
    world.links[1].transport.resumeProducing = lambda: None  # type: ignore[method-assign]
    world.pass_s(31, step_s=0.5)
    report = world.finished(migration)
    assert "the destination is silent" in report.reason
    assert world.guest.did == ["stay"]


def test_a_guest_that_dies_in_a_round_ends_the_migration(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "round 1")
    world.guest.ended.callback(GuestEnded("its process ended", why="killed by SIGKILL"))
    report = world.finished(migration)
    assert "killed by SIGKILL" in report.reason
    stayed(world, was_stopped=False)


def test_a_guest_that_dies_after_its_last_write_is_moved_all_the_same(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "verifying")
    world.guest.ended.callback(GuestEnded("its process ended", why="killed by SIGKILL"))
    report = world.finished(migration)
    assert report.state == "completed"
    assert "killed by SIGKILL" in report.notes[0]
    moved(world)


def test_a_guest_that_does_not_stop_is_told_to_go_on(world: World) -> None:
    world.guest.fails["stop"] = VmError("an answer to stop did not come within 10 s")
    report = world.finished(world.start())
    assert "did not come within 10 s" in report.reason
    stayed(world)


def test_a_guest_that_does_not_go_on_is_reported(world: World) -> None:
    world.guest.fails["resume"] = VmError("its process ended")
    migration = world.start()
    world.step_until(migration, "verifying")
    migration.cancel()
    report = world.finished(migration)
    assert report.state == "cancelled"
    assert "did not go on at the source: its process ended" in report.notes[-1]


def test_a_policy_may_leave_a_busy_guest_where_it_is(world: World) -> None:
    migration = world.start(Policy(maximum_rounds=1, no_convergence=NoConvergence.ABORT))
    report = world.finished(migration)
    assert report.state == "failed"
    assert "not converged after 1 rounds" in report.reason
    stayed(world, was_stopped=False)


def test_a_fault_in_the_order_of_things_ends_in_a_report(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = world.start()
    world.step_until(migration, "round 1")

    async def out_of_turn() -> Verified:
        return Verified()

    monkeypatch.setitem(outgoing._PERFORM, Task.SEND_ROUND, lambda migration: out_of_turn())
    report = world.finished(migration)
    assert "Verified is not an input of the state round 2" in report.notes[0]
    assert world.guest.did == ["stay"]
