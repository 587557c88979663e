"""Opening a file or a block device: what it is, what it can do, and one clear line for everything that is wrong."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import struct
from typing import Any, Final
from urllib.parse import unquote

from twisted.internet.defer import Deferred, succeed

from csvd.errors import ConfigError
from csvd.shared_disk import FILE_LOCK, NO_FENCE
from csvd.storage.device.sysfs import wwid_of
from csvd.storage.direct import direct_unit_bytes
from csvd.storage.disk import Disk, DiskCapabilities
from csvd.storage.file import FileDisk
from csvd.storage.file_locks import has_locks
from csvd.storage.filesystem import Store, store_of
from csvd.storage.kind import Opening, check_size
from csvd.storage.ranges import can_punch, can_zero

_BLKPBSZGET: Final = 0x127B
_LARGEST_PHYSICAL_BLOCK_BYTES: Final = 4096

_NOT_DIRECT: Final = "direct I/O is not possible"
_USE_THE_CACHE: Final = "where no other host has this disk it can do without O_DIRECT, through the page cache"
"""Told of a cluster's disk, too: a node alone (`--local`) can serve it so, and several hosts must not."""

_NO_NAMELESS_FILES: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
"""What O_TMPFILE gives on file systems without it."""

_REASONS: Final = {
    errno.ENOENT: ("no such file", "create it with --create SIZE"),
    errno.ENOTDIR: ("a part of the path is not a directory", ""),
    errno.EACCES: ("no permission", "give the user that runs csvd access to it, or open it read-only"),
    errno.EPERM: ("no permission", "give the user that runs csvd access to it, or open it read-only"),
    errno.EROFS: ("the file system is read-only", "open it read-only"),
    errno.EISDIR: ("is a directory", "name a file or a block device"),
}


def open_disk(opening: Opening) -> Deferred[Disk]:
    """Open a regular file or a block device by its path; fires at once.

    Its identity is a hash of the absolute real path, the same wherever the disk is at that path.

    Raises:
        ConfigError: it is missing, exists already, is a directory or no disk, is not permitted, or has a wrong size.
    """
    path = _path_of(opening.url)
    if opening.create_bytes is not None:
        check_size(path, opening.create_bytes, opening.block_bytes)
        fd = _create(path, opening.create_bytes, full=opening.full, read_only=opening.read_only)
    else:
        fd = _open(path, read_only=opening.read_only)
    try:
        if opening.direct:
            _go_direct(fd, path, opening.block_bytes)
        return succeed(_file_disk(fd, path, opening))
    except BaseException:
        os.close(fd)
        raise


def is_there(url: str) -> bool:
    """Whether something has the path."""
    return os.path.exists(_path_of(url))


def create_disk(url: str, size_bytes: int, *, block_bytes: int, full: bool) -> None:
    """Make the file of a disk, durably; one that is there is never overwritten. Blocks, for long where it is ``full``.

    Raises:
        ConfigError: it exists already, is not permitted, or there is no room.
    """
    path = _path_of(url)
    check_size(path, size_bytes, block_bytes)
    os.close(_create(path, size_bytes, full=full, read_only=False))


def place_of(url: str) -> str:
    """The real path."""
    return os.path.realpath(_path_of(url))


def _path_of(url: str) -> str:
    is_url = url.startswith("file://")
    path = unquote(url[len("file://") :]) if is_url else url
    if not path or "\0" in path or (is_url and not path.startswith("/")):
        raise ConfigError("is not a path", where=url or "disk", hint="name a file or a block device by its path")
    return path


def _create(path: str, size_bytes: int, *, full: bool, read_only: bool) -> int:
    if read_only:
        raise ConfigError("a disk is not both created and read-only", where=path, hint="create it first")
    try:
        fd, has_name = _new_file(path)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise _config_error(path, error, "cannot be created") from error
    try:
        os.ftruncate(fd, size_bytes)
        if full:
            os.posix_fallocate(fd, 0, size_bytes)
        os.fsync(fd)
        if not has_name:
            # src_dir_fd is of no use but to have Python call linkat, which follows the link of /proc.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)
            has_name = True
            # By its name, for /proc and who looks there would call it deleted.
            named = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            os.close(fd)
            fd = named
        _sync_directory(path)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, FileExistsError):
            raise _exists(path) from error
        if has_name:
            os.unlink(path)
        if isinstance(error, OSError):
            raise _config_error(path, error, f"{size_bytes} bytes cannot be created") from error
        raise
    return fd


def _new_file(path: str) -> tuple[int, bool]:
    """Make a file that only its owner may look into; give whether it has its name already.

    Where the file system can it gets its name when it is whole: nodes that start at the same time, over one disk that
    the first of them makes, never find half of it.
    """
    try:
        if not os.path.lexists(path):
            return os.open(os.path.dirname(path) or ".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600), False
    except OSError as error:
        if error.errno not in _NO_NAMELESS_FILES:
            raise
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), True


def _exists(path: str) -> ConfigError:
    hint = "leave out --create to serve it as it is, or remove it first"
    return ConfigError("exists already, and is not overwritten", where=path, hint=hint)


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


def _config_error(path: str, error: OSError, what: str, hint: str = "") -> ConfigError:
    why, hint = _REASONS.get(error.errno or 0, (error.strerror or str(error), hint))
    return ConfigError(what, where=path, why=why, hint=hint)


def _file_disk(fd: int, path: str, opening: Opening) -> FileDisk:
    block_bytes = opening.block_bytes
    status = os.fstat(fd)
    _check_kind(path, status.st_mode)
    is_device = stat.S_ISBLK(status.st_mode)
    # A block device has no size in its status.
    size_bytes = os.lseek(fd, 0, os.SEEK_END)
    check_size(path, size_bytes, block_bytes)
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
        write_zeroes=write_zeroes and not opening.read_only,
        volatile_cache=True,
        fence=NO_FENCE if opening.read_only or not has_locks(fd) else FILE_LOCK,
        # Through the page cache a host reads what it has, and writes when it likes.
        shared_between="hosts" if opening.direct and store_of(fd) is Store.NFS else "processes of a host",
        physical_block_bytes=physical,
    )
    how: dict[str, Any] = {
        "url": opening.url,
        "size_bytes": size_bytes,
        "read_only": opening.read_only,
        "capabilities": capabilities,
        "identity": opening.serial or identity_of_path(path),
        "pool": opening.pool,
        "direct": opening.direct,
    }
    wwid = wwid_of(fd) if is_device and opening.direct and not opening.read_only else ""
    if wwid:
        # The initiator, whose commands it takes, is slow to be imported.
        from csvd.storage.device.disk import device_disk

        device = device_disk(fd, wwid, **how)
        if device is not None:
            return device
    return FileDisk(fd, **how)


def _go_direct(fd: int, path: str, block_bytes: int) -> None:
    """Turn direct I/O on for a file descriptor.

    Raises:
        ConfigError: the store can not do it, or not in blocks of this length.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError as error:
        if store_of(fd) is Store.MEMORY:
            # Before Linux 6.6 tmpfs refuses, and since then it takes the flag and changes nothing: the page cache is
            # where its files are, and no other host has them.
            return
        raise _config_error(path, error, _NOT_DIRECT, _USE_THE_CACHE) from error
    try:
        unit_bytes = direct_unit_bytes(fd)
    except OSError as error:
        raise _config_error(path, error, _NOT_DIRECT) from error
    if unit_bytes is None:
        raise ConfigError(_NOT_DIRECT, where=path, hint=_USE_THE_CACHE)
    if block_bytes % unit_bytes:
        raise ConfigError(
            f"direct I/O goes by {unit_bytes} bytes there",
            where=path,
            hint=f"use blocks of {unit_bytes} bytes; {_USE_THE_CACHE}",
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
