"""The files of a node's state directory, by the few operations whose durability the journal is built on."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Protocol

from csvd.cluster.errors import JournalError
from csvd.errors import ConfigError

_LOCK = "lock"


class Files(Protocol):
    """A directory of files. What was written may be lost, in part or whole, until `sync`; names until `sync_names`."""

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None where there is none."""

    def write(self, name: str, offset_bytes: int, data: bytes) -> None:
        """Write at an offset of a file, which is made where there is none."""

    def truncate(self, name: str, length_bytes: int) -> None:
        """Cut a file to a length."""

    def sync(self, name: str) -> None:
        """Make the content and the length of a file durable."""

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, in place of the file that had it, in one step."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing where there is none."""

    def sync_names(self) -> None:
        """Make new names, renames and removals durable."""


def name_of_new(name: str) -> str:
    """What a file is called until it takes the place of the one that has its name (`replace_file`)."""
    return f"{name}.new"


def replace_file(files: Files, name: str, data: bytes) -> None:
    """Write a file as a whole, durably: after a crash there is the old content or the new one."""
    new = name_of_new(name)
    files.remove(new)
    files.write(new, 0, data)
    files.sync(new)
    files.rename(new, name)
    files.sync_names()


class StateDirectory:
    """The state directory on a real file system, locked for this process until `close`.

    Files are made with mode 0600, the directory with 0700. May be used from one thread at a time.
    Every OSError of reading and writing comes out as a JournalError.
    """

    def __init__(self, path: Path) -> None:
        """Make or open the directory, and lock it.

        Raises:
            ConfigError: it can not be made or opened, or another process has it.
        """
        self.path = path
        self._descriptors: dict[str, int] = {}
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError("the state directory can not be used", where=str(path), why=_reason(error)) from error
        try:
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._directory)
            why = "another process uses it" if isinstance(error, BlockingIOError) else _reason(error)
            raise ConfigError("the state directory can not be used", where=str(path), why=why) from error

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None where there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(name, "read", error) from error

    def write(self, name: str, offset_bytes: int, data: bytes) -> None:
        """Write all of the data at an offset of a file."""
        try:
            descriptor = self._descriptor(name)
            with memoryview(data) as view:
                done = 0
                while done < len(data):
                    done += os.pwrite(descriptor, view[done:], offset_bytes + done)
        except OSError as error:
            raise self._failed(name, "written", error) from error

    def truncate(self, name: str, length_bytes: int) -> None:
        """Cut a file to a length."""
        try:
            os.ftruncate(self._descriptor(name), length_bytes)
        except OSError as error:
            raise self._failed(name, "cut", error) from error

    def sync(self, name: str) -> None:
        """fdatasync: the content and the length."""
        try:
            os.fdatasync(self._descriptor(name))
        except OSError as error:
            raise self._failed(name, "made durable", error) from error

    def rename(self, old: str, new: str) -> None:
        """rename(2)."""
        try:
            os.rename(self.path / old, self.path / new)
        except OSError as error:
            raise self._failed(old, "renamed", error) from error
        self._forget(new)
        if old in self._descriptors:
            self._descriptors[new] = self._descriptors.pop(old)

    def remove(self, name: str) -> None:
        """unlink(2)."""
        self._forget(name)
        try:
            os.unlink(self.path / name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed(name, "removed", error) from error

    def sync_names(self) -> None:
        """fsync of the directory."""
        try:
            os.fsync(self._directory)
        except OSError as error:
            raise self._failed("", "made durable", error) from error

    def close(self) -> None:
        """Close all files and give up the lock; closing again does nothing."""
        for name in list(self._descriptors):
            self._forget(name)
        for descriptor in (self._lock, self._directory):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._directory = -1

    def _descriptor(self, name: str) -> int:
        if name not in self._descriptors:
            self._descriptors[name] = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._descriptors[name]

    def _forget(self, name: str) -> None:
        if name in self._descriptors:
            # What matters was synced, and checked, before: an error of close(2) says nothing more.
            with contextlib.suppress(OSError):
                os.close(self._descriptors.pop(name))

    def _failed(self, name: str, what: str, error: OSError) -> JournalError:
        return JournalError(f"can not be {what}", where=str(self.path / name), why=_reason(error))


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
