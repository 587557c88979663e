"""The files of a node's guests: the memory images, and beside them a note of each, by which a restarted daemon knows
them.

A note holds the epoch of the ownership under which the image was written. Epochs of a name only grow, so an image is
certainly stale when the register names another owner with a later epoch, however old this node's view of the register
is. Notes are not synced to the disk: they have to outlive the daemon, not the host, and neither does the RAM of a
guest.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import msgspec
from twisted.logger import Logger

from csvd.cluster.names import is_guest_name
from csvd.errors import CsvdError
from csvd.vm.errors import ImageFileError
from csvd.vm.spec import BACKING_SHARED_MEMORY, GuestSpec

_NOTE_SUFFIX: Final = ".json"
_MAXIMUM_NOTE_BYTES: Final = 64 * 1024


class LocalState(Enum):
    """What a guest is on this node; the value is what people and the API are shown."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ARRIVING = "arriving"
    # Whole, and waiting for the verdict on its hand-over.
    COMPLETE = "arrived"


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of a guest's image.

    Args:
        epoch: the ownership under which it is written; of one that arrives, the epoch that it will have here.
        image: its path.
    """

    name: str
    epoch: int
    state: LocalState
    reason: str
    image: str
    spec: dict[str, str | int | float]


class GuestFiles:
    """The directory of a node's guests. All methods may block.

    Args:
        directory: holds the notes, and the images that are not in shared memory.
        shared_memory_directory: a tmpfs, for guests whose backing is ``shm``.
    """

    _log = Logger()

    def __init__(self, directory: Path, shared_memory_directory: Path = Path("/dev/shm")) -> None:  # noqa: S108
        self._directory = directory
        self._shared_memory_directory = shared_memory_directory
        # Daemons of several clusters share one /dev/shm.
        self._prefix = f"csvd-{hashlib.sha256(os.fsencode(directory.absolute())).hexdigest()[:12]}-"

    def make_directory(self) -> None:
        """Make the directory, for its owner alone. Raises ImageFileError."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _failed("the directory of the guests cannot be made", self._directory, error) from error

    def image_path(self, name: str, spec: GuestSpec) -> Path:
        """Where the image of a guest is."""
        if spec.backing == BACKING_SHARED_MEMORY:
            return self._shared_memory_directory / f"{self._prefix}{name}.ram"
        return self._directory / f"{name}.ram"

    def check_room(self, spec: GuestSpec) -> None:
        """Raise ImageFileError when there is not enough space, or for one in shared memory, memory."""
        is_shared = spec.backing == BACKING_SHARED_MEMORY
        directory = self._shared_memory_directory if is_shared else self._directory
        try:
            status = os.statvfs(directory)
        except OSError as error:
            raise _failed("the space for the memory image cannot be told", directory, error) from error
        free_bytes = status.f_bavail * status.f_frsize
        if free_bytes < spec.memory_bytes:
            raise ImageFileError(
                "not enough space for the memory image",
                where=str(directory),
                why=f"{free_bytes} bytes are free, {spec.memory_bytes} are needed",
            )
        available_bytes = available_memory_bytes()
        if is_shared and available_bytes < spec.memory_bytes:
            raise ImageFileError(
                "not enough memory for the memory image",
                why=f"{available_bytes} bytes are available, {spec.memory_bytes} are needed",
            )

    def create_image(self, name: str, spec: GuestSpec) -> Path:
        """Make an image that is all zero, in place of a stale one. Raises ImageFileError."""
        path = self.image_path(name, spec)
        try:
            path.unlink(missing_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.ftruncate(fd, spec.memory_bytes)
            finally:
                os.close(fd)
        except OSError as error:
            raise _failed("the memory image cannot be made", path, error) from error
        return path

    def write_note(self, note: Note) -> None:
        """Write a note, whole or not at all. Raises ImageFileError."""
        path = self._directory / f"{note.name}{_NOTE_SUFFIX}"
        temporary = path.with_suffix(".tmp")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.encode(asdict(note)))
            temporary.replace(path)
        except OSError as error:
            raise _failed("the note of a guest cannot be written", path, error) from error

    def read_notes(self) -> list[Note]:
        """All notes that can be read; of the others the log tells. Raises ImageFileError."""
        notes = []
        try:
            paths = sorted(self._directory.glob(f"*{_NOTE_SUFFIX}"))
        except OSError as error:
            raise _failed("the directory of the guests cannot be read", self._directory, error) from error
        for path in paths:
            try:
                with path.open("rb") as file:
                    note = msgspec.json.decode(file.read(_MAXIMUM_NOTE_BYTES), type=Note)
                GuestSpec.from_json(note.spec)
            except (OSError, msgspec.MsgspecError, CsvdError) as error:
                self._log.error("{path}: the note of a guest cannot be read: {error}", path=str(path), error=error)
                continue
            if note.name == path.stem and is_guest_name(note.name):
                notes.append(note)
            else:
                self._log.error("{path}: this is the note of another guest", path=str(path))
        return notes

    def remove(self, name: str, image: Path) -> None:
        """Delete the image and the note of a guest, as far as they exist. Raises ImageFileError."""
        for path in (image, self._directory / f"{name}{_NOTE_SUFFIX}"):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _failed("a guest's file cannot be removed", path, error) from error


def available_memory_bytes() -> int:
    """What the kernel says can be used without swapping (MemAvailable of proc(5))."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ImageFileError("the kernel does not say how much memory is available", where="/proc/meminfo")


def _failed(what: str, path: Path, error: OSError) -> ImageFileError:
    return ImageFileError(what, where=str(path), why=error.strerror or str(error))
