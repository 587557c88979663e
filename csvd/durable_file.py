"""Replacing a file as a whole, durably: after a crash or a power cut there is the old content or the new one.

`csvd.cluster.state_directory.replace_file` does the same by the operations of a state directory, which the simulation
has, too.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 in place of the one that had its name, if one had. Blocks; durable when it returns.

    Raises:
        OSError: it could not be written, and the old one is there; or, of the last step, both may be.
    """
    directory = _open_directory(path.parent)
    try:
        replace_in(directory, path.name, data)
    finally:
        os.close(directory)


def replace_in(directory: int, name: str, data: bytes) -> None:
    """The same in a directory that is open, whatever it is called by now."""
    unfinished = f".{name}.part"
    # What a crash has left is not written to: who had it open would have the new content, too.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(unfinished, dir_fd=directory)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    directory = _open_directory(path)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
