"""A disk that fails: sense data with the LBA, and a session that lives on."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from csvd.storage.disk import StorageError
from tests.pair.joined import BLOCK_BYTES, Pair
from tests.pair.test_engines import logged_in

MEDIUM_ERROR, HARDWARE_ERROR, DATA_PROTECT = 3, 4, 7


def failing(pair: Pair, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception) -> None:
    def broken(*_: Any, **__: Any) -> Deferred[None]:
        return fail(error)

    monkeypatch.setattr(pair.disk, "read_nowait", lambda *_: False)
    monkeypatch.setattr(pair.disk, "write_nowait", lambda *_: False)
    monkeypatch.setattr(pair.disk, method, broken)


def test_a_read_error_is_a_medium_error_with_the_lba(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = logged_in(Pair())
    error = StorageError("read", errno.EIO, where="disk", offset_bytes=7 * BLOCK_BYTES)
    failing(pair, monkeypatch, "read_into", error)
    command, _ = pair.read(5, 4)
    pair.ask(command)
    assert command.status == 2
    assert (command.sense[2] & 0xF, command.sense[12]) == (MEDIUM_ERROR, 0x11)
    assert int.from_bytes(command.sense[3:7]) == 7
    monkeypatch.undo()
    command, _ = pair.read(5, 4)
    pair.ask(command)
    assert command.status == 0


def test_a_full_disk_is_space_allocation_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = logged_in(Pair())
    failing(pair, monkeypatch, "write_from", StorageError("write", errno.ENOSPC, where="disk"))
    command = pair.write(0, bytes(BLOCK_BYTES))
    pair.ask(command)
    assert (command.sense[2] & 0xF, *command.sense[12:14]) == (DATA_PROTECT, 0x27, 0x07)


def test_a_failed_flush_is_never_good(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = logged_in(Pair())
    failing(pair, monkeypatch, "write_from", StorageError("flush", errno.EIO, where="disk"))
    command = pair.write(0, bytes(BLOCK_BYTES), fua=True)
    pair.ask(command)
    assert command.status == 2


def test_a_fault_of_ours_is_a_hardware_or_medium_error_to_them_and_the_session_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = logged_in(Pair())
    failing(pair, monkeypatch, "read_into", RuntimeError("a bug"))
    command, _ = pair.read(0, 1)
    pair.ask(command)
    assert command.status == 2
    assert command.sense[2] & 0xF in (MEDIUM_ERROR, HARDWARE_ERROR)
    monkeypatch.undo()
    command, _ = pair.read(0, 1)
    pair.ask(command)
    assert command.status == 0


def test_a_handler_that_fails_costs_its_command_and_not_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = logged_in(Pair())

    def broken(*_: Any) -> Any:
        raise AttributeError("a bug")

    monkeypatch.setattr(pair.executor.device, "start", broken)
    command, _ = pair.read(0, 1)
    pair.ask(command)
    assert command.status == 2
    assert (command.sense[2] & 0xF, command.sense[12]) == (HARDWARE_ERROR, 0x44)
    monkeypatch.undo()
    command, _ = pair.read(0, 1)
    pair.ask(command)
    assert command.status == 0
