"""Opening a disk by its URL: what it is, what it can do, and one clear line for everything that is wrong with it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import struct
from typing import Final
from urllib.parse import unquote

from csvd.errors import ConfigError
from csvd.storage.direct import direct_unit_bytes
from csvd.storage.disk import Disk, DiskCapabilities
from csvd.storage.file import FileDisk
from csvd.storage.null import NullDisk, null_size_bytes
from csvd.storage.pool import DiskPool
from csvd.storage.ranges import can_punch, can_zero

_BLKPBSZGET: Final = 0x127B
_LARGEST_PHYSICAL_BLOCK_BYTES: Final = 4096
_SCHEME: Final = re.compile(r"(rbd(?=:)|[A-Za-z][A-Za-z0-9+.-]*(?=://)):")

_REASONS: Final = {
    errno.ENOENT: ("no such file", "create it with --create SIZE"),
    errno.ENOTDIR: ("a part of the path is not a directory", ""),
    errno.EACCES: ("no permission", "give the user that runs csvd access to it, or open it read-only"),
    errno.EPERM: ("no permission", "give the user that runs csvd access to it, or open it read-only"),
    errno.EROFS: ("the file system is read-only", "open it read-only"),
    errno.EISDIR: ("is a directory", "name a file or a block device"),
}


def open_disk(
    url: str,
    *,
    pool: DiskPool,
    create_bytes: int | None = None,
    full: bool = False,
    read_only: bool = False,
    block_bytes: int = 512,
    serial: str | None = None,
    direct: bool = False,
) -> Disk:
    """Open a disk.

    Args:
        url: a path, or `file:///` and a path: a regular file or a block device; or `null:` and a size, as in
            `null:10G`, for a disk that keeps nothing.
        pool: where it blocks.
        create_bytes: create a sparse file of this size; one that is there is never overwritten.
        full: have the file system allocate all of a file that is created, so that it can not run out of space later.
        read_only: refuse writes; the file need not be writable.
        block_bytes: logical block length; the size must be a whole number of blocks.
        direct: go past the page cache (O_DIRECT), which a store may offer for whole 512-byte or 4096-byte blocks only.
        serial: its identity; by default a hash of the absolute real path, the same wherever the disk is at that path.

    Raises:
        ConfigError: it is missing, exists already, is a directory or no disk, is not permitted, or has a wrong size.
    """
    if url.startswith("null:"):
        return _null_disk(url, create_bytes, read_only=read_only, block_bytes=block_bytes)
    path = _path_of(url)
    if create_bytes is not None:
        _check_size(path, create_bytes, block_bytes)
        fd = _create(path, create_bytes, full=full, read_only=read_only)
    else:
        fd = _open(path, read_only=read_only)
    try:
        if direct:
            _go_direct(fd, path, block_bytes)
        return _file_disk(
            fd, url, path, pool=pool, read_only=read_only, block_bytes=block_bytes, serial=serial, direct=direct
        )
    except BaseException:
        os.close(fd)
        raise


def _null_disk(url: str, create_bytes: int | None, *, read_only: bool, block_bytes: int) -> NullDisk:
    if create_bytes is not None:
        raise ConfigError("a null disk can not be created", where=url, hint="leave out --create: its name has its size")
    size_bytes = null_size_bytes(url)
    _check_size(url, size_bytes, block_bytes)
    return NullDisk(size_bytes, url=url, read_only=read_only)


def create_file(url: str, size_bytes: int, *, block_bytes: int = 512, full: bool = False) -> None:
    """Make the file of a disk, durably; one that is there is never overwritten. Blocks, for long where it is ``full``.

    Raises:
        ConfigError: it exists already, is not permitted, or there is no room.
    """
    if url.startswith("null:"):
        _null_disk(url, size_bytes, read_only=False, block_bytes=block_bytes)
    path = _path_of(url)
    _check_size(path, size_bytes, block_bytes)
    os.close(_create(path, size_bytes, full=full, read_only=False))


def _path_of(url: str) -> str:
    scheme = _SCHEME.match(url)
    if scheme is None:
        path = url
    elif scheme[1] == "file":
        path = unquote(url[len("file://") :])
    else:
        hint = "name a file or a block device by its path"
        raise ConfigError(f"a disk of the kind {scheme[1]}: cannot be opened", where=url, hint=hint)
    if not path or "\0" in path or (scheme and not path.startswith("/")):
        raise ConfigError("is not a path", where=url or "disk", hint="name a file or a block device by its path")
    return path


def _create(path: str, size_bytes: int, *, full: bool, read_only: bool) -> int:
    if read_only:
        raise ConfigError("a disk is not both created and read-only", where=path, hint="create it first")
    try:
        # Only the owner may look into a disk.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        hint = "leave out --create to serve it as it is, or remove it first"
        raise ConfigError("exists already, and is not overwritten", where=path, hint=hint) from error
    except OSError as error:
        raise _config_error(path, error, "cannot be created") from error
    try:
        os.ftruncate(fd, size_bytes)
        if full:
            os.posix_fallocate(fd, 0, size_bytes)
        os.fsync(fd)
        _sync_directory(path)
    except BaseException as error:
        os.close(fd)
        os.unlink(path)
        if isinstance(error, OSError):
            raise _config_error(path, error, f"{size_bytes} bytes cannot be created") from error
        raise
    return fd


def _sync_directory(path: str) -> None:
    """Make the name of a new file durable."""
    fd = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open(path: str, *, read_only: bool) -> int:
    try:
        # Look first: opening a FIFO or a tape could wait or act.
        _check_kind(path, os.stat(path).st_mode)
        return os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    except OSError as error:
        raise _config_error(path, error, "cannot be opened") from error


def _check_kind(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ConfigError("is a directory", where=path, hint="name a file or a block device")
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise ConfigError("is neither a regular file nor a block device", where=path)


def _config_error(path: str, error: OSError, what: str) -> ConfigError:
    why, hint = _REASONS.get(error.errno or 0, (error.strerror or str(error), ""))
    return ConfigError(what, where=path, why=why, hint=hint)


def _check_size(path: str, size_bytes: int, block_bytes: int) -> None:
    if size_bytes <= 0:
        raise ConfigError(f"a disk of {size_bytes} bytes is empty", where=path)
    if size_bytes % block_bytes:
        hint = f"{size_bytes - size_bytes % block_bytes} or {size_bytes + -size_bytes % block_bytes} bytes would be"
        raise ConfigError(
            f"{size_bytes} bytes are not a whole number of {block_bytes}-byte blocks", where=path, hint=hint
        )


def _file_disk(
    fd: int,
    url: str,
    path: str,
    *,
    pool: DiskPool,
    read_only: bool,
    block_bytes: int,
    serial: str | None,
    direct: bool,
) -> FileDisk:
    status = os.fstat(fd)
    _check_kind(path, status.st_mode)
    is_device = stat.S_ISBLK(status.st_mode)
    # A block device has no size in its status.
    size_bytes = os.lseek(fd, 0, os.SEEK_END)
    _check_size(path, size_bytes, block_bytes)
    if is_device:
        physical = _physical_block_bytes_of_device(fd)
        discard, write_zeroes = _device_limits(status.st_rdev)
    else:
        physical = min(status.st_blksize, _LARGEST_PHYSICAL_BLOCK_BYTES)
        discard, write_zeroes = can_punch(fd, size_bytes), can_zero(fd, size_bytes)
    if physical & (physical - 1) or physical < block_bytes:
        physical = block_bytes
    capabilities = DiskCapabilities(
        # A disk that is not written to has its holes all the same, and readers like to know of them.
        discard=discard,
        write_zeroes=write_zeroes and not read_only,
        volatile_cache=True,
        fence="none",
        shared_between="processes of a host",
        physical_block_bytes=physical,
    )
    return FileDisk(
        fd,
        url=url,
        size_bytes=size_bytes,
        read_only=read_only,
        capabilities=capabilities,
        identity=serial or identity_of_path(path),
        pool=pool,
        direct=direct,
    )


def _go_direct(fd: int, path: str, block_bytes: int) -> None:
    """Turn direct I/O on for a file descriptor.

    Raises:
        ConfigError: the store can not do it, or not in blocks of this length.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
        unit_bytes = direct_unit_bytes(fd)
    except OSError as error:
        raise _config_error(path, error, "direct I/O is not possible") from error
    if unit_bytes is None:
        raise ConfigError("direct I/O is not possible", where=path, hint="serve it through the page cache")
    if block_bytes % unit_bytes:
        raise ConfigError(
            f"direct I/O goes by {unit_bytes} bytes there",
            where=path,
            hint=f"use blocks of {unit_bytes} bytes, or serve it through the page cache",
        )


def identity_of_path(path: str) -> str:
    """32 hexadecimal digits that stand for the absolute real path."""
    return hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]


def _physical_block_bytes_of_device(fd: int) -> int:
    return int(struct.unpack("I", fcntl.ioctl(fd, _BLKPBSZGET, bytes(4)))[0])


def _device_limits(device: int) -> tuple[bool, bool]:
    """Whether a block device can discard and zero ranges: fallocate on it asks the device, so this asks its queue."""
    node = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    found = []
    for limit in ("discard_max_bytes", "write_zeroes_max_bytes"):
        # A partition has its queue one level up.
        values = [_number_in(f"{node}{queue}/{limit}") for queue in ("/queue", "/../queue")]
        found.append(any(values))
    return found[0], found[1]


def _number_in(path: str) -> int:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0
