"""What a kind of disk is to the rest of csvd: how one is opened, made and named. One module a kind has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from csvd.errors import ConfigError
from csvd.storage.disk import Disk
from csvd.storage.pool import DiskPool


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a disk is to be opened.

    Args:
        url: its name; the scheme has chosen the kind.
        pool: where it may block; its ``reactor`` is the node's.
        create_bytes: make it, of this size; one that is there is never overwritten.
        full: allocate all of a disk that is made, so that its store can not run out of space later.
        read_only: refuse writes; the disk need not be writable.
        block_bytes: logical block length; the size must be a whole number of blocks.
        direct: go past the page cache.
        serial: its identity; None for the one that it has of itself.
        secret: by what this node proves itself to where the disk is; as whom, the URL says.
        initiator_name: what this node is called there; None for a name made of the host's.
        timeout_s: what a call may take where it goes over a network.
    """

    url: str
    pool: DiskPool
    create_bytes: int | None = None
    full: bool = False
    read_only: bool = False
    block_bytes: int = 512
    direct: bool = False
    serial: str | None = None
    secret: bytes | None = field(default=None, repr=False)
    initiator_name: str | None = None
    timeout_s: float = 30.0

    @property
    def reactor(self) -> Any:
        """The node's reactor."""
        return self.pool.reactor


class DiskKind(Protocol):
    """A kind of disk. A module is one when it has these functions."""

    def open_disk(self, opening: Opening, /) -> Deferred[Disk]:
        """Open a disk. Fails with a ConfigError or StorageError, and may raise them; a Deferred that is cancelled lets
        go of all that it had by then."""

    def is_there(self, url: str, /) -> bool:
        """Whether there is a disk that `create_disk` would have to leave alone. Does not wait for a network: False of
        a kind that is never made."""

    def create_disk(self, url: str, size_bytes: int, /, *, block_bytes: int, full: bool) -> None:
        """Make a disk, durably; one that is there is never overwritten. Blocks, for long where it is ``full``. Of a
        kind that `open_disk` makes when it is missing, this only looks whether that can be.

        Raises:
            ConfigError: it can not be made.
        """

    def place_of(self, url: str, /) -> str:
        """What all names of the same disk have in common, as far as it can be told without opening it.

        Raises:
            ConfigError: the URL is wrong.
        """


def check_size(where: str, size_bytes: int, block_bytes: int) -> None:
    """Check that a disk has a whole number of blocks, and at least one.

    Raises:
        ConfigError: it has not.
    """
    if size_bytes <= 0:
        raise ConfigError(f"a disk of {size_bytes} bytes is empty", where=where)
    if size_bytes % block_bytes:
        hint = f"{size_bytes - size_bytes % block_bytes} or {size_bytes + -size_bytes % block_bytes} bytes would be"
        raise ConfigError(
            f"{size_bytes} bytes are not a whole number of {block_bytes}-byte blocks", where=where, hint=hint
        )
