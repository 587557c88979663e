"""Opening a LUN of another target: every wrong setting is one clear error, and nothing is left open."""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.errors import ConfigError, CsvdError
from csvd.storage.disk import StorageError
from csvd.storage.open import create_disk, is_there, kind_of, open_disk, place_of
from csvd.storage.pool import DiskPool
from tests.integration.iscsi_store import TARGET, IscsiStore
from tests.unit.storage.reactor_loop import run_in_reactor

URL = "iscsi://host/iqn.2026-11.org.example:a/3"


def on_target(store: IscsiStore, body: Callable[[DiskPool], Coroutine[Deferred[Any], Any, None]]) -> None:
    async def main(reactor: Any) -> None:
        pool = DiskPool(reactor)
        async with store.ready(reactor):
            await body(pool)
            assert store.sessions() == [], "nothing is left open"
        await pool.stop()

    run_in_reactor(main)


async def refusal(opening: Deferred[Any]) -> CsvdError:
    with pytest.raises(CsvdError) as caught:
        await opening
    assert "\n" not in str(caught.value)
    return caught.value


def test_names_of_one_lun_have_one_place() -> None:
    names = ["iscsi://host/iqn.2026-11.org.example:a/3", "iscsi://joe@HOST:3260/iqn.2026-11.org.example:a/3"]
    assert len({place_of(name) for name in names}) == 1
    assert place_of(URL) != place_of(URL.replace("/3", "/4"))
    assert kind_of(URL) == "iscsi"


@pytest.mark.parametrize("url", ["iscsi://host", "iscsi:///iqn.2026-11.org.example:a/3", "iscsi://host/a/b"])
def test_what_is_no_url_has_no_place(url: str) -> None:
    with pytest.raises(ConfigError):
        place_of(url)


def test_a_secret_does_not_stand_in_a_url_and_is_never_told() -> None:
    url = "iscsi://joe%opensesame12345@host/iqn.2026-11.org.example:a/3"
    with pytest.raises(ConfigError, match="has a secret in it") as caught:
        place_of(url)
    assert "opensesame12345" not in str(caught.value)


def test_a_lun_of_another_target_is_not_created() -> None:
    assert not is_there(URL)
    with pytest.raises(ConfigError, match="can not be created"):
        create_disk(URL, 1 << 20)


def test_blocks_that_would_have_to_be_read_and_written_back_are_refused(tmp_path: Path) -> None:
    store = IscsiStore(tmp_path, block_bytes=4096)

    async def body(pool: DiskPool) -> None:
        error = await refusal(open_disk(store.url, pool=pool, block_bytes=512))
        assert isinstance(error, ConfigError)
        assert error.what == "blocks of 512 bytes do not go over a LUN with blocks of 4096"
        disk = await open_disk(store.url, pool=pool, block_bytes=4096)
        for failing in (disk.write_from((bytes(512),), 512), disk.read_into(memoryview(bytearray(512)), 4096)):
            with pytest.raises(StorageError) as failed:
                await failing
            assert failed.value.errno == errno.EINVAL
        await disk.close()

    on_target(store, body)


def test_large_blocks_go_over_small_ones(tmp_path: Path) -> None:
    store = IscsiStore(tmp_path)

    async def body(pool: DiskPool) -> None:
        disk = await open_disk(store.url, pool=pool, block_bytes=4096)
        await disk.write_from((b"x" * 4096,), 8192)
        await disk.close()
        assert store.path.read_bytes()[8192:12288] == b"x" * 4096

    on_target(store, body)


def test_what_is_not_there_or_not_allowed_is_told(tmp_path: Path) -> None:
    store = IscsiStore(tmp_path, read_only=True)

    async def body(pool: DiskPool) -> None:
        error = await refusal(open_disk(store.url.replace("/0", "/7").replace("12/0", "127.0.0.1"), pool=pool))
        assert "LUN 7" in str(error)
        error = await refusal(open_disk(store.url.replace(TARGET, f"{TARGET}.other"), pool=pool))
        assert isinstance(error, ConfigError)
        error = await refusal(open_disk(store.url, pool=pool))
        assert isinstance(error, ConfigError)
        assert error.what == "the LUN is write-protected"
        error = await refusal(open_disk(store.url, pool=pool, create_bytes=1 << 20))
        assert error.what == "a disk of another target can not be created"
        disk = await open_disk(store.url, pool=pool, read_only=True)
        await disk.close()
        error = await refusal(open_disk("iscsi://127.0.0.1:1/iqn.2026-11.org.example:a/0", pool=pool))
        assert isinstance(error, StorageError)
        assert error.errno == errno.EHOSTUNREACH

    on_target(store, body)


def test_an_opening_that_is_given_up_leaves_nothing_open(tmp_path: Path) -> None:
    store = IscsiStore(tmp_path)

    async def body(pool: DiskPool) -> None:
        for _ in range(3):
            opening = open_disk(store.url, pool=pool)
            opening.addErrback(lambda _: None)
            opening.cancel()

    on_target(store, body)


def test_the_user_proves_himself_by_the_secret_that_is_given(tmp_path: Path) -> None:
    store = IscsiStore(tmp_path, secret=b"opensesame12345")

    async def body(pool: DiskPool) -> None:
        url = store.url.replace("iscsi://", "iscsi://joe@")
        disk = await open_disk(url, pool=pool, secret=b"opensesame12345")
        assert disk.url == url
        await disk.close()
        for wrong in (b"opensesame54321", None):
            error = await refusal(open_disk(url, pool=pool, secret=wrong))
            assert isinstance(error, ConfigError)
            assert "opensesame" not in str(error)
        error = await refusal(open_disk(store.url, pool=pool, secret=b"opensesame12345"))
        assert error.what == "there is a secret, and no user"

    on_target(store, body)
