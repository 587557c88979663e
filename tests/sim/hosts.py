"""A simulated host: what outlives its processes (state directory, crystal of the clock), and what is done to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred

from csvd.cluster.errors import JournalError
from csvd.cluster.journal import JOURNAL_NAME
from csvd.cluster.network import Address, Fingerprints
from tests.sim.raft_checks import RaftChecks
from tests.sim.world import Event, Process, World
from tests.unit.cluster.simulated_files import PowerCut, SimulatedFiles


class ProcessFiles:
    """The state directory as one process sees it; a process that is dead changes nothing any more."""

    def __init__(self, process: Process, files: SimulatedFiles, raft_checks: RaftChecks) -> None:
        self._process = process
        self.files = files
        self.raft_checks = raft_checks

    def read(self, name: str) -> bytes | None:
        """The content of a file."""
        return self.files.read(name)

    def write(self, name: str, offset_bytes: int, data: bytes) -> None:
        """Write at an offset."""
        if self._process.is_alive:
            self.files.write(name, offset_bytes, data)

    def truncate(self, name: str, length_bytes: int) -> None:
        """Cut to a length."""
        if self._process.is_alive:
            self.files.truncate(name, length_bytes)

    def sync(self, name: str) -> None:
        """fdatasync."""
        if self._process.is_alive:
            self.files.sync(name)

    def rename(self, old: str, new: str) -> None:
        """Give another name."""
        if self._process.is_alive:
            self.files.rename(old, new)

    def remove(self, name: str) -> None:
        """Remove a file."""
        if self._process.is_alive:
            self.files.remove(name)

    def sync_names(self) -> None:
        """fsync of the directory."""
        if self._process.is_alive:
            self.files.sync_names()

    def close(self) -> None:
        """Nothing is held."""


class BlockingCalls:
    """The thread of a process that blocks on its disk: a call takes its time, and a crash may find it half done."""

    def __init__(self, process: Process, mean_s: float) -> None:
        self._process = process
        self._random = process.world.random(f"disk {process.name} {process.world.now_s}")
        self.mean_s = mean_s
        self._under_way: list[tuple[Event, Callable[[], Any]]] = []

    def run(self, call: Callable[[], Any]) -> Deferred[Any]:
        """Run a call; the Deferred fires in the loop when it is done."""
        done: Deferred[Any] = Deferred()
        delay_s = self._random.expovariate(1 / self.mean_s) if self.mean_s else 0.00001
        event = self._process.world.later(min(delay_s, 3.0), self._run, call, done, owner=self._process)
        self._under_way.append((event, call))
        return done

    def crash(self, files: SimulatedFiles) -> None:
        """The process ends: what its thread was at may be done up to any of its steps."""
        for event, call in self._under_way:
            if event.state or self._random.random() < 0.5:
                continue
            files.cut_at = files.steps + self._random.randrange(1, 6)
            with contextlib.suppress(PowerCut, JournalError):
                call()
            files.cut_at = None

    def _run(self, call: Callable[[], Any], done: Deferred[Any]) -> None:
        self._under_way = [(event, other) for event, other in self._under_way if not event.state]
        defer.execute(call).chainDeferred(done)


class Host:
    """A host, with the process of csvd on it or without."""

    def __init__(self, world: World, name: str, rate: float) -> None:
        self.world = world
        self.name = name
        self.rate = rate
        self.life = 0
        self.contacts: dict[str, tuple[Address | None, Fingerprints]] = {}
        self.random = world.random(f"host {name}")
        self.files = SimulatedFiles()
        self.process: Process | None = None
        self.off_since_s: float | None = None
        self.is_full = False
        self._boot_offset_s = self.random.uniform(0, 1000)
        self._booted_at_s = 0.0

    @property
    def fingerprint(self) -> str:
        """What stands for that of the node's certificate; another one whenever the host joins anew."""
        return fingerprint_of(self.name, self.life)

    @property
    def is_up(self) -> bool:
        """Whether it has power."""
        return self.off_since_s is None

    @property
    def is_blank(self) -> bool:
        """Whether it is in no cluster."""
        return self.files.read(JOURNAL_NAME) is None

    def wipe(self) -> None:
        """Forget all: the state directory is made anew."""
        assert self.process is None
        self.files = SimulatedFiles()
        self.set_full(False)
        self.life += 1

    def set_full(self, is_full: bool) -> None:
        """Whether the file system of the state directory has no room."""
        self.is_full = is_full
        self.files.failing = "No space left on device" if is_full else None

    def new_process(self) -> Process:
        """Begin a process."""
        assert self.process is None
        assert self.is_up
        # The clock began with the boot of the host, not with this process.
        offset_s = self._boot_offset_s + self.rate * (self.world.now_s - self._booted_at_s)
        self.process = Process(self.world, self.name, self.rate, offset_s)
        return self.process

    def no_process(self) -> None:
        """The process has ended before it had begun anything."""
        assert self.process is not None
        self.process.kill()
        self.process = None

    def end_process(self, calls: BlockingCalls, *, power_cut: bool) -> None:
        """The process is killed, or the power goes."""
        assert self.process is not None
        calls.crash(self.files)
        self.process.kill(power_cut=power_cut)
        self.process = None
        if power_cut:
            self.files = self.files.after_power_cut(self.random)
            self._boot_offset_s = self.random.uniform(5, 60)
            self._booted_at_s = self.world.now_s
            self.off_since_s = self.world.now_s
        else:
            self.files = self.files.after_kill()
        self.set_full(self.is_full)


def fingerprint_of(name: str, life: int = 0) -> str:
    """What stands for the fingerprint of a node's certificate."""
    return f"{name.encode().hex()}{life:08x}".ljust(64, "0")
