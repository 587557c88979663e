from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from csvd.errors import ConfigError
from csvd.storage import open_file as opening
from csvd.storage.open_file import identity_of_path
from tests.unit.storage.pool_doubles import InlinePool


@pytest.fixture
def inline() -> InlinePool:
    return InlinePool()


def refusal(inline: InlinePool, url: object, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        inline.open(str(url), **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_created_disk_is_sparse_private_and_of_its_size(inline: InlinePool, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    disk = inline.open(str(path), create_bytes=10 << 30)
    assert disk.size_bytes == 10 << 30
    assert path.stat().st_size == 10 << 30
    assert path.stat().st_blocks * 512 < 1 << 20
    assert path.stat().st_mode & 0o777 == 0o600
    inline.settle(disk.close())


def test_create_never_overwrites(inline: InlinePool, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"precious".ljust(512))
    line = refusal(inline, path, create_bytes=1024)
    hint = "leave out --create to serve it as it is, or remove it first"
    assert line == f"{path}: exists already, and is not overwritten ({hint})"
    assert path.read_bytes() == b"precious".ljust(512)


def test_a_created_disk_has_its_name_when_it_is_whole(
    inline: InlinePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen, truncate = tmp_path / "disk.img", [], os.ftruncate

    def looked(fd: int, length: int) -> None:
        seen.append(path.exists())
        truncate(fd, length)

    monkeypatch.setattr(os, "ftruncate", looked)
    inline.settle(inline.open(str(path), create_bytes=512).close())
    assert seen == [False]
    assert path.stat().st_size == 512


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR, errno.EEXIST])
def test_where_files_have_names_from_the_beginning_one_that_is_there_is_not_overwritten(
    inline: InlinePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path, opened = tmp_path / "disk.img", os.open

    def without_nameless(name: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            if number == errno.EEXIST:
                path.write_bytes(bytes(1024))  # somebody else is faster
            else:
                raise OSError(number, os.strerror(number))
        return opened(name, flags, mode)

    monkeypatch.setattr(os, "open", without_nameless)
    if number == errno.EEXIST:
        assert "exists already" in refusal(inline, path, create_bytes=512)
        assert path.read_bytes() == bytes(1024)
    else:
        inline.settle(inline.open(str(path), create_bytes=512).close())
        assert path.stat().st_size == 512
        assert "exists already" in refusal(inline, path, create_bytes=512)


def test_a_failed_creation_leaves_nothing_behind(
    inline: InlinePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_args: object) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "ftruncate", too_large)
    path = tmp_path / "disk.img"
    assert refusal(inline, path, create_bytes=512) == f"{path}: 512 bytes cannot be created: File too large"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("create_bytes", "block_bytes", "sentence"),
    [
        (1000, 512, "1000 bytes are not a whole number of 512-byte blocks (512 or 1024 bytes would be)"),
        (4096 + 512, 4096, "4608 bytes are not a whole number of 4096-byte blocks (4096 or 8192 bytes would be)"),
        (0, 512, "a disk of 0 bytes is empty"),
        (-512, 512, "a disk of -512 bytes is empty"),
    ],
)
def test_a_wrong_size_is_refused_before_anything_is_made(
    inline: InlinePool, tmp_path: Path, create_bytes: int, block_bytes: int, sentence: str
) -> None:
    path = tmp_path / "disk.img"
    assert refusal(inline, path, create_bytes=create_bytes, block_bytes=block_bytes) == f"{path}: {sentence}"
    assert not path.exists()


def test_the_size_of_a_file_that_is_there_is_checked_too(inline: InlinePool, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(513))
    assert "513 bytes are not a whole number of 512-byte blocks" in refusal(inline, path)
    path.write_bytes(b"")
    assert "is empty" in refusal(inline, path)


def test_a_refused_file_is_closed_again(inline: InlinePool, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(513))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        refusal(inline, path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_missing_file_is_not_made_by_itself(inline: InlinePool, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    assert refusal(inline, path) == f"{path}: cannot be opened: no such file (create it with --create SIZE)"
    assert not path.exists()


@pytest.mark.parametrize("create_bytes", [None, 512])
def test_a_directory_in_the_way(inline: InlinePool, tmp_path: Path, create_bytes: int | None) -> None:
    expected = "is a directory" if create_bytes is None else "exists already"
    assert expected in refusal(inline, tmp_path, create_bytes=create_bytes)


def test_a_missing_directory_on_the_way(inline: InlinePool, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "disk.img"
    assert "cannot be created: no such file" in refusal(inline, path, create_bytes=512)
    (tmp_path / "nowhere").write_bytes(b"")
    assert "a part of the path is not a directory" in refusal(inline, path)


def test_what_is_no_disk_is_not_opened(inline: InlinePool, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/null")):
        assert refusal(inline, path) == f"{path}: is neither a regular file nor a block device"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_no_permission(inline: InlinePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    # As root everything is permitted, so the system call says it here.
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(512))

    def denied(*_args: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", denied)
    line = refusal(inline, path)
    assert line.startswith(f"{path}: cannot be opened: no permission (give the user")


def test_an_error_without_a_sentence_of_ours_has_the_system_s(
    inline: InlinePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(512))

    def busy(*_args: object) -> int:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "open", busy)
    assert refusal(inline, path) == f"{path}: cannot be opened: Device or resource busy"


def test_created_and_read_only_is_a_contradiction(inline: InlinePool, tmp_path: Path) -> None:
    assert "not both created and read-only" in refusal(inline, tmp_path / "a", create_bytes=512, read_only=True)


@pytest.mark.parametrize("url", ["nbd://10.0.0.1/disk", "https://example/disk"])
def test_a_kind_of_disk_that_is_not_there_yet(inline: InlinePool, url: str) -> None:
    assert refusal(inline, url).startswith(f"{url}: a disk of the kind {url.split(':')[0]}: cannot be opened")


@pytest.mark.parametrize("url", ["", "file://host/disk.img", "file://", "a\0b"])
def test_what_is_not_a_path(inline: InlinePool, url: str) -> None:
    assert "is not a path" in refusal(inline, url)


def test_a_file_url_and_a_colon_in_a_name(inline: InlinePool, tmp_path: Path) -> None:
    path = tmp_path / "a b:c.img"
    path.write_bytes(bytes(512))
    for url in (str(path), f"file://{tmp_path}/a%20b:c.img"):
        disk = inline.open(url)
        assert disk.size_bytes == 512
        assert disk.identity() == identity_of_path(str(path))
        inline.settle(disk.close())


def test_the_identity_is_the_serial_or_stands_for_the_real_path(
    inline: InlinePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(512))
    (tmp_path / "link").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    names = set()
    for url in (str(path), str(tmp_path / "link"), "disk.img", "./link"):
        disk = inline.open(url)
        names.add(disk.identity())
        inline.settle(disk.close())
    assert names == {identity_of_path(str(path))}
    assert len(names.pop()) == 32
    disk = inline.open(str(path), serial="S1")
    assert disk.identity() == "S1"
    inline.settle(disk.close())


def test_what_a_file_can_do(inline: InlinePool, tmp_path: Path) -> None:
    disk = inline.open(str(tmp_path / "disk.img"), create_bytes=8192, block_bytes=4096)
    capabilities = disk.capabilities
    assert capabilities.volatile_cache
    assert capabilities.fence == "file lock"
    assert capabilities.shared_between == "processes of a host"
    assert capabilities.physical_block_bytes == 4096
    assert disk.size_bytes == 8192, "probing does not change it"
    inline.settle(disk.close())


def test_the_physical_block_of_a_device_is_asked_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ioctl(fd: int, request: int, argument: bytes) -> bytes:
        asked.append((fd, request, len(argument)))
        return struct.pack("I", 4096)

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    assert opening._physical_block_bytes_of_device(7) == 4096
    assert asked == [(7, 0x127B, 4)]


def test_the_limits_of_a_device_are_those_of_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {
        "/sys/dev/block/8:0/queue/discard_max_bytes": 1 << 30,
        "/sys/dev/block/8:1/../queue/write_zeroes_max_bytes": 4096,
    }
    monkeypatch.setattr(opening, "_number_in", lambda path: numbers.get(path, 0))
    assert opening._device_limits(os.makedev(8, 0)) == (True, False)
    assert opening._device_limits(os.makedev(8, 1)) == (False, True)
    monkeypatch.undo()
    assert opening._device_limits(os.makedev(4095, 1)) == (False, False), "no such device"
