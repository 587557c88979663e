"""`python -m tests.bench.profile`: where the microseconds of a 4 KiB READ or WRITE go, by leaving stages out.

One connection of csvd in this process, on a TCP connection over loopback, and a file in the page cache. Its turn is
timed whole, from `recv` to the end of `send`; then with one stage replaced by something that does nothing. What is
missing then is what the stage takes. No profiler runs, so nothing is slower than it is. Beside it: the bare system
calls, and a turn of the event loop that does nothing. All figures are microseconds a command.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import select
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

from csvd.iscsi.node import NetworkEntity, TargetNode
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.target_device import TargetDevice
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from csvd.target import express
from csvd.target.connection import ServerConnection
from csvd.target.executor import Executor
from csvd.target.steps import StepRunner
from tests.bench.files import cache_in_pages, fill
from tests.bench.wire import (
    BHS_BYTES,
    PATCH,
    PATCH_OFFSET,
    READ_16,
    SECTOR_BYTES,
    WRITE_16,
    Agreed,
    read_command,
    write_command,
)
from tests.iscsi_wire import TARGET, TEST_UNIT_READY, End, Wire, cdb10
from tests.unit.storage.pool_doubles import result_now
from tests.unit.target.fake_reactor import FakeReactor

BLOCK_BYTES: Final = 4096
SOCKET_BYTES: Final = 4 << 20
WARM_UP: Final = 20
DEPTHS: Final = (1, 32)
STAGES: Final = ("recv", "parse, checks", "disk", "build", "send", "rest of the turn", "turn of the loop")
Timed = Callable[[], float]
"""Does something once, and gives its nanoseconds."""


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection over loopback, with room for all that a turn sends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near = listener.accept()[0]
    for sock in (far, near):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
    near.setblocking(False)
    return far, near


class Reactor(FakeReactor):
    """One that takes calls from threads, too: a WRITE that is not taken at once comes back from one."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: deque[Callable[[], object]] = deque()

    def callFromThread(self, call: Callable[..., object], *args: object) -> None:
        self._calls.append(lambda: call(*args))

    def turn(self) -> None:
        while self._calls:
            self._calls.popleft()()
        super().turn()


class Bench:
    """A session in full-feature phase whose next commands are READs or WRITEs of 4 KiB, `depth` of them at a time."""

    def __init__(self, disk: Path, *, depth: int, writes: bool) -> None:
        self.depth, self.writes = depth, writes
        self.reactor = Reactor()
        self.pool = DiskPool(self.reactor)
        self.disk = result_now(open_disk(str(disk), pool=self.pool))
        unit = LogicalUnit(0, self.disk, SECTOR_BYTES, self.disk.size_bytes // SECTOR_BYTES, Identity(serial="profile"))
        device = TargetDevice({0: unit})
        executor = Executor(device, StepRunner(self.reactor, None, lambda _unit, _nexuses, done: done()))
        wire = Wire()
        wire.target = TargetNode(TARGET, device)
        wire.entity = NetworkEntity([wire.target], entropy=lambda count: bytes(range(count)))
        self.far, self.near = tcp_pair()
        self._end = End(wire)
        self.connection = ServerConnection(
            self.reactor, self.near, self._end.engine, lambda _: executor, lambda _: None
        )
        keys = {"InitiatorName": "iqn.2026-11.test:profile", "TargetName": TARGET, "InitialR2T": "No"}
        self._ask(self._end.login_pdu(keys | {"MaxRecvDataSegmentLength": "262144"}))
        self._ask(self._end.command(cdb10(TEST_UNIT_READY, 0, 0)))
        self._cmd_sn = self._end.cmd_sn
        agreed = Agreed(262144, 65536, immediate_data=True, initial_r2t=False, data_digest=False)
        payload = memoryview(random.Random(0).randbytes(BLOCK_BYTES))
        self._images = [
            write_command(tag, 0, payload, agreed) if writes else read_command(tag, 0, BLOCK_BYTES)
            for tag in range(depth)
        ]
        self._slots = self.disk.size_bytes // BLOCK_BYTES
        self.answer_bytes = depth * (BHS_BYTES if writes else BHS_BYTES + BLOCK_BYTES)
        self.request_bytes = sum(map(len, self._images))
        self.is_answered = True
        self._taken = bytearray(self.answer_bytes)

    def close(self) -> None:
        self.connection.abort()
        self.far.close()
        self.disk.close()
        self.pool.stop()

    def _ask(self, request: bytes) -> None:
        self.far.sendall(request)
        select.select([self.near], [], [], 5)
        self.reactor.turn()
        self.far.recv(65536)

    def requests(self) -> bytes:
        """The next commands, as one `recv` brings them."""
        code = (WRITE_16 if self.writes else READ_16) << 8
        for image in self._images:
            lba = random.randrange(self._slots) * (BLOCK_BYTES // SECTOR_BYTES)
            PATCH.pack_into(image, PATCH_OFFSET, self._cmd_sn, 0, code, lba)
            self._cmd_sn += 1
        return b"".join(self._images)

    def turn(self) -> float:
        """One turn of the connection with all of them; the initiator's part is not timed."""
        self.far.sendall(self.requests())
        select.select([self.near], [], [], 5)
        begin_ns = time.perf_counter_ns()
        self.connection.doRead()
        took_ns = time.perf_counter_ns() - begin_ns
        self._drain()
        return took_ns

    def _drain(self) -> None:
        view, filled = memoryview(self._taken), 0
        while self.is_answered and filled < self.answer_bytes:
            if not select.select([self.far], [], [], 0)[0]:
                self.reactor.turn()
            else:
                filled += self.far.recv_into(view[filled:])

    def turn_without_send(self) -> float:
        """The same, where what is sent goes nowhere."""

        class Dropped:
            recv_into, recvmsg_into = self.near.recv_into, self.near.recvmsg_into

            def send(self, data: memoryview) -> int:
                return len(data)

            def sendmsg(self, pieces: Sequence[memoryview]) -> int:
                return sum(map(len, pieces))

        self.is_answered = False
        with self._socket_is(Dropped()):
            took_ns = self.turn()
        self.is_answered = True
        return took_ns

    @contextlib.contextmanager
    def _socket_is(self, sock: Any) -> Iterator[None]:
        self.connection._socket = sock
        try:
            yield
        finally:
            self.connection._socket = self.near

    @contextlib.contextmanager
    def without_disk(self) -> Iterator[None]:
        """Reads bring whatever the buffer has, writes vanish."""
        with _replaced(self.road(), "nowait", _always):
            yield

    def road(self) -> Any:
        """What the express path knows of these commands."""
        assert self.connection._express is not None, "the express path is not taken"
        return self.connection._express._roads[0, WRITE_16 if self.writes else READ_16]

    def express_alone(self) -> float:
        """The express path without socket, disk and answers: fields unpacked, all that must be so looked at."""
        path = self.connection._express
        assert path is not None
        rest, took_ns, receiver = memoryview(self.requests()), 0, path.receiver
        size_bytes = self.request_bytes // self.depth
        while rest:
            receiver.renew()
            part = rest[: len(receiver.buffer) // size_bytes * size_bytes]
            receiver.buffer[: len(part)] = part
            receiver.end, rest = len(part), rest[len(part) :]
            begin_ns = time.perf_counter_ns()
            path.run()
            took_ns += time.perf_counter_ns() - begin_ns
            assert receiver.is_empty, "the express path has left something"
            path.scratch.used = 0
        self.connection.counter.end_run()
        return took_ns


def medians(timed: Sequence[Timed], turns: int) -> list[float]:
    """The median of each, over so many turns; they take turns, so that what the machine does meets all of them."""
    taken: list[list[float]] = [[] for _ in timed]
    for _ in range(turns):
        for values, each in zip(taken, timed, strict=True):
            values.append(each())
    return [median(values) for values in taken]


@contextlib.contextmanager
def without_build() -> Iterator[None]:
    """Answers are not packed; what is sent has their length."""
    with _replaced(express, "_pack_data_in", _nothing), _replaced(express, "_pack_response", _nothing):
        yield


@contextlib.contextmanager
def _replaced(place: Any, name: str, by: Any) -> Iterator[None]:
    before = getattr(place, name)
    setattr(place, name, by)
    try:
        yield
    finally:
        setattr(place, name, before)


def _always(_data: Any, _offset_bytes: int) -> bool:
    return True


def _nothing(*_: Any) -> None:
    return None


class Bare:
    """The system calls of a turn, on sockets and a file of their own; each gives its nanoseconds."""

    def __init__(self, bench: Bench, disk: Path) -> None:
        self._far, self._near = tcp_pair()
        self._request, self._answer = bytes(bench.request_bytes), memoryview(bytearray(bench.answer_bytes))
        self._into, self._data = bytearray(SOCKET_BYTES), memoryview(bytearray(BLOCK_BYTES))
        self._fd = os.open(disk, os.O_RDWR)
        self._slots, self._depth = os.fstat(self._fd).st_size // BLOCK_BYTES, bench.depth
        self._call: Callable[..., int] = os.pwritev if bench.writes else os.preadv

    def receive(self) -> float:
        self._far.sendall(self._request)
        select.select([self._near], [], [], 5)
        begin_ns = time.perf_counter_ns()
        self._near.recv_into(self._into)
        return time.perf_counter_ns() - begin_ns

    def transfer(self) -> float:
        call, fd, buffers = self._call, self._fd, (self._data,)
        offsets = [random.randrange(self._slots) * BLOCK_BYTES for _ in range(self._depth)]
        begin_ns = time.perf_counter_ns()
        for offset in offsets:
            call(fd, buffers, offset)
        return time.perf_counter_ns() - begin_ns

    def send(self) -> float:
        begin_ns = time.perf_counter_ns()
        self._near.send(self._answer)
        took_ns = time.perf_counter_ns() - begin_ns
        rest = len(self._answer)
        while rest:
            rest -= self._far.recv_into(self._into, rest)
        return took_ns

    def close(self) -> None:
        os.close(self._fd)
        self._far.close()
        self._near.close()


def stages(bench: Bench, disk: Path, turns: int) -> dict[str, float]:
    """What each stage takes of a turn, in nanoseconds, the whole turn, as `turn`, and the bare system calls of it.

    `recv` is the bare one: a turn without it would find its bytes in the processor's cache.
    """
    for _ in range(WARM_UP):  # the first make the road, and find out what the file system can
        bench.turn()

    def without_disk() -> float:
        with bench.without_disk():
            return bench.turn()

    def without_answers() -> float:
        with without_build():
            return bench.turn()

    def parse() -> float:
        with bench.without_disk(), without_build():
            return bench.express_alone()

    bare = Bare(bench, disk)
    timed = [bench.turn, without_disk, without_answers, bench.turn_without_send, parse]
    with contextlib.closing(bare):
        found = medians([*timed, bare.receive, bare.transfer, bare.send], turns)
    whole, no_disk, no_build, no_send, checks, *calls = found
    taken = {
        "recv": calls[0],
        "parse, checks": checks,
        "disk": whole - no_disk,
        "build": whole - no_build,
        "send": whole - no_send,
    }
    alone = dict(zip(("bare recv", "bare disk", "bare send"), calls, strict=True))
    return {**taken, **alone, "rest of the turn": whole - sum(taken.values()), "turn": whole}


def loop_turn(turns: int) -> float:
    """Nanoseconds of a turn of the event loop that wakes one reader, without what the reader does."""
    far, near = tcp_pair()
    far.setblocking(False)

    def ping() -> None:
        near.send(b"x")
        far.recv(1)

    def alone() -> float:
        begin_ns = time.perf_counter_ns()
        ping()
        return time.perf_counter_ns() - begin_ns

    async def in_loop() -> float:
        loop, done, came_ns = asyncio.get_running_loop(), asyncio.Event(), [time.perf_counter_ns()]

        def readable() -> None:
            far.recv(1)
            came_ns.append(time.perf_counter_ns())
            if len(came_ns) > turns:
                done.set()
            near.send(b"x")

        loop.add_reader(far, readable)
        near.send(b"x")
        await done.wait()
        loop.remove_reader(far)
        return median(after - before for before, after in pairwise(came_ns))

    try:
        (bare,) = medians([alone], turns)
        return float(run_loop(in_loop())) - bare
    finally:
        far.close()
        near.close()


def run_loop(coroutine: Any) -> Any:
    """On the loop that csvd runs on: uvloop's, where it is installed."""
    with contextlib.suppress(ImportError):
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(coroutine)
    return asyncio.run(coroutine)


def profile(disk: Path, turns: int) -> dict[str, dict[str, float]]:
    """By load: microseconds a command of each stage, of the bare system calls, and of all."""
    loop_ns = loop_turn(turns)
    figures: dict[str, dict[str, float]] = {}
    for writes in (False, True):
        for depth in DEPTHS:
            bench = Bench(disk, depth=depth, writes=writes)
            try:
                found = stages(bench, disk, turns)
            finally:
                bench.close()
            found |= {"turn of the loop": loop_ns, "all": found["turn"] + loop_ns}
            name = f"{'write' if writes else 'read'}, {depth} a turn"
            figures[name] = {stage: value / depth / 1000 for stage, value in found.items()}
    return figures


def table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown: a column for each load."""
    lines = [f"| µs a command of 4 KiB | {' | '.join(figures)} |", "|---|" + "---:|" * len(figures)]
    names = [*STAGES, "all", "bare recv", "bare disk", "bare send"]
    for name in names:
        title = f"**{name}**" if name == "all" else name
        lines.append(f"| {title} | {' | '.join(f'{column[name]:.2f}' for column in figures.values())} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("--turns", type=int, default=2000, help="of which the medians are taken (default: 2000)")
    parser.add_argument("--disk-mib", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="csvd-profile-", dir=options.folder) as folder:
        disk = Path(folder) / "disk.img"
        fill(disk, options.disk_mib)
        cache_in_pages(disk)
        print(table(profile(disk, options.turns)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
