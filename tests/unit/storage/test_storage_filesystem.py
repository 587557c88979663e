from __future__ import annotations

import os
from pathlib import Path

import pytest

from csvd.storage.filesystem import Store, store_of


def kind_in_mounts(path: Path) -> str:
    """The type of the file system that a path is in, as /proc/self/mountinfo has it."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == number:
            return fields[fields.index("-") + 1]
    return ""


@pytest.mark.parametrize("folder", ["/", "/dev/shm", "/proc"])
def test_what_a_file_is_kept_in_is_what_the_mounts_say(folder: str) -> None:
    stores = {"ext4": Store.EXT4, "tmpfs": Store.MEMORY}
    fd = os.open(folder, os.O_RDONLY)
    try:
        assert store_of(fd) is stores.get(kind_in_mounts(Path(folder)), Store.OTHER)
    finally:
        os.close(fd)


def test_a_block_device_is_one_though_its_name_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        monkeypatch.setattr("stat.S_ISBLK", lambda _: True)
        assert store_of(fd) is Store.BLOCK_DEVICE
    finally:
        os.close(fd)
