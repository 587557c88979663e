"""A state directory in memory, with what a power cut may do to it: unsynced writes are lost, torn or kept at random."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from csvd.cluster.errors import JournalError


class PowerCut(Exception):
    """The power went in the middle of an operation."""


class _File:
    """The content of a file, whatever its names are."""

    def __init__(self, content: bytes = b"") -> None:
        self.durable = bytes(content)
        self.cached = bytearray(content)
        self.unsynced: list[Callable[[bytearray, Random | None], None]] = []

    def change(self, change: Callable[[bytearray, Random | None], None]) -> None:
        change(self.cached, None)
        self.unsynced.append(change)

    def sync(self) -> None:
        self.durable = bytes(self.cached)
        self.unsynced.clear()

    def after_power_cut(self, random: Random) -> bytes:
        content = bytearray(self.durable)
        for change in self.unsynced:
            change(content, random)
        return bytes(content)


class SimulatedFiles:
    """`Files` in memory.

    Every operation is one step; at the step `cut_at` the power goes: the operation is done, in part or not at all, and
    PowerCut is raised. `after_power_cut` is a directory that the next start may find. With `failing` set, every
    operation that writes fails.
    """

    def __init__(self) -> None:
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._unsynced_names: list[Callable[[dict[str, _File]], None]] = []
        self.steps = 0
        self.cut_at: int | None = None
        self.failing: str | None = None

    @classmethod
    def with_content(cls, name: str, content: bytes) -> SimulatedFiles:
        """A directory with one durable file."""
        return cls._found({name: content})

    @classmethod
    def _found(cls, contents: dict[str, bytes]) -> SimulatedFiles:
        files = cls()
        files._names = {name: _File(content) for name, content in contents.items()}
        files._durable_names = dict(files._names)
        return files

    def read(self, name: str) -> bytes | None:
        return bytes(self._names[name].cached) if name in self._names else None

    def durable(self, name: str) -> bytes:
        """What of a file is on the disk for sure."""
        return self._durable_names[name].durable

    def write(self, name: str, offset_bytes: int, data: bytes) -> None:
        def put(content: bytearray, random: Random | None) -> None:
            part = data if random is None else _torn(data, random)
            if part:
                content.extend(bytes(max(0, offset_bytes - len(content))))
                content[offset_bytes : offset_bytes + len(part)] = part

        self._check(name)
        if name not in self._names:
            file = _File()
            self._change_names(lambda names: names.__setitem__(name, file))
        self._names[name].change(put)
        self._step()

    def truncate(self, name: str, length_bytes: int) -> None:
        def cut(content: bytearray, random: Random | None) -> None:
            if random is None or random.random() < 0.5:
                del content[length_bytes:]

        self._check(name)
        self._names[name].change(cut)
        self._step()

    def sync(self, name: str) -> None:
        self._check(name)
        self._step()
        self._names[name].sync()

    def rename(self, old: str, new: str) -> None:
        def move(names: dict[str, _File]) -> None:
            if old in names:
                names[new] = names.pop(old)

        self._check(old)
        self._change_names(move)
        self._step()

    def remove(self, name: str) -> None:
        self._check(name)
        self._change_names(lambda names: names.pop(name, None))
        self._step()

    def sync_names(self) -> None:
        self._check("")
        self._step()
        self._durable_names = dict(self._names)
        self._unsynced_names.clear()

    def after_power_cut(self, random: Random) -> SimulatedFiles:
        """What is on the disk after the power went, as far as chance decides it."""
        names = dict(self._durable_names)
        for change in self._unsynced_names:
            if random.random() < 0.5:
                change(names)
        return self._found({name: file.after_power_cut(random) for name, file in names.items()})

    def after_kill(self) -> SimulatedFiles:
        """What is on the disk after only the process was killed: everything that it wrote."""
        return self._found({name: bytes(file.cached) for name, file in self._names.items()})

    def _change_names(self, change: Callable[[dict[str, _File]], object]) -> None:
        def changed(names: dict[str, _File]) -> None:
            change(names)

        changed(self._names)
        self._unsynced_names.append(changed)

    def _check(self, name: str) -> None:
        if self.failing is not None:
            raise JournalError("can not be written", where=name, why=self.failing)

    def _step(self) -> None:
        self.steps += 1
        if self.cut_at is not None and self.steps >= self.cut_at:
            raise PowerCut


def _torn(data: bytes, random: Random) -> bytes:
    """What came to the disk of a write that was not synced: nothing, all, or its begin; perhaps with a hole in it."""
    part = data[: random.choice([0, len(data), random.randrange(len(data) + 1)])]
    if part and random.random() < 0.3:
        hole = random.randrange(len(part))
        part = part[:hole] + bytes(min(64, len(part) - hole)) + part[hole + 64 :]
    return part
