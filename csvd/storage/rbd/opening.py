"""The kind of disk that ``rbd:pool/image`` names: see `csvd.storage.kind.DiskKind`."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred

from csvd.errors import ConfigError
from csvd.storage.disk import Disk
from csvd.storage.kind import Opening, check_size
from csvd.storage.rbd.blocking import BlockingCalls
from csvd.storage.rbd.disk import RbdDisk
from csvd.storage.rbd.handle import RbdHandle, open_handle
from csvd.storage.rbd.library import load_library
from csvd.storage.rbd.url import RbdName, check_keyring, parse_rbd_url

_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}")


def open_disk(opening: Opening) -> Deferred[Disk]:
    """Open an image; with `create_bytes` make it where there is none.

    The Deferred fails with:
        ConfigError: the URL is wrong, Ceph's modules are not there, or the image or its cluster is not usable.
        StorageError: the cluster can not be reached, or failed.
    """
    return Deferred.fromCoroutine(_open(opening))


async def _open(opening: Opening) -> Disk:
    name = replace(parse_rbd_url(opening.url), deadline_s=opening.timeout_s, key=_key(opening))
    _check(opening, name)
    blocking = BlockingCalls(opening.reactor, deadline_s=name.deadline_s, where=name.url)
    handle, size_bytes = await blocking.run(
        "open", partial(_open_handle, name, opening), too_late=lambda opened: opened[0].close()
    )
    return RbdDisk(handle, opening.reactor, size_bytes=size_bytes, identity=opening.serial)


def _open_handle(name: RbdName, opening: Opening) -> tuple[RbdHandle, int]:
    handle = open_handle(
        load_library(),
        name,
        read_only=opening.read_only,
        create_bytes=opening.create_bytes,
        block_bytes=opening.block_bytes,
    )
    return handle, int(handle.image.size())


def is_there(url: str) -> bool:
    """False: only the cluster knows, and `open_disk` leaves an image alone that is there.

    Raises:
        ConfigError: the URL is wrong.
    """
    parse_rbd_url(url)
    return False


def create_disk(url: str, size_bytes: int, *, block_bytes: int, full: bool) -> None:
    """Look whether an image can be made; it is `open_disk` that makes it, for it knows how to prove who is asking.

    Raises:
        ConfigError: it can not.
    """
    check_keyring(parse_rbd_url(url))
    check_size(url, size_bytes, block_bytes)
    if full:
        raise _can_not_be_full(url)


def place_of(url: str) -> str:
    """The pool, the namespace and the image.

    Raises:
        ConfigError: the URL is wrong.
    """
    return parse_rbd_url(url).place


def _check(opening: Opening, name: RbdName) -> None:
    check_keyring(name)
    if opening.direct:
        raise ConfigError("an image has no page cache to go past", where=name.url, hint="leave out direct")
    if opening.create_bytes is not None and opening.full:
        raise _can_not_be_full(name.url)
    if opening.create_bytes is not None and opening.read_only:
        raise ConfigError("a disk is not both created and read-only", where=name.url, hint="create it first")


def _key(opening: Opening) -> str:
    """The user's key, where it is given."""
    if opening.secret is None:
        return ""
    if not _KEY.fullmatch(opening.secret):
        hint = "the file has what `ceph auth get-key client.USER` prints"
        raise ConfigError("the secret is not the key of a Ceph user", where=opening.url, hint=hint)
    return opening.secret.decode()


def _can_not_be_full(url: str) -> ConfigError:
    return ConfigError("an image can not be allocated ahead", where=url, hint="leave out full: it is thin")
