"""What logical units keep over restarts: one file for each, replaced as a whole and durable before anyone is told so.

A file is one line that names its format, its version, its length and its checksum, and below it JSON: the designator
of the logical unit, and its values by name. A file that is damaged ends the start: a reservation that is silently
forgotten would let two hosts write to one file system.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from crc32c import crc32c
from twisted.internet.defer import Deferred

from csvd.durable_file import replace_in
from csvd.errors import ConfigError
from csvd.scsi.logical_unit import LogicalUnit
from csvd.storage.disk import StorageError
from csvd.storage.pool import DiskPool, Job, Manner

T = TypeVar("T")

VERSION: Final = 1
MAXIMUM_FILE_BYTES: Final = 4 << 20
"""What a start reads of one file; all that a unit may keep is far below it."""

_HEADER: Final = re.compile(rb"csvd-unit-state ([0-9]{1,9}) ([0-9]{1,9}) ([0-9a-f]{8})\n")
_UNUSABLE: Final = "the state directory can not be used"
_USE_ANOTHER: Final = "name a directory of its own for each process, that its user may write to"
_HINT: Final = "restore it from a backup, or remove it to forget the reservations and settings of this unit"


class DirectoryHeld(ConfigError):
    """Another process uses the state directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(_UNUSABLE, where=str(directory), why="another process uses it", hint=_USE_ANOTHER)


class KeptState:
    """The state directory of the logical units of one process.

    Logical units with the same NAA designator are one, whichever targets export them: they share what is kept.

    Args:
        directory: see `hold`.
        pool: where writing blocks.
        descriptor: what `hold` gave, here or in another process; None to hold it now.

    Raises:
        ConfigError: the directory can not be used, or another process has it.
    """

    def __init__(self, directory: Path, pool: DiskPool, *, descriptor: int | None = None) -> None:
        self._directory = directory
        self._pool = pool
        self._records: dict[bytes, _Record] = {}
        self._descriptor = hold(directory) if descriptor is None else descriptor

    def attach(self, unit: LogicalUnit) -> None:
        """Give a logical unit what was kept of it, and a place to keep more. Reads a small file; blocks.

        Raises:
            ConfigError: its file is damaged or can not be read.
        """
        naa = unit.identity.naa
        record = self._records.get(naa)
        if record is None:
            record = self._records[naa] = _Record(self._directory, self._descriptor, naa, self._pool)
        record.units.add(unit)
        unit.kept = record.shown
        unit.keeps = True

    def detach(self, unit: LogicalUnit) -> None:
        """A logical unit is served no more. After the last one of its designator the file is forgotten, and read anew
        when it is attached again: another process may have written it by then."""
        record = self._records.get(unit.identity.naa)
        if record is not None:
            record.units.discard(unit)
            self._forget_unused(unit.identity.naa)

    def _forget_unused(self, naa: bytes) -> None:
        record = self._records.get(naa)
        if record is not None and not record.units and not record.busy:
            del self._records[naa]

    def keep(self, unit: LogicalUnit, name: str, value: Any) -> Deferred[None]:
        """Keep a value durably; None forgets it. Writes of one unit are done in their order.

        Returns:
            Fires when the value would be there after a power cut. Fails with StorageError: then it is not kept, and the
            values before it are.
        """
        naa = unit.identity.naa

        def done(result: T) -> T:
            record.busy -= 1
            self._forget_unused(naa)
            return result

        record = self._records[naa]
        record.busy += 1
        return record.keep(name, value).addBoth(done)

    def close(self) -> None:
        """Give up the directory, after the pool has ended; closing again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def hold(directory: Path) -> int:
    """Make a state directory when it is missing, and hold it until the descriptor that this gives is closed by every
    process that has it.

    Raises:
        ConfigError: the directory can not be used, or another process holds it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(directory, error.strerror or str(error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise DirectoryHeld(directory) from error
        raise _unusable(directory, str(error)) from error
    return descriptor


class _Change(Job):
    """One value to keep."""

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: Any) -> None:
        super().__init__()
        self.name = name
        # A copy: the caller's may change before the thread comes to it.
        self.value = json.loads(json.dumps(value, allow_nan=False))


class _Record:
    """The file of one logical unit.

    Attributes:
        shown: `LogicalUnit.kept` of all logical units with this designator.
        units: these.
        busy: changes that are not durable yet.
    """

    def __init__(self, directory: Path, descriptor: int, naa: bytes, pool: DiskPool) -> None:
        self._naa = naa.hex()
        self._path = directory / f"{self._naa}.state"
        self._directory = descriptor
        self._values = _read(self._path, self._naa)
        """What the file holds; only the lane's thread changes it, one at a time."""
        self.shown: dict[str, Any] = dict(self._values)
        self.units: set[LogicalUnit] = set()
        self.busy = 0
        self._lane = pool.lane(self._run)

    def keep(self, name: str, value: Any) -> Deferred[None]:
        return self._lane.submit(_Change(name, value), Manner.SINGLE_FILE)

    def _run(self, changes: Sequence[_Change]) -> None:
        """Make changes that came together durable by one write. In a thread."""
        values = dict(self._values)
        for change in changes:
            if change.value is None:
                values.pop(change.name, None)
            else:
                values[change.name] = change.value
        try:
            replace_in(self._directory, self._path.name, _encode(self._naa, values))
        except OSError as error:
            failure = StorageError("keep", error.errno or errno.EIO, where=str(self._path))
            for change in changes:
                change.error = failure
        else:
            self._values = values


def _encode(naa: str, values: dict[str, Any]) -> bytes:
    body = json.dumps({"naa": naa, "values": values}, sort_keys=True, separators=(",", ":")).encode()
    if len(body) > MAXIMUM_FILE_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return b"csvd-unit-state %d %d %08x\n" % (VERSION, len(body), crc32c(body)) + body


def _read(path: Path, naa: str) -> dict[str, Any]:
    """The values in a file; none where there is no file.

    Raises:
        ConfigError: it can not be read, or is not whole.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_FILE_BYTES + 256)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError("the kept state can not be read", where=str(path), why=error.strerror or "") from error
    header = _HEADER.match(content)
    if header is None:
        raise _damaged(path, "it does not begin as one")
    if int(header[1]) != VERSION:
        raise ConfigError(
            f"the kept state is of version {int(header[1])}",
            where=str(path),
            why=f"this csvd knows version {VERSION}",
            hint="start the csvd that wrote it",
        )
    body = content[header.end() :]
    if len(body) != int(header[2]):
        raise _damaged(path, f"it has {len(body)} bytes where {int(header[2])} were written")
    if crc32c(body) != int(header[3], 16):
        raise _damaged(path, "its checksum is wrong")
    try:
        record = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(record, dict) or not isinstance(record.get("values"), dict):
        raise _damaged(path, "it holds no values")
    if record.get("naa") != naa:
        raise _damaged(path, f"it is of the logical unit {record.get('naa')}")
    values: dict[str, Any] = record["values"]
    return values


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError("the kept state of a logical unit is damaged", where=str(path), why=why, hint=_HINT)


def _unusable(directory: Path, why: str) -> ConfigError:
    return ConfigError(_UNUSABLE, where=str(directory), why=why, hint=_USE_ANOTHER)
