"""Opening an image: what may be wrong, and that nothing stays open when it is."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from csvd.errors import ConfigError
from csvd.storage.disk import StorageError
from csvd.storage.rbd.handle import RbdHandle, open_handle
from csvd.storage.rbd.url import parse_rbd_url
from tests.unit.storage.rbd.fake_ceph import (
    EXCLUSIVE_LOCK,
    FAST_DIFF,
    JOURNALING,
    LAYERING,
    OBJECT_MAP,
    RADOS_ERRORS,
    RBD_ERRORS,
    FakeCluster,
)

MIB = 1 << 20


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster()
    cluster.add_image("image", MIB)
    return cluster


def opened(
    cluster: FakeCluster,
    url: str = "rbd:pool/image",
    *,
    read_only: bool = False,
    create_bytes: int | None = None,
    block_bytes: int = 512,
) -> RbdHandle:
    return open_handle(
        cluster.library,
        parse_rbd_url(url),
        read_only=read_only,
        create_bytes=create_bytes,
        block_bytes=block_bytes,
    )


def failing(at: str, error: Exception) -> Callable[[str], None]:
    def fail(name: str) -> None:
        if name == at:
            raise error

    return fail


def test_the_client_is_told_to_keep_nothing_back_and_to_give_up_in_time(cluster: FakeCluster) -> None:
    handle = opened(cluster, "rbd:pool/image:mon_host=10.0.0.1")
    assert cluster.settings["rbd_cache"] == "false"
    assert cluster.settings["rbd_skip_partial_discard"] == "false"
    assert cluster.settings["rados_osd_op_timeout"] == cluster.settings["rados_mon_op_timeout"] == "27"
    assert cluster.settings["mon_host"] == "10.0.0.1"
    assert (handle.has_cache, handle.discards_all) == (False, True)
    handle.close()
    assert cluster.open_things == 0


def test_settings_of_the_image_come_before_ours_and_are_seen(cluster: FakeCluster) -> None:
    cluster.images["image"].settings = {"rbd_cache": "true", "rbd_skip_partial_discard": "true"}
    handle = opened(cluster)
    assert (handle.has_cache, handle.discards_all) == (True, False)


def test_an_image_is_the_same_whatever_it_is_called_and_other_images_are_others(cluster: FakeCluster) -> None:
    identity = opened(cluster).identity
    cluster.images["renamed"] = cluster.images["image"]
    cluster.add_image("other", MIB)
    cluster.pools["second"] = 8
    assert opened(cluster, "rbd:pool/renamed:id=other").identity == identity
    others = {opened(cluster, url).identity for url in ("rbd:pool/other", "rbd:second/image", "rbd:pool/x/image")}
    assert len(others | {identity}) == 4


@pytest.mark.parametrize(
    ("features", "names"),
    [
        (LAYERING | EXCLUSIVE_LOCK, "exclusive-lock"),
        (LAYERING | EXCLUSIVE_LOCK | OBJECT_MAP | FAST_DIFF, "fast-diff object-map exclusive-lock"),
        (LAYERING | EXCLUSIVE_LOCK | JOURNALING, "journaling exclusive-lock"),
    ],
)
def test_an_image_that_librbd_locks_is_refused_with_the_way_out(
    cluster: FakeCluster, features: int, names: str
) -> None:
    cluster.images["image"].features = features
    with pytest.raises(ConfigError) as refused:
        opened(cluster)
    assert f"rbd feature disable pool/image {names};" in str(refused.value)
    assert cluster.open_things == 0
    opened(cluster, read_only=True).close()


def test_an_image_of_the_old_format_has_no_name_that_stays_and_is_refused(cluster: FakeCluster) -> None:
    cluster.images["image"].old_format = True
    with pytest.raises(ConfigError, match="format 1"):
        opened(cluster)


def test_what_is_not_there_says_what_to_do(cluster: FakeCluster) -> None:
    with pytest.raises(ConfigError, match=r"no such image.*rbd create"):
        opened(cluster, "rbd:pool/none")
    with pytest.raises(ConfigError, match="no pool none"):
        opened(cluster, "rbd:none/image")
    assert cluster.open_things == 0


def test_an_image_is_made_where_there_is_none_without_a_lock(cluster: FakeCluster) -> None:
    handle = opened(cluster, "rbd:pool/new", create_bytes=2 * MIB)
    assert handle.size_bytes() == 2 * MIB
    assert cluster.images["new"].features == LAYERING


def test_an_image_that_is_there_is_opened_as_it_is(cluster: FakeCluster) -> None:
    handle = opened(cluster, create_bytes=2 * MIB)
    assert handle.size_bytes() == MIB


@pytest.mark.parametrize("size_bytes", [0, 700])
def test_a_size_that_is_no_number_of_blocks_is_refused(cluster: FakeCluster, size_bytes: int) -> None:
    with pytest.raises(ConfigError, match=r"empty|whole number"):
        opened(cluster, "rbd:pool/new", create_bytes=size_bytes)
    assert "new" not in cluster.images
    cluster.add_image("odd", size_bytes)
    with pytest.raises(ConfigError, match=r"empty|whole number"):
        opened(cluster, "rbd:pool/odd")
    assert cluster.open_things == 0


@pytest.mark.parametrize(
    ("at", "error", "expected", "words"),
    [
        ("configure", RADOS_ERRORS["ObjectNotFound"](errno.ENOENT), ConfigError, "ceph.conf"),
        ("connect", RADOS_ERRORS["ObjectNotFound"](errno.ENOENT), ConfigError, "keyring"),
        ("connect", RADOS_ERRORS["PermissionError"](errno.EPERM), ConfigError, "profile rbd"),
        ("connect", RADOS_ERRORS["TimedOut"](errno.ETIMEDOUT), StorageError, "within 30 s"),
        ("create", RBD_ERRORS["OSError"](errno.EACCES), ConfigError, "profile rbd"),
        ("create", RBD_ERRORS["OSError"](errno.ENOSPC), StorageError, "can not be created"),
        ("open", RBD_ERRORS["OSError"](errno.EPERM), ConfigError, "profile rbd"),
        ("open", RBD_ERRORS["Timeout"](errno.ETIMEDOUT), StorageError, "within 30 s"),
        ("open", RBD_ERRORS["ConnectionShutdown"](errno.ESHUTDOWN), StorageError, "fenced"),
    ],
)
def test_what_fails_is_one_clear_line_and_nothing_stays_open(
    cluster: FakeCluster, at: str, error: Exception, expected: type[Exception], words: str
) -> None:
    cluster.fail = failing(at, error)
    with pytest.raises(expected) as failed:
        opened(cluster, "rbd:pool/new", create_bytes=MIB)
    assert words in str(failed.value)
    assert "\n" not in str(failed.value)
    assert cluster.open_things == 0


def test_an_image_for_reading_sees_another_size_when_it_is_asked(cluster: FakeCluster) -> None:
    handle = opened(cluster, read_only=True)
    before = handle.image
    assert handle.size_bytes() == MIB
    assert handle.image is before
    cluster.images["image"].data.extend(bytes(MIB))
    assert handle.size_bytes() == 2 * MIB
    assert handle.image is not before
    handle.close()
    assert cluster.open_things == 0
