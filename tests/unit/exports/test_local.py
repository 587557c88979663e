"""Disks that are made when a node starts to serve them, while other nodes start, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred

from csvd.errors import ConfigError
from csvd.exports.local import LocalServing

NOT_USED: Any = None


def serving(run: Callable[[Callable[[], Any]], Deferred[Any]]) -> LocalServing:
    return LocalServing(NOT_USED, NOT_USED, NOT_USED, portals=None, run=run, tell=NOT_USED)


def made(disk: str, before: Callable[[], object]) -> None:
    """Have a disk made; something happens after it was not there and before it is made."""

    def run(job: Callable[[], Any]) -> Deferred[Any]:
        before()
        return maybeDeferred(job)

    section: Any = SimpleNamespace(number=0, disk=disk, create=1 << 20, provisioning="thin", block_bytes=512)
    errors: list[Any] = []
    Deferred.fromCoroutine(serving(run)._create(section)).addErrback(errors.append)
    for error in errors:
        error.raiseException()


def test_a_disk_that_another_node_made_meanwhile_is_taken_as_it_is(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    made(str(disk), lambda: disk.write_bytes(b"the other's"))
    assert disk.read_bytes() == b"the other's"


def test_a_disk_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        made(str(tmp_path / "missing" / "disk"), lambda: None)
