"""Disks opened as logical units: what a setting becomes, one disk for all units over it, sizes that change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from csvd.errors import ConfigError
from csvd.scsi.logical_unit import LogicalUnit
from csvd.storage.disk import Disk, StorageError
from csvd.storage.memory import MemoryDisk
from csvd.target.units import Units, UnitSettings
from tests.unit.storage.pool_doubles import InlinePool, outcomes_of

SIZE = 1 << 20


class Opener:
    """Units over an inline pool."""

    def __init__(self) -> None:
        self.inline = InlinePool()
        self.units = Units(self.inline.pool)

    def open(self, path: Path, **settings: Any) -> LogicalUnit:
        settings.setdefault("number", 0)
        unit: LogicalUnit = self.settle(self.units.open(UnitSettings(disk=str(path), **settings)))
        return unit

    def settle(self, coroutine: Any) -> Any:
        return self.inline.settle(Deferred.fromCoroutine(coroutine))


@pytest.fixture
def opener() -> Opener:
    return Opener()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    return path


def test_a_disk_that_another_node_makes_at_the_same_time_is_opened(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link = tmp_path / "disk.img", os.link

    def too_late(source: str, name: str, **options: Any) -> None:
        path.write_bytes(b"theirs".ljust(SIZE))
        link(source, name, **options)

    monkeypatch.setattr(os, "link", too_late)
    unit = opener.open(path, create_bytes=SIZE)
    assert unit.block_count == SIZE // 512
    assert path.read_bytes() == b"theirs".ljust(SIZE)


def test_what_nobody_says_follows_from_the_disk(opener: Opener, disk: Path) -> None:
    unit = opener.open(disk)
    assert (unit.block_bytes, unit.block_count, unit.thin, unit.read_only) == (512, SIZE // 512, True, False)
    assert (unit.write_cache, unit.removable, unit.medium_rotation_rate) == (True, False, 0)
    assert unit.identity.serial == unit.device.identity()
    assert (unit.identity.vendor, unit.identity.product, unit.identity.revision) == ("CSVD", "VOLUME", "1")


def test_what_somebody_says_goes_before_it(opener: Opener, disk: Path) -> None:
    naa = bytes.fromhex("6024353000000000000000000000abcd")
    unit = opener.open(
        disk,
        number=3,
        full=True,
        removable=True,
        block_bytes=4096,
        physical_block_bytes=16384,
        vendor="ACME",
        product="DISK",
        revision="9",
        serial="s1",
        naa=naa,
        rotation_rate=7200,
        write_cache=False,
        maximum_transfer_bytes=1 << 20,
    )
    assert (unit.number, unit.block_count, unit.thin, unit.removable) == (3, SIZE // 4096, False, True)
    assert unit.logical_blocks_per_physical_block_exponent == 2
    names = unit.identity
    assert (names.vendor, names.product, names.revision, names.serial, names.naa) == ("ACME", "DISK", "9", "s1", naa)
    assert (unit.medium_rotation_rate, unit.write_cache, unit.maximum_transfer_blocks) == (7200, False, 256)


def test_its_names_are_the_same_after_a_restart(disk: Path) -> None:
    first, second = Opener().open(disk), Opener().open(disk)
    assert first.identity == second.identity
    assert first.identity != Opener().open(disk, serial="other").identity


def test_a_file_that_is_missing_is_made(opener: Opener, tmp_path: Path) -> None:
    thin, full = tmp_path / "thin.img", tmp_path / "full.img"
    opener.open(thin, create_bytes=SIZE)
    opener.open(full, create_bytes=SIZE, full=True)
    assert thin.stat().st_size == full.stat().st_size == SIZE
    assert full.stat().st_blocks * 512 >= SIZE
    assert thin.stat().st_blocks * 512 < SIZE


def test_a_file_of_another_size_is_taken_only_where_it_may_have_grown(opener: Opener, disk: Path) -> None:
    with pytest.raises(ConfigError, match=f"is there with {SIZE} bytes, not with the {SIZE // 2}"):
        opener.open(disk, create_bytes=SIZE // 2)
    assert opener.open(disk, create_bytes=SIZE // 2, may_have_grown=True).device.size_bytes == SIZE
    with pytest.raises(ConfigError, match="is there with"):
        opener.open(disk, create_bytes=2 * SIZE, may_have_grown=True)


def test_units_over_the_same_file_share_its_disk_and_its_locks(opener: Opener, disk: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(disk)
    first, second = opener.open(disk), opener.open(link, number=1, block_bytes=4096)
    other = opener.open(disk, number=2, read_only=True)
    assert first.device is second.device
    assert first.locks is second.locks is other.locks
    assert other.device is not first.device
    assert other.read_only
    assert opener.open(tmp_path / "b", create_bytes=SIZE).locks is not first.locks


def test_a_disk_is_closed_with_the_last_unit_over_it(opener: Opener, disk: Path) -> None:
    first, second = opener.open(disk), opener.open(disk, number=1)
    opener.settle(opener.units.close(first))
    assert first.device.fileno() >= 0
    opener.settle(opener.units.close(second))
    assert first.device.fileno() < 0
    opener.settle(opener.units.close(second))
    again = opener.open(disk)
    assert again.device is not first.device
    opener.settle(opener.units.close_all())
    assert again.device.fileno() < 0


def test_a_unit_that_can_not_be_made_leaves_no_disk_open(opener: Opener, disk: Path) -> None:
    with pytest.raises(ConfigError, match="not 2\\*\\*n logical blocks"):
        opener.open(disk, physical_block_bytes=512, block_bytes=4096)
    opener.inline.clock.run()
    assert opener.open(disk).device.fileno() >= 0


def test_a_resize_is_seen_by_every_unit_over_the_disk(opener: Opener, disk: Path) -> None:
    first, reader = opener.open(disk), opener.open(disk, number=1, read_only=True)
    assert set(opener.units.sharing(first)) == {first, reader}
    opener.settle(opener.units.resize(first, 2 * SIZE))
    assert first.device.size_bytes == reader.device.size_bytes == disk.stat().st_size == 2 * SIZE
    with disk.open("r+b") as file:
        file.truncate(4 * SIZE)
    opener.settle(opener.units.resize(first, None))
    assert first.device.size_bytes == reader.device.size_bytes == 4 * SIZE


def test_a_full_unit_that_grows_has_its_space(opener: Opener, disk: Path) -> None:
    unit = opener.open(disk, full=True)
    opener.settle(opener.units.resize(unit, 2 * SIZE, full=True))
    assert disk.stat().st_blocks * 512 >= 2 * SIZE


@pytest.mark.parametrize("size_bytes", [0, SIZE + 512])
def test_a_size_that_is_no_whole_number_of_every_units_blocks_is_refused(
    opener: Opener, disk: Path, size_bytes: int
) -> None:
    unit = opener.open(disk)
    opener.open(disk, number=1, block_bytes=4096)
    with pytest.raises(ConfigError, match="are not a whole number of"):
        opener.settle(opener.units.resize(unit, size_bytes))
    assert disk.stat().st_size == SIZE


def test_what_begins_beyond_a_new_end_is_refused_at_once(opener: Opener, disk: Path) -> None:
    unit = opener.open(disk)
    shrinking = Deferred.fromCoroutine(opener.units.resize(unit, SIZE // 2))
    late = outcomes_of(unit.device.write_from((bytes(512),), SIZE - 512))
    opener.inline.settle(shrinking)
    assert isinstance(late[0], StorageError)
    assert disk.stat().st_size == unit.device.size_bytes == SIZE // 2


def test_a_resize_that_fails_leaves_the_size_as_it_was(
    opener: Opener, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = opener.open(disk)

    def fail(_fd: int, _size: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(StorageError, match="resize at byte 0 failed: No space left"):
        opener.settle(opener.units.resize(unit, SIZE // 2))
    assert unit.device.size_bytes == SIZE


class LateDisks:
    """Disks that open and close when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.openings: list[Deferred[Disk]] = []
        self.cancelled = 0
        monkeypatch.setattr("csvd.target.units.open_disk", self._open)

    def _open(self, _url: str, **_options: object) -> Deferred[Disk]:
        def cancel(_: object) -> None:
            self.cancelled += 1

        self.openings.append(Deferred(cancel))
        return self.openings[-1]


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> LateDisks:
    return LateDisks(monkeypatch)


def opening_of(opener: Opener, disk: Path, **settings: Any) -> Deferred[LogicalUnit]:
    return Deferred.fromCoroutine(opener.units.open(UnitSettings(disk=str(disk), **settings)))


def test_two_who_open_a_disk_at_the_same_time_share_it(opener: Opener, disk: Path, late: LateDisks) -> None:
    outcomes = outcomes_of(opening_of(opener, disk, number=0), opening_of(opener, disk, number=1))
    assert outcomes == []
    late.openings[0].callback(MemoryDisk(SIZE))
    assert len(late.openings) == 1
    assert sorted(unit.number for unit in outcomes) == [0, 1]
    assert outcomes[0].device is outcomes[1].device
    assert outcomes[0].locks is outcomes[1].locks


def test_who_waits_for_an_opening_that_fails_tries_it_himself(opener: Opener, disk: Path, late: LateDisks) -> None:
    outcomes = outcomes_of(opening_of(opener, disk, number=0), opening_of(opener, disk, number=1))
    late.openings[0].errback(StorageError("open", 5, where="disk"))
    assert isinstance(outcomes[0], StorageError)
    late.openings[1].callback(MemoryDisk(SIZE))
    assert outcomes[1].number == 1


def test_an_opening_that_is_given_up_takes_nothing_from_who_waits_for_it(
    opener: Opener, disk: Path, late: LateDisks
) -> None:
    first, second = opening_of(opener, disk, number=0), opening_of(opener, disk, number=1)
    outcomes = outcomes_of(first, second)
    first.cancel()
    assert late.cancelled == 1
    assert isinstance(outcomes[0], CancelledError)
    late.openings[1].callback(MemoryDisk(SIZE))
    assert outcomes[1].number == 1


def test_a_disk_is_opened_anew_only_when_it_has_closed(opener: Opener, disk: Path, late: LateDisks) -> None:
    outcomes = outcomes_of(opening_of(opener, disk, number=0))
    memory = MemoryDisk(SIZE)
    late.openings[0].callback(memory)
    closed: Deferred[None] = Deferred()
    memory.close = lambda: closed  # type: ignore[method-assign]
    closing = Deferred.fromCoroutine(opener.units.close(outcomes[0]))
    opening = outcomes_of(opening_of(opener, disk, number=1))
    assert len(late.openings) == 1
    closed.callback(None)
    late.openings[1].callback(MemoryDisk(SIZE))
    assert opener.inline.settle(closing) is None
    assert opening[0].device is not memory


def test_what_is_no_file_is_not_created(opener: Opener) -> None:
    with pytest.raises(ConfigError, match="a null disk can not be created"):
        opener.open(Path("null:1M"), create_bytes=SIZE)
