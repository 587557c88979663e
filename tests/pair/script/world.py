"""The target that a script is played to, from the socket to the disk, on a reactor that a test turns."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from csvd.iscsi.codes import TaskManagementFunction
from csvd.iscsi.connection import TargetConnection
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.storage.memory import MemoryDisk
from csvd.target.connection import ServerConnection
from csvd.target.export import Export
from csvd.target.service import TargetService
from tests.iscsi_wire import TARGET
from tests.pair.script.host import FOREVER, Host, Sent
from tests.pair.script.oracle import Oracle, Size, end_what_was_managed
from tests.pair.script.steps import (
    BLOCK_BYTES,
    DISK_BLOCKS,
    Ask,
    Cut,
    Exist,
    Finish,
    Listen,
    Manage,
    Manner,
    Ping,
    Push,
    Resize,
    Step,
    Swap,
    Transfer,
    Warm,
)
from tests.unit.target.fake_reactor import FakeReactor

DISK_BYTES = DISK_BLOCKS * BLOCK_BYTES
SETTLING_TURNS = 5_000


class ScriptedDisk(MemoryDisk):
    """A disk in memory that is slow when told: what it has not at hand takes until :meth:`finish`, and all that waits.

    A write takes its bytes, and a read gives them, at the very end: whoever lets go of a buffer too early is found out.
    """

    def __init__(self, *, slow: bool) -> None:
        super().__init__(DISK_BYTES)
        self.slow = slow
        self.jobs: list[tuple[Callable[[], Deferred[None]], Deferred[None]]] = []
        self._cold: set[int] = set(range(12)) if slow else set()

    def warm(self, block: int, blocks: int, *, warm: bool) -> None:
        """Have a range at hand, or not."""
        touched = set(range(block, block + blocks))
        self._cold = self._cold - touched if warm else self._cold | touched

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        first = offset_bytes // BLOCK_BYTES
        if self._cold and not self._cold.isdisjoint(range(first, first + len(buffer) // BLOCK_BYTES)):
            buffer[:] = b"\xee" * len(buffer)  # nothing may be assumed of it
            return False
        return super().read_nowait(buffer, offset_bytes)

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        def read() -> Deferred[None]:
            cold, self._cold = self._cold, set()
            try:
                return super(ScriptedDisk, self).read_into(buffer, offset_bytes)
            finally:
                self._cold = cold

        return self._job(read)

    def write_from(self, buffers: Sequence[Any], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        return self._job(lambda: super(ScriptedDisk, self).write_from(buffers, offset_bytes, fua=fua))

    def write_nowait(self, buffers: Sequence[Any], offset_bytes: int) -> bool:
        first, length = offset_bytes // BLOCK_BYTES, sum(map(len, buffers))
        if self._cold and not self._cold.isdisjoint(range(first, first + length // BLOCK_BYTES)):
            some = len(buffers[0]) // BLOCK_BYTES // 2 * BLOCK_BYTES
            super().write_nowait((buffers[0][:some],), offset_bytes)  # "perhaps a part of it is written"
            return False
        return super().write_nowait(buffers, offset_bytes)

    def flush(self) -> Deferred[None]:
        return self._job(super().flush)

    def _job(self, run: Callable[[], Deferred[None]]) -> Deferred[None]:
        if not self.slow:
            return run()
        ended: Deferred[None] = Deferred()
        self.jobs.append((run, ended))
        return ended

    def finish(self, which: int) -> None:
        """End one of the jobs."""
        if self.jobs:
            run, ended = self.jobs.pop(which % len(self.jobs))
            run().chainDeferred(ended)

    def content(self) -> bytes:
        """All of it."""
        buffer = memoryview(bytearray(DISK_BYTES))
        assert super().read_nowait(buffer, 0)
        return bytes(buffer)


class StingySocket:
    """A socket that takes a part of what it is given, cut anywhere, and has no room every now and then."""

    def __init__(self, sock: socket.socket, seed: int) -> None:
        self._sock = sock
        self._random = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: Any) -> int:
        """As much as it likes."""
        if self._random.random() < 0.3:
            raise BlockingIOError
        return self._sock.send(data[: self._random.choice((1, 2, 3, 47, 48, 49, 700, 5000, 1 << 20))])

    def sendmsg(self, buffers: Sequence[Any]) -> int:
        """As much as it likes of all of them."""
        return self.send(b"".join(buffers))


class World:
    """Hosts, a target with one logical unit, and a clock that counts.

    Args:
        express: whether connections answer at once what they can.
        pdu_by_pdu: a turn of the loop for each PDU, whatever the script says.
        stingy: a seed, where the sockets of the target are to take what they are given in pieces.
    """

    def __init__(
        self,
        manners: Sequence[Manner],
        *,
        slow: bool = False,
        express: bool = True,
        pdu_by_pdu: bool = False,
        stingy: int | None = None,
    ) -> None:
        self.reactor = FakeReactor()
        self.disk = ScriptedDisk(slow=slow)
        self.now = 0
        self.sizes = [Size(0, DISK_BLOCKS)]
        self.changes = 0
        """Events of which unit attention conditions tell."""
        self._unit = LogicalUnit(0, self.disk, BLOCK_BYTES, DISK_BLOCKS, Identity(serial="script"))
        self.service = TargetService(self.reactor, [Export(TARGET, [self._unit])])
        self._express = express
        self._pdu_by_pdu = pdu_by_pdu
        self._managed: set[tuple[int, int]] = set()
        self._tags = 0
        self.connections: list[ServerConnection] = []
        self.hosts = [self._host(number, manner) for number, manner in enumerate(manners)]
        for host in self.hosts:
            host.login()
            self._push(host, 0)
            host.logged_in()
        if stingy is not None:
            for number, connection in enumerate(self.connections):
                sock: Any = StingySocket(connection._socket, stingy + number)
                connection._socket = sock

    def _host(self, number: int, manner: Manner) -> Host:
        far, near = socket.socketpair()
        for sock in (far, near):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, manner.socket_bytes)
        engine = TargetConnection(
            self.service.entity, local_address="127.0.0.1:3260", peer=f"192.0.2.{number + 1}:9", now_s=0.0
        )
        connection = connect(self.reactor, near, engine, self.service, express=self._express)
        self.connections.append(connection)
        return Host(number, manner, far)

    def play(self, steps: Sequence[Step]) -> None:
        """Carry out a script, and see it to its end."""
        for step in steps:
            self.now += 1
            self._step(step)
        self._settle()

    def _step(self, step: Step) -> None:
        match step:
            case Transfer() | Ask() | Ping() | Manage():
                self._say(step)
            case Swap():
                self.hosts[step.host].swap()
            case Push():
                self._push(self.hosts[step.host], step.size)
            case Finish():
                self.disk.finish(step.which)
                if step.turn:
                    self._turn()
            case Warm():
                self.disk.warm(step.block, step.blocks, warm=step.warm)
            case Exist():
                self._exist(present=step.present)
            case Resize():
                self._resize(step.blocks)
            case Listen():
                self.hosts[step.host].reads = step.reads
            case Cut():
                self._cut(self.hosts[step.host])

    def _say(self, step: Transfer | Ask | Ping | Manage) -> None:
        host = self.hosts[step.host]
        if host.cut:
            return
        self._tags += 1
        urgent = getattr(step, "urgent", False)
        sent = Sent(step, host, self._tags, urgent=urgent)
        if isinstance(step, Manage):
            if step.function == TaskManagementFunction.ABORT_TASK:
                known = [each for each in host.sent.values() if isinstance(each.step, Transfer | Ask)]
                if not known:
                    return
                sent.about = known[-1 - step.which % len(known)]
            self.changes += 1
        host.say(sent)

    def _push(self, host: Host, size: int) -> None:
        """Bytes reach the target, and it has a turn; with PDU by PDU, one for each."""
        left = size or FOREVER
        while left:
            self.now += 1
            most = host.next_pdu_bytes() if self._pdu_by_pdu else 1 << 20
            count = host.push(min(left, most), self.now)
            self._turn()
            if not count:
                return
            left -= count

    def _turn(self) -> None:
        self.now += 1
        self.reactor.turn()
        if self.hosts_are_in:
            for host in self.hosts:
                host.listen(self.now)
            self._end_managed()

    @property
    def hosts_are_in(self) -> bool:
        return hasattr(self, "hosts") and all(host.exp_stat_sn for host in self.hosts)

    def _end_managed(self) -> None:
        everything = self.requests
        for sent in everything:
            if isinstance(sent.step, Manage) and sent.is_answered and (sent.host.number, sent.tag) not in self._managed:
                self._managed.add((sent.host.number, sent.tag))
                end_what_was_managed(everything, sent, self.now)

    def _exist(self, *, present: bool) -> None:
        there = self.service.unit(TARGET, 0) is not None
        if present and not there:
            self.service.add_unit(TARGET, self._unit)
            self.sizes.append(Size(self.now, self._unit.block_count))
        elif there and not present:
            Deferred.fromCoroutine(self.service.remove_unit(TARGET, 0))
            self.sizes.append(Size(self.now, None))
        self.changes += 1

    def _resize(self, blocks: int) -> None:
        if self.service.unit(TARGET, 0) is not None:
            self.service.device(TARGET).resized(0, blocks)
            self.sizes.append(Size(self.now, blocks))
        self.changes += 1

    def _cut(self, host: Host) -> None:
        if sum(not other.cut for other in self.hosts) > 1 and not host.cut:
            host.cut = True
            host.sock.close()
            for sent in host.sent.values():
                sent.may_be_dead = True
            if any(isinstance(sent.step, Manage) and not sent.is_answered for sent in host.sent.values()):
                # Nobody hears what it has ended.
                for sent in self.requests:
                    sent.may_be_dead = True
            self.changes += 1
            self._turn()

    @property
    def requests(self) -> list[Sent]:
        return [sent for host in self.hosts for sent in host.sent.values()]

    def _settle(self) -> None:
        """All listen, the disk goes on, and everything comes to its end."""
        for host in self.hosts:
            host.reads = True
            host.release_held()
        for _ in range(SETTLING_TURNS):
            for host in self.hosts:
                self._push(host, 0)
            self.disk.finish(0)
            self._turn()
            self.reactor.advance(0.01)
            if self._is_settled():
                break
        else:
            raise AssertionError(f"it does not come to an end: {self._open()}")
        for _ in range(3):
            self._turn()
        assert not self._open()

    def _is_settled(self) -> bool:
        if (
            self.disk.jobs
            or self.reactor.getDelayedCalls()
            or not all(each.drained or each.disconnected for each in self.connections)
        ):
            return False
        return not any(host.has_to_say for host in self.hosts if not host.cut) and not self._open()

    def _open(self) -> list[Sent]:
        """What should be answered and is not."""
        return [s for s in self.requests if not (s.is_answered or s.dead_at < FOREVER or s.may_be_dead)]

    def judge(self) -> None:
        """Everything that was said and everything that is on the disk is right, and nothing is left over."""
        oracle = Oracle(self.requests, self.sizes)
        oracle.judge()
        oracle.judge_content(self.disk.content())
        for host, connection in zip(self.hosts, self.connections, strict=True):
            attentions = [s for s in host.sent.values() if s.status == 2 and s.sense[2] & 0x0F == 6]
            assert len(attentions) <= 2 + 2 * self.changes
            assert connection.held_bytes == 0
            if host.cut:
                continue
            session = connection.engine.session
            assert session is not None
            assert not session.tasks
            assert not session.held
            assert session.r2t_bytes == 0
            assert connection.drained
            assert (session.max_cmd_sn - session.exp_cmd_sn + 1) & 0xFFFFFFFF == session.queue_depth
        executor = self.service._served[TARGET].executor
        assert not executor.busy

    def close(self) -> None:
        for host in self.hosts:
            host.sock.close()
        for connection in self.connections:
            connection.abort()


def connect(
    reactor: Any, sock: socket.socket, engine: TargetConnection, service: TargetService, *, express: bool
) -> ServerConnection:
    """A connection of the service; without its express path where that is not wanted."""
    connection = ServerConnection(reactor, sock, engine, service._executor_of, service._lost)
    if not express and hasattr(connection, "takes_express"):
        connection.takes_express = False
    return connection
