"""The errors of live migration."""

from __future__ import annotations

from csvd.errors import CsvdError


class MigrationError(CsvdError):
    """A migration could not be started, steered or finished."""


class StreamError(MigrationError):
    """The bytes of a migration stream are not what csvd sends; nothing more is taken from that stream."""


class ImageError(MigrationError):
    """A memory image could not be made, read or written.

    Args:
        errno: the number of the operating system's error; 0 where the fault is not the system's.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "", errno: int = 0) -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.errno = errno


class TransitionError(MigrationError):
    """The pre-copy machine was given an input that has no row for its state: a fault of this program."""


class MigrationRefused(MigrationError):
    """This node does not take or start the migration; ``why`` says what stands against it."""


def one_line(error: BaseException) -> str:
    """An error as one line for a report or a peer; one that is not csvd's own with the name of its class."""
    return str(error) if isinstance(error, CsvdError) else f"{type(error).__name__}: {error}"
