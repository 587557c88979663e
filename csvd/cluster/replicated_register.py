"""The register as Raft's state machine: entries of the log are batches of commands; listeners hear of every change."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from twisted.logger import Logger

from csvd.cluster.journal_records import Entry, Snapshot
from csvd.cluster.listeners import Listeners
from csvd.cluster.reactor import Clock
from csvd.cluster.register import Register, RegisterError
from csvd.cluster.register_fields import Answer
from csvd.cluster.voters import decode_change

Keyed = tuple[str | None, Mapping[str, Any]]
"""A command with the text of its idempotency key."""

_entry_decoder: Final = msgspec.msgpack.Decoder(list[tuple[str | None, dict[str, Any]]])


def encode_entry(commands: Sequence[Keyed]) -> bytes:
    """The entry of the log that carries these commands."""
    return msgspec.msgpack.encode(commands)


class ReplicatedRegister:
    """The register of this node, as far as the log is applied.

    Listeners are called from the loop, not from inside of Raft; changes that come together are told together.
    """

    _log = Logger()

    def __init__(self, clock: Clock) -> None:
        self.register = Register()
        self._clock = clock
        self._listeners: Listeners[Callable[[Register], None]] = Listeners()
        self._is_telling = False

    def on_change(self, callback: Callable[[Register], None]) -> Callable[[], None]:
        """Call back after the register has changed; gives what ends it."""
        return self._listeners.add(callback)

    def apply(self, command: bytes) -> list[Answer]:
        """Carry out the commands of an entry; their answers in order."""
        before = self.register.revision
        try:
            commands = _entry_decoder.decode(command)
        except (msgspec.MsgspecError, RecursionError):
            # Every node skips it alike: only a leader of another version can have written it.
            self._log.error("an entry of the log has commands that this version does not know")
            return []
        answers = [self.register.apply(fields, key) for key, fields in commands]
        if self.register.revision != before:
            self._tell_soon()
        return answers

    def take(self) -> bytes:
        """The state of the register as bytes."""
        return msgspec.msgpack.encode(self.register.snapshot())

    @property
    def voters(self) -> frozenset[str]:
        """The members that vote, as far as the log is applied."""
        return self.register.voters

    def check(self, state: bytes) -> None:
        """See that bytes are a state of the register, with voters.

        Raises:
            RegisterError: they are not.
        """
        if not Register.from_snapshot(_decoded(state)).voters:
            raise RegisterError("the snapshot of the register has nobody who votes")

    def voters_after(self, command: Keyed) -> frozenset[str]:
        """The members that will vote when a command is carried out on the register as it is now."""
        tried = Register.from_snapshot(self.register.snapshot())
        tried.apply(command[1], command[0])
        return tried.voters

    def restore(self, state: bytes) -> None:
        """Become a state.

        Raises:
            RegisterError: the bytes are not one.
        """
        self.register.restore(_decoded(state))
        self._tell_soon()

    def _tell_soon(self) -> None:
        if not self._is_telling:
            self._is_telling = True
            self._clock.callLater(0, self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        for callback in self._listeners:
            try:
                callback(self.register)
            except Exception:  # noqa: BLE001 - logged; one listener's fault is not the register's
                self._log.failure("a listener of the register failed")


def foreseen_register(snapshot: Snapshot | None, entries: Iterable[Entry]) -> Register:
    """The register as it is when all that a journal has is applied, whether it was committed or not.

    A node that starts knows only the snapshot to be committed. Whom its log names it must be linked to, to find out.

    Raises:
        RegisterError: the snapshot is damaged.
    """
    register = Register() if snapshot is None else Register.from_snapshot(_decoded(snapshot.state))
    applied = 0 if snapshot is None else snapshot.last[1]
    for entry in entries:
        if entry[1] <= applied:
            continue
        change = decode_change(entry[0])
        command = entry[0][1:] if change is None else change[1]
        with contextlib.suppress(msgspec.MsgspecError, RecursionError):
            for key, fields in _entry_decoder.decode(command):
                register.apply(fields, key)
    return register


def _decoded(state: bytes) -> object:
    try:
        return msgspec.msgpack.decode(state)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RegisterError("the snapshot of the register is damaged", why=str(error)) from error
