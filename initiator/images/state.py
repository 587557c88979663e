"""What a copy that was broken off goes on from: a small file, replaced as a whole."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Final

from initiator.errors import InitiatorError
from initiator.images.end import Identity

VERSION: Final = 1
MAX_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class State:
    """What was copied, and how far it is.

    Args:
        source, target: what they are; of the target only what copying does not change.
        source_offset, target_offset, length: the ranges, in bytes.
        durable: before this offset of the copy, the target's copy is complete and on stable storage.
    """

    source: Identity
    target: Identity
    source_offset: int
    target_offset: int
    length: int
    durable: int

    def text(self) -> str:
        """Give it as JSON."""
        return json.dumps(
            {
                "version": VERSION,
                "source": self.source,
                "target": self.target,
                "source_offset_bytes": self.source_offset,
                "target_offset_bytes": self.target_offset,
                "length_bytes": self.length,
                "durable_bytes": self.durable,
            },
            indent=2,
        )


def lasting(identity: Identity) -> Identity:
    """What of a target's identity stays as it is while it is written."""
    changing = ("size", "modified_ns") if identity.get("kind") == "file" else ()
    return {name: value for name, value in identity.items() if name not in changing}


def parse_state(text: str, where: str) -> State:
    """Parse what :meth:`State.text` gave.

    Raises:
        InitiatorError: it is something else.
    """
    try:
        found: dict[str, Any] = json.loads(text)
        if found["version"] != VERSION:
            raise ValueError(f"version {found['version']}")
        state = State(
            dict(found["source"]),
            dict(found["target"]),
            _count(found["source_offset_bytes"]),
            _count(found["target_offset_bytes"]),
            _count(found["length_bytes"]),
            _count(found["durable_bytes"]),
        )
        if state.durable > state.length:
            raise ValueError("more is copied than there is")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InitiatorError("this is no state of a copy", where=where, why=str(error)) from error
    return state


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no number of bytes")
    return value


def check_same(kept: State, now: State, where: str) -> None:
    """See that a copy goes on as it began.

    Raises:
        InitiatorError: the source has changed, or other ends or ranges are given now.
    """
    if kept.source != now.source:
        same = {key: value for key, value in kept.source.items() if now.source.get(key) == value}
        changed = ", ".join(sorted((kept.source.keys() | now.source.keys()) - same.keys()))
        raise InitiatorError(
            "the source is not as it was when the copy began",
            where=where,
            why=f"it has another {changed}",
            hint="remove the state to begin anew",
        )
    if kept.target != now.target:
        raise InitiatorError(
            "the target is another than the copy began with", where=where, hint="remove the state to begin anew"
        )
    ranges = (kept.source_offset, kept.target_offset, kept.length)
    if ranges != (now.source_offset, now.target_offset, now.length):
        raise InitiatorError(
            "the copy began with other offsets or another length", where=where, hint="remove the state to begin anew"
        )


def read_state(path: str) -> State | None:
    """Read a state; None where there is none. Blocks.

    Raises:
        InitiatorError: it is damaged, or no state.
        OSError: it can not be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_BYTES)
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise InitiatorError("this is no state of a copy", where=path, why=str(error)) from error
    return parse_state(text, path)


def write_state(path: str, state: State) -> None:
    """Replace a state: after a crash at any moment there is the old one or the new one, whole. Blocks."""
    beside = path + ".new"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        data = state.text().encode()
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(beside, path)
    _sync_directory(path)


def remove_state(path: str) -> None:
    """Remove a state: the copy is complete. Blocks."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    _sync_directory(path)


def _sync_directory(path: str) -> None:
    fd = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
