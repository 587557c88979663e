"""A LUN of another target holds to the contract of all disks."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from csvd.storage.disk import FENCED
from csvd.storage.iscsi.disk import IscsiDisk
from initiator import ReservationType
from tests.integration.iscsi_store import IscsiStore
from tests.unit.storage.comparing_suite import ComparingSuite
from tests.unit.storage.disk_stores import Opener, Store
from tests.unit.storage.disk_suite import KeepingSuite, error_of, on_a_store, read
from tests.unit.storage.fencing_suite import FencingSuite, joined, opened


class TestIscsiDisks(KeepingSuite):
    """Over a target of csvd, with blocks of either length."""

    @pytest.fixture(params=[512, 4096])
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
        return IscsiStore(tmp_path, block_bytes=request.param)


class TestIscsiComparing(ComparingSuite):
    """By COMPARE AND WRITE."""

    @pytest.fixture(params=[512, 4096])
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
        return IscsiStore(tmp_path, block_bytes=request.param)


class TestIscsiFence(FencingSuite):
    """Nodes are kept off it by persistent reservations."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return IscsiStore(tmp_path)

    @on_a_store
    async def test_who_has_not_joined_writes_nothing_once_others_have(self, opener: Opener) -> None:
        outsider = await opener(node="x")
        await outsider.write_from((b"x" * 4096,), 0)
        _, place = await joined(opener, "a")
        assert (await error_of(outsider.write_from((b"y" * 4096,), 0))).errno == FENCED
        assert await read(await opener(node="z"), 0, 4096) == b"x" * 4096
        await place.leave()
        assert (await error_of(outsider.write_from((b"y" * 4096,), 0))).errno == FENCED

    @on_a_store
    async def test_nobody_joins_a_disk_that_is_reserved_in_another_way(self, opener: Opener) -> None:
        stranger = await opener(node="x")
        assert isinstance(stranger, IscsiDisk)
        held = stranger._unit.reservations
        await held.register(7, ignore_existing=True)
        for kind, name in (
            (ReservationType.WRITE_EXCLUSIVE, "WRITE EXCLUSIVE"),
            (ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY, "EXCLUSIVE ACCESS - REGISTRANTS ONLY"),
        ):
            await held.reserve(kind, key=7)
            _, place = await opened(opener, "a")
            error = await error_of(place.join("a"))
            assert error.errno == errno.EBUSY
            assert f"reserved otherwise: {name} by the key 0x0000000000000007" in str(error)
            await held.release(kind, key=7)

    @on_a_store
    async def test_nobody_joins_a_disk_that_all_registrants_hold(self, opener: Opener) -> None:
        stranger = await opener(node="x")
        assert isinstance(stranger, IscsiDisk)
        held = stranger._unit.reservations
        await held.register(7)
        await held.reserve(ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS, key=7)
        _, place = await opened(opener, "a")
        error = await error_of(place.join("a"))
        assert error.errno == errno.EBUSY
        assert str(error).endswith("reserved otherwise: WRITE EXCLUSIVE - ALL REGISTRANTS")

    @on_a_store
    async def test_a_node_that_comes_and_goes_leaves_no_registrations_behind(self, opener: Opener) -> None:
        a, _ = await joined(opener, "a")
        assert isinstance(a, IscsiDisk)
        for _ in range(3):
            for leaves in (True, False):
                b, place = await joined(opener, "b")
                if leaves:
                    await place.leave()
                await b.close()
        keys = (await a._unit.reservations.keys()).keys
        assert len(keys) == 2, "its own, and that of the last one who did not leave"
