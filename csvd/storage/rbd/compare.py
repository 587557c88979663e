"""Comparing and writing a block of an image in one step. Everything here blocks: see `blocking`.

The python3-rbd of Ceph 16 has no call for it. What has one is the omap of an object: ``csvd.blocks.IMAGE-ID``, in the
pool and namespace of the image, has a key for each block that is written so, its offset in decimal, and for a value its
first 512 bytes in hexadecimal. They count, and what is at that offset in the image does not, once the key is there.
"""

from __future__ import annotations

import errno
from typing import Final

from csvd.storage.disk import COMPARED_BYTES, DIFFERS, StorageError
from csvd.storage.rbd.handle import RbdHandle

_EQUAL: Final = 1
"""LIBRADOS_CMPXATTR_OP_EQ, which python3-rados has no name for."""


def read_compared(handle: RbdHandle, offset_bytes: int, length_bytes: int) -> bytes:
    """A block, by its key, or from the image where there is none.

    Raises:
        StorageError: the key has something else.
        rados.Error: the cluster failed.
    """
    return _block(handle, _text(handle, offset_bytes), offset_bytes, length_bytes)


def _block(handle: RbdHandle, text: str, offset_bytes: int, length_bytes: int) -> bytes:
    if not text:
        return bytes(handle.image.read(offset_bytes, length_bytes))
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != COMPARED_BYTES:
        why = f"the key {offset_bytes} of {_object_name(handle)} is not to be understood"
        raise StorageError("read", errno.EBADMSG, where=handle.name.url, offset_bytes=offset_bytes, why=why)
    return found.ljust(length_bytes, b"\0")


def compare_and_write(handle: RbdHandle, offset_bytes: int, expected: bytes, new: bytes) -> None:
    """Write a block if it holds another one; durable when it returns.

    Raises:
        StorageError: DIFFERS.
        rados.Error: the cluster failed: it is unknown whether it was written.
    """
    text = _text(handle, offset_bytes)
    differs = StorageError("compare and write", DIFFERS, where=handle.name.url, offset_bytes=offset_bytes)
    if _block(handle, text, offset_bytes, len(expected)) != expected:
        raise differs
    rados, pool = handle.library.rados, handle.pool
    try:
        with rados.WriteOpCtx() as operation:
            operation.new(0)
            # A key that is not there compares as an empty one.
            operation.omap_cmp(str(offset_bytes), text, _EQUAL)
            pool.set_omap(operation, (str(offset_bytes),), (new[:COMPARED_BYTES].hex().encode(),))
            pool.operate_write_op(operation, _object_name(handle))
    except rados.OSError as error:
        if error.errno == errno.ECANCELED:
            raise differs from error
        raise


def _text(handle: RbdHandle, offset_bytes: int) -> str:
    """The value of a block's key, empty where there is none."""
    rados, pool, key = handle.library.rados, handle.pool, str(offset_bytes)
    try:
        with rados.ReadOpCtx() as operation:
            found, _ = pool.get_omap_vals_by_keys(operation, (key,))
            pool.operate_read_op(operation, _object_name(handle))
            return str(dict(found).get(key, b"").decode("ascii", "replace"))
    except rados.ObjectNotFound:
        return ""


def _object_name(handle: RbdHandle) -> str:
    return f"csvd.blocks.{handle.image_id}"
