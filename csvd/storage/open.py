"""Opening a disk by its URL, whatever kind of disk that is: a table of kinds by scheme."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, maybeDeferred

from csvd.errors import ConfigError
from csvd.storage import null, open_file
from csvd.storage.disk import Disk
from csvd.storage.kind import DiskKind, Opening
from csvd.storage.pool import DiskPool
from csvd.storage.rbd import opening as rbd

_SCHEME: Final = re.compile(r"((?:null|rbd)(?=:)|[A-Za-z][A-Za-z0-9+.-]*(?=://)):")


def _iscsi() -> DiskKind:
    # The initiator takes its time to be imported, and most nodes have no such disk.
    from csvd.storage.iscsi import opening

    return opening


_KINDS: Final[dict[str, Callable[[], DiskKind]]] = {
    "file": lambda: open_file,
    "null": lambda: null,
    "rbd": lambda: rbd,
    "iscsi": _iscsi,
}


def open_disk(
    url: str,
    *,
    pool: DiskPool,
    create_bytes: int | None = None,
    full: bool = False,
    read_only: bool = False,
    block_bytes: int = 512,
    direct: bool = False,
    serial: str | None = None,
    secret: bytes | None = None,
    initiator_name: str | None = None,
    timeout_s: float = 30.0,
) -> Deferred[Disk]:
    """Open a disk; see `Opening` for the arguments. Fires at once where there is nothing to wait for, as for a file.

    Args:
        url: a path, or `file:///` and a path: a regular file or a block device; `iscsi://host/target/LUN`;
            `rbd:pool/image`, an image of a Ceph cluster; or `null:` and a size, as in `null:10G`, for a disk that keeps
            nothing.

    The Deferred fails with:
        ConfigError: it is missing, exists already, is a directory or no disk, is not permitted, or has a wrong size.
        StorageError: it can not be reached, or failed while it was opened.
    """
    opening = Opening(
        url=url,
        pool=pool,
        create_bytes=create_bytes,
        full=full,
        read_only=read_only,
        block_bytes=block_bytes,
        direct=direct,
        serial=serial,
        secret=secret,
        initiator_name=initiator_name,
        timeout_s=timeout_s,
    )
    return maybeDeferred(_open, opening)


def _open(opening: Opening) -> Deferred[Disk]:
    return _named(opening.url).open_disk(opening)


def is_there(url: str) -> bool:
    """Whether there is a disk that `create_disk` would have to leave alone; False of kinds that are never made.

    Raises:
        ConfigError: there is no such kind of disk, or the URL is wrong.
    """
    return _named(url).is_there(url)


def create_disk(url: str, size_bytes: int, *, block_bytes: int = 512, full: bool = False) -> None:
    """Make a disk, durably; one that is there is never overwritten. Blocks, for long where it is ``full``.

    Raises:
        ConfigError: it exists already, is not permitted, there is no room, or it is of a kind that is not made.
    """
    _named(url).create_disk(url, size_bytes, block_bytes=block_bytes, full=full)


def place_of(url: str) -> str:
    """What all names of the same disk have in common, as far as it can be told without opening it.

    Raises:
        ConfigError: there is no such kind of disk, or the URL is wrong.
    """
    return _named(url).place_of(url)


def kind_of(url: str) -> str:
    """The kind of a disk by its URL, as ``file`` and ``iscsi``."""
    scheme = _SCHEME.match(url)
    return "file" if scheme is None else scheme[1]


def _named(url: str) -> DiskKind:
    name = kind_of(url)
    if name not in _KINDS:
        raise ConfigError(
            f"a disk of the kind {name}: cannot be opened",
            where=url,
            hint="name a file or a block device by its path, a LUN of another target by iscsi://",
        )
    return _KINDS[name]()
