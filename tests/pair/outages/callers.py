"""Callers of a road, each with blocks of its own and one call at a time, and what they know of their blocks."""

from __future__ import annotations

from typing import Any

from initiator.engine.requests import Command
from initiator.errors import FlushInDoubt, SessionLost, TimedOut
from initiator.scsi import cdb, sense
from initiator.scsi.sense import SenseKey
from tests.pair.outages.world import World
from tests.pair.script.steps import BLOCK_BYTES

GUARD, SCRIBBLE = 0xDD, 0xEE
"""What fills a buffer of a call that has ended: of a read, and of a write."""

BUSY, TASK_SET_FULL = 0x08, 0x28


class Caller:
    """One caller. A block of which it can not know what it holds is used no more; it takes new ones."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number
        self._serial = 0
        self._possible: dict[int, set[bytes]] = {}
        self.mine: list[int] = []
        self.counter: int | None = None
        self.count = 0
        self.deadline_s = 0.0
        self.waits = False
        self.ended = {"good": 0, "unknown": 0, "not done": 0, "replayed": 0}
        self._guarded: list[bytearray] = []
        self._scribbled: list[bytearray] = []

    # --- calls

    def do(self, kind: str, which: int, timeout_s: float) -> None:
        """Begin a call."""
        if self.waits:
            return
        self.deadline_s = self._world.reactor.seconds() + timeout_s
        self.waits = True
        match kind:
            case "write":
                self._write(which)
            case "read":
                self._read(which)
            case "count":
                self._count()
            case _:
                self._start(Command(0, cdb.synchronize_cache()), lambda known: None)

    def _take(self) -> int:
        self._world.blocks_taken += 1
        return self._world.blocks_taken - 1

    def _write(self, which: int) -> None:
        while len(self.mine) < 3:
            self.mine.append(self._take())
            self._possible[self.mine[-1]] = {bytes(BLOCK_BYTES)}
        first = self.mine[which % 3]
        blocks = [first, first + 1] if which & 4 and first + 1 in self.mine else [first]
        self._serial += 1
        value = bytes((self._number + 1, self._serial & 0xFF, self._serial >> 8)).ljust(BLOCK_BYTES, b"w")
        data = bytearray(value * len(blocks))

        def known(outcome: str) -> None:
            for block in blocks:
                if outcome == "good":
                    self._possible[block] = {value}
                elif outcome == "unknown":
                    self._possible[block] = self._possible[block] | {value}
                    self.mine.remove(block)
            data[:] = bytes((SCRIBBLE,)) * len(data)
            self._scribbled.append(data)

        self._start(Command(0, cdb.write(first, len(blocks)), data_out=data), known)

    def _read(self, which: int) -> None:
        if not self.mine:
            self.waits = False
            return
        block = self.mine[which % len(self.mine)]
        buffer = bytearray(BLOCK_BYTES)

        def known(outcome: str) -> None:
            if outcome == "good":
                assert bytes(buffer) in self._possible[block], f"block {block} holds {bytes(buffer[:8])!r}"
            buffer[:] = bytes((GUARD,)) * len(buffer)
            self._guarded.append(buffer)

        self._start(Command(0, cdb.read(block, 1), data_in=buffer), known)

    def _count(self) -> None:
        """COMPARE AND WRITE of the next number: were it executed twice, the second one would miscompare."""
        if self.counter is None:
            self.counter, self.count = self._take(), 0
            self._possible[self.counter] = {bytes(BLOCK_BYTES)}
        block, old, new = self.counter, self._number_block(self.count), self._number_block(self.count + 1)

        def known(outcome: str) -> None:
            if outcome == "good":
                self._possible[block] = {new}
                self.count += 1
            elif outcome == "unknown":
                self._possible[block] = {old, new}
                self.counter = None

        command = bytes((0x89, 0)) + block.to_bytes(8, "big") + bytes((0, 0, 0, 1, 0, 0))
        self._start(Command(0, command, data_out=old + new), known)

    @staticmethod
    def _number_block(number: int) -> bytes:
        return number.to_bytes(4, "big") * (BLOCK_BYTES // 4) if number else bytes(BLOCK_BYTES)

    # --- what comes of them

    def _start(self, command: Command, known: Any) -> None:
        data_in, data_out = command.data_in, command.data_out

        def finished(given: Command) -> None:
            assert given is command
            outcome = self._outcome(given)
            if outcome == "again":  # the target said by its status that it was not executed
                out = data_out if len(data_out) else None
                self._start(Command(0, command.cdb, data_in=data_in, data_out=out), known)
                return
            assert self.waits
            self.waits = False
            self.ended[outcome] += 1
            known(outcome)

        self._world.road.start(command, self.deadline_s, finished)

    @staticmethod
    def _outcome(command: Command) -> str:
        error = command.error
        if isinstance(error, FlushInDoubt):
            return "good"
        if error is not None:
            assert isinstance(error, (TimedOut, SessionLost)), repr(error)
            return "unknown" if error.outcome_unknown else "not done"
        assert not command.response
        if command.status in (BUSY, TASK_SET_FULL):
            return "again"
        if command.status == 2:
            told = sense.parse(command.sense)
            assert told is not None
            assert told.key is SenseKey.UNIT_ATTENTION, f"{command!r}: {told}"
            return "again"
        assert command.status == 0
        return "good"

    # --- the judge

    def judge_now(self) -> None:
        """No call is past its deadline."""
        assert not (self.waits and self._world.reactor.seconds() > self.deadline_s), "a call outlives its deadline"

    def judge_at_the_end(self, content: bytes) -> None:
        """What was acknowledged is on the disk, and no buffer was touched after its call had ended."""
        for block, possible in self._possible.items():
            found = content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
            assert found in possible, f"block {block} holds {found[:8]!r}"
        assert all(set(buffer) == {GUARD} for buffer in self._guarded)
        assert all(set(buffer) == {SCRIBBLE} for buffer in self._scribbled)
        assert bytes((SCRIBBLE,)) * BLOCK_BYTES not in content
