"""Source and destination together, on one clock: what may begin, what is given up, what is found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.errors import CsvdError
from csvd.migration.chunks import encode_failed
from csvd.migration.errors import MigrationError, MigrationRefused
from csvd.migration.incoming import STREAM_TIMEOUT_S, IncomingState
from csvd.migration.source import STOP_TIMEOUT_S
from csvd.vm.errors import VmError
from tests.unit.migration.fakes import Fate, errors_of, is_fired
from tests.unit.migration.world import MEMORY, PAGE, World, stayed, until_ready


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_guest_is_moved_once_at_a_time(world: World) -> None:
    world.start()
    with pytest.raises(MigrationRefused, match="is being moved already"):
        world.start()


def test_a_guest_is_not_moved_to_where_it_is(world: World) -> None:
    with pytest.raises(MigrationRefused, match="on that node already"):
        world.source.start("g", "node1")


def test_the_number_of_outgoing_migrations_is_limited(world: World) -> None:
    world.source._maximum_outgoing = 0
    with pytest.raises(MigrationRefused, match="0 guests are being moved"):
        world.start()


def test_the_number_of_incoming_migrations_is_limited(world: World) -> None:
    world.destination._maximum_incoming = 0
    assert "0 guests are on their way" in world.finished(world.start()).reason
    assert world.far_host.came == []


def test_a_migration_is_found_by_its_id_while_it_runs_and_after(world: World) -> None:
    migration = world.start()
    assert world.source.find(migration.migration_id) is migration
    world.finished(migration)
    assert world.source.find(migration.migration_id) is migration
    assert world.destination.migrations()[0].to_json()["migration_id"] == migration.migration_id
    with pytest.raises(MigrationError, match="no such migration"):
        world.source.find("00")


def test_a_source_that_does_not_own_the_guest_is_refused(world: World) -> None:
    world.guest.epoch = 7
    report = world.finished(world.start())
    assert "does not name node1 as the owner, epoch 7" in report.reason
    assert world.far_host.came == []


def request(**changes: Any) -> dict[str, Any]:
    """The parameters of a call to prepare."""
    return {
        "version": 1,
        "migration_id": "00" * 16,
        "guest": "g",
        "epoch": 1,
        "spec": {},
        "memory_bytes": MEMORY,
        "page_bytes": PAGE,
        "digest_seed": 1,
        "is_running": True,
        **changes,
    }


def prepare(world: World, params: dict[str, Any]) -> list[BaseException]:
    errors = errors_of(Deferred.fromCoroutine(world.near.call("node2", "migration.prepare", params, timeout_s=1)))
    world.pass_s(0.1)
    return errors


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"version": 2}, "version 2"),
        ({"migration_id": "zz"}, "malformed"),
        ({"guest": ""}, "malformed"),
        ({"memory_bytes": -1}, "malformed"),
        ({"epoch": "1"}, "malformed"),
        ({"spec": []}, "malformed"),
    ],
)
def test_a_malformed_request_is_refused(world: World, changes: dict[str, Any], complaint: str) -> None:
    (error,) = prepare(world, request(**changes))
    assert complaint in str(error)
    assert world.far_host.came == []


def test_a_source_that_does_not_open_its_stream_is_not_waited_for_for_ever(world: World) -> None:
    assert prepare(world, request()) == []
    world.pass_s(STREAM_TIMEOUT_S - 2, step_s=1)
    assert world.incoming.to_json()["state"] == "waiting"
    world.pass_s(4, step_s=1)
    assert world.incoming.to_json()["state"] == "discarded"
    assert world.newcomer.did == ["discard"]


def test_a_source_that_falls_silent_is_not_waited_for_for_ever(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "round 1")
    # Hung, not dead: its end of the link stays open.
    world.links[1].tamper = lambda data: b""
    world.pass_s(20, step_s=1)
    world.links[0].lose = lambda: None  # type: ignore[method-assign]
    world.pass_s(80, step_s=1)
    assert world.incoming.state is IncomingState.DISCARDED


def test_a_second_prepare_of_a_live_migration_is_refused(world: World) -> None:
    world.step_until(world.start(), "round 1")
    (error,) = prepare(world, request())
    assert "on its way to this node already" in str(error)


def test_an_orphaned_copy_makes_way_for_the_next_attempt(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "verifying")
    until_ready(world)
    world.links[0].cut()
    assert world.finished(migration).state == "failed"
    orphan = world.newcomer
    assert orphan.did == ["ready"]
    again = world.start()
    assert world.finished(again).state == "completed"
    assert orphan.did == ["ready", "discard"]
    assert world.newcomer.did == ["ready", "adopt"]


def test_a_stream_that_nobody_expects_is_refused(world: World) -> None:
    errors = errors_of(
        Deferred.fromCoroutine(world.near.open_stream("node2", "migration", {"migration_id": "11" * 16}))
    )
    assert "no such migration is expected" in str(errors[0])


def test_a_stopping_source_calls_off_what_it_can(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "round 1")
    stopped = Deferred.fromCoroutine(world.source.stop())
    world.pass_s(1)
    assert is_fired(stopped)
    report = migration.progress().report
    assert report is not None
    assert (report.state, report.reason) == ("cancelled", "this node is shutting down")
    stayed(world, was_stopped=False)
    with pytest.raises(MigrationRefused, match="shutting down"):
        world.start()


def test_a_stopping_destination_gives_up_what_is_not_complete(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "round 1")
    stopped = Deferred.fromCoroutine(world.destination.stop())
    report = world.finished(migration)
    assert is_fired(stopped)
    assert "the destination is shutting down" in report.reason
    stayed(world, was_stopped=False)
    assert "shutting down" in str(prepare(world, request())[0])


def test_failing_of_the_destination_is_heard_at_once(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "round 1")
    world.links[1].write_sequence([encode_failed("its host is on fire")])
    report = world.finished(migration)
    assert report.reason == "the destination gave up: its host is on fire"


def test_in_flight_bytes_are_bounded_however_slow_the_destination_reads(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "setup")
    while not world.near.links:
        world.clock.advance(0.0001)
    far = world.links[1]
    far.is_reading = False
    for _ in range(200):
        world.clock.advance(0.0001)
    assert migration.progress().state == "round 1"
    assert PAGE < far.most_waiting_bytes <= 2 * (2 << 20)
    far.transport.resumeProducing()
    assert world.finished(migration).state == "completed"


def test_errors_of_hosts_are_errors_of_csvd() -> None:
    assert issubclass(VmError, CsvdError)


def test_a_stopping_source_does_not_wait_for_ever_for_the_register(world: World) -> None:
    migration = world.start()
    world.step_until(migration, "verifying")
    world.fabric.fate = lambda command: Fate.REQUEST_LOST
    world.pass_s(0.1)
    assert migration.progress().state == "in doubt"
    stopped = Deferred.fromCoroutine(world.source.stop())
    world.pass_s(STOP_TIMEOUT_S - 1, step_s=0.1)
    assert not is_fired(stopped)
    world.pass_s(2, step_s=0.1)
    assert is_fired(stopped)
    assert world.guest.did == ["stop"]


def test_nothing_large_is_kept_of_what_has_ended(world: World) -> None:
    migration = world.start()
    world.finished(migration)
    arrival = world.incoming
    assert (migration._tracker, migration._sender) == (None, None)
    assert (arrival._writer, arrival._receiver, arrival._link) == (None, None, None)
    assert arrival.to_json()["bytes_received"] > 3 << 20
