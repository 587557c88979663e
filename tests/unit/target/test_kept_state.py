"""What logical units keep over restarts: durable, in order, shared, and never silently forgotten."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from csvd.errors import ConfigError
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.storage.disk import StorageError
from csvd.storage.memory import MemoryDisk
from csvd.storage.pool import DiskPool
from csvd.target.kept_state import DirectoryHeld, KeptState, hold
from tests.unit.storage.pool_doubles import HeldThreads, InlinePool, PoolClock, outcomes_of


def unit_of(serial: str = "one") -> LogicalUnit:
    return LogicalUnit(0, MemoryDisk(4096), 512, 8, Identity(serial=serial))


def kept_after_restart(directory: Path, serial: str = "one") -> dict[str, Any]:
    state = KeptState(directory, InlinePool().pool)
    unit = unit_of(serial)
    try:
        state.attach(unit)
    finally:
        state.close()
    assert unit.keeps
    return unit.kept


def keep(directory: Path, **values: Any) -> Path:
    """Keep values of one unit; give its file."""
    rig = InlinePool()
    state = KeptState(directory, rig.pool)
    unit = unit_of()
    state.attach(unit)
    for name, value in values.items():
        rig.settle(state.keep(unit, name, value))
    state.close()
    return directory / f"{unit.identity.naa.hex()}.state"


def test_a_unit_that_kept_nothing_begins_empty(tmp_path: Path) -> None:
    assert kept_after_restart(tmp_path / "made" / "here") == {}


def test_values_are_there_after_a_restart_and_forgotten_ones_are_not(tmp_path: Path) -> None:
    rig = InlinePool()
    state = KeptState(tmp_path, rig.pool)
    one, two = unit_of("one"), unit_of("two")
    state.attach(one)
    state.attach(two)
    rig.settle(state.keep(one, "pages", {"8": "00ff"}))
    rig.settle(state.keep(one, "reservations", [1, None, "é"]))
    rig.settle(state.keep(two, "pages", True))
    rig.settle(state.keep(one, "pages", None))
    state.close()
    assert kept_after_restart(tmp_path) == {"reservations": [1, None, "é"]}
    assert kept_after_restart(tmp_path, "two") == {"pages": True}


def test_only_its_owner_may_look_into_it(tmp_path: Path) -> None:
    path = keep(tmp_path / "state", a=1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_write_waits_for_the_one_before_and_takes_along_what_came_meanwhile(tmp_path: Path) -> None:
    clock, threads = PoolClock(), HeldThreads()
    state = KeptState(tmp_path, DiskPool(clock, threads=4, thread_pool=threads))
    unit = unit_of()
    state.attach(unit)
    value = [1]
    first = outcomes_of(state.keep(unit, "a", value))
    value.append(2)
    clock.run()
    rest = outcomes_of(state.keep(unit, "a", "second"), state.keep(unit, "a", "third"), state.keep(unit, "b", 1))
    clock.run()
    assert len(threads.held) == 1
    threads.run_one()
    clock.run()
    assert (first, rest) == ([None], [])
    assert b'"a":[1]' in next(tmp_path.glob("*.state")).read_bytes(), "as it was when it was handed over"
    threads.run_one()
    clock.run()
    assert rest == [None] * 3
    assert threads.hand_offs == 2
    state.close()
    assert kept_after_restart(tmp_path) == {"a": "third", "b": 1}


def test_later_writes_come_in_their_order(tmp_path: Path) -> None:
    rig = InlinePool()
    state = KeptState(tmp_path, rig.pool)
    unit = unit_of()
    state.attach(unit)
    outcomes = outcomes_of(*(state.keep(unit, "a", number) for number in range(200)))
    rig.clock.run()
    assert outcomes == [None] * 200
    assert rig.threads.hand_offs < 10
    state.close()
    assert kept_after_restart(tmp_path) == {"a": 199}


@pytest.mark.parametrize("failing", ["fsync", "rename", "write", "open"])
def test_what_can_not_be_written_is_an_error_and_what_was_kept_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    rig = InlinePool()
    state = KeptState(tmp_path, rig.pool)
    unit = unit_of()
    state.attach(unit)
    rig.settle(state.keep(unit, "a", 1))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(StorageError) as caught:
            rig.settle(state.keep(unit, "lost", 1))
    assert caught.value.errno == errno.ENOSPC
    rig.settle(state.keep(unit, "b", 2))
    state.close()
    assert kept_after_restart(tmp_path) == {"a": 1, "b": 2}


def test_the_file_and_its_name_are_synced_before_anyone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = InlinePool()
    state = KeptState(tmp_path, rig.pool)
    unit = unit_of()
    state.attach(unit)
    order: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        order.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def rename(*arguments: Any, **options: Any) -> None:
        order.append("rename")
        real_rename(*arguments, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    state.keep(unit, "a", 1).addCallback(lambda _: order.append("told"))
    rig.clock.run()
    assert order == ["file", "rename", "directory", "told"]
    state.close()


def test_units_with_one_designator_share_what_is_kept(tmp_path: Path) -> None:
    rig = InlinePool()
    state = KeptState(tmp_path, rig.pool)
    here, there = unit_of(), unit_of()
    state.attach(here)
    state.attach(there)
    assert here.kept is there.kept
    rig.settle(state.keep(here, "a", 1))
    rig.settle(state.keep(there, "b", 2))
    state.close()
    assert kept_after_restart(tmp_path) == {"a": 1, "b": 2}


def cut(content: bytes) -> bytes:
    return content[:-1]


def lengthen(content: bytes) -> bytes:
    return content + b"\0"


def flip(content: bytes) -> bytes:
    return content[:-5] + bytes((content[-5] ^ 1,)) + content[-4:]


def empty(_content: bytes) -> bytes:
    return b""


def garble(content: bytes) -> bytes:
    return b"\xff" + content[1:]


@pytest.mark.parametrize("damage", [cut, lengthen, flip, empty, garble])
def test_a_damaged_file_ends_the_start_with_its_name(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = keep(tmp_path, a=1)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError) as caught:
        kept_after_restart(tmp_path)
    assert str(path) in str(caught.value)
    assert "damaged" in str(caught.value)


def test_every_flipped_bit_and_every_cut_is_found(tmp_path: Path) -> None:
    path = keep(tmp_path, a=1)
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ConfigError):
            kept_after_restart(tmp_path)
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(ConfigError):
            kept_after_restart(tmp_path)


def test_the_file_of_another_unit_is_not_taken(tmp_path: Path) -> None:
    path = keep(tmp_path, a=1)
    path.rename(tmp_path / f"{unit_of('two').identity.naa.hex()}.state")
    with pytest.raises(ConfigError, match="of the logical unit"):
        kept_after_restart(tmp_path, "two")


def test_a_file_of_a_later_version_says_so(tmp_path: Path) -> None:
    path = keep(tmp_path, a=1)
    path.write_bytes(path.read_bytes().replace(b"csvd-unit-state 1 ", b"csvd-unit-state 2 "))
    with pytest.raises(ConfigError, match="version 2"):
        kept_after_restart(tmp_path)


def test_a_torn_new_file_beside_the_good_one_does_not_matter(tmp_path: Path) -> None:
    path = keep(tmp_path, a=1)
    path.with_name(f".{path.name}.part").write_bytes(b"half")
    assert kept_after_restart(tmp_path) == {"a": 1}


def test_a_directory_serves_one_process(tmp_path: Path) -> None:
    state = KeptState(tmp_path, InlinePool().pool)
    with pytest.raises(ConfigError, match="another process"):
        KeptState(tmp_path, InlinePool().pool)
    state.close()
    state.close()
    KeptState(tmp_path, InlinePool().pool).close()


def test_a_directory_that_can_not_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="can not be used"):
        KeptState(tmp_path / "file" / "below", InlinePool().pool)


def test_a_directory_is_held_until_every_descriptor_of_it_is_closed(tmp_path: Path) -> None:
    """A daemon gives it to its workers: one that is left over keeps the next daemon out."""
    mine = hold(tmp_path)
    given = os.dup(mine)
    os.close(mine)
    with pytest.raises(DirectoryHeld, match="can not be used"):
        hold(tmp_path)
    rig = InlinePool()
    state, unit = KeptState(tmp_path, rig.pool, descriptor=given), unit_of()
    state.attach(unit)
    rig.settle(state.keep(unit, "a", 1))
    state.close()
    assert kept_after_restart(tmp_path) == {"a": 1}


def test_what_another_process_kept_meanwhile_is_seen_when_a_unit_comes_back(tmp_path: Path) -> None:
    rig = InlinePool()
    state, unit, same = KeptState(tmp_path, rig.pool), unit_of(), unit_of()
    state.attach(unit)
    state.attach(same)
    rig.settle(state.keep(unit, "a", 1))
    state.detach(unit)
    rig.settle(state.keep(same, "a", 2))
    state.detach(same)
    state.detach(same)
    other = keep(tmp_path / "other", a=3)
    other.rename(tmp_path / other.name)
    state.attach(back := unit_of())
    assert back.kept == {"a": 3}
    state.close()


def test_a_unit_that_comes_back_before_its_change_is_durable_does_not_lose_it(tmp_path: Path) -> None:
    clock, threads = PoolClock(), HeldThreads()
    state, unit = KeptState(tmp_path, DiskPool(clock, threads=4, thread_pool=threads)), unit_of()
    state.attach(unit)
    unit.kept["a"] = 1
    outcomes = outcomes_of(state.keep(unit, "a", 1))
    clock.run()
    state.detach(unit)
    state.attach(back := unit_of())
    assert back.kept is unit.kept
    state.detach(back)
    threads.run_one()
    clock.run()
    assert outcomes == [None]
    state.attach(later := unit_of())
    assert later.kept == {"a": 1}
    assert later.kept is not unit.kept
    state.close()
