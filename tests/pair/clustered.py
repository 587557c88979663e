"""Several nodes that export one logical unit, in one room: real engines, real device servers, coordination in memory.

All nodes have the same bytes under them; each reaches them by a disk of its own, which a test can hold up and fence.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from csvd.iscsi.connection import TargetConnection, gather
from csvd.iscsi.keys import OFFER
from csvd.iscsi.node import NetworkEntity, TargetNode
from csvd.iscsi.portals import portal_group_tag
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.lun import lun_spellings
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.target_ports import AccessState
from csvd.shared_disk import FenceProof
from csvd.storage.disk import FENCED, Buffer, StorageError
from csvd.storage.memory import MemoryDisk
from csvd.target.cluster_units import ClusterUnits
from csvd.target.executor import Executor
from csvd.target.steps import StepRunner
from csvd.target.unit_service import UnitService
from initiator.engine.connection import InitiatorConnection
from initiator.engine.login import LoginSettings
from initiator.engine.requests import Command, Request, TaskManagement
from initiator.engine.session import SessionState
from tests.fake_adapter import FakeAdapter
from tests.pair.joined import BLOCK_BYTES, DISK_BYTES, TARGET, feed_target
from tests.unit.cluster.loopback import Loopback

GOOD, CHECK_CONDITION, CONFLICT = 0x00, 0x02, 0x18


class NodeDisk(MemoryDisk):
    """The way of one node to the bytes that all have.

    Attributes:
        is_slow: nothing is done at once: `let_go` does it, in its order.
        held: what waits for that.
        gone: nodes that were fenced through this one.
        is_joined: whether this node has its place.
    """

    def __init__(self, bytes_of_all: MemoryDisk) -> None:
        super().__init__(DISK_BYTES)
        self._memory.close()
        self._memory = bytes_of_all._memory
        self.is_slow = False
        self.held: list[tuple[Callable[[], Deferred[None]], Deferred[None]]] = []
        self.gone: list[tuple[str, int]] = []
        self.is_joined = False
        self.history: list[str] = []

    def join(self, node: str, number: int = 0) -> Deferred[None]:
        self.is_joined = True
        self.history.append("join")
        return succeed(None)

    def leave(self) -> Deferred[None]:
        assert not self.held, "it is left when nothing is under way"
        self.is_joined = False
        self.history.append("leave")
        return succeed(None)

    def fence(self, node: str, number: int = 0) -> Deferred[FenceProof]:
        self.gone.append((node, number))
        return succeed(FenceProof("file lock", node, "its lock was had", 0.0))

    def is_gone(self, node: str, number: int = 0) -> Deferred[bool]:
        return succeed(False)

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        return not self.is_slow and super().read_nowait(buffer, offset_bytes)

    def write_nowait(self, buffers: Sequence[Buffer], offset_bytes: int) -> bool:
        self._must_be_joined()
        return not self.is_slow and super().write_nowait(buffers, offset_bytes)

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        if not self.is_slow:
            return super().read_into(buffer, offset_bytes)
        return self._hold(lambda: MemoryDisk.read_into(self, buffer, offset_bytes))

    def write_from(self, buffers: Sequence[Buffer], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        self._must_be_joined()
        if not self.is_slow:
            return super().write_from(buffers, offset_bytes, fua=fua)
        return self._hold(lambda: MemoryDisk.write_from(self, buffers, offset_bytes))

    def _must_be_joined(self) -> None:
        assert self.is_joined, "a node writes to a disk that it has left"

    def _hold(self, do: Callable[[], Deferred[None]]) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self.held.append((do, done))
        return done

    def let_go(self) -> None:
        """All that waits is done."""
        self.is_slow = False
        while self.held:
            do, done = self.held.pop(0)
            do().chainDeferred(done)

    def refuse_held(self) -> None:
        """All that waits is refused: a thread has seen that it is too late."""
        self.is_slow = False
        while self.held:
            _, done = self.held.pop(0)
            done.errback(StorageError("write", FENCED, where=self.url))


class Node:
    """One node."""

    def __init__(self, room: Cluster, name: str, number: int) -> None:
        self.name = name
        self.tag = portal_group_tag(number)
        self.disk = NodeDisk(room.bytes_of_all)
        self.service = UnitService(self)
        coordination = room.loopback.coordination(name)
        coordination.add_service(lambda disk, is_system: self.service)
        self.units = ClusterUnits(coordination, room.clock, number_of=room.number_of, prefix=f"{name}/1")
        self.unit = LogicalUnit(
            0, self.disk, BLOCK_BYTES, DISK_BYTES // BLOCK_BYTES, Identity(serial="cluster"), is_clustered=True
        )
        self.device = TargetDevice({0: self.unit}, name=TARGET, reservations=self.units.of)
        self.device.set_ports((self.tag,))
        others = [portal_group_tag(other) for other in range(1, 4) if other != number]
        self.device.set_ports_elsewhere(dict.fromkeys(others, AccessState.ACTIVE_OPTIMIZED))
        self.target = TargetNode(TARGET, self.device)
        self.entity = NetworkEntity([self.target], entropy=room.chance.randbytes)
        self.units.tasks = self
        runner = StepRunner(room.clock, None, lambda unit, nexuses, done: self.abort(unit.identity.naa, nexuses, done))
        self.executor: Any = Executor(self.device, runner)

    def abort(self, naa: bytes, nexuses: Sequence[str] | None, done: Callable[[], None]) -> None:
        """See `csvd.target.cluster_units.Tasks`."""
        self.target.abort_tasks(set(lun_spellings(0)), nexuses, done)

    async def fence_node(self, node: str, number: int) -> None:
        await self.units.fence_node(node, number)


class Host(FakeAdapter):
    """A session of an initiator with one node."""

    def __init__(self, room: Cluster, node: Node, name: str, isid: int) -> None:
        super().__init__()
        self.room = room
        self.node = node
        self.port = f"iqn.2026-11.test:{name},i,0x{isid:012x}"
        self.engine = TargetConnection(
            node.entity, local_address="127.0.0.1:3260", peer=name, now_s=0.0, portal_group_tag=node.tag
        )
        settings = LoginSettings(
            initiator_name=f"iqn.2026-11.test:{name}", target_name=TARGET, offer=OFFER, target_challenge=bytes(33)
        )
        self.initiator = InitiatorConnection(SessionState(isid.to_bytes(6)), settings)
        self.is_cut = False

    @property
    def nexus(self) -> str:
        assert self.engine.session is not None
        return self.engine.session.nexus

    def move(self) -> bool:
        """Carry bytes both ways; give whether there were any."""
        out: list[Any] = []
        while batch := self.initiator.data_to_send():
            out += batch
        data = gather(out)
        feed_target(self.engine, data, self._execute)
        self._execute()
        back = gather(self.engine.output)
        self.engine.output.clear()
        self.initiator.feed(back)
        return bool(data or back)

    def _execute(self) -> None:
        while self.engine.ready:
            self.node.executor.execute(self, self.engine.ready.pop(0))

    # What it asks for

    def send(self, request: Request) -> Any:
        """Ask for something, and let all talk until nobody has anything to say; the answer may not be there yet."""
        self.initiator.send(request)
        self.room.run()
        return request

    def begin(self, cdb: bytes, *, data_out: bytes | None = None, data_in: int = 0) -> Command:
        """A command."""
        buffer = bytearray(data_in) if data_in else None
        return self.send(Command(0, cdb.ljust(16, b"\0"), data_in=buffer, data_out=data_out))  # type: ignore[no-any-return]

    def ask(self, cdb: bytes, *, data_out: bytes | None = None) -> int:
        """The status of a command that is answered without waiting."""
        command = self.begin(cdb, data_out=data_out)
        assert command.done, "it is not answered"
        return command.status

    def ready(self) -> list[tuple[int, int, int]]:
        """Take the unit attention conditions that are pending; gives their sense keys and codes."""
        found: list[tuple[int, int, int]] = []
        while True:
            command = self.begin(bytes(6))
            assert command.done
            if command.status != CHECK_CONDITION:
                return found
            sense = bytes(command.sense)
            found.append((sense[2], sense[12], sense[13]))

    def write(self, lba: int, byte: int, blocks: int = 1) -> Command:
        """WRITE(16) of blocks of one byte."""
        cdb = bytes((0x8A, 0)) + lba.to_bytes(8) + blocks.to_bytes(4) + bytes(2)
        return self.begin(cdb, data_out=bytes((byte,)) * BLOCK_BYTES * blocks)

    def read(self, lba: int, blocks: int = 1) -> Command:
        """READ(16)."""
        cdb = bytes((0x88, 0)) + lba.to_bytes(8) + blocks.to_bytes(4) + bytes(2)
        return self.begin(cdb, data_in=blocks * BLOCK_BYTES)

    def compare_and_write(self, lba: int, expected: bytes, new: bytes) -> Command:
        """COMPARE AND WRITE of one block."""
        cdb = bytes((0x89, 0)) + lba.to_bytes(8) + bytes((0, 0, 0, 1, 0, 0))
        return self.begin(cdb, data_out=expected + new)

    def out(self, action: int, key: int, new_key: int = 0, kind: int = 0, flags: int = 0) -> Command:
        """PERSISTENT RESERVE OUT."""
        data = key.to_bytes(8) + new_key.to_bytes(8) + bytes(4) + bytes((flags, 0, 0, 0))
        cdb = bytes((0x5F, action, kind, 0, 0)) + len(data).to_bytes(4) + b"\0"
        return self.begin(cdb, data_out=data)

    def register(self, key: int, flags: int = 0) -> Command:
        return self.out(6, 0, key, flags=flags)

    def register_others(self, new_key: int, *transport_ids: bytes, key: int = 0) -> Command:
        """REGISTER with SPEC_I_PT."""
        listed = b"".join(transport_ids)
        head = key.to_bytes(8) + new_key.to_bytes(8) + bytes(4) + bytes((0x08, 0, 0, 0))
        data = head + len(listed).to_bytes(4) + listed
        cdb = bytes((0x5F, 0, 0, 0, 0)) + len(data).to_bytes(4) + b"\0"
        return self.begin(cdb, data_out=data)

    def preempt(self, key: int, other: int, kind: int, *, abort: bool = False) -> Command:
        return self.out(5 if abort else 4, key, other, kind)

    def persistent_reserve_in(self, action: int) -> bytes:
        """Data of PERSISTENT RESERVE IN."""
        command = self.begin(bytes((0x5E, action)) + bytes(5) + (0x2000).to_bytes(2) + b"\0", data_in=0x2000)
        assert command.done
        assert command.status == GOOD, command.sense
        assert command.data_in is not None
        return bytes(command.data_in[: command.received])

    def keys(self) -> list[int]:
        data = self.persistent_reserve_in(0)
        return [int.from_bytes(data[at : at + 8]) for at in range(8, len(data), 8)]

    def manage(self, function: Any, referenced: Command | None = None) -> TaskManagement:
        return self.send(TaskManagement(function, 0, referenced))  # type: ignore[no-any-return]


class Cluster:
    """The room: three nodes, of which the first is the coordinator.

    Args:
        seed: of the challenges.
    """

    def __init__(self, seed: int = 0) -> None:
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.bytes_of_all = MemoryDisk(DISK_BYTES)
        self.loopback = Loopback()
        self.nodes = {name: Node(self, name, self.number_of(name)) for name in ("n1", "n2", "n3")}
        self.hosts: list[Host] = []
        self.does(self.loopback.start())

    def number_of(self, node: str) -> int:
        return int(node[1:])

    def does(self, work: Coroutine[Any, Any, Any]) -> None:
        """Something happens to the cluster, and all that comes of it."""
        done = self.begins(work)
        assert done.called, "it waits for something"
        result: list[Any] = []
        done.addBoth(result.append)
        assert result == [None], result

    def begins(self, work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        """The same, where it may wait for something."""
        done = Deferred.fromCoroutine(work)
        self.run()
        return done

    def host(self, node: str, name: str = "a", isid: int = 1) -> Host:
        """An initiator logs in, and takes its unit attention."""
        host = Host(self, self.nodes[node], name, isid)
        self.hosts.append(host)
        self.run()
        assert host.initiator.failed is None
        host.ready()
        return host

    def run(self) -> None:
        """Let all talk until nobody has anything to say. What waits for a time waits on."""
        quiet = False
        while not quiet:
            moved = [host.move() for host in self.hosts if not host.is_cut]
            calls: Any = self.clock.getDelayedCalls()
            due = [call for call in calls if call.getTime() <= self.clock.seconds()]
            self.clock.advance(0)
            quiet = not any(moved) and not due

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        self.run()

    def replace(self, name: str) -> None:
        """A node that was killed starts anew: a new process, with nothing in memory."""
        loopback = self.loopback
        fresh = type(loopback)([name], disk=loopback.disk)
        coordination = fresh.coordination(name)
        coordination._loopback = loopback
        session = fresh.session(name)
        session._loopback = loopback
        old = loopback.sessions[name]
        session._incarnation = old._incarnation + 1
        session.is_known = old.is_known
        loopback._nodes[name] = coordination
        loopback.sessions[name] = session
        self.hosts = [host for host in self.hosts if host.node.name != name]
        self.nodes[name] = Node(self, name, self.number_of(name))
        self.does(loopback.come_back(name))


def statuses(commands: Iterable[Command]) -> list[int | None]:
    """The status of each; None of one that is not answered."""
    return [command.status if command.done else None for command in commands]


def block(byte: int) -> bytes:
    """A block of one byte."""
    return bytes((byte,)) * BLOCK_BYTES


def answered(command: Command) -> bool:
    """Whether a command has its status."""
    return command.done


def fired(work: Deferred[Any]) -> bool:
    """Whether something has come to its end."""
    return bool(work.called)


def data_of(command: Command) -> bytes:
    """Data-In of a command."""
    assert command.data_in is not None
    return bytes(command.data_in)
