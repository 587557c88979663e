"""What a daemon and its workers say to one another: frames of JSON on a socket pair.

A frame is four bytes, the length of what follows, most significant first, and one message as JSON. File descriptors
come with the first byte of the request that needs them. Both ends are processes of one program; all the same nothing
that comes is taken for granted, because the other one may be of another version, or ill.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from csvd.config.targets import TargetSection
from csvd.errors import ConfigError, CsvdError
from csvd.iscsi.keepalive import Keepalive

MAX_FRAME_BYTES: Final = 32 << 20
_LENGTH: Final = struct.Struct(">I")

T = TypeVar("T")


class WorkerError(CsvdError):
    """A worker did not do what it was to, or said what makes no sense.

    Args:
        kind: the name of the error's class, where it is a worker's answer.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "", kind: str = "") -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.kind = kind


class Request(msgspec.Struct, tag="request", frozen=True, forbid_unknown_fields=True):
    """The daemon asks something; answers come in any order."""

    number: int
    method: str
    params: dict[str, Any] = {}
    descriptors: int = 0
    """How many file descriptors come with it."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A CsvdError."""

    kind: str
    what: str
    where: str = ""
    why: str = ""
    hint: str = ""


class Answer(msgspec.Struct, tag="answer", frozen=True, forbid_unknown_fields=True):
    """What a request came to."""

    number: int
    result: Any = None
    fault: Fault | None = None


class Notice(msgspec.Struct, tag="notice", frozen=True, forbid_unknown_fields=True):
    """The worker tells what happened; see `csvd.target.service.Tell`."""

    kind: str
    text: str
    subject: str


Message = Request | Answer | Notice


# The parameters of the methods


class Begin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``begin``, the first; with the descriptor of the state directory of logical units, which holds its lock."""

    directory: str
    keepalive: Keepalive


class Prepare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``prepare`` and ``note``: see `csvd.exports.local.LocalServing`. ``commit`` and ``abandon`` have no parameters;
    ``commit`` is answered as `UnitFaces`."""

    targets: tuple[TargetSection, ...]
    secrets: dict[str, bytes]
    later: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Prepare(targets={[section.name for section in self.targets]})"


class Behind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``accept``, with the descriptor of a listening socket, and ``refuse``: connections behind a portal."""

    portal_group_tag: int
    portal: str


class Resize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``resize``, answered as `UnitFaces`."""

    target: str
    number: int
    size_bytes: int | None
    full: bool


class DropSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``drop_session``, answered by whether there is one."""

    target: str
    tsih: int
    grace_s: int


class UnitFaces(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The logical units that a worker serves, by target, as the control API shows them."""

    units: dict[str, list[dict[str, Any]]]


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to ``report``."""

    sessions: list[dict[str, Any]]
    statistics: dict[str, Any]
    resident_bytes: int
    open_files: int


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``stop``: answer what is under way, for so long; then end."""

    drain_s: float


# Values


def _encoded(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _decoded(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind.__name__)


def to_params(value: msgspec.Struct) -> dict[str, Any]:
    """Parameters, or a result, as they stand in a message."""
    built: dict[str, Any] = msgspec.to_builtins(value, enc_hook=_encoded)
    return built


def read_params(params: Any, kind: type[T]) -> T:
    """Check parameters, or a result.

    Raises:
        WorkerError: they are of another shape.
    """
    try:
        return msgspec.convert(params, type=kind, dec_hook=_decoded)
    except (msgspec.ValidationError, ConfigError) as error:
        raise WorkerError(f"it is no {kind.__name__}", where="worker channel", why=str(error)) from error


def fault_of(error: CsvdError) -> Fault:
    """An error as it is answered."""
    kind = error.kind if isinstance(error, WorkerError) and error.kind else type(error).__name__
    return Fault(kind, error.what, error.where, error.why, error.hint)


def error_of(fault: Fault) -> CsvdError:
    """The error that was answered; of its class where a person caused it."""
    words = {"where": fault.where, "why": fault.why, "hint": fault.hint}
    if fault.kind == ConfigError.__name__:
        return ConfigError(fault.what, **words)
    return WorkerError(fault.what, **words, kind=fault.kind)


# Frames


def frame_of(message: Message) -> bytes:
    """A message as a frame.

    Raises:
        WorkerError: it is too long, or holds what JSON has not.
    """
    try:
        body = msgspec.json.encode(message)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise WorkerError("a message can not be written", where="worker channel", why=str(error)) from error
    if len(body) > MAX_FRAME_BYTES:
        raise WorkerError(f"a message has {len(body)} bytes", where="worker channel", why=f"at most {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Puts messages together from what comes, in pieces of any size. It holds one frame at most."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take what came; give the messages that are complete.

        Raises:
            WorkerError: it is no message. The connection is of no use any more.
        """
        self._held += data
        while len(self._held) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._held)
            if length > MAX_FRAME_BYTES:
                raise WorkerError(
                    f"a frame of {length} bytes", where="worker channel", why=f"at most {MAX_FRAME_BYTES}"
                )
            end = _LENGTH.size + length
            if len(self._held) < end:
                return
            body = bytes(self._held[_LENGTH.size : end])
            del self._held[:end]
            yield _message(body)


def _message(body: bytes) -> Message:
    try:
        message: Message = msgspec.json.decode(body, type=Message)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise WorkerError("it is no message", where="worker channel", why=str(error)) from error
    return message
